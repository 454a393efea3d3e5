"""Keys against the text they stand for; sets of ids against Python's."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coresetdb.schemas.canonical import digest
from coresetdb.schemas.ids import GrowingIdSet, IdSet, codes_of, ids_of, keys_of

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


# few first halves, so that ids often share one and differ in the second
CLOSE_IDS = st.builds(lambda a, b: f"{a:016x}{b:016x}", st.integers(0, 3), st.integers(0, 5))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(CLOSE_IDS, max_size=12), max_size=8), st.lists(CLOSE_IDS, max_size=20))
def test_a_growing_set(batches, wanted):
    known = GrowingIdSet()
    for batch in batches:
        known.add(batch)
    naive = {one for batch in batches for one in batch}
    assert known.contains(wanted).tolist() == [one in naive for one in wanted]
    assert known.contains(pa.array(wanted, pa.string())).tolist() == [
        one in naive for one in wanted
    ]


def test_a_growing_set_of_many_ids():
    ids = [digest(str(n)) for n in range(20_000)]
    known = GrowingIdSet()
    for start in range(0, 10_000, 700):
        known.add(ids[start : min(start + 700, 10_000)])
    assert (known.contains(ids) == (np.arange(20_000) < 10_000)).all()
    assert len(known) == 10_000


def test_a_copy_and_its_original_take_more_in_by_themselves():
    ids = [digest(str(n)) for n in range(60)]
    known = GrowingIdSet()
    known.add_all(pa.array(ids[start : start + 7], pa.string()) for start in range(0, 42, 7))
    known.add_all([])
    other = known.copy()
    known.add(ids[42:50])
    other.add(ids[50:])
    assert known.contains(ids).tolist() == [n < 50 for n in range(60)] and len(known) == 50
    assert other.contains(ids).tolist() == [n < 42 or n >= 50 for n in range(60)]
