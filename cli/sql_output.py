"""The rows of a query as a table, CSV, JSON Lines or Parquet, written as they arrive.

A table is whole in a pipe and fitted to a terminal; its values are safe to print. CSV and JSON are
exact to read back.
"""

from __future__ import annotations

import datetime
import decimal
import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain, islice
from typing import Any

import click
import numpy as np
import pyarrow as pa
from rich.cells import cell_len, set_cell_size

from ..schemas.errors import OutputError, QueryError, UsageError
from ..schemas.plain_text import count_of
from ..schemas.version import VERSION
from ..store.sql.session import QueryResult

ROWS_FOR_WIDTHS = 1000  # read before the first line is written
ROWS_ON_TERMINAL = 500
NARROWEST = 6  # columns of the terminal for a value; a table without that room becomes records
GAP = "  "

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
        click.echo(f"wrote {count_of(rows, 'row')} to {parquet}", err=True)
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
    names = result.schema.names
    rows = _cells(result)
    head = list(islice(rows, ROWS_FOR_WIDTHS))
    widths = _natural(names, head)
    _write_lines(result.schema, widths, chain(head, rows))


def write_to_terminal(result: QueryResult, columns: int) -> None:
    """Write at most 500 rows so that they fit `columns`, and say on stderr what was left out."""
    names = result.schema.names
    rows = list(islice(_cells(result), ROWS_ON_TERMINAL + 1))
    result.close()
    more = len(rows) > ROWS_ON_TERMINAL
    rows = rows[:ROWS_ON_TERMINAL]
    natural = _natural(names, rows)
    widths = fitted(natural, columns - len(GAP) * (len(names) - 1))
    if widths is None:
        shortened = _write_records(names, rows, columns)
    else:
        cut = [
            [_shortened(text, size) for text, size in zip(row, widths, strict=True)] for row in rows
        ]
        _write_lines(result.schema, widths, cut)
        shortened = cut != rows
    count = f"the first {ROWS_ON_TERMINAL} rows" if more else count_of(len(rows), "row")
    note = "; wide text is shortened" if shortened else ""
    whole = " (--csv, --json, --parquet or a pipe give all of it)" if more or shortened else ""
    click.echo(f"{count}{note}{whole}", err=True)


def fitted(natural: list[int], room: int) -> list[int] | None:
    """Widths of columns that share `room`: the widest give way first; None if there is no room.

    Every column keeps its natural width or at least NARROWEST.
    """
    if sum(min(size, NARROWEST) for size in natural) > room:
        return None
    limit = max(natural)
    while sum(min(size, limit) for size in natural) > room:
        limit -= 1
    return [min(size, limit) for size in natural]


def _cells(result: QueryResult) -> Iterator[list[str]]:
    types = result.schema.types
    for row in rows_of(result):
        yield [cell(value, type_) for value, type_ in zip(row, types, strict=True)]


def _natural(names: list[str], rows: list[list[str]]) -> list[int]:
    return [max(map(cell_len, column)) for column in zip(names, *rows, strict=True)]


def _write_lines(schema: pa.Schema, widths: list[int], rows: Any) -> None:
    flush = [_is_number(type_) for type_ in schema.types]
    names = [_shortened(name, size) for name, size in zip(schema.names, widths, strict=True)]
    for row in chain([names, ["-" * size for size in widths]], rows):
        line = GAP.join(
            _padded(text, size, right) for text, size, right in zip(row, widths, flush, strict=True)
        )
        click.echo(line.rstrip())


def _write_records(names: list[str], rows: list[list[str]], columns: int) -> bool:
    """A block per row, a line per column; whether anything was shortened."""
    label = max(map(cell_len, names))
    shortened = False
    for number, row in enumerate(rows, 1):
        click.echo(f"-- row {number}")
        for name, text in zip(names, row, strict=True):
            shown = _shortened(text, max(columns - label - len(GAP), NARROWEST))
            shortened = shortened or shown != text
            click.echo(f"{_padded(name, label)}{GAP}{shown}")
    return shortened


def _is_number(type_: pa.DataType) -> bool:
    return pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_decimal(type_)


def _shortened(text: str, columns: int) -> str:
    """The text cut to some columns of a terminal, with an ellipsis where something is missing."""
    return text if cell_len(text) <= columns else f"{set_cell_size(text, columns - 1).rstrip()}…"


def _padded(text: str, columns: int, right: bool = False) -> str:
    space = " " * (columns - cell_len(text))
    return space + text if right else text + space


