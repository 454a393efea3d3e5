"""Exported rows as JSON Lines or Parquet, by the suffix; a file appears when it is whole."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Protocol

import pyarrow as pa

from ...schemas.errors import CoresetDBError, OutputError, UsageError

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
        with suppress(FileNotFoundError):
            os.remove(out)
        return
    with replacing(out) as part, open(part, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)


@contextmanager
def replacing(out: str) -> Iterator[str]:
    """The name of a file to write, which becomes `out` when the block ends well.

    Nothing is there, or what was there before, until then.

    Raises:
        OutputError: the system refuses it.
    """
    part = f"{out}.part-{os.getpid()}"
    try:
        yield part
        os.replace(part, out)
    except CoresetDBError:
        raise
    except OSError as error:
        raise OutputError(out, error.strerror or str(error)) from error
    finally:
        with suppress(OSError):  # there is none, or there is no place for one
            os.remove(part)


@contextmanager
def writer(part: str, out: str, schema: pa.Schema) -> Iterator[Writer]:
    """What writes rows to the file `part`, in the form that the name `out` asks for."""
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
