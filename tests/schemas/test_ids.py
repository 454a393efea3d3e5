"""Keys against the text they stand for."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coresetdb.schemas.ids import IdSet, codes_of, ids_of, keys_of

IDS = st.lists(st.text("0123456789abcdef", min_size=32, max_size=32), max_size=40)


@given(IDS)
def test_round_trip_and_order(ids):
    keys = keys_of(pa.array(ids, pa.string()))
    assert ids_of(keys) == ids
    order = np.lexsort((keys[:, 1], keys[:, 0])).tolist()
    assert [ids[i] for i in order] == sorted(ids)


@given(IDS)
def test_codes_are_equal_where_ids_are(ids):
    codes, distinct = codes_of(keys_of(pa.array(ids, pa.string())))
    ranks = {text: rank for rank, text in enumerate(sorted(set(ids)))}
    assert codes.tolist() == [ranks[text] for text in ids]
    assert distinct == len(ranks)


@given(IDS, IDS)
def test_membership(members, asked):
    asked = asked + members[::2]
    found = IdSet(keys_of(pa.array(members, pa.string()))).contains(
        keys_of(pa.array(asked, pa.string()))
    )
    assert found.tolist() == [text in set(members) for text in asked]


def test_membership_where_upper_halves_collide():
    upper = "ab" * 8
    members = [upper + f"{i:016x}" for i in (9, 3, 7)] + ["0" * 32]
    asked = [upper + f"{i:016x}" for i in range(12)]
    found = IdSet(keys_of(pa.array(members))).contains(keys_of(pa.array(asked)))
    assert [i for i, yes in enumerate(found) if yes] == [3, 7, 9]


def test_slices_chunks_and_wide_strings():
    ids = [f"{i:032x}" for i in range(20)]
    column = pa.chunked_array([pa.array(ids[:7]), pa.array([], pa.string()), pa.array(ids[7:])])
    assert ids_of(keys_of(column.slice(3, 12))) == ids[3:15]
    assert ids_of(keys_of(pa.array(ids, pa.large_string())[4:6])) == ids[4:6]


@pytest.mark.parametrize("bad", [["ab"], [None], ["a" * 31, "a" * 33], ["g" * 32]])
def test_what_is_no_id_is_refused(bad):
    with pytest.raises(ValueError):
        keys_of(pa.array(bad, pa.string()))
