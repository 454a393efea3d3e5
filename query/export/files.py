"""Exported rows as JSON Lines or Parquet, by the suffix; a file appears when it is whole."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import pyarrow as pa

from ...schemas.errors import UsageError

SUFFIXES = (".jsonl", ".parquet")


class Writer(Protocol):
    """Takes in rows, part by part."""

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows; columns they lack become null."""
        ...


def check_suffix(out: str) -> None:
    """Refuse what is neither JSON Lines nor Parquet.

    Raises:
        UsageError: another suffix.
    """
    if not out.endswith(SUFFIXES):
        raise UsageError(f"{out}: name the file with the suffix {' or '.join(SUFFIXES)}")


def write_text(out: str, text: str | None) -> None:
    """Write a small file whole; None removes what an earlier export may have left."""
    if text is None:
        if os.path.exists(out):
            os.remove(out)
        return
    with _replacing(out) as part, open(part, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)


@contextmanager
def opened(out: str, schema: pa.Schema) -> Iterator[Writer]:
    """A writer for `out`; nothing is there, or what was there before, until all is written."""
    with _replacing(out) as part:
        if out.endswith(".parquet"):
            import pyarrow.parquet as pq

            with pq.ParquetWriter(part, schema) as file:
                yield _Parquet(file, schema)
        else:
            with open(part, "w", encoding="utf-8", newline="\n") as file:
                yield _JsonLines(file, schema)


@contextmanager
def _replacing(out: str) -> Iterator[str]:
    part = f"{out}.part-{os.getpid()}"
    try:
        yield part
        os.replace(part, out)
    finally:
        if os.path.exists(part):
            os.remove(part)


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
    """The value with every key its type has, so that all lines look alike to a JSON reader."""
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
