"""Damage to the pool is found, named, and mended from the sources (the whole way, one model)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import coresetdb
from coresetdb.database import repair_store, verify_store

ROWS = 120


@pytest.fixture
def database(tmp_path: Path, tiny_llama: Path) -> coresetdb.Database:
    """A store of three commits, from a file that only `mapping` can read."""
    records = [
        {"ask": f"Name colour {i}, {'please ' * (i % 9)}.", "say": f"It is shade {i}.", "hue": i}
        for i in range(ROWS)
    ]
    file = tmp_path / "colours.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    made = coresetdb.create(str(tmp_path / "pool"), backbone=str(tiny_llama), dtype="float32")
    for limit in (40, 80, None):
        made.ingest(
            str(file), corpus="colours", mapping={"user": "ask", "assistant": "say"}, limit=limit
        )
    return made


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


def data_files(database: coresetdb.Database) -> list[Path]:
    folder = Path(database.store.uri) / "pool.lance"
    fragments = database.store.dataset("pool").get_fragments()
    return [folder / "data" / part.data_files()[0].path for part in fragments]


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
    assert verify_store(database.store.uri).ok, "plain verify looks at sizes only"
    report = verify_store(database.store.uri, full=True)
    assert not report.ok
    assert [damage.table for damage in report.damages] == ["pool"]
    assert report.damages[0].path.endswith(victim.name)
    assert set(report.lost_ids) == lost
    said: list[str] = []
    repaired = repair_store(database.store.uri, say=said.append)
    assert repaired.ok, repaired.lines()
    assert any("colours.jsonl" in sentence for sentence in said)
    assert same_rows(rows_of(database), before)
    assert verify_store(database.store.uri, full=True).ok


def test_a_cut_file_is_found_by_its_size_and_mended(database):
    before = rows_of(database)
    victim = data_files(database)[0]
    victim.write_bytes(victim.read_bytes()[:-500])
    assert not verify_store(database.store.uri).ok
    assert repair_store(database.store.uri).ok
    assert same_rows(rows_of(database), before)


def test_a_torn_newest_manifest_falls_back_and_the_rows_come_back(database):
    before = rows_of(database)
    manifests = sorted(
        (Path(database.store.uri) / "pool.lance" / "_versions").glob("*.manifest"),
        key=lambda path: path.stat().st_mtime_ns,
    )
    newest = manifests[-1]
    newest.write_bytes(newest.read_bytes()[:30])
    report = verify_store(database.store.uri)
    assert [(damage.table, damage.what) for damage in report.damages] == [("pool", "manifest")]
    assert repair_store(database.store.uri).ok
    assert same_rows(rows_of(database), before)


def test_a_source_that_is_gone_is_said_with_the_rows_it_held(database, tmp_path):
    (tmp_path / "colours.jsonl").unlink()
    victim = data_files(database)[2]
    victim.write_bytes(b"\0" * victim.stat().st_size)
    said: list[str] = []
    repaired = repair_store(database.store.uri, say=said.append)
    assert not repaired.ok
    assert any("cannot be read again" in sentence for sentence in said)
    assert any("40 rows are not back" in line for line in repaired.unrepaired)
    assert len(rows_of(database)) == 80
