"""One value of a result as text or JSON, safe to print and exact to read back."""

from __future__ import annotations

import datetime
import decimal
import json
import math
import unicodedata
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from ..schemas.errors import QueryError


def python_values(column: pa.Array) -> list[Any]:
    """A column's values; times that Python has no form for (nanoseconds, infinity) are text.

    Raises:
        QueryError: such a time stands within something that Arrow cannot cast (a union).
    """
    try:
        try:
            # Where pandas is, Arrow would give its times.
            return _cast(column, _changed(column.type, _nested_as_text(_is_nanoseconds))).to_pylist()
        except (ValueError, OverflowError):
            # Arrow writes a time it cannot form as such, but for one with a zone: that as in UTC.
            plain = _cast(column, _changed(column.type, _without_zone))
            return _cast(plain, _changed(plain.type, _nested_as_text(pa.types.is_temporal))).to_pylist()
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
        for each in (type_.field(index) for index in range(type_.num_fields)):
            if within(each) != each:
                raise pa.ArrowNotImplementedError(f"no form for a {each.type} in a union")
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


def width(text: str) -> int:
    """Columns of a terminal that a text fills (two for a wide East Asian character)."""
    if text.isascii():
        return len(text)
    return sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def fit(text: str, columns: int) -> str:
    """A text cut to a number of columns, with an ellipsis where something is missing."""
    if width(text) <= columns:
        return text
    used, kept = 1, []
    for character in text:
        used += _columns(character)
        if used > columns:
            break
        kept.append(character)
    return "".join(kept) + "…"


def padded(text: str, columns: int, *, right: bool) -> str:
    """A text filled up with spaces to a number of columns."""
    space = " " * (columns - width(text))
    return space + text if right else text + space
