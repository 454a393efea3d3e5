"""What a repair cannot bring back is told by every later check, until it is there or accepted."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

import coresetdb
from coresetdb.schemas.canonical import digest
from coresetdb.schemas.errors import UsageError
from coresetdb.schemas.tables import TABLES
from coresetdb.store.integrity import losses
from coresetdb.store.integrity.repair import accept, repair
from coresetdb.store.integrity.verify import verify
from coresetdb.store.removal import alone, remove, tombstones
from coresetdb.store.rows import key_column
from coresetdb.store.store import Store

ROWS = {
    "runs": [{"run": letter * 32, "status": "done", "files": [], "new": 0} for letter in "ab"],
    "scores": [
        {"key": digest(f"s{n}"), "target": "t", "method": "rds:top", "rank": n + 1}
        for n in range(2)
    ],
    "coresets": [
        {"name": f"c{n}", "rows": 0, "pool_version": 1, "parameters": "{}"} for n in range(2)
    ],
    "targets": [{"key": digest(f"t{n}"), "target": "t", "position": n} for n in range(2)],
    "evaluations": [{"key": digest(f"e{n}"), "study": "s", "arm": "a"} for n in range(2)],
    "removed": [{"id": digest(f"r{n}"), "state": "purged"} for n in range(2)],
    "artifacts": [
        {"key": digest(f"a{n}"), "fingerprint": digest(f"f{n}"), "name": "x"} for n in range(2)
    ],
}


def put(store: Store, table: str) -> None:
    """Two rows in two commits."""
    store.make_missing(table)
    schema = TABLES[table]
    for row in ROWS[table]:
        row = {**row, key_column(schema): row.get(key_column(schema), digest(str(row)))}
        store.insert(table, pa.Table.from_pylist([row], schema))
    store.sync()


def tear(store: Store, table: str) -> None:
    folder = Path(store.uri) / f"{table}.lance" / "_versions"
    newest = min(folder.glob("*.manifest"))
    os.truncate(newest, newest.stat().st_size // 2)


def flip(store: Store, table: str) -> None:
    """Damage a file of the first row, where its key is not."""
    part = store.dataset(table).get_fragments()[0]
    path = Path(store.uri) / f"{table}.lance" / "data" / part.metadata.files[0].path
    data = bytearray(path.read_bytes())
    data[-30] ^= 0xFF
    path.write_bytes(data)


def told(store: Store, full: bool = True) -> list[str]:
    lines = verify(store.uri, full=full).lines()
    return [line.split(": ", 1)[1] for line in lines if line.startswith("lost for good")]


@pytest.mark.parametrize("table", ROWS)
def test_a_torn_manifest_is_told_until_it_is_accepted(filled, table):
    put(filled, table)
    tear(filled, table)
    done = repair(filled.uri)
    (said,) = (line for line in done.unrepaired if line.startswith(f"{table}: what the last"))
    for full in (False, True):
        assert told(filled, full) == [said]
    again = repair(filled.uri)
    assert said in "\n".join(again.lines()) and told(filled) == [said]
    report = coresetdb.verify(filled.uri, accept=True)
    assert report.ok and f"accepted that this is lost: {said}" in report.lines()
    assert told(filled) == [] and repair(filled.uri).ok
    assert not filled.place.exists(losses.PATH)


def test_rows_that_are_there_again_are_no_loss_any_more(filled):
    put(filled, "artifacts")
    flip(filled, "artifacts")
    (damage,) = verify(filled.uri, full=True).damages
    assert damage.keys == (ROWS["artifacts"][0]["key"],)
    assert not repair(filled.uri).ok and len(told(filled)) == 1
    put(filled, "artifacts")
    assert told(filled, full=False), "only a full look reads tables"
    assert told(filled) == [] == told(filled, full=False)


def test_a_loss_whose_keys_are_not_all_known_is_never_taken_for_back():
    back = {"a", "b", "c"}
    for rows, keys, expected in (
        (2, "ab", True),
        (2, "ax", False),
        (2, "a", False),
        (0, "", False),
    ):
        loss = losses.new_loss("scores", rows, keys, ("x",))
        assert loss.is_back(lambda table: back) is expected
    removed = losses.new_loss("removed", 2, "ab", ("x",))
    assert not removed.is_back(lambda table: back), "a repair writes the ids again, not the reasons"


def test_losses_add_up_and_a_second_repair_adds_none(filled):
    for table in ("runs", "scores"):
        put(filled, table)
        tear(filled, table)
        repair(filled.uri)
        repair(filled.uri)
    assert [line.split(":")[0] for line in told(filled)] == ["runs", "scores"]


def test_a_damaged_list_of_losses_says_so(filled):
    put(filled, "runs")
    tear(filled, "runs")
    repair(filled.uri)
    path = Path(filled.uri) / losses.PATH
    path.write_bytes(path.read_bytes().replace(b"runs", b"rnus"))
    assert "list of earlier losses is damaged" in told(filled)[0]
    assert len(accept(filled.uri)) == 1 and told(filled) == []


def test_lost_rows_of_the_pool_are_accepted_too(filled):
    part = filled.dataset("pool").get_fragments()[0]
    os.truncate(filled.place.absolute(f"pool.lance/data/{part.metadata.files[0].path}"), 100)
    assert not repair(filled.uri).ok and not verify(filled.uri).ok
    lost = verify(filled.uri).lost_ids
    (accepted,) = accept(filled.uri)
    assert accepted.startswith(f"pool: 40 rows ({lost[0]}, ") and " and 20 more)" in accepted
    report = verify(filled.uri, full=True)
    assert report.ok and not report.pending and not report.deleted and not report.contradictions
    seen = []
    assert repair(filled.uri, lambda rows: seen.append(rows) or {}).ok and not seen
    stones = tombstones(Store.open(filled.uri))
    assert sorted(stone.id for stone in stones) == sorted(lost)
    assert all(stone.purged and stone.corpus and "accepted" in stone.why for stone in stones)
    assert accept(filled.uri) == []


def test_damage_that_was_not_repaired_comes_before_rows_are_accepted(filled):
    parts = filled.dataset("pool").get_fragments()
    paths = [Path(filled.uri) / "pool.lance/data" / p.metadata.files[0].path for p in parts[:2]]
    os.truncate(paths[0], 100)
    repair(filled.uri)
    os.truncate(paths[1], 100)
    with pytest.raises(UsageError, match="repair them first"):
        accept(filled.uri)
    repair(filled.uri)
    (accepted,) = accept(filled.uri)
    assert accepted.startswith("pool: 80 rows") and verify(filled.uri, full=True).ok


def test_accepted_rows_of_a_store_without_the_table_removed(filled):
    for table in ("removed", "removed_rows"):
        shutil.rmtree(Path(filled.uri) / f"{table}.lance", ignore_errors=True)
    part = filled.dataset("pool").get_fragments()[0]
    os.truncate(filled.place.absolute(f"pool.lance/data/{part.metadata.files[0].path}"), 100)
    repair(filled.uri)
    assert len(accept(filled.uri)) == 1
    report = verify(filled.uri, full=True)
    assert report.ok and not report.pending and not report.late


def test_rows_and_a_torn_manifest_of_one_table_are_two_losses(filled):
    put(filled, "artifacts")
    row = {**ROWS["artifacts"][0], "key": digest("a third")}
    filled.insert("artifacts", pa.Table.from_pylist([row], TABLES["artifacts"]))
    filled.sync()
    flip(filled, "artifacts")
    tear(filled, "artifacts")
    repair(filled.uri)
    noted = [(loss.rows, len(loss.keys)) for loss in losses.read_losses(filled.place)]
    assert noted == [(1, 1), (0, 0)]
    put(Store.open(filled.uri), "artifacts")
    (left,) = told(filled)
    assert "what the last commits brought" in left


def test_a_loss_of_tombstones_outlives_the_repair_that_writes_them_again(filled):
    row_id, corpus = (
        filled.dataset("pool").to_table(columns=[name])[name][0].as_py()
        for name in ("id", "corpus")
    )
    with alone(filled):
        remove(filled, {row_id: corpus}, "why not")
    folder = Path(filled.uri) / "removed.lance" / "data"
    for path in folder.iterdir():
        os.truncate(path, path.stat().st_size // 2)
    repair(filled.uri)
    assert [stone.id for stone in tombstones(Store.open(filled.uri))] == [row_id]
    assert len(told(filled)) == 1 == len(told(filled))


def test_the_advice_is_written_for_the_place_of_the_report(filled, tmp_path):
    put(filled, "evaluations")
    tear(filled, "evaluations")
    repair(filled.uri)
    moved = tmp_path / "with space" / "store"
    moved.parent.mkdir()
    shutil.move(filled.uri, moved)
    report = verify(str(moved))
    (line,) = (line for line in report.lines() if line.startswith("lost for good"))
    assert f"coresetdb evaluate run '{moved}' ..." in line
    (loss,) = report.as_dict()["losses"]
    assert loss["advice"] in line


def test_a_repair_that_was_stopped_comes_first(filled):
    part = filled.dataset("pool").get_fragments()[0]
    os.truncate(filled.place.absolute(f"pool.lance/data/{part.metadata.files[0].path}"), 100)

    def stopped(lost):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        repair(filled.uri, stopped)
    with pytest.raises(UsageError, match="--repair"):
        accept(filled.uri)
    assert not verify(filled.uri).ok


def test_nothing_to_accept_changes_nothing(filled):
    assert accept(filled.uri) == [] and coresetdb.verify(filled.uri, accept=True).ok
