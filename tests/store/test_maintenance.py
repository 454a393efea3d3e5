"""Compaction and cleaning: ids, tags and checksums stay."""

from __future__ import annotations

import pytest

from coresetdb.database import Database
from coresetdb.schemas.canonical import digest
from coresetdb.schemas.errors import StoreBusyError, UsageError
from coresetdb.store import maintenance
from coresetdb.store.checksums import read_journal
from coresetdb.store.integrity.verify import verify
from coresetdb.store.store import Store


def test_compaction_keeps_ids_tags_and_old_versions(filled, pool_rows):
    old = filled.version()
    filled.tag("kept", old)
    ids = [digest(str(n)) for n in range(200)]
    assert maintenance.compact(filled) >= 4
    assert len(filled.dataset("pool").get_fragments()) == 1
    assert filled.take(ids, ["rds"])["rds"].to_pylist() == pool_rows(0, 200)["rds"].to_pylist()
    assert filled.take(ids, ["id"], version="kept").num_rows == 200
    assert maintenance.compact(filled) == 0
    filled.insert("pool", pool_rows(200, 210))
    filled.sync()
    report = verify(filled.uri, full=True)
    assert report.ok and not report.late and not report.orphans


def test_large_fragments_stay_where_they_are(filled, pool_rows):
    first = filled.dataset("pool").get_fragments()[0].metadata.files[0].path
    maintenance.compact(filled, small_rows=40)
    assert filled.dataset("pool").get_fragments()[0].metadata.files[0].path == first


def test_clean_drops_untagged_versions_only(filled, pool_rows):
    filled.tag("kept", 3)
    maintenance.compact(filled)
    done = maintenance.clean(filled, 0)
    assert done.versions > 5 and done.bytes > 0
    assert filled.dataset("pool", "kept").count_rows() == 80
    with pytest.raises(UsageError, match="no version 4"):
        filled.dataset("pool", 4)
    filled.insert("pool", pool_rows(200, 210))
    filled.sync()
    report = verify(filled.uri, full=True)
    assert report.ok and not report.damages and not report.late
    present = filled.place.sizes("pool.lance")
    noted = [path for path in filled.checksums.known() if path.startswith("pool.lance")]
    assert all(path in present for path in noted)


def test_the_python_face_compacts_and_cleans(filled):
    done = Database(filled).compact(keep_hours=0)
    assert done.merged >= 4 and done.versions > 5 and done.bytes > 0
    assert filled.dataset("pool").count_rows() == 200


@pytest.mark.parametrize("action", ["sync", "tag", "untag"])
def test_what_commits_waits_for_maintenance(filled, pool_rows, monkeypatch, action):
    """A `clean` meanwhile would take the files of a fold, or the version being tagged."""
    monkeypatch.setattr("coresetdb.store.store.WRITER_WAIT_SECONDS", 0.0)
    filled.insert("pool", pool_rows(200, 210))
    act = {
        "sync": filled.sync,
        "tag": lambda: filled.tag("mine", filled.version()),
        "untag": lambda: filled.untag("mine"),
    }[action]
    with Store.open(filled.uri).lock(), pytest.raises(StoreBusyError, match="maintained"):
        act()
    with filled.lock():
        act()  # whoever holds the store alone may
    act()
    assert verify(filled.uri, full=True).ok


def test_clean_spares_recent_versions(filled):
    assert maintenance.clean(filled).versions == 0
    assert filled.dataset("pool", 2).count_rows() == 40


def test_maintenance_waits_for_writers(filled):
    other = Store.open(filled.uri)
    with filled.lock(shared=True):
        for action in (maintenance.compact, maintenance.clean):
            with pytest.raises(StoreBusyError, match="being used"):
                action(other)
        assert other.insert("pool", filled.dataset("pool").to_table().slice(0, 1)) == 0
    assert maintenance.compact(other) > 0


def test_notes_are_folded_while_a_long_run_goes_on(store, source_rows, monkeypatch):
    monkeypatch.setattr("coresetdb.store.checksums.FOLD_AFTER", 5)
    monkeypatch.setattr("coresetdb.store.checksums._MERGE_FRAGMENTS", 3)
    for start in range(0, 400, 10):
        store.insert("sources", source_rows(start, start + 10))
        assert len(read_journal(store.place)[0]) < 12
    assert len(store.dataset("files").get_fragments()) <= 5
    report = verify(store.uri, full=True)
    assert report.ok and not report.late


def test_rows_are_merged_in_batches_that_fit_memory(filled):
    assert maintenance._rows_at_once(2048, 10_000.0) == 1024
    assert maintenance._rows_at_once(1, 20_000.0) == 3355
    assert maintenance._rows_at_once(1, 3e6) == 64
    assert maintenance._rows_at_once(1, 0.0) == 8192
    assert 50 < maintenance.bytes_on_disk(filled.dataset("pool")) < 100_000
