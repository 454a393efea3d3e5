"""Feature columns on their way from a pass to storage.

Numbers are float32 (N,) or (N, d) with NaN where a row has none; texts and values of unequal
length are object arrays (N,) of str, 1-d arrays or arrays (T, d) of vectors, None where there is
none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ..schemas.stored_vectors import encoded_column, width_of

LIST_VALUES = (1 << 31) - 1
"""Values that one Arrow array of lists can hold: its offsets have 32 bits."""


def to_arrow(values: np.ndarray, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    """A column for storage: NaN (in a vector: any) becomes null.

    Vectors become fixed-size lists, those of codes if these are what the type holds.
    """
    if pa.types.is_list(kind):
        return _lists(values, kind)
    if values.dtype == object:
        return pa.array(values.tolist(), kind)
    missing: Any = np.isnan(values)
    if not pa.types.is_fixed_size_list(kind):
        return pa.array(values, kind, mask=missing)
    return encoded_column(values, kind, missing.any(axis=1))


def _lists(rows: np.ndarray, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    vectors = pa.types.is_fixed_size_list(kind.value_type)
    arrays = [None if row is None else np.asarray(row) for row in rows]
    wide = (kind.value_type.list_size,) if vectors else ()
    for array in arrays:
        if array is not None and array.shape[1:] != wide:
            raise ValueError(f"a value of shape {array.shape} does not fit {kind}")
    lengths = [0 if each is None else len(each) for each in arrays]
    ends = np.cumsum(lengths, dtype=np.int64)
    if len(rows) > 1 and ends[-1] > LIST_VALUES:
        halves = (rows[: len(rows) // 2], rows[len(rows) // 2 :])
        parts = [_lists(half, kind) for half in halves]
        return pa.chunked_array(
            [
                chunk
                for part in parts
                for chunk in (part.chunks if isinstance(part, pa.ChunkedArray) else [part])
            ]
        )
    missing = np.array([each is None for each in arrays], dtype=bool)
    offsets = np.concatenate([[0], ends]).astype(np.int32)
    number = kind.value_type.value_type if vectors else kind.value_type
    dtype = number.to_pandas_dtype()
    kept = [np.empty(0, dtype), *(each.ravel() for each in arrays if each is not None)]
    values: pa.Array = pa.array(np.concatenate(kept).astype(dtype, copy=False), number)
    if vectors:
        values = pa.FixedSizeListArray.from_arrays(values, type=kind.value_type)
    return pa.ListArray.from_arrays(pa.array(offsets), values, kind, mask=pa.array(missing))


def no_rows(kind: pa.DataType) -> np.ndarray:
    """The column of no row at all."""
    if pa.types.is_string(kind) or pa.types.is_boolean(kind) or pa.types.is_list(kind):
        return np.empty(0, dtype=object)
    width = (width_of(kind),) if pa.types.is_fixed_size_list(kind) else ()
    return np.empty((0, *width), dtype=np.float32)


def joined(
    parts: Sequence[Mapping[str, np.ndarray]], places: np.ndarray, total: int
) -> dict[str, np.ndarray]:
    """Columns of several batches (none: no columns), each row at its place among `total`."""
    names = parts[0] if parts else ()
    return {
        name: spread(np.concatenate([part[name] for part in parts]), places, total)
        for name in names
    }


def spread(values: np.ndarray, places: Sequence[int] | np.ndarray, total: int) -> np.ndarray:
    """`values` at `places` of an array of `total` rows; NaN (None for objects) elsewhere."""
    empty = None if values.dtype == object else np.nan
    wide = np.full((total, *values.shape[1:]), empty, dtype=values.dtype)
    wide[np.asarray(places, dtype=np.int64)] = values
    return wide


def ragged(rows: Sequence[np.ndarray | None]) -> np.ndarray:
    """An object array (N,) of values of unequal length (NumPy would stack equal ones)."""
    column = np.empty(len(rows), dtype=object)
    for index, row in enumerate(rows):
        column[index] = row
    return column
