"""Unit vectors as tables keep them: float16, or codes of 8 or 2 bits a number.

* float16: fixed-size lists of float16.
* int8: fixed-size lists of int8, a vector's numbers in whole steps, the largest 127 or -127.
* int2: fixed-size lists of uint8, four numbers a byte, each one of -3, -1, 1, 3, by its sign and by
  whether it is above the root mean square of the vector's numbers.

A row of codes stands for the unit vector in their direction, so that their length is the scale, and
no column has to keep it. (Measured: deriving it while blocks are multiplied costs a few per cent of
the product, as much as reading and multiplying a column.)
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

LARGEST_CODE = 127
"""-128 is not used, so that codes are symmetric around zero."""

PER_BYTE = 4
"""Numbers of 2 bits in a byte. With B bytes a vector, number n stands in byte n mod B: the first B
numbers are the lowest bits."""


def is_coded(kind: pa.DataType) -> bool:
    """Return whether a column of this type holds unit vectors as codes."""
    return pa.types.is_fixed_size_list(kind) and (
        pa.types.is_int8(kind.value_type) or pa.types.is_uint8(kind.value_type)
    )


def width_of(kind: pa.DataType) -> int:
    """Return how many numbers the vectors in a column of this type have."""
    return kind.list_size * (PER_BYTE if pa.types.is_uint8(kind.value_type) else 1)


def bytes_of_vector(kind: pa.DataType) -> int:
    """Return the bytes of a row in a column of vectors."""
    return kind.list_size * kind.value_type.bit_width // 8


def encoded(vectors: np.ndarray) -> np.ndarray:
    """Return vectors (n, d) as int8 codes (n, d); zero vectors stay zero.

    Raises:
        ValueError: a number is not finite.
    """
    wide = _finite(vectors)
    largest = np.abs(wide).max(axis=1, keepdims=True, initial=0)
    steps = LARGEST_CODE / np.where(largest > 0, largest, 1)
    return np.rint(wide * steps).astype(np.int8)


def packed(vectors: np.ndarray) -> np.ndarray:
    """Return vectors (n, d) as codes of 2 bits, (n, d / 4) uint8.

    Raises:
        ValueError: a number is not finite.
    """
    wide = _finite(vectors)
    usual = np.sqrt(np.square(wide).mean(axis=1, keepdims=True))
    codes = np.floor(wide / np.where(usual > 0, usual, 1)).clip(-2, 1).astype(np.int8) + 2
    parts = np.split(codes.astype(np.uint8), PER_BYTE, axis=1)
    return parts[0] | parts[1] << 2 | parts[2] << 4 | parts[3] << 6


def decoded(codes: np.ndarray) -> np.ndarray:
    """Return the unit vectors (n, d) float32 that codes stand for; zeros stay zero.

    Args:
        codes: (n, d) int8, or (n, d / 4) uint8.
    """
    if codes.dtype == np.uint8:
        codes = np.concatenate([codes >> shift & 3 for shift in (0, 2, 4, 6)], axis=1)
        wide = codes.astype(np.float32) * 2 - 3
    else:
        wide = codes.astype(np.float32)
    lengths = np.sqrt(np.vecdot(wide, wide))
    return wide / np.where(lengths > 0, lengths, 1)[:, None]


def vectors_of(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Return the vectors of the rows that have one, (n, d): float16 as stored, codes as float32."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    # `flatten` leaves out the space of null rows.
    stored = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)
    return decoded(stored) if is_coded(column.type) else stored


def encoded_column(vectors: np.ndarray, kind: pa.DataType, missing: np.ndarray) -> pa.Array:
    """Return vectors (n, d) as a column of a type of vectors, null where `missing` (n,) is true."""
    vectors = np.where(missing[:, None], 0, vectors)
    if is_coded(kind):
        stored = encoded(vectors) if pa.types.is_int8(kind.value_type) else packed(vectors)
    else:
        stored = vectors.astype(kind.value_type.to_pandas_dtype(), copy=False)
    flat = pa.array(stored.ravel(), kind.value_type)
    return pa.FixedSizeListArray.from_arrays(flat, type=kind, mask=pa.array(missing))


def decoded_column(column: pa.Array) -> pa.Array:
    """Return a column of codes as one of float32 unit vectors, null where it is null."""
    kind = pa.list_(pa.float32(), width_of(column.type))
    vectors = np.zeros((len(column), kind.list_size), np.float32)
    missing = ~np.asarray(column.is_valid())
    vectors[~missing] = vectors_of(column)
    return encoded_column(vectors, kind, missing)


def _finite(vectors: np.ndarray) -> np.ndarray:
    wide = vectors.astype(np.float32)
    if not np.isfinite(wide).all():
        raise ValueError("a vector that holds NaN or an infinity has no codes")
    return wide
