"""Export a coreset for a trainer: the rows, a manifest, and configuration for two trainers.

Rows are shuffled by a recorded seed (the order of selection is by score, bad for training) and
written as JSON Lines or Parquet, by the suffix. What a format cannot hold is an error, or left out
by `skip_unfit` and counted in the manifest. A file appears only when it is complete.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from ..schemas.conversations import conversation_columns, conversations_in
from ..schemas.errors import CoresetDBError, OutputError, UsageError
from ..schemas.ids import keys_of
from ..schemas.plain_text import LinesResult, count_of
from ..schemas.scratch import beginning_of
from ..schemas.version import VERSION
from ..selectors.random_order import shuffled
from ..store.layout import require_outside
from .coresets import Coreset, load_coreset
from .extra_columns import ExtraColumns
from .formats import (
    ALPACA,
    MESSAGES,
    PROMPT_COMPLETION,
    REASONING,
    REASONING_KEYS,
    SHAREGPT,
    Converted,
    Format,
    Reasoning,
    UnfitError,
    convert,
)

if TYPE_CHECKING:
    from ..store.store import Store


SUFFIXES = (".jsonl", ".parquet")


class Writer(Protocol):
    """A file of rows, written part by part."""

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows; missing columns become null."""
        ...


def check_suffix(out: str) -> None:
    """Refuse a name that is neither JSON Lines nor Parquet.

    Raises:
        UsageError: another suffix.
    """
    if not out.endswith(SUFFIXES):
        raise UsageError(f"{out}: name the file with the suffix {' or '.join(SUFFIXES)}")


def write_text(out: str, text: str | None) -> None:
    """Write a small file; None removes the file of an earlier export, if there is one."""
    if text is None:
        with suppress(FileNotFoundError):
            os.remove(out)
        return
    with replacing(out) as part, open(part, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)


@contextmanager
def replacing(out: str) -> Iterator[str]:
    """Yield the name of a temporary file that replaces `out` when the block ends without an error.

    Raises:
        UsageError: it would lie in a store.
        OutputError: the file cannot be written.
    """
    require_outside(out)
    part = beginning_of(out)
    try:
        yield part
        os.replace(part, out)
    except CoresetDBError:
        raise
    except OSError as error:
        raise OutputError(out, error.strerror or str(error)) from error
    finally:
        with suppress(OSError):  # it was renamed, or never made
            os.remove(part)


@contextmanager
def writer(part: str, out: str, schema: pa.Schema) -> Iterator[Writer]:
    """A writer of rows to the file `part`, in the form that the suffix of `out` names."""
    if out.endswith(".parquet"):
        import pyarrow.parquet as pq

        with pq.ParquetWriter(part, schema) as file:
            yield _Parquet(file, schema)
    else:
        with open(part, "w", encoding="utf-8", newline="\n") as file:
            yield _JsonLines(file, schema)


class _Parquet:
    def __init__(self, file: Any, schema: pa.Schema) -> None:
        self._file, self._schema = file, schema

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._file.write_table(pa.Table.from_pylist(list(rows), self._schema))


class _JsonLines:
    def __init__(self, file: Any, schema: pa.Schema) -> None:
        self._file, self._schema = file, schema

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            shaped = {
                field.name: _shaped(row.get(field.name), field.type) for field in self._schema
            }
            self._file.write(json.dumps(shaped, ensure_ascii=False, allow_nan=False) + "\n")


def _shaped(value: Any, kind: pa.DataType) -> Any:
    """The value with every key of its type, so that all lines have the same keys."""
    if value is None:
        return None
    if pa.types.is_struct(kind):
        return {
            field.name: _shaped(value.get(field.name), field.type)
            for field in (kind.field(number) for number in range(kind.num_fields))
        }
    if pa.types.is_list(kind):
        return [_shaped(each, kind.value_type) for each in value]
    return value


_PLAIN = re.compile(r"[A-Za-z/.][A-Za-z0-9_/.-]*")


def axolotl_yaml(format: Format, traits: Collection[str], out: str) -> tuple[str | None, str]:
    """The entry of axolotl's `datasets` as YAML and "", or None and why there is none."""
    entry = format.axolotl(traits)
    if isinstance(entry, str):
        return None, entry
    kind = "parquet" if out.endswith(".parquet") else "json"
    lines = ["datasets:", *_yaml({"path": out, "ds_type": kind, **entry}, "    ")]
    lines[1] = f"  - {lines[1].lstrip()}"
    return "\n".join(lines) + "\n", ""


