"""What damage takes of tables that speak of one another is seen, and made again where it can be."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pytest

import coresetdb
from coresetdb.database import Database
from coresetdb.schemas.errors import UsageError
from coresetdb.schemas.tables import literal
from coresetdb.store import removal
from coresetdb.store.store import Store


def flip(store: Store, table: str, number: int = 0) -> None:
    part = store.dataset(table).get_fragments()[number]
    path = Path(store.place.absolute(f"{table}.lance/data/{part.metadata.files[0].path}"))
    data = bytearray(path.read_bytes())
    for at in range(len(data) // 2):
        data[at] ^= 0x5A
    path.write_bytes(data)


def last_line(report) -> str:
    return report.lines()[-1]


def members(store: Store, name: str) -> list[dict]:
    columns = ["rank", "id", "score", "target", "query", "key"]
    rows = store.dataset("coreset_rows").to_table(columns, filter=f"coreset = {literal(name)}")
    return rows.sort_by("rank").to_pylist()


@pytest.fixture
def database(store) -> Database:
    database = Database(store)
    database.select("arithmetic", budget=30, name="first", where="corpus <> 'facts'")
    database.select("python", budget=10, name="second")
    store.sync()
    return database


@pytest.mark.parametrize("lost", [[0], [0, 1]])
def test_members_that_damage_took_are_chosen_again(database, lost):
    store = database.store
    before = {name: members(store, name) for name in ("first", "second")}
    for number in lost:
        flip(store, "coreset_rows", number)
    report = coresetdb.repair(store.uri)
    assert report.ok, report.lines()
    assert any("30 members of coreset first" in action for action in report.actions)
    again = Database(Store.open(store.uri))
    assert {name: members(again.store, name) for name in before} == before
    assert again.replay("first").same and again.replay("second").same
    assert coresetdb.verify(store.uri, full=True).ok


def test_a_part_of_the_members_is_completed(database):
    store = database.store
    before = members(store, "first")
    store.delete("coreset_rows", "coreset = 'first' AND rank > 20")
    store.sync()
    report = coresetdb.verify(store.uri, full=True)
    assert not report.ok and "CONTRADICT" in last_line(report)
    assert "20 of the 30 members of coreset first" in "\n".join(report.lines())
    assert coresetdb.verify(store.uri).ok, "only a full look reads tables"
    assert coresetdb.repair(store.uri).ok
    assert members(store, "first") == before


def test_members_that_are_there_twice_are_written_once(database):
    store = database.store
    before = members(store, "first")
    store.append("coreset_rows", store.dataset("coreset_rows").to_table(filter="rank < 4"))
    store.sync()
    assert not coresetdb.verify(store.uri, full=True).ok
    assert coresetdb.repair(store.uri).ok
    assert members(store, "first") == before


def test_members_that_come_out_otherwise_are_not_written(database):
    store = database.store
    left = store.dataset("coreset_rows").to_table(filter="coreset = 'first' AND rank <= 20")
    store.delete("coreset_rows", "coreset = 'first' AND rank > 10")
    other = store.dataset("pool").to_table(columns=["id"], filter="corpus = 'facts'")["id"][0]
    wrong = left.slice(0, 1).to_pylist()[0]
    store.delete("coreset_rows", "coreset = 'first' AND rank = 3")
    row = {**wrong, "rank": 3, "id": other.as_py(), "key": "a" * 32}
    store.insert("coreset_rows", pa.Table.from_pylist([row], left.schema))
    store.sync()
    done = coresetdb.repair(store.uri)
    assert not done.ok
    (why,) = done.unrepaired
    assert "rank 3 is another row" in why and "coreset remove" in why
    assert len(members(store, "first")) == 10
    database.remove_coreset("first")
    assert coresetdb.verify(store.uri, full=True).ok


def test_members_of_no_coreset_are_a_remark(database):
    store = database.store
    store.delete("coresets", "name = 'second'")
    store.sync()
    report = coresetdb.verify(store.uri, full=True)
    assert report.ok and "10 members of a coreset second" in "\n".join(report.lines())
    with pytest.raises(UsageError, match="second"):  # as a removal that was killed, typed again
        database.remove_coreset("second")
    assert store.dataset("coreset_rows").count_rows("coreset = 'second'") == 0
    assert not any("second" in tag for tag in store.tags())


def test_a_tag_that_is_gone_is_made_again(database):
    store = database.store
    version = store.tags()["coreset-first-pool"]
    os.truncate(store.place.absolute("pool.lance/_refs/tags/coreset-first-pool.json"), 4)
    store.untag("coreset-second-targets", "targets")
    assert not coresetdb.verify(store.uri, full=True).ok
    done = coresetdb.repair(store.uri)
    assert done.ok, done.lines()
    assert store.tags()["coreset-first-pool"] == version
    assert "coreset-second-targets" in store.tags("targets")
    assert coresetdb.verify(store.uri, full=True).ok


def test_removed_rows_that_a_torn_manifest_brings_back_are_taken_out(store):
    row_id = store.dataset("pool").to_table(columns=["id"])["id"][7].as_py()
    with removal.alone(store):
        removal.remove(store, {row_id: "sums"}, "a slip")
    store.sync()
    versions = store.place.sizes("pool.lance/_versions")
    newest = min(path for path in versions if path.endswith(".manifest"))
    os.truncate(store.place.absolute(newest), 30)
    done = coresetdb.repair(store.uri)
    assert done.ok and any("had been removed" in action for action in done.actions)
    ids = Store.open(store.uri).dataset("pool").to_table(columns=["id"])["id"].to_pylist()
    assert row_id not in ids and len(ids) == 245
    assert coresetdb.verify(store.uri, full=True).ok


def test_rows_that_are_there_twice_are_found_and_the_first_stays(store):
    pool = store.dataset("pool").to_table()
    twins = pool.slice(5, 3).set_column(
        pool.schema.get_field_index("corpus"), "corpus", [["again"] * 3]
    )
    store.append("pool", twins)
    store.sync()
    report = coresetdb.verify(store.uri, full=True)
    assert not report.ok and "3 ids with more than one row" in str(report)
    done = coresetdb.repair(store.uri)
    assert done.ok and "pool: took out 3 rows that came a second time" in done.actions
    assert Store.open(store.uri).dataset("pool").to_table() == pool


def test_examples_that_damage_took_are_named(store):
    store.delete("targets", "target = 'arithmetic' AND position = 2")
    store.sync()
    report = coresetdb.verify(store.uri, full=True)
    assert not report.ok and "4 of at least 5 examples of target arithmetic" in str(report)
    done = coresetdb.repair(store.uri)
    assert "coresetdb target remove" in done.unrepaired[0]
    Database(store).remove_target("arithmetic")
    assert coresetdb.verify(store.uri, full=True).ok


def test_scores_that_damage_took_are_a_remark(store):
    Database(store).score("arithmetic", "rds:top")
    store.delete("scores", "rank = 5")
    store.sync()
    report = coresetdb.verify(store.uri, full=True)
    assert report.ok and "by rds for target arithmetic are there" in str(report)
