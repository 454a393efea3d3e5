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
    packed,
    vectors_of,
    width_of,
)

CODES, HALF = pa.list_(pa.int8(), 3), pa.list_(pa.float16(), 3)
PACKED = pa.list_(pa.uint8(), 2)


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


def test_two_bits_are_sign_and_whether_it_is_large():
    draw = np.random.default_rng(1)
    vectors = draw.standard_normal((40, 8)).astype(np.float32) * draw.uniform(0.1, 3, (40, 1))
    codes = packed(vectors)
    assert codes.dtype == np.uint8 and codes.shape == (40, 2)
    back = decoded(codes)
    for vector, bytes_, unit in zip(vectors.astype(float), codes.tolist(), back, strict=True):
        usual = np.sqrt(sum(number**2 for number in vector) / 8)
        expected = [np.sign(number) * (3 if abs(number) >= usual else 1) for number in vector]
        assert unit.tolist() == pytest.approx((expected / np.linalg.norm(expected)).tolist())
        for number, level in enumerate(expected):
            assert bytes_[number % 2] >> 2 * (number // 2) & 3 == (level + 3) / 2


def test_a_column_of_two_bits_keeps_its_gaps():
    vectors = np.array([[0.1, 0.1, -0.1, 0.9, 0.1, -0.9, 0.1, 0.1], [np.nan] * 8], np.float32)
    column = encoded_column(vectors, PACKED, np.array([False, True]))
    expected = np.array([1, 1, -1, 3, 1, -3, 1, 1]) / np.sqrt(24)
    np.testing.assert_allclose(vectors_of(column), [expected], rtol=1e-6)
    assert decoded_column(column).type == pa.list_(pa.float32(), 8)
    assert decoded_column(column)[1].as_py() is None
    assert is_coded(PACKED) and (width_of(PACKED), bytes_of_vector(PACKED)) == (8, 2)
    assert (width_of(CODES), width_of(HALF)) == (3, 3)


def test_similarities_survive_two_bits():
    """The cosine of codes with exact vectors, over 8,192 numbers as a sketch has."""
    draw = np.random.default_rng(2)
    base = draw.standard_normal(8192)
    mixed = base + draw.standard_normal((200, 8192)) * draw.uniform(0.5, 4, (200, 1))
    units = mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
    query = base / np.linalg.norm(base)
    exact, coded = units @ query, decoded(packed(units)) @ query
    assert np.corrcoef(exact, coded)[0, 1] > 0.998
