"""Unit vectors as tables keep them: float16, or int8 codes in half the bytes.

The codes of a row are its numbers in whole steps, the largest of them 127 or -127. The row is the
unit vector in the direction of its codes, so that the length of the codes is the scale, and no
column has to keep it. (Measured: deriving it while blocks are multiplied costs a few per cent of
the product, as much as reading and multiplying a column.)
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

LARGEST_CODE = 127
"""-128 is not used, so that codes are symmetric around zero."""


def is_coded(kind: pa.DataType) -> bool:
    """Return whether a column of this type holds unit vectors as int8 codes."""
    return pa.types.is_fixed_size_list(kind) and pa.types.is_int8(kind.value_type)


def bytes_of_vector(kind: pa.DataType) -> int:
    """Return the bytes of a row in a column of vectors."""
    return kind.list_size * kind.value_type.bit_width // 8


def encoded(vectors: np.ndarray) -> np.ndarray:
    """Return vectors (n, d) as int8 codes (n, d); zero vectors stay zero.

    Raises:
        ValueError: a number is not finite.
    """
    wide = vectors.astype(np.float32)
    if not np.isfinite(wide).all():
        raise ValueError("a vector that holds NaN or an infinity has no codes")
    largest = np.abs(wide).max(axis=1, keepdims=True, initial=0)
    steps = LARGEST_CODE / np.where(largest > 0, largest, 1)
    return np.rint(wide * steps).astype(np.int8)


def decoded(codes: np.ndarray) -> np.ndarray:
    """Return the unit vectors (n, d) float32 that int8 codes (n, d) stand for; zeros stay zero."""
    wide = codes.astype(np.float32)
    lengths = np.sqrt(np.vecdot(wide, wide))  # whole squares: exact up to 1,040 numbers
    return wide / np.where(lengths > 0, lengths, 1)[:, None]


def vectors_of(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Return the vectors of the rows that have one, (n, d): float16 as stored, int8 as float32."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    width = column.type.list_size
    # `flatten` leaves out the space of null rows.
    stored = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    return decoded(stored) if is_coded(column.type) else stored


def encoded_column(vectors: np.ndarray, kind: pa.DataType, missing: np.ndarray) -> pa.Array:
    """Return vectors (n, d) as a column of a type of vectors, null where `missing` (n,) is true."""
    vectors = np.where(missing[:, None], 0, vectors)
    stored = encoded(vectors) if is_coded(kind) else vectors.astype(_dtype(kind), copy=False)
    flat = pa.array(stored.ravel(), kind.value_type)
    return pa.FixedSizeListArray.from_arrays(flat, type=kind, mask=pa.array(missing))


def decoded_column(column: pa.Array) -> pa.Array:
    """Return a column of codes as one of float32 unit vectors, null where it is null."""
    kind = pa.list_(pa.float32(), column.type.list_size)
    vectors = np.zeros((len(column), kind.list_size), np.float32)
    missing = ~np.asarray(column.is_valid())
    vectors[~missing] = vectors_of(column)
    return encoded_column(vectors, kind, missing)


def _dtype(kind: pa.DataType) -> np.dtype:
    return np.dtype(kind.value_type.to_pandas_dtype())