def cell(value: Any, type_: pa.DataType) -> str:
    """A value as one line of a table: NULL for null, JSON for lists and structs.

    Line breaks and other control characters are written as escapes: text of a pool must not move
    the cursor of whoever looks at it.
    """
    if value is None:
        return "NULL"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    plain = json_value(value, type_)
    text = plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)
    return text if text.isprintable() else "".join(map(_printable, text))


def _printable(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode("ascii")


def write_csv(result: QueryResult) -> None:
    """Write CSV: nothing for NULL, "" for an empty text, JSON text for lists and structs."""
    import pyarrow.csv as csv

    schema = pa.schema([field.with_type(_csv_type(field.type)) for field in result.schema])
    with csv.CSVWriter(sys.stdout.buffer, schema) as writer:
        for batch in result:
            columns = [
                column if column.type == type_ else _as_text(column)
                for column, type_ in zip(batch.columns, schema.types, strict=True)
            ]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))


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
    for row in rows_of(result):
        values = [json_value(value, type_) for value, type_ in zip(row, types, strict=True)]
        click.echo(json.dumps(dict(zip(names, values, strict=True)), ensure_ascii=False))


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

    partial = f"{path}.partial-{os.getpid()}"
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


def rows_of(result: QueryResult) -> Iterator[tuple[Any, ...]]:
    """The rows as Python values."""
    for batch in result:
        yield from zip(*map(python_values, batch.columns), strict=True)


def python_values(column: pa.Array) -> list[Any]:
    """A column's values; times that Python has no form for (nanoseconds, infinity) are text.

    Raises:
        QueryError: such a time stands within something that Arrow cannot cast (a union).
    """
    try:
        try:
            # Where pandas is, Arrow would give its times.
            return _cast(
                column, _changed(column.type, _nested_as_text(_is_nanoseconds))
            ).to_pylist()
        except (ValueError, OverflowError):
            # Arrow writes a time it cannot form as such, but for one with a zone: that as in UTC.
            plain = _cast(column, _changed(column.type, _without_zone))
            return _cast(
                plain, _changed(plain.type, _nested_as_text(pa.types.is_temporal))
            ).to_pylist()
    except (ValueError, OverflowError, pa.ArrowNotImplementedError) as error:
        raise QueryError(f"{error}: cast the value in the query, to VARCHAR say") from error


def _cast(column: pa.Array, type_: pa.DataType) -> pa.Array:
    return column if column.type == type_ else column.cast(type_)


def _nested_as_text(which: Callable[[pa.DataType], bool]) -> Callable[[pa.DataType], pa.DataType]:
    return lambda type_: pa.string() if which(type_) else type_


def _is_nanoseconds(type_: pa.DataType) -> bool:
    return (pa.types.is_timestamp(type_) or pa.types.is_time64(type_)) and type_.unit == "ns"


def _without_zone(type_: pa.DataType) -> pa.DataType:
    return pa.timestamp(type_.unit) if pa.types.is_timestamp(type_) else type_


def _changed(type_: pa.DataType, change: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    """The type with some of those it is made of changed, however deep they stand."""

    def within(field: pa.Field) -> pa.Field:
        return field.with_type(_changed(field.type, change))

    if pa.types.is_list(type_):
        return pa.list_(within(type_.value_field))
    if pa.types.is_fixed_size_list(type_):
        return pa.list_(within(type_.value_field), type_.list_size)
    if pa.types.is_struct(type_):
        return pa.struct([within(type_.field(index)) for index in range(type_.num_fields)])
    if pa.types.is_map(type_):
        return pa.map_(within(type_.key_field), within(type_.item_field))
    if pa.types.is_union(type_):
        for field in (type_.field(index) for index in range(type_.num_fields)):
            if within(field) != field:
                raise pa.ArrowNotImplementedError(f"no form for a {field.type} in a union")
    return change(type_)


def json_value(value: Any, type_: pa.DataType) -> Any:
    """A value as JSON can say it.

    float32 keeps its own shortest digits (0.1, not 0.10000000149), NaN and the infinities become
    null, times are ISO 8601, bytes hexadecimal, maps objects, intervals ISO 8601 durations.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return float(str(np.float32(value))) if pa.types.is_float32(type_) else value
    if isinstance(value, pa.MonthDayNano):
        return f"P{value.months}M{value.days}DT{value.nanoseconds / 1e9:g}S"
    if isinstance(value, dict):
        return {
            field.name: json_value(value[field.name], field.type)
            for field in (type_.field(index) for index in range(type_.num_fields))
        }
    if isinstance(value, list):
        if pa.types.is_map(type_):
            return {
                str(json_value(key, type_.key_type)): json_value(item, type_.item_type)
                for key, item in value
            }
        return [json_value(item, type_.value_type) for item in value]
    if isinstance(value, decimal.Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return str(value)
