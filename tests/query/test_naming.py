"""Names of coresets and targets: of several who give one at the same moment, one gets it whole."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers.files import write_jsonl

from coresetdb.ingest.readers.options import ReadOptions
from coresetdb.query import selection
from coresetdb.query.coresets import load_coreset
from coresetdb.query.selection import select
from coresetdb.query.targets import add_target, list_targets
from coresetdb.schemas.errors import UsageError
from coresetdb.store.store import Store


def test_one_of_many_gets_the_name_and_the_others_are_told(store, monkeypatch):
    """Every selection has its rows, and found the name free, before any of them is recorded."""
    record, ready = selection.record, threading.Barrier(6)

    def together(snapshot, coreset):
        ready.wait(60)
        return record(snapshot, coreset)

    def choose(turn: int):
        try:
            return select(Store.open(store.uri), ["python"], budget=str(3 + turn), name="mine")
        except UsageError as error:
            return str(error)

    monkeypatch.setattr(selection, "record", together)
    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(choose, range(6)))
    said = [each for each in found if isinstance(each, str)]
    (winner,) = (each for each in found if not isinstance(each, str))
    assert len(said) == 5 and all("there is a coreset 'mine' already" in each for each in said)
    assert load_coreset(store, "mine").members.equals(winner.members)
    assert store.dataset("coreset_rows").count_rows() == len(winner)


def test_a_store_that_may_not_be_written_gives_no_name(store, monkeypatch):
    def refused(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.makedirs", refused)
    coreset = select(store, ["python"], budget="3", name="mine")
    assert not coreset.saved and any("cannot be written" in note for note in coreset.notes)


def test_names_made_up_at_the_same_moment_differ(store):
    with ThreadPoolExecutor(5) as threads:
        made = list(
            threads.map(
                lambda turn: select(Store.open(store.uri), ["python"], budget=str(3 + turn)),
                range(5),
            )
        )
    assert sorted(each.name for each in made) == [
        f"python-rds-round_robin-{number}" for number in range(1, 6)
    ]
    for each in made:
        assert load_coreset(store, each.name).members.equals(each.members)


def test_nobody_comes_between_looking_and_writing(store, monkeypatch):
    """The first has found its name free and is about to clear what a killed run left there."""
    delete, second = store.delete, []

    def choose():
        with pytest.raises(UsageError) as refused:
            select(Store.open(store.uri), ["python"], budget="9", name="mine")
        second.append(str(refused.value))

    other = threading.Thread(target=choose)

    def slow(table, where):
        if not other.ident:
            other.start()
            other.join(1.0)  # it would be done by now, if it did not have to wait
        return delete(table, where)

    monkeypatch.setattr(store, "delete", slow)
    first = select(store, ["python"], budget="4", name="mine")
    other.join()
    assert "already" in second[0]
    assert load_coreset(store, "mine").ids == first.ids


def test_a_target_is_never_made_of_two(store, toys, tmp_path):
    """Both read their examples before either wrote them."""
    ready = threading.Barrier(2)

    def featurizer():
        ready.wait(60)
        return toys.ToyFeaturizer()

    def add(turn: int):
        rows = [{"question": f"sums {turn} {n}", "answer": "1"} for n in range(3 + turn)]
        file = write_jsonl(tmp_path / f"{turn}.jsonl", rows)
        try:
            return add_target(
                Store.open(store.uri), "both", str(file), ReadOptions(), featurizer
            ).target.examples
        except UsageError as error:
            return str(error)

    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(add, range(2)))
    (said,) = (each for each in found if isinstance(each, str))
    assert "there is a target 'both' already" in said
    (both,) = (list_target for list_target in list_targets(store) if list_target.name == "both")
    assert [both.examples] == [each for each in found if isinstance(each, int)]
