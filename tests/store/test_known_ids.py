"""KnownIds answers as a Python set would."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from coresetdb.schemas.canonical import digest
from coresetdb.schemas.ids import KnownIds

# few first halves, so that ids often share one and differ in the second
IDS = st.builds(lambda a, b: f"{a:016x}{b:016x}", st.integers(0, 3), st.integers(0, 5))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(IDS, max_size=12), max_size=8), st.lists(IDS, max_size=20))
def test_like_a_set(batches, asked):
    known = KnownIds()
    for batch in batches:
        known.add(batch)
    naive = {one for batch in batches for one in batch}
    assert known.contains(asked).tolist() == [one in naive for one in asked]
    assert known.contains(pa.array(asked, pa.string())).tolist() == [one in naive for one in asked]


def test_many_ids():
    ids = [digest(str(n)) for n in range(20_000)]
    known = KnownIds()
    for start in range(0, 10_000, 700):
        known.add(ids[start : min(start + 700, 10_000)])
    assert (known.contains(ids) == (np.arange(20_000) < 10_000)).all()
    assert len(known) == 10_000


def test_refresh_follows_inserts_deletes_and_compaction(store, pool_rows):
    known = store.known_ids()
    ids = [digest(str(n)) for n in range(60)]
    store.insert("pool", pool_rows(0, 40))
    assert not known.contains(ids).any()
    known.refresh()
    assert known.contains(ids).tolist() == [n < 40 for n in range(60)]
    store.insert("pool", pool_rows(40, 60))
    store.delete("pool", f"id = '{ids[0]}'")
    known.refresh()
    assert known.contains(ids).tolist() == [n > 0 for n in range(60)]
    store.compact()
    known.refresh()
    assert known.contains(ids).tolist() == [n > 0 for n in range(60)]
    known.add([ids[0]])
    known.refresh()
    assert known.contains(ids).all()
