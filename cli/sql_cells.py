"""One value of a result as text or JSON, safe to print and exact to read back."""

from __future__ import annotations

import datetime
import decimal
import json
import math
import unicodedata
from typing import Any

import numpy as np
import pyarrow as pa

from ..schemas.errors import QueryError


def python_values(column: pa.Array) -> list[Any]:
    """A column's values; times that Python has no form for (nanoseconds, infinity) are text.

    Raises:
        QueryError: such a time stands within a list or struct.
    """
    if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
        return column.cast(pa.string()).to_pylist()  # where pandas is, Arrow would give its times
    try:
        return column.to_pylist()
    except (ValueError, OverflowError) as error:
        try:
            return column.cast(pa.string()).to_pylist()
        except pa.ArrowNotImplementedError:
            raise QueryError(f"{error}: cast the value in the query, to VARCHAR say") from error


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