def dataset_info(
    format: Format, traits: Collection[str], out: str, name: str
) -> tuple[str | None, str]:
    """The entry of LLaMA-Factory's dataset_info.json and "", or None and why there is none."""
    entry = format.llama_factory(traits)
    if isinstance(entry, str):
        return None, entry
    described = {name: {"file_name": os.path.basename(out), **entry}}
    return json.dumps(described, indent=2, ensure_ascii=False) + "\n", ""


def skipped_by_llama_factory(format: Format, fields: Mapping[str, Any]) -> bool:
    """Whether LLaMA-Factory would skip the row: its turns must alternate and end in an answer."""
    if format.turns is None:
        return False
    roles = format.turns(fields)
    plain = roles[1:] if roles[:1] == ["system"] else roles
    return plain != ["user", "assistant"] * (len(plain) // 2) or not plain


def _yaml(entry: Mapping[str, Any], indent: str) -> list[str]:
    lines = []
    for key, value in entry.items():
        if isinstance(value, Mapping):
            lines += [f"{indent}{key}:", *_yaml(value, indent + "  ")]
        else:  # a JSON string is a YAML string
            plain = _PLAIN.fullmatch(value)
            text = value if plain else json.dumps(value, ensure_ascii=False)
            lines.append(f"{indent}{key}: {text}")
    return lines


FORMATS: dict[str, Format] = {
    form.name: form for form in (MESSAGES, PROMPT_COMPLETION, ALPACA, SHAREGPT)
}

EXTRAS = {
    "rank": pa.int64(),
    "score": pa.float32(),
    "query": pa.string(),
    "id": pa.string(),
    "corpus": pa.string(),
}
"""Columns of every export in addition to those of its format."""

SKIPPED = "LLaMA-Factory skips the row: user and assistant do not take turns"

_TRAINERS = {"axolotl": "axolotl", "llama_factory": "LLaMA-Factory"}
"""Trainers that an export writes a snippet for: name in the manifest -> name for people."""

_ROWS_PER_PART = 5000


@dataclass(frozen=True)
class Exported(LinesResult):
    """What an export wrote.

    Attributes:
        out: the file of rows.
        rows: how many it holds.
        left_out: reason -> rows that the format cannot hold (only with `skip_unfit`).
        remarks: what the format writes differently, or which trainer skips what -> rows.
        files: all files written, the file of rows first.
        removed: rows of the coreset that were removed from the pool since, and are left out.
        no_snippet: trainer, as the manifest names it -> why no snippet was written for it.
    """

    out: str
    rows: int
    left_out: dict[str, int]
    remarks: dict[str, int]
    files: tuple[str, ...]
    removed: int = 0
    no_snippet: Mapping[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Return what was written and what the format could not keep, a line each."""
        return [
            f"{self.out}: {count_of(self.rows, 'row')}",
            *(
                [f"  left out, removed from the pool since: {count_of(self.removed, 'row')}"]
                if self.removed
                else []
            ),
            *(f"  left out, {why}: {rows:,}" for why, rows in self.left_out.items()),
            *(f"  {what}: {count_of(rows, 'row')}" for what, rows in self.remarks.items()),
            *(f"  beside it: {file}" for file in self.files[1:]),
            *(
                f"  no snippet for {_TRAINERS[trainer]}: {why}"
                for trainer, why in self.no_snippet.items()
            ),
        ]


def check_export(
    out: str, format: str, overwrite: bool = False, reasoning: Reasoning = "stored"
) -> None:
    """Refuse a file that cannot be written, before any work is done for it.

    An earlier export, recognised by its manifest, may be replaced together with the files beside
    it: its coreset is in a store.

    Raises:
        UsageError: unknown format, suffix or form of reasoning, no such folder, or, without
            `overwrite`, a file that no export wrote in place of `out` or of a file beside it.
    """
    if format not in FORMATS:
        raise UsageError(f"format {format!r}: choose from {', '.join(FORMATS)}")
    if reasoning not in REASONING:
        raise UsageError(f"reasoning {reasoning!r}: choose from {', '.join(REASONING)}")
    if reasoning in REASONING_KEYS and not FORMATS[format].reasoning_field:
        raise UsageError(
            f"format {format} has no field for reasoning: export --format messages, or let it "
            "stand in the answers (--reasoning inline)"
        )
    check_suffix(out)
    check_folder(out)
    require_outside(out)
    if overwrite or _is_export(out):
        return
    for name in (out, *_beside(out)):
        if os.path.exists(name):
            raise UsageError(
                f"{name}: this file exists and no export wrote it. Choose another name, or "
                "replace it with --overwrite (in Python overwrite=True)"
            )


def check_folder(out: str) -> None:
    """Refuse a file that cannot be written where it is to be.

    Raises:
        UsageError: there is no such folder, no permission to write there, or a folder of that name.
    """
    folder = os.path.dirname(os.path.abspath(out))
    if not os.path.isdir(folder):
        raise UsageError(f"{out}: there is no folder {folder}; make it first")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{out}: no permission to write in {folder}; choose another folder")
    if os.path.isdir(out):
        raise UsageError(f"{out}: a folder is in the way; choose another name")


def _beside(out: str) -> tuple[str, str, str]:
    """The files beside an export: its manifest, axolotl's entry, LLaMA-Factory's entry."""
    return f"{out}.manifest.json", f"{out}.axolotl.yaml", f"{out}.dataset_info.json"


def _is_export(out: str) -> bool:
    try:
        with open(_beside(out)[0], encoding="utf-8") as file:
            return json.load(file)["export"]["file"] == os.path.basename(out)
    except (OSError, ValueError, KeyError, TypeError):  # no manifest of ours
        return False


def export(
    store: Store,
    coreset: str | Coreset,
    out: str,
    format: str = "messages",
    *,
    shuffle: bool = True,
    seed: int | None = None,
    skip_unfit: bool = False,
    reasoning: Reasoning = "stored",
    with_fields: Sequence[str] = (),
    with_metadata: bool = False,
    overwrite: bool = False,
) -> Exported:
    """Write a coreset's rows as a trainer reads them.

    Beside `out` go `<out>.manifest.json` and, where the trainer can read the file,
    `<out>.axolotl.yaml` and `<out>.dataset_info.json`. An earlier export is replaced together with
    the files beside it.

    The arguments are those of `Database.export`.

    Raises:
        UsageError: unknown coreset, format or suffix, no such folder, another file of that name, a
            coreset without rows, or rows that the format cannot hold.
        StoreError: a row is not in the pool version the coreset was made from.
        OutputError: a file cannot be written.
    """
    chosen = load_coreset(store, coreset) if isinstance(coreset, str) else coreset
    check_export(out, format, overwrite, reasoning)
    if not len(chosen):
        raise UsageError(
            f"coreset {chosen.name} has no rows to export; coresetdb coreset show {store.typed} "
            f"{chosen.name} shows how it was made"
        )
    shape, shuffle_seed = FORMATS[format], chosen.seed if seed is None else seed
    members = chosen.left
    if not len(members):
        raise UsageError(
            f"every row of coreset {chosen.name} was removed from the pool since; nothing is left "
            "to export"
        )
    if shuffle:
        members = members.take(_shuffled(members["id"], shuffle_seed))
    schema = store.dataset("pool", chosen.pool_version).schema
    taken = {*shape.columns(shape.every_trait), *EXTRAS}
    extra = ExtraColumns(with_fields, with_metadata, schema, taken)
    rows_of = _Rows(store, chosen, shape, reasoning, extra)
    survey = _survey(rows_of, members)
    extra.check(_metadata_keys(store))
    if shuffle:
        members = members.take(_typical_first(survey, extra, len(members)))
    if survey.left_out and not skip_unfit:
        reasons = "; ".join(f"{count:,} with {why}" for why, count in survey.left_out.items())
        raise UsageError(
            f"{format} cannot hold {survey.left_out.total():,} of {len(members):,} rows: "
            f"{reasons}. Export --format messages, which holds everything, or leave them out by "
            "--skip-unfit"
        )
    axolotl, no_axolotl = axolotl_yaml(shape, survey.traits, out)
    info, no_info = dataset_info(shape, survey.traits, out, chosen.name)
    why_none = zip(_TRAINERS, (no_axolotl, no_info), strict=True)
    no_snippet = {trainer: why for trainer, why in why_none if why}
    remarks = dict(survey.remarks) | extra.remarks
    if survey.skipped and not no_info:
        remarks[SKIPPED] = survey.skipped
    columns = shape.columns(survey.traits) | EXTRAS | extra.columns
    ids: list[str] = []
    # The rows come last: after a failure the manifest tells that the old file is an export's.
    with replacing(out) as part:
        with writer(part, out, pa.schema(list(columns.items()))) as file:
            for written in rows_of.written(members):
                file.write(written)
                ids += [row["id"] for row in written]
        manifest = _manifest(store, chosen) | {
            "export": {
                "file": os.path.basename(out),
                "format": format,
                "rows": len(ids),
                "reasoning": reasoning,
                "with": list(extra.columns),
                "order": "shuffled" if shuffle else "by rank",
                "shuffle_seed": shuffle_seed if shuffle else None,
                "left_out": dict(survey.left_out),
                "remarks": remarks,
                **({"removed": list(chosen.removed)} if chosen.removed else {}),
                "no_snippet": no_snippet,
            },
            "ids": ids,
        }
        text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
        beside = dict(zip(_beside(out), (text, axolotl, info), strict=True))
        for name, text in beside.items():
            write_text(name, text)
    written = tuple(name for name, text in beside.items() if text is not None)
    removed = len(chosen) - len(members)
    return Exported(
        out, len(ids), dict(survey.left_out), remarks, (out, *written), removed, no_snippet
    )


@dataclass
class _Survey:
    """What a first pass over the rows found; it decides the columns and the configuration."""

    traits: dict[str, int]  # the first row that has it
    left_out: Counter[str]
    remarks: Counter[str]
    skipped: int = 0  # by LLaMA-Factory


@dataclass
class _Rows:
    """The rows of a coreset, read in parts, in a format."""

    store: Store
    coreset: Coreset
    shape: Format
    reasoning: Reasoning
    extra: ExtraColumns

    def read(self, members: pa.Table) -> Iterator[tuple[pa.Table, pa.Table]]:
        """Yield the members in parts, each with its rows of the pool."""
        schema = self.store.dataset("pool", self.coreset.pool_version).schema
        columns = list(dict.fromkeys([*conversation_columns(schema), *self.extra.read]))
        ids = members["id"].to_pylist()
        parts = self.store.stream(ids, columns, self.coreset.pool_version, rows=_ROWS_PER_PART)
        for number, rows in enumerate(parts):
            yield members.slice(number * _ROWS_PER_PART, _ROWS_PER_PART), rows

    def converted(self, rows: pa.Table) -> Iterator[Converted | str]:
        """Yield the rows in the format, or why it cannot hold one."""
        for instruction in conversations_in(rows):
            try:
                yield convert(instruction, self.shape, self.reasoning)
            except UnfitError as reason:
                yield str(reason)

    def written(self, members: pa.Table) -> Iterator[list[dict[str, Any]]]:
        """Yield the lines of the file in parts, without rows that the format cannot hold."""
        for part, rows in self.read(members):
            scores = part["score"].to_numpy()
            # The shortest decimal that reads back as the same float32.
            shown = [None if np.isnan(score) else float(str(score)) for score in scores]
            facts = part.select(list(EXTRAS)).to_pylist()
            yield [
                converted.fields | fact | {"score": score} | own
                for converted, fact, score, own in zip(
                    self.converted(rows), facts, shown, self.extra.rows(rows), strict=True
                )
                if not isinstance(converted, str)
            ]


def _survey(rows_of: _Rows, members: pa.Table) -> _Survey:
    survey = _Survey({}, Counter(), Counter())
    place = -1
    for _, rows in rows_of.read(members):
        rows_of.extra.survey(rows)
        for converted in rows_of.converted(rows):
            place += 1
            if isinstance(converted, str):
                survey.left_out[converted] += 1
                continue
            for trait in converted.traits:
                survey.traits.setdefault(trait, place)
            survey.remarks.update(converted.remarks)
            survey.skipped += skipped_by_llama_factory(rows_of.shape, converted.fields)
    return survey


def _typical_first(survey: _Survey, extra: ExtraColumns, count: int) -> list[int]:
    """The order of rows that puts those first in which an optional column is filled.

    `datasets` takes the types of a JSON file from its first megabytes and refuses a column that
    is null all through them and is filled later.
    """
    front = sorted({*survey.traits.values(), *extra.filled.values()})
    return front + sorted(set(range(count)) - set(front))


def _metadata_keys(store: Store) -> set[str]:
    """The keys of the metadata of all rows that were ever ingested."""
    runs = store.dataset("runs").to_table(columns=["metadata_keys"])
    return {key for keys in runs["metadata_keys"].to_pylist() for key in keys or ()}


def _shuffled(ids: pa.ChunkedArray, seed: int) -> Sequence[int]:
    return shuffled(keys_of(ids), seed).tolist()


def _manifest(store: Store, coreset: Coreset) -> dict[str, Any]:
    facts = coreset.row() | {"created_at": coreset.created_at.isoformat()}
    facts["parameters"] = coreset.parameters
    mix = {share.corpus: {"picked": share.picked, "pool": share.pool} for share in coreset.mix}
    return {"coresetdb": VERSION, "store": store.uri, "coreset": facts, "mix": mix}
