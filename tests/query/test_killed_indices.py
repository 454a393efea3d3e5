"""Indices that a command drops to make them again are there again, wherever it was killed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers import toy_stores
from helpers.killing import Killed, killed_at

from coresetdb import Database, connect, verify
from coresetdb.database import repair
from coresetdb.query import indexing
from coresetdb.query.indexing import drop_index, index_feature
from coresetdb.schemas.errors import UsageError
from coresetdb.store import indices, removal
from coresetdb.store.features import drop
from coresetdb.store.store import Store

OF_INDICES = ("create_index", "drop_index", "update_schema_metadata")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Store:
    """A store with an index, and three removed rows."""
    store = toy_stores.toy_store(tmp_path_factory.mktemp("indexed") / "pool")
    rows = [toy_stores.question("sums", number) for number in range(40)]
    store.insert("pool", toy_stores.pool_rows(rows, ["sums"] * 40))
    index_feature(store, "rds")
    Database(store).remove(ids=ids_of(store)[:3])
    store.sync()
    return store


@pytest.fixture
def store(whole, tmp_path) -> Store:
    """A copy of it."""
    shutil.copytree(whole.uri, tmp_path / "pool")
    return Store.open(str(tmp_path / "pool"))


def ids_of(store: Store) -> list[str]:
    return sorted(store.dataset("pool").to_table(columns=["id"])["id"].to_pylist())


def names_of(store: Store) -> list[str]:
    return sorted(index["name"] for index in store.dataset("pool").list_indices())


def owed(store: Store) -> list[str]:
    return indices.owed(store.dataset("pool"))


def hurt_index(store: Store) -> None:
    for path in store.place.sizes("pool.lance/_indices"):
        store.place.write(path, store.place.read(path)[:-40] + b"x" * 40)


def kills(names: list[str]) -> list[int]:
    """Before and after each kind of change of an index; all moments, where that is wanted."""
    if os.environ.get("CORESETDB_KILL_EVERY"):
        return list(range(len(names)))
    chosen = [names.index(name) for name in dict.fromkeys(names) if name.split()[1] in OF_INDICES]
    return chosen or [len(names) // 3]


COMMANDS: dict[str, Callable[[Store], object]] = {
    "purge": lambda store: Database(store).purge(),
    "remove --purge": lambda store: Database(store).remove(ids=ids_of(store)[:2], purge=True),
    "repair": lambda store: repair(store.uri),
    "index create": lambda store: index_feature(store, "rds"),
    "compact": lambda store: Database(store).compact(0),
}


def prepared(store: Store, command: str, patch: pytest.MonkeyPatch) -> None:
    if command == "repair":
        hurt_index(store)
    elif command == "index create":  # puts another one in its place
        patch.setattr(indexing, "partitions_for", lambda rows: 16)
    elif command == "compact":
        more = [toy_stores.question("code", number) for number in range(20)]
        store.insert("pool", toy_stores.pool_rows(more, ["code"] * 20))


@pytest.mark.parametrize("command", COMMANDS)
def test_an_index_is_there_again_when_the_command_was_killed(store, tmp_path, monkeypatch, command):
    prepared(store, command, monkeypatch)
    done = tmp_path / "done"
    shutil.copytree(store.uri, done)
    with killed_at(None) as moments:
        COMMANDS[command](Store.open(str(done)))
    expected = names_of(Store.open(str(done)))
    assert len(expected) == 1
    for moment in kills(moments):
        root = tmp_path / f"at{moment}"
        shutil.copytree(store.uri, root)
        with pytest.raises(Killed), killed_at(moment):
            COMMANDS[command](Store.open(str(root)))
        again = connect(str(root)).store
        where = f"moment {moment}: {moments[moment]}"
        try:
            COMMANDS[command](again)
        except UsageError as error:  # it was done when the store was opened
            assert "no removed rows" in str(error), where
        assert names_of(again) == expected, where
        assert not owed(again), where
        (index,) = indices.indices_of(again.dataset("pool")).values()
        assert index.outside == (20 if command == "compact" else 0), where
        assert verify(str(root), full=True).ok, where
        shutil.rmtree(root)


def kill_before(store: Store, change: str, work: Callable[[Store], object]) -> None:
    copy = Path(f"{store.uri}-copy")
    shutil.copytree(store.uri, copy)
    with killed_at(None) as moments:
        work(Store.open(str(copy)))
    with pytest.raises(Killed), killed_at(moments.index(f"before {change}")):
        work(store)


def kill_after_dropping(store: Store) -> None:
    kill_before(store, "create_index", lambda store: Database(store).purge())
    assert "rds" in owed(store) and not names_of(store)


def test_what_was_dropped_is_said_and_made_again(store, caplog):
    kill_after_dropping(store)
    report = verify(store.uri, full=True)
    assert report.ok and any("dropped the index of rds" in line for line in report.lines())
    with caplog.at_level("WARNING"):
        database = connect(store.uri)
    said = [record.getMessage() for record in caplog.records]
    assert "dropped the index of rds; making it again" in said[0]
    assert said[1].endswith("made the index of rds again") and len(said) == 2
    assert [index.column for index in database.list_indices()] == ["rds"]
    caplog.clear()
    assert not owed(connect(store.uri).store) and not caplog.text


def test_the_next_purge_makes_it_again_without_opening_the_store_anew(store):
    kill_after_dropping(store)
    done = Database(store).purge()
    assert done.reindexed == ("rds",) and "  indices made anew: rds" in done.lines()
    assert names_of(store) and not owed(store)
    with pytest.raises(UsageError, match="no removed rows"):
        Database(store).purge()


def test_an_index_that_another_process_made_after_the_purge_is_not_called_dropped(
    store, monkeypatch, caplog
):
    alone, opened = removal.alone, []

    @contextmanager
    def then_opened(of: Store):
        with alone(of):
            yield
        if not opened:
            opened.append(connect(of.uri))

    monkeypatch.setattr(removal, "alone", then_opened)
    with caplog.at_level("WARNING"):
        done = Database(store).purge()
    assert opened and "interrupted" not in caplog.text
    assert done.reindexed == ("rds",) and not any("dropped" in line for line in done.lines())
    assert names_of(store) and not owed(store)


def test_opening_a_store_that_is_repaired_does_not_wait_to_make_an_index(store):
    indices.owe(store, ["rds"])
    with store.lock():
        assert owed(connect(store.uri).store) == ["rds"]
    assert not owed(connect(store.uri).store)


def test_an_index_that_is_removed_is_not_made_again(store):
    indices.owe(store, ["rds"])
    drop_index(store, "rds")
    assert not owed(store) and not names_of(store)


def test_a_repair_makes_a_damaged_index_again_and_says_so(store):
    hurt_index(store)
    found = verify(store.uri, full=True)
    assert not found.ok and not found.lost and not found.unnamed_rows
    assert {damage.what for damage in found.damages} == {"index"}
    done = repair(store.uri)
    assert done.ok and done.found.lost_ids == []
    assert [line for line in done.lines() if "index" in line and "pool.lance" not in line] == [
        "pool: dropped the damaged index rds__ivf_rq_8",
        "made the index of rds again",
    ]
    report = verify(store.uri, full=True)
    assert report.ok and not report.late and not [d for d in report.damages if d.newest]


def test_an_index_whose_feature_was_removed_meanwhile_stays_dropped(store, caplog):
    kill_after_dropping(store)
    drop(store, "rds")
    with caplog.at_level("WARNING"):
        connect(store.uri)
    assert caplog.text.endswith("the index rds stays dropped: the feature is gone\n")
    assert not owed(store) and not names_of(store)


def test_another_tools_index_is_named_however_the_purge_ends(store, caplog):
    store.dataset("pool").create_scalar_index("tokens", "BTREE", name="theirs")
    done = Database(store).remove(ids=ids_of(store)[:1], purge=True)
    assert done.purged.indices == ["rds", "theirs"] and done.reindexed == ("rds",)
    store.dataset("pool").create_scalar_index("tokens", "BTREE", name="theirs")
    Database(store).remove(ids=ids_of(store)[:1])
    kill_after_dropping(store)
    assert owed(store) == ["rds", "theirs"]
    with caplog.at_level("WARNING"):
        connect(store.uri)
    assert "made the index of rds again" in caplog.text
    assert "the index theirs stays dropped: another tool made it" in caplog.text
    assert not owed(store)


def test_an_index_that_was_half_replaced_goes_with_the_other(store, monkeypatch):
    monkeypatch.setattr(indexing, "partitions_for", lambda rows: 16)
    kill_before(store, "drop_index", lambda store: index_feature(store, "rds"))
    assert names_of(store) == ["rds__ivf_rq_16", "rds__ivf_rq_8"]
    assert indices.indices_of(store.dataset("pool"))["rds"].partitions == 16
    assert drop_index(store, "rds").partitions == 16
    assert names_of(store) == []
