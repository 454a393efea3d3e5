"""The keys of a table in memory follow what is committed to it."""

from __future__ import annotations

from coresetdb.schemas.canonical import digest
from coresetdb.store import maintenance
from coresetdb.store.rows import HeldKeys


def test_refresh_follows_inserts_deletes_and_compaction(store, pool_rows):
    held, ids = HeldKeys(), [digest(str(n)) for n in range(60)]
    assert not held.refresh(store.dataset("pool")).contains(ids).any()
    store.insert("pool", pool_rows(0, 40))
    known = held.refresh(store.dataset("pool"))
    assert known.contains(ids).tolist() == [n < 40 for n in range(60)]
    store.insert("pool", pool_rows(40, 60))
    store.delete("pool", f"id = '{ids[0]}'")
    known = held.refresh(store.dataset("pool"))
    assert known.contains(ids).tolist() == [n > 0 for n in range(60)]
    maintenance.compact(store)
    known = held.refresh(store.dataset("pool"))
    assert known.contains(ids).tolist() == [n > 0 for n in range(60)] and len(known) == 59
