"""What damage took stays in sight until it is back, whatever happens to the repair."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from coresetdb.schemas.canonical import digest
from coresetdb.schemas.tables import TABLES
from coresetdb.store.integrity.repair import repair
from coresetdb.store.integrity.report import PATH, LostRow, LostRows, read_lost, write_lost
from coresetdb.store.integrity.verify import verify
from coresetdb.store.place import Place
from coresetdb.store.store import Store


def cut(store: Store, table: str, number: int) -> list[str]:
    """Cut a fragment's file; gives back the ids that were in it."""
    part = store.dataset(table).get_fragments()[number]
    ids = part.to_table(columns=["id"])["id"].to_pylist()
    path = Path(store.place.absolute(f"{table}.lance/data/{part.metadata.files[0].path}"))
    os.truncate(path, path.stat().st_size // 2)
    return ids


def stopped(lost: list[LostRow]) -> dict[str, str]:
    raise KeyboardInterrupt


def test_a_repair_that_was_stopped_leaves_the_loss_in_sight(filled, pool_rows):
    lost = cut(filled, "pool", 2)
    with pytest.raises(KeyboardInterrupt):
        repair(filled.uri, stopped)
    for full in (False, True):
        report = verify(filled.uri, full=full)
        assert not report.ok and report.lost_ids == lost and not report.pending
        assert not any(damage.newest for damage in report.damages)
        assert "ROWS ARE MISSING" in report.lines()[-1]
    again = repair(filled.uri)  # nobody to read them: still lost
    assert not again.ok and again.after is not None and again.after.lost_ids == lost
    assert any(PATH in line for line in again.unrepaired)
    filled.insert("pool", pool_rows(80, 120))
    filled.sync()
    assert verify(filled.uri).ok
    assert repair(filled.uri).ok and not filled.place.exists(PATH)


def test_a_check_that_fails_leaves_the_store_as_it_was(filled):
    lost, before = cut(filled, "pool", 1), filled.version()
    seen = []

    def check(config, recipes):
        seen.append((config, recipes))
        raise ValueError("the backbone is gone")

    with pytest.raises(ValueError, match="backbone"):
        repair(filled.uri, stopped, check=check)
    assert seen == [(filled.config, [])]
    assert filled.version() == before and not filled.place.exists(PATH)
    report = verify(filled.uri)
    assert report.lost_ids == lost and [damage.what for damage in report.damages] == ["data"]


def test_nothing_to_make_again_needs_no_check(filled):
    part = filled.dataset("sources").get_fragments()[0]
    name = part.metadata.files[0].path
    os.truncate(filled.place.absolute(f"sources.lance/data/{name}"), 100)

    def check(config, recipes):
        raise AssertionError("no row of the pool is lost")

    done = repair(filled.uri, lambda lost: {}, check=check)
    assert done.found.lost_ids == [] and done.ok


def test_a_file_that_could_not_be_read_again_stays_owed(filled, source_rows):
    cut(filled, "sources", 0)
    done = repair(filled.uri, lambda lost: {"toy.jsonl": "it is gone"})
    assert not done.ok
    assert any("toy.jsonl" in line and "it is gone" in line for line in done.unrepaired)
    report = verify(filled.uri)
    assert report.lost == [LostRow("", "toy", "toy.jsonl", 0)] and not report.ok
    assert "the whole file has to be read again" in "\n".join(report.lines())

    def reingest(lost):
        filled.insert("sources", source_rows(0, 200))
        return {}

    assert repair(filled.uri, reingest).ok
    assert filled.dataset("sources").count_rows() == 200 and verify(filled.uri).ok


def test_sightings_without_rows_are_no_damage(filled, pool_rows, source_rows):
    filled.insert("sources", source_rows(200, 205))
    filled.sync()
    ids = [digest(str(n)) for n in range(200, 205)]
    assert verify(filled.uri).pending == []
    report = verify(filled.uri, full=True)
    assert report.ok and report.pending_ids == ids and not report.lost
    assert any("5 rows are listed as seen, but not in the pool" in line for line in report.lines())
    left = repair(filled.uri)
    assert not left.ok and "5 rows that were seen" in left.unrepaired[0]
    assert not filled.place.exists(PATH), "never having been there is no loss"

    def reingest(lost):
        assert [row.id for row in lost] == ids
        filled.insert("pool", pool_rows(200, 205))
        return {}

    done = repair(filled.uri, reingest)
    assert done.ok and done.restored == ids
    assert verify(filled.uri, full=True).pending == []


def test_a_torn_list_of_lost_rows_counts_all_absent_ones_as_lost(filled):
    lost = cut(filled, "pool", 2)
    with pytest.raises(KeyboardInterrupt):
        repair(filled.uri, stopped)
    os.truncate(filled.place.absolute(PATH), 40)
    report = verify(filled.uri)
    assert not report.ok and report.lost_ids == lost
    assert "list of lost rows" in "\n".join(report.lines())
    done = repair(filled.uri)
    assert done.after is not None and done.after.lost_ids == lost
    assert not any(damage.newest for damage in done.after.damages)


def test_what_is_owed_is_written_and_read(store):
    place: Place = store.place
    assert not read_lost(place)
    owed = LostRows([LostRow("a" * 32, "c", "f.jsonl", 3, "run"), LostRow("", "c", "-", 0)], 2, 50)
    write_lost(place, owed)
    assert read_lost(place) == owed
    assert (
        owed.still_unnamed(rows=45, missing=1) == 2 and owed.still_unnamed(rows=49, missing=1) == 0
    )
    write_lost(place, LostRows())
    assert not place.exists(PATH)


def test_the_report_counts_every_manifest(store, monkeypatch):
    seen: list[str] = []
    whole = Place.checksum
    monkeypatch.setattr(
        Place, "checksum", lambda self, path: (seen.append(path), whole(self, path))[1]
    )
    report = verify(store.uri)
    every = {
        path
        for table in TABLES
        for path in store.place.sizes(f"{table}.lance")
        if path.endswith((".manifest", ".lance"))
    }
    assert {path for path in every if path.endswith(".manifest")} <= set(seen)
    assert report.checked_files == len(every) > len(TABLES)
    assert f"of {len(every)} files checked" in report.lines()[-1]
