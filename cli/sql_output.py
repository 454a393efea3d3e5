"""The rows of a query as a table, CSV, JSON Lines or Parquet, written as they arrive.

A table is whole in a pipe and fitted to a terminal; its values are safe to print. CSV and JSON are
exact to read back.
"""

from __future__ import annotations

import codecs
import io
import json
import os
import shutil
import sys
from contextlib import suppress
from itertools import chain, islice
from typing import Any

import pyarrow as pa

from ..schemas.errors import OutputError, QueryError, UsageError
from ..schemas.plain_text import count_of, safe
from ..schemas.scratch import beginning_of
from ..schemas.version import VERSION
from ..store.layout import require_outside
from ..store.sql.session import QueryResult
from ..store.sql.table import (
    cells_of,
    fitted_lines,
    json_value,
    python_values,
    rows_of,
    table_lines,
)
from .options import print_data, print_text, talk

ROWS_FOR_WIDTHS = 1000  # read before the first line is written
ROWS_ON_TERMINAL = 500

WRITER = b"coresetdb:sql"
"""Key in the metadata of the Parquet files written here; its value is the version."""


def show(result: QueryResult, form: str, parquet: str | None = None) -> None:
    """Write a result to a Parquet file if one is named, else to stdout as "table", "csv", "json".

    Raises:
        QueryError: the query failed on the way, or Parquet has no form for a column.
        OutputError: the Parquet file cannot be written.
    """
    if parquet is not None:
        rows = write_parquet(result, parquet)
        talk(f"wrote {count_of(rows, 'row')} to {parquet}")
    elif form == "csv":
        write_csv(result)
    elif form == "json":
        write_json(result)
    elif sys.stdout.isatty():
        write_to_terminal(result, shutil.get_terminal_size().columns)
    else:
        write_table(result)


def write_table(result: QueryResult) -> None:
    """Write a table in which nothing is shortened.

    Columns are as wide as the first thousand rows ask for; a later, wider value stands out.
    """
    rows = (row for batch in result for row in cells_of(batch))
    head = list(islice(rows, ROWS_FOR_WIDTHS))
    for line in table_lines(result.schema, head, chain(head, rows)):
        print_text(line)


def write_to_terminal(result: QueryResult, columns: int) -> None:
    """Write at most 500 rows so that they fit `columns`, and say on stderr what was left out."""
    cells = (row for batch in result for row in cells_of(batch))
    rows = list(islice(cells, ROWS_ON_TERMINAL + 1))
    result.close()
    more = len(rows) > ROWS_ON_TERMINAL
    rows = rows[:ROWS_ON_TERMINAL]
    lines, shortened = fitted_lines(result.schema, rows, columns)
    for line in lines:
        print_text(line)
    count = f"the first {ROWS_ON_TERMINAL} rows" if more else count_of(len(rows), "row")
    note = "; wide text is shortened" if shortened else ""
    whole = " (--csv, --json, --parquet or a pipe give all of it)" if more or shortened else ""
    talk(f"{count}{note}{whole}")


def write_csv(result: QueryResult) -> None:
    """Write CSV: nothing for NULL, "" for an empty text, JSON text for lists and structs."""
    import pyarrow.csv as csv

    schema = pa.schema([field.with_type(_csv_type(field.type)) for field in result.schema])
    sink = _ForTerminal() if sys.stdout.isatty() else sys.stdout.buffer
    with csv.CSVWriter(sink, schema) as writer:
        for batch in result:
            columns = [
                column if column.type == type_ else _as_text(column)
                for column, type_ in zip(batch.columns, schema.types, strict=True)
            ]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))


class _ForTerminal(io.RawIOBase):
    """Bytes of text (UTF-8) that a person reads; a value is never cut within a character."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        sys.stdout.write(safe(self._decoder.decode(bytes(data))))
        return len(data)


def _csv_type(type_: pa.DataType) -> pa.DataType:
    is_ = pa.types
    plain = (
        is_.is_boolean,
        is_.is_integer,
        is_.is_floating,
        is_.is_decimal,
        is_.is_timestamp,
        is_.is_date,
        is_.is_time,
    )
    return type_ if any(check(type_) for check in plain) else pa.string()


def _as_text(column: pa.Array) -> pa.Array:
    values = [json_value(value, column.type) for value in python_values(column)]
    texts = [
        value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for value in values
    ]
    return pa.array(texts, pa.string())


def write_json(result: QueryResult) -> None:
    """Write JSON Lines: an object per row; NaN and the infinities, which JSON lacks, are null."""
    names, types = result.schema.names, result.schema.types
    for row in (row for batch in result for row in rows_of(batch)):
        values = [json_value(value, type_) for value, type_ in zip(row, types, strict=True)]
        print_data(json.dumps(dict(zip(names, values, strict=True)), ensure_ascii=False))


def check_parquet(path: str) -> None:
    """Refuse to replace a file that no query was written to.

    Raises:
        UsageError: there is one.
    """
    import pyarrow.parquet as pq

    if not os.path.exists(path):
        return
    try:
        ours = WRITER in (pq.read_metadata(path).metadata or {})
    except (OSError, pa.ArrowException):  # no Parquet file
        ours = False
    if not ours:
        raise UsageError(
            f"{path}: this file exists and `coresetdb sql` did not write it. Choose another name, "
            "or replace it with --overwrite"
        )


def write_parquet(result: QueryResult, path: str) -> int:
    """Write a Parquet file, which appears only when it is whole; the number of rows.

    Raises:
        QueryError: the query failed on the way, or Parquet has no form for a column.
        UsageError: there is no such folder.
        OutputError: the file cannot be written.
    """
    import pyarrow.parquet as pq

    require_outside(path)
    partial = beginning_of(path)
    rows = 0
    try:
        with pq.ParquetWriter(partial, result.schema, compression="zstd") as writer:
            writer.add_key_value_metadata({WRITER: VERSION.encode()})
            for batch in result:
                writer.write_batch(batch)
                rows += batch.num_rows
        os.replace(partial, path)
    except pa.ArrowNotImplementedError as error:
        raise QueryError(f"{error}: cast the column in the query, to VARCHAR say") from error
    except FileNotFoundError as error:
        raise UsageError(f"{path} cannot be written: there is no such folder") from error
    except OSError as error:
        raise OutputError(path, error.strerror or str(error)) from error
    finally:
        with suppress(OSError):  # there is none, or there is no place for one
            os.remove(partial)
    return rows
