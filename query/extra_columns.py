"""Columns that an export carries beside the conversation: of the pool, or a row's own fields.

A field of the metadata becomes a column of one type: truth values, whole numbers, numbers, text or
lists of texts. Where the rows do not agree, and for objects, it is text: text as it is, everything
else as JSON.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ..schemas.canonical import canonical_json
from ..schemas.conversations import CONVERSATION
from ..schemas.errors import UsageError, suggest
from ..schemas.stored_vectors import decoded_column, is_coded

METADATA, SOURCE_ID = "metadata", "source_id"
_LARGEST = 1 << 53
"""Whole numbers up to here keep their value beside numbers with a fraction."""


@dataclass(frozen=True)
class _Wanted:
    """A column of the export, and the column of the pool or the metadata field it is taken from."""

    name: str
    field: str
    stored: bool


class ExtraColumns:
    """What `--with` and `--with-metadata` ask for, and what a first pass over the rows found.

    Args:
        fields: each `FIELD` or `NAME=FIELD`; a field is a column of the pool or a key of the
            metadata, `a.b` into its objects, or `meta_KEY` as SQL names it.
        metadata: the whole metadata as JSON text, and the source's own id.
        schema: of the pool.
        taken: names of columns that the export has anyway.

    Raises:
        UsageError: a name is taken or given twice, or a column is part of the conversation.
    """

    def __init__(
        self, fields: Sequence[str], metadata: bool, schema: pa.Schema, taken: Collection[str]
    ) -> None:
        self._schema = schema
        self._wanted: list[_Wanted] = []
        self._kinds: dict[str, set[str]] = {}
        self._lacking: Counter[str] = Counter()
        self._keys: set[str] = set()
        self._rows = 0
        self.filled: dict[str, int] = {}
        for entry in dict.fromkeys([*fields, *((SOURCE_ID, METADATA) if metadata else ())]):
            name, _, field = entry.rpartition("=")
            self._want((name or field).strip(), field.strip(), bool(name), taken)
        self._own = {wanted.name for wanted in self._wanted if not wanted.stored}

    def _want(self, name: str, field: str, renamed: bool, taken: Collection[str]) -> None:
        if not name or not field:
            raise UsageError("--with: give names of fields, such as --with dataset,licence")
        stored = field in self._schema.names
        if field in CONVERSATION:
            raise UsageError(f"--with {field}: it is part of the conversation, which is exported")
        if name in taken and stored and not renamed and field in ("id", "corpus"):
            return  # it is there
        if name in taken or any(name == wanted.name for wanted in self._wanted):
            raise UsageError(
                f"--with {name}: the export has a column of that name; give it another one, such "
                f"as --with own_{name}={field}"
            )
        self._wanted.append(_Wanted(name, field, stored))

    @property
    def read(self) -> list[str]:
        """The columns of the pool that must be read."""
        columns = [wanted.field for wanted in self._wanted if wanted.stored]
        own = [] if all(wanted.stored for wanted in self._wanted) else [METADATA]
        return list(dict.fromkeys([*columns, *own]))

    def survey(self, rows: pa.Table) -> None:
        """Look at the rows of a part: of which kinds are the values, and which rows have none?"""
        for values, metadata in self._values(rows):
            self._keys |= metadata.keys()
            for name, value in values.items():
                if value is None:
                    self._lacking[name] += 1
                    continue
                if name in self._own:
                    self._kinds.setdefault(name, set()).add(_kind(value))
                self.filled.setdefault(name, self._rows)
            self._rows += 1

    def check(self, keys: Collection[str]) -> None:
        """Refuse a field that neither these rows have nor any other.

        Args:
            keys: of the metadata of all rows.

        Raises:
            UsageError: names the fields that there are.
        """
        keys = {*keys, *self._keys}
        for wanted in self._wanted:
            lacking = not wanted.stored and self._lacking[wanted.name] == self._rows
            names = {wanted.field, wanted.field.removeprefix("meta_"), wanted.field.split(".")[0]}
            if lacking and not names & keys:
                known = {*self._schema.names} - {*CONVERSATION} | keys
                named = suggest(wanted.field, known, "`DESCRIBE pool` in coresetdb sql lists them")
                raise UsageError(
                    f"--with {wanted.field}: no row has such a field; there are {named}"
                )

    @property
    def columns(self) -> dict[str, pa.DataType]:
        """Name -> type of each, once all rows were surveyed."""
        return {
            wanted.name: _written(self._schema.field(wanted.field).type)
            if wanted.stored
            else _type_of(self._kinds.get(wanted.name, set()))
            for wanted in self._wanted
        }

    @property
    def remarks(self) -> dict[str, int]:
        """What could not be written as it was -> how many rows it concerns."""
        remarks = {f"no {name}": count for name, count in self._lacking.items()}
        for name, kinds in self._kinds.items():
            if len(kinds) > 1 and _type_of(kinds) == pa.string():
                rows = self._rows - self._lacking[name]
                remarks[f"{name} is text, as it is not of one kind"] = rows
        return remarks

    def rows(self, rows: pa.Table) -> Iterator[dict[str, Any]]:
        """Yield the values of each row, as `columns` types them."""
        types = self.columns
        for values, _ in self._values(rows):
            yield {name: _as(value, types[name]) for name, value in values.items()}

    def _values(self, rows: pa.Table) -> Iterator[tuple[dict[str, Any], Mapping[str, Any]]]:
        for row in _readable(rows.select(self.read)) if self.read else [{}] * len(rows):
            metadata = json.loads(row.get(METADATA) or "{}")
            yield (
                {
                    wanted.name: row[wanted.field]
                    if wanted.stored
                    else _reached(metadata, wanted.field)
                    for wanted in self._wanted
                },
                metadata,
            )


def _readable(rows: pa.Table) -> list[dict[str, Any]]:
    for place, field in enumerate(rows.schema):
        if is_coded(field.type):
            vectors = decoded_column(rows[field.name].combine_chunks())
            rows = rows.set_column(place, field.name, vectors)
    return rows.to_pylist()


def _reached(metadata: Mapping[str, Any], field: str) -> Any:
    for key in (field, field.removeprefix("meta_")):
        if key in metadata:
            return metadata[key]
    value: Any = metadata
    for part in field.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "truth"
    if isinstance(value, int):
        return "whole" if abs(value) <= _LARGEST else "long" if abs(value) < 1 << 63 else "other"
    if isinstance(value, float):
        return "number"
    if isinstance(value, str):
        return "text"
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return "texts"
    return "other"


def _type_of(kinds: set[str]) -> pa.DataType:
    if kinds == {"truth"}:
        return pa.bool_()
    if kinds and kinds <= {"whole", "long"}:
        return pa.int64()
    if kinds and kinds <= {"whole", "number"}:
        return pa.float64()
    if kinds == {"texts"}:
        return pa.list_(pa.string())
    return pa.string()


def _written(kind: pa.DataType) -> pa.DataType:
    """The type in a file of a column of the pool: times are ISO 8601 text, vectors float32."""
    if pa.types.is_temporal(kind):
        return pa.string()
    if pa.types.is_float16(kind):
        return pa.float32()
    if is_coded(kind):
        return pa.list_(pa.float32())
    if pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind):
        return pa.list_(_written(kind.value_type))
    return kind


def _as(value: Any, kind: pa.DataType) -> Any:
    if value is None or not pa.types.is_string(kind):
        return value
    if isinstance(value, str):
        return value
    return value.isoformat() if hasattr(value, "isoformat") else canonical_json(value)
