"""Unit vectors as int8 codes, one number at a time."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coresetdb.schemas.stored_vectors import (
    bytes_of_vector,
    decoded,
    decoded_column,
    encoded,
    encoded_column,
    is_coded,
    vectors_of,
)

CODES, HALF = pa.list_(pa.int8(), 3), pa.list_(pa.float16(), 3)


def naive_codes(vector: list[float]) -> list[int]:
    largest = max(abs(number) for number in vector)
    return [round(number * 127 / largest) if largest else 0 for number in vector]


numbers = st.floats(-1, 1, width=16)


@given(st.lists(st.tuples(numbers, numbers, numbers), min_size=1, max_size=5))
def test_codes_are_whole_steps_of_the_largest_number(rows):
    vectors = np.array(rows, np.float32)
    codes = encoded(vectors)
    assert codes.dtype == np.int8 and codes.min(initial=0) >= -127
    for vector, row in zip(vectors.astype(float).tolist(), codes.tolist(), strict=True):
        assert np.abs(np.array(naive_codes(vector)) - row).max() <= 1  # halves may round otherwise
        assert max(map(abs, row)) == (127 if any(vector) else 0)


def test_codes_stand_for_the_unit_vector_in_their_direction():
    vectors = np.random.default_rng(0).standard_normal((50, 300)).astype(np.float32)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    back = decoded(encoded(units))
    assert back.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(back, axis=1), 1, atol=1e-6)
    assert (np.abs(back - units).max(axis=1) <= np.abs(units).max(axis=1) / 127 * 0.6).all()
    assert np.sum(back * units, axis=1).min() > 0.9999
    assert (decoded(np.zeros((2, 4), np.int8)) == 0).all()


def test_a_column_keeps_its_gaps():
    vectors = np.array([[0.6, 0.8, 0], [np.nan, 1, 2], [0, 0, -1]], np.float32)
    missing = np.array([False, True, False])
    column = encoded_column(vectors, CODES, missing)
    assert column.to_pylist() == [[95, 127, 0], None, [0, 0, -127]]
    units = np.array([[95, 127, 0], [0, 0, -127]]) / np.array([[np.hypot(95, 127)], [127]])
    np.testing.assert_allclose(vectors_of(column), units, rtol=1e-6)
    shown = decoded_column(column)
    assert shown.type == pa.list_(pa.float32(), 3) and shown[1].as_py() is None
    np.testing.assert_allclose(vectors_of(shown), units, rtol=1e-6)
    sliced = pa.chunked_array([column.slice(1)])
    np.testing.assert_allclose(vectors_of(sliced), units[1:], rtol=1e-6)
    half = encoded_column(vectors, HALF, missing)
    assert vectors_of(half).dtype == np.float16
    assert half.to_pylist()[1:] == [None, [0, 0, -1]]


def test_what_has_no_codes():
    with pytest.raises(ValueError, match="infinity"):
        encoded_column(np.array([[np.inf, 1, 0]]), CODES, np.array([False]))
    assert is_coded(CODES) and not is_coded(HALF) and not is_coded(pa.list_(pa.int8()))
    assert not is_coded(pa.list_(CODES)) and not is_coded(pa.int8())
    assert (bytes_of_vector(CODES), bytes_of_vector(HALF)) == (3, 6)
