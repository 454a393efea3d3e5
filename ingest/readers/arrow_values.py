"""Arrow arrays as JSON values, whatever their type and however deeply nested.

| Arrow | JSON |
|---|---|
| text, integers, truth values, null | the same |
| `arrow.json` | the value that its text stands for |
| times and dates | ISO 8601 text, nanoseconds cut to microseconds; durations in seconds |
| decimals, UUIDs | text |
| bytes | text where they are UTF-8, else base64 |
| lists of all kinds, structs | lists, objects |
| maps | objects, or lists of pairs where a key repeats |
| dictionaries, run-end encoded arrays, unions, views, other extension types | what they stand for |

A value that JSON cannot say (NaN, a date after the year 9999) becomes null and is counted; text
that is not UTF-8 keeps its bytes as lone surrogates, which reject the record later if they belong
to the conversation.
"""

from __future__ import annotations

import base64
import datetime
import json
import math
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pyarrow as pa

from .remarks import NOT_FINITE, OUT_OF_RANGE

OnNull = Callable[[str], None]
"""Called with the reason for every value that becomes null."""

UNSAYABLE = (ValueError, OverflowError, ArithmeticError, LookupError, pa.ArrowException)


def json_values(array: pa.Array, on_null: OnNull) -> list[Any]:
    """The values of an array as JSON values (see the head of this file)."""
    if len(array) == 0:
        return []
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return _extension_values(array, on_null)
    if pa.types.is_dictionary(kind):
        return _dictionary_values(array, on_null)
    if pa.types.is_run_end_encoded(kind):
        return _run_end_values(array, on_null)
    if pa.types.is_union(kind):
        return _union_values(array, on_null)
    if pa.types.is_struct(kind):
        return _struct_values(array, on_null)
    if pa.types.is_map(kind):
        return _map_values(array, on_null)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        offsets = array.offsets.to_pylist()
        return _list_values(array, offsets[:-1], offsets[1:], on_null)
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        starts, sizes = array.offsets.to_pylist(), array.sizes.to_pylist()
        ends = [start + size for start, size in zip(starts, sizes, strict=True)]
        return _list_values(array, starts, ends, on_null)
    if pa.types.is_fixed_size_list(kind):
        first, width = array.offset, kind.list_size
        starts = [(first + row) * width for row in range(len(array))]
        return _list_values(array, starts, [start + width for start in starts], on_null)
    return _leaf_values(array, on_null)


def _extension_values(array: pa.ExtensionArray, on_null: OnNull) -> list[Any]:
    values = json_values(array.storage, on_null)
    name = array.type.extension_name
    if name == "arrow.json":
        return _from_json(values, on_null)
    if name == "arrow.bool8":
        return [None if value is None else value != 0 for value in values]
    if name == "arrow.uuid":
        raw = array.storage.to_pylist()
        return [None if value is None else str(uuid.UUID(bytes=value)) for value in raw]
    return values


def _from_json(texts: list[Any], on_null: OnNull) -> list[Any]:
    """The values that JSON texts stand for; a text itself where it is not JSON."""
    decoder = json.JSONDecoder(parse_constant=lambda name: on_null(NOT_FINITE))
    values: list[Any] = []
    for text in texts:
        try:
            values.append(text if text is None else decoder.decode(text))
        except (ValueError, RecursionError):
            values.append(text)
    return values


def _dictionary_values(array: pa.DictionaryArray, on_null: OnNull) -> list[Any]:
    indices = array.indices.to_pylist()
    used = {index for index in indices if index is not None}
    if 2 * len(used) > len(array.dictionary):
        values: Any = json_values(array.dictionary, on_null)
    else:  # a few rows of a large dictionary
        values = {
            index: json_values(array.dictionary.slice(index, 1), on_null)[0] for index in used
        }
    return [None if index is None else values[index] for index in indices]


def _run_end_values(array: pa.RunEndEncodedArray, on_null: OnNull) -> list[Any]:
    first, count = array.find_physical_offset(), array.find_physical_length()
    values = json_values(array.values.slice(first, count), on_null)
    ends = array.run_ends.slice(first, count).to_pylist()
    expanded: list[Any] = []
    for value, end in zip(values, ends, strict=True):
        end = min(end - array.offset, len(array))
        expanded.extend([value] * (end - len(expanded)))
    return expanded


def _union_values(array: pa.UnionArray, on_null: OnNull) -> list[Any]:
    kind = array.type
    position = {code: place for place, code in enumerate(kind.type_codes)}
    _, codes, *more = array.buffers()  # type_codes and offsets ignore where a slice begins
    places = [position[code] for code in _integers(array, pa.int8(), codes)]
    children = [json_values(array.field(place), on_null) for place in range(kind.num_fields)]
    rows = _integers(array, pa.int32(), more[0]) if kind.mode == "dense" else range(len(array))
    return [children[place][row] for place, row in zip(places, rows, strict=True)]


def _integers(array: pa.Array, kind: pa.DataType, buffer: pa.Buffer | None) -> list[int]:
    """The integers of a buffer of an array, from where the array begins."""
    return pa.Array.from_buffers(kind, len(array), [None, buffer], offset=array.offset).to_pylist()


