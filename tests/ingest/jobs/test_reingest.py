"""Damage to the pool is found, named, and mended from the sources (the whole way, one model)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.files import write_jsonl

import coresetdb
from coresetdb import repair, verify
from coresetdb.ingest.jobs.reingest import reingest, repair_and_reingest
from coresetdb.schemas.errors import BackboneError, StoreBusyError, StoreError
from coresetdb.store.integrity.report import PATH as OWED_PATH
from coresetdb.store.integrity.report import LostRow

ROWS = 120
MAPPING = {"user": "ask", "assistant": "say"}


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """A file that only a mapping can read."""
    records = [
        {"ask": f"Name colour {i}, {'please ' * (i % 9)}.", "say": f"It is shade {i}.", "hue": i}
        for i in range(ROWS)
    ]
    return write_jsonl(tmp_path / "colours.jsonl", records)


@pytest.fixture
def empty(tmp_path: Path, tiny_llama: Path) -> coresetdb.Database:
    """A store whose backbone lies in `tmp_path / "model"`."""
    model = shutil.copytree(tiny_llama, tmp_path / "model")
    return coresetdb.create(str(tmp_path / "pool"), backbone=str(model), dtype="float32")


@pytest.fixture
def database(empty: coresetdb.Database, colours: Path) -> coresetdb.Database:
    """A store of three commits of 40 rows."""
    for limit in (40, 80, None):
        empty.ingest(str(colours), corpus="colours", mapping=MAPPING, limit=limit)
    return empty


def rows_of(database: coresetdb.Database) -> dict[str, tuple]:
    columns = ["id", "corpus", "messages", "metadata", "rds", "rds_norm", "nll", "ifd"]
    table = coresetdb.connect(database.store.uri).store.dataset("pool").to_table(columns=columns)
    return {
        row["id"]: (
            (row["corpus"], str(row["messages"]), row["metadata"]),
            np.array([*row["rds"], row["rds_norm"], row["nll"], row["ifd"]], dtype=float),
        )
        for row in table.to_pylist()
    }


def data_files(database: coresetdb.Database, table: str = "pool") -> list[Path]:
    folder = Path(database.store.uri) / f"{table}.lance"
    fragments = database.store.dataset(table).get_fragments()
    return [folder / "data" / part.data_files()[0].path for part in fragments]


def wipe(file: Path) -> None:
    file.write_bytes(b"\0" * file.stat().st_size)


def lost_with(database: coresetdb.Database, number: int) -> list[str]:
    """Wipe a file of the pool; the ids that `verify` says were in it."""
    wipe(data_files(database)[number])
    return verify(database.store.uri, full=True).lost_ids


def sightings(database: coresetdb.Database) -> set[tuple[str, str, int]]:
    rows = coresetdb.connect(database.store.uri).store.dataset("sources").to_table()
    return {(row["id"], row["file"], row["line"]) for row in rows.to_pylist()}


def same_rows(found: dict[str, tuple], expected: dict[str, tuple]) -> bool:
    return found.keys() == expected.keys() and all(
        found[row_id][0] == words and np.allclose(found[row_id][1], numbers, rtol=2e-3, atol=2e-3)
        for row_id, (words, numbers) in expected.items()
    )


def test_flipped_bytes_of_a_data_file_are_named_and_mended(database):
    before = rows_of(database)
    victim = data_files(database)[1]
    lost = set(
        database.store.dataset("pool").get_fragments()[1].to_table(columns=["id"])["id"].to_pylist()
    )
    damaged = bytearray(victim.read_bytes())
    damaged[1000:1064] = bytes(byte ^ 0xFF for byte in damaged[1000:1064])
    victim.write_bytes(damaged)
    assert verify(database.store.uri).ok, "plain verify looks at sizes only"
    report = verify(database.store.uri, full=True)
    assert not report.ok
    assert [damage.table for damage in report.damages] == ["pool"]
    assert report.damages[0].path.endswith(victim.name)
    assert set(report.lost_ids) == lost
    said: list[str] = []
    repaired = repair(database.store.uri, say=said.append)
    assert repaired.ok, repaired.lines()
    assert any("colours.jsonl" in sentence for sentence in said)
    assert same_rows(rows_of(database), before)
    assert verify(database.store.uri, full=True).ok


def test_a_cut_file_is_found_by_its_size_and_mended(database):
    before = rows_of(database)
    victim = data_files(database)[0]
    victim.write_bytes(victim.read_bytes()[:-500])
    assert not verify(database.store.uri).ok
    assert repair(database.store.uri).ok
    assert same_rows(rows_of(database), before)


def test_a_torn_newest_manifest_falls_back_and_the_rows_come_back(database):
    before = rows_of(database)
    manifests = sorted(
        (Path(database.store.uri) / "pool.lance" / "_versions").glob("*.manifest"),
        key=lambda path: path.stat().st_mtime_ns,
    )
    newest = manifests[-1]
    newest.write_bytes(newest.read_bytes()[:30])
    report = verify(database.store.uri)
    assert [(damage.table, damage.what) for damage in report.damages] == [("pool", "manifest")]
    assert repair(database.store.uri).ok
    assert same_rows(rows_of(database), before)


def test_a_source_that_is_gone_is_said_with_the_rows_it_held(database, tmp_path):
    (tmp_path / "colours.jsonl").unlink()
    victim = data_files(database)[2]
    victim.write_bytes(b"\0" * victim.stat().st_size)
    said: list[str] = []
    repaired = repair(database.store.uri, say=said.append)
    assert not repaired.ok
    assert any("cannot be read again" in sentence for sentence in said)
    assert any("40 rows are not back" in line for line in repaired.unrepaired)
    assert len(rows_of(database)) == 80


def test_without_its_backbone_a_repair_takes_nothing_out(database, tmp_path):
    before = rows_of(database)
    wipe(data_files(database)[1])
    version = database.store.version()
    (tmp_path / "model").rename(tmp_path / "elsewhere")
    with pytest.raises(BackboneError):
        repair(database.store.uri)
    report = verify(database.store.uri, full=True)
    assert database.store.version() == version and len(report.lost_ids) == 40
    assert any(damage.newest for damage in report.damages)
    (tmp_path / "elsewhere").rename(tmp_path / "model")
    assert repair(database.store.uri).ok
    assert same_rows(rows_of(database), before)


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), StoreError("the disk is full")])
def test_a_repair_that_did_not_get_through_is_not_forgotten(database, monkeypatch, stop):
    before = rows_of(database)
    lost = lost_with(database, 2)

    def fail(*_, **__):
        raise stop

    with monkeypatch.context() as patch:
        patch.setattr("coresetdb.ingest.jobs.reingest.ingest", fail)
        with pytest.raises(type(stop)):
            repair(database.store.uri)
    assert len(rows_of(database)) == 80
    report = verify(database.store.uri, full=True)
    assert not report.ok and report.lost_ids == lost
    assert not verify(database.store.uri).ok
    assert repair(database.store.uri).ok
    assert same_rows(rows_of(database), before)
    assert not (Path(database.store.uri) / OWED_PATH).exists()


def test_rows_of_an_interrupted_ingestion_are_fetched(database):
    before = rows_of(database)
    ids = sorted(before)[:7]
    database.store.delete("pool", "id IN (" + ", ".join(f"'{row}'" for row in ids) + ")")
    database.store.sync()
    report = verify(database.store.uri, full=True)
    assert report.ok and sorted(report.pending_ids) == ids
    done = repair(database.store.uri)
    assert done.ok and sorted(done.restored) == ids
    assert same_rows(rows_of(database), before)
    assert not verify(database.store.uri, full=True).pending


def test_only_lost_rows_come_back_from_a_file_that_was_edited(database, colours):
    before = rows_of(database)
    lost = lost_with(database, 1)
    lines = colours.read_text().splitlines(keepends=True)
    edited = lines[50]
    lines[50] = json.dumps({"ask": "Who are you?", "say": "An intruder.", "hue": 0}) + "\n"
    lines.insert(0, json.dumps({"ask": "And you?", "say": "Another.", "hue": 0}) + "\n")
    colours.write_text("".join(lines))
    done = repair(database.store.uri)
    after = rows_of(database)
    assert not done.ok and len(done.restored) == 39 and set(done.restored) < set(lost)
    assert after.keys() < before.keys() and len(after) == ROWS - 1
    assert any(
        "1 of 40 lost rows could not be found in it again" in line for line in done.unrepaired
    )
    assert not verify(database.store.uri, full=True).ok, "one row is still lost"
    colours.write_text("".join([*lines[1:51], edited, *lines[52:]]))
    assert repair(database.store.uri).ok
    assert same_rows(rows_of(database), before)


def test_a_file_whose_columns_were_attached_is_not_read_for_rows(database, tmp_path):
    ids = database.store.dataset("pool").to_table(columns=["id"])["id"].to_pylist()
    labels = [{"id": row_id, "label": "kept"} for row_id in ids]
    database.annotate(str(write_jsonl(tmp_path / "labels.jsonl", labels)))
    before, seen = rows_of(database), sightings(database)
    wipe(data_files(database, "sources")[0])
    done = repair(database.store.uri)
    assert done.ok and not any("labels.jsonl" in line for line in done.lines()), done.lines()
    assert same_rows(rows_of(database), before) and sightings(database) == seen


def test_a_whole_file_is_read_no_further_than_it_was(empty, colours):
    for limit in (40, 80):
        empty.ingest(str(colours), corpus="colours", mapping=MAPPING, limit=limit)
    before, seen = rows_of(empty), sightings(empty)
    wipe(data_files(empty, "sources")[0])
    assert repair(empty.store.uri).ok
    assert rows_of(empty).keys() == before.keys() and sightings(empty) == seen
    for table in ("sources", "pool"):  # now nothing names the lost rows
        for file in data_files(empty, table):
            wipe(file)
    done = repair(empty.store.uri)
    assert done.ok, done.lines()
    assert same_rows(rows_of(empty), before) and sightings(empty) == seen


def test_sightings_that_cannot_be_listed_again_are_said(database, colours):
    wipe(data_files(database, "sources")[0])
    colours.unlink()
    done = repair(database.store.uri)
    assert not done.ok and len(rows_of(database)) == ROWS
    assert any("colours.jsonl" in line and "cannot be read" in line for line in done.unrepaired)
    assert not verify(database.store.uri).ok


def test_standard_input_is_not_read(database, monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    said: list[str] = []
    lost = [LostRow("", "stdin", "-", 0), LostRow("0" * 32, "stdin", "-", 3)]
    unread = reingest(database.store.uri, lost, said.append)
    assert list(unread) == ["-"] and "standard input, which cannot be read again" in unread["-"]
    assert unread["-"] in said[-1]


def test_each_row_is_read_as_the_run_that_saw_it_did(empty, colours):
    empty.ingest(str(colours), corpus="colours", mapping=MAPPING, limit=30)
    empty.ingest(str(colours), corpus="colours", mapping={"user": "say", "assistant": "ask"})
    before = rows_of(empty)
    for file in data_files(empty):
        wipe(file)
    assert len(verify(empty.store.uri, full=True).lost_ids) == len(before) == 30 + ROWS
    assert repair(empty.store.uri).ok
    assert same_rows(rows_of(empty), before)


def test_a_repair_whose_indices_cannot_be_made_again_still_gives_its_account(empty):
    def busy(store):
        raise StoreBusyError(store.uri, "written")

    done = repair_and_reingest(empty.store.uri, print, reindex=busy)
    assert not done.ok and done.after is not None and done.after.ok
    (said,) = done.unrepaired
    assert "by another process" in said
    assert f"coresetdb index create {empty.store.uri} FEATURE" in said
