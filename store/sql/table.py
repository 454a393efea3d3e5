"""The rows of a query as people and programs read them: an aligned table, Python's values, JSON's.

The command line and a notebook draw the same table. Its values are safe to print: line breaks and
other control characters of a pool's texts are written as escapes.
"""

from __future__ import annotations

import datetime
import decimal
import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
from rich.cells import cell_len

from ...schemas.errors import QueryError
from ...schemas.fitted_table import shared_widths, shortened

_ID = re.compile(r"[0-9a-f]{32}")
NARROWEST = 6  # columns of the terminal for a value; a table without that room becomes records
GAP = "  "


def fitted_lines(
    schema: pa.Schema, rows: Sequence[list[str]], columns: int
) -> tuple[list[str], bool]:
    """Rows of cells as lines that fit `columns`, and whether anything was shortened; no id is.

    They are a table, or a block of lines per row where there is no room for a table.
    """
    names = schema.names
    whole = [
        at
        for at in range(len(names))
        if all(row[at] == "NULL" or _ID.fullmatch(row[at]) for row in rows)
    ]
    widths = fitted(_natural(names, rows), columns - len(GAP) * (len(names) - 1), whole)
    if widths is None:
        return _records(names, rows, columns)
    cut = [[shortened(text, size) for text, size in zip(row, widths, strict=True)] for row in rows]
    return list(_lines(schema, widths, cut)), cut != list(rows)


def table_lines(
    schema: pa.Schema, head: Sequence[list[str]], rows: Iterable[list[str]]
) -> Iterator[str]:
    """Rows of cells as lines in which nothing is shortened; `head` says how wide columns are."""
    return _lines(schema, _natural(schema.names, head), rows)


def fitted(natural: list[int], room: int, whole: Collection[int] = ()) -> list[int] | None:
    """Widths of columns that share `room`: the widest give way first; None if there is no room.

    Every column keeps its natural width or at least NARROWEST; those at `whole` their natural one.
    """
    least = [size if at in whole else min(size, NARROWEST) for at, size in enumerate(natural)]
    return None if sum(least) > room else shared_widths(natural, least, room)


def _natural(names: list[str], rows: Sequence[list[str]]) -> list[int]:
    return [max(map(cell_len, column)) for column in zip(names, *rows, strict=True)]


def _lines(schema: pa.Schema, widths: list[int], rows: Iterable[list[str]]) -> Iterator[str]:
    flush = [_is_number(type_) for type_ in schema.types]
    names = [shortened(name, size) for name, size in zip(schema.names, widths, strict=True)]
    for row in chain([names, ["-" * size for size in widths]], rows):
        line = GAP.join(
            _padded(text, size, right) for text, size, right in zip(row, widths, flush, strict=True)
        )
        yield line.rstrip()


def _records(names: list[str], rows: Sequence[list[str]], columns: int) -> tuple[list[str], bool]:
    """A block per row, a line per column; and whether anything was shortened."""
    label = max(map(cell_len, names))
    lines, incomplete = [], False
    for number, row in enumerate(rows, 1):
        lines.append(f"-- row {number}")
        for name, text in zip(names, row, strict=True):
            shown = shortened(text, max(columns - label - len(GAP), NARROWEST))
            incomplete = incomplete or shown != text
            lines.append(f"{_padded(name, label)}{GAP}{shown}")
    return lines, incomplete


def _is_number(type_: pa.DataType) -> bool:
    return pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_decimal(type_)


def _padded(text: str, columns: int, right: bool = False) -> str:
    space = " " * (columns - cell_len(text))
    return space + text if right else text + space


def cells_of(batch: pa.RecordBatch) -> Iterator[list[str]]:
    """The rows of a batch as cells of a table."""
    types = batch.schema.types
    for row in rows_of(batch):
        yield [cell(value, type_) for value, type_ in zip(row, types, strict=True)]


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


def rows_of(batch: pa.RecordBatch) -> Iterator[tuple[Any, ...]]:
    """The rows of a batch as Python values."""
    return zip(*map(python_values, batch.columns), strict=True)


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