def _struct_values(array: pa.StructArray, on_null: OnNull) -> list[Any]:
    kind = array.type
    names = distinct_names([field.name for field in kind])
    if not names:
        objects: list[Any] = [{} for _ in range(len(array))]
    else:
        columns = [json_values(array.field(place), on_null) for place in range(kind.num_fields)]
        objects = [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
    return _with_nulls(array, objects)


def _map_values(array: pa.MapArray, on_null: OnNull) -> list[Any]:
    offsets = array.offsets.to_pylist()
    first, count = offsets[0], offsets[-1] - offsets[0]
    keys = json_values(array.keys.slice(first, count), on_null)
    items = json_values(array.items.slice(first, count), on_null)
    objects: list[Any] = []
    for start, end in pairwise(offsets):
        own_keys, own_items = keys[start - first : end - first], items[start - first : end - first]
        named = dict(zip(map(_key_text, own_keys), own_items, strict=True))
        pairs = zip(own_keys, own_items, strict=True)
        objects.append(named if len(named) == len(own_keys) else [list(pair) for pair in pairs])
    return _with_nulls(array, objects)


def _key_text(key: Any) -> str:
    return key if isinstance(key, str) else json.dumps(key, ensure_ascii=False)


def _list_values(
    array: Any, starts: Sequence[int], ends: Sequence[int], on_null: OnNull
) -> list[list[Any] | None]:
    """Lists whose elements stand between `starts` and `ends` in the array's child."""
    present = _validity(array)
    spans = list(zip(starts, ends, present, strict=True))
    first = min((start for start, end, there in spans if there and end > start), default=0)
    last = max((end for start, end, there in spans if there and end > start), default=0)
    flat = json_values(array.values.slice(first, last - first), on_null)
    return [flat[start - first : end - first] if there else None for start, end, there in spans]


def _leaf_values(array: pa.Array, on_null: OnNull) -> list[Any]:
    kind = array.type
    if pa.types.is_timestamp(kind):
        array = _timestamps(array)
    elif pa.types.is_duration(kind) and kind.unit == "ns":
        array = array.cast(pa.duration("us"), safe=False)
    elif pa.types.is_time64(kind) and kind.unit == "ns":
        array = array.cast(pa.time64("us"), safe=False)
    try:
        values = array.to_pylist()
    except UNSAYABLE:
        return _one_by_one(array, on_null)
    if _is_plain(kind):
        return values
    return [jsonable(value, on_null) for value in values]


def _timestamps(array: pa.Array) -> pa.Array:
    """The same times without nanoseconds, which Python lacks, and in a zone that it knows."""
    kind = array.type
    if kind.unit == "ns":
        array = array.cast(pa.timestamp("us", kind.tz), safe=False)
    if kind.tz:
        try:
            pa.scalar(0, pa.timestamp("s", kind.tz)).as_py()
        except UNSAYABLE:
            return array.cast(pa.timestamp(array.type.unit, "UTC"))
    return array


def _one_by_one(array: pa.Array, on_null: OnNull) -> list[Any]:
    """The values of an array of which some cannot be read."""
    kind = array.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        large = pa.types.is_large_string(kind)
        wide = array if not pa.types.is_string_view(kind) else _as_bytes(array)
        raw = wide.cast(pa.large_binary() if large else pa.binary()).to_pylist()
        return [None if item is None else item.decode("utf-8", "surrogateescape") for item in raw]
    values: list[Any] = []
    for scalar in array:
        try:
            values.append(jsonable(scalar.as_py(), on_null))
        except UNSAYABLE:
            on_null(OUT_OF_RANGE)
            values.append(None)
    return values


def _as_bytes(array: pa.Array) -> pa.Array:
    return array.view(pa.binary_view())


def _is_plain(kind: pa.DataType) -> bool:
    """Whether values of this type are JSON values as they are."""
    return (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_null(kind)
    )


def _validity(array: pa.Array) -> list[bool]:
    return array.is_valid().to_pylist() if array.null_count else [True] * len(array)


def _with_nulls(array: pa.Array, values: list[Any]) -> list[Any]:
    if not array.null_count:
        return values
    there = array.is_valid().to_pylist()
    return [value if valid else None for value, valid in zip(values, there, strict=True)]


def distinct_names(names: Iterable[str]) -> list[str]:
    """Names of columns, of which Arrow may repeat some: the second `a` becomes `a_2`."""
    distinct: dict[str, None] = {}
    for name in names:
        number, own = 1, name
        while own in distinct:
            number += 1
            own = f"{name}_{number}"
        distinct[own] = None
    return list(distinct)


def shares_its_bytes(kind: pa.DataType) -> bool:
    """Whether a slice of an array of this type may have the size of the whole."""
    if isinstance(kind, pa.BaseExtensionType):
        return shares_its_bytes(kind.storage_type)
    return (
        pa.types.is_dictionary(kind)
        or pa.types.is_run_end_encoded(kind)
        or pa.types.is_union(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_list_view(kind)
        or pa.types.is_large_list_view(kind)
        or any(shares_its_bytes(kind.field(place).type) for place in range(kind.num_fields))
    )


def jsonable(value: Any, on_null: OnNull) -> Any:
    """A Python value as a JSON value (see the head of this file)."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        on_null(NOT_FINITE)
        return None
    if isinstance(value, dict):
        return {str(key): jsonable(item, on_null) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item, on_null) for item in value]
    if isinstance(value, bytes):
        with suppress(UnicodeDecodeError):
            return value.decode("utf-8")
        return base64.b64encode(value).decode("ascii")
    if type(value).__name__ in ("NaTType", "NAType"):  # pandas' nulls
        return None
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if hasattr(value, "tolist"):  # NumPy's scalars and arrays
        return jsonable(value.tolist(), on_null)
    return str(value)


def text_bytes(value: Any) -> int:
    """The size of the texts in a JSON value, by which it is compared with the limit of a record."""
    if isinstance(value, str):
        return len(value) if value.isascii() else len(value.encode("utf-8", "surrogatepass"))
    if isinstance(value, dict):
        return sum(text_bytes(item) for item in value.values())
    return sum(map(text_bytes, value)) if isinstance(value, list) else 0
