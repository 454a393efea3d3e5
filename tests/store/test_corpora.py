"""Corpora by name, and giving one another."""

from __future__ import annotations

from contextlib import contextmanager

import pyarrow as pa
import pytest
from helpers.toy_stores import numbered_rows, numbered_sources

from coresetdb.schemas.errors import UsageError
from coresetdb.schemas.tables import REJECTS, RUNS
from coresetdb.store import maintenance, purge, removal
from coresetdb.store.corpora import list_corpora, rename_corpus
from coresetdb.store.integrity.verify import verify
from coresetdb.store.rows import key_of
from coresetdb.store.store import Store


def in_corpus(rows: pa.Table, corpus: str) -> pa.Table:
    at = rows.schema.get_field_index("corpus")
    return rows.set_column(at, rows.schema.field(at), pa.array([corpus] * len(rows)))


@pytest.fixture
def two(store) -> Store:
    """Corpora toy (80 rows, three equal rejects, one removed row) and other (20 rows)."""
    for start in (0, 40):
        store.insert("sources", numbered_sources(start, start + 40))
        store.insert("pool", numbered_rows(start, start + 40))
    store.insert("pool", in_corpus(numbered_rows(80, 100), "other"))
    place = ("toy", "toy.jsonl", 7, "empty", "{}")
    names = ("corpus", "file", "line", "reason", "excerpt")
    rejects = [
        {"key": key_of(*place, n), **dict(zip(names, place, strict=True))} for n in (1, 2, 3)
    ]
    store.insert("rejects", pa.Table.from_pylist(rejects, REJECTS))
    files = [{"file": "toy.jsonl", "corpus": "toy", "options": "{}"}]
    store.insert("runs", pa.Table.from_pylist([{"run": "r", "files": files}], RUNS))
    with removal.alone(store):
        removal.remove(store, first_of(store), "why")
    store.sync()
    return store


def first_of(store: Store) -> dict[str, str]:
    rows = store.dataset("pool").to_table(columns=["id"], filter="corpus = 'toy'", limit=1)
    return dict.fromkeys(rows["id"].to_pylist(), "toy")


def test_corpora_are_listed_with_what_they_hold(two):
    toy, other = reversed(list_corpora(two))
    assert (toy["corpus"], toy["rows"], toy["files"]) == ("toy", 79, 1)
    assert (toy["removed"], toy["rejected"]) == (1, 3)
    assert (other["corpus"], other["rows"], other["files"], other["removed"]) == ("other", 20, 0, 0)


def test_a_new_name_is_everywhere_and_costs_one_column(two):
    rows = two.dataset("pool").to_table(columns=["id", "rds", "messages"]).sort_by("id")
    large = {path for path in two.place.sizes("pool.lance/data")}
    assert rename_corpus(two, "toy", "toys") == 79
    assert two.dataset("pool").to_table(columns=["id", "rds", "messages"]).sort_by("id") == rows
    for table in ("pool", "sources", "rejects", "removed", "removed_rows"):
        assert "toy" not in two.dataset(table).to_table(columns=["corpus"])["corpus"].to_pylist()
    (run,) = two.dataset("runs").to_table().to_pylist()
    assert [file["corpus"] for file in run["files"]] == ["toys"]
    assert {row["corpus"]: row["rows"] for row in list_corpora(two)} == {"toys": 79, "other": 20}
    pool = two.dataset("pool")
    named = {file.path for part in pool.get_fragments() for file in part.data_files()}
    assert {path.rsplit("/", 1)[1] for path in large} <= named  # nothing else was written again
    keys = two.dataset("sources").to_table(columns=["key", "id", "line"]).to_pylist()
    assert all(row["key"] == key_of(row["id"], "toys", "toy.jsonl", row["line"]) for row in keys)
    place = ("toys", "toy.jsonl", 7, "empty", "{}")
    keys = two.dataset("rejects").to_table(columns=["key"])["key"].to_pylist()
    assert sorted(keys) == sorted(key_of(*place, n) for n in (1, 2, 3))
    report = verify(two.uri, full=True)
    assert report.ok and not report.pending
    with removal.alone(two):
        purge.settle(two)
        assert removal.restore(two, [stone.id for stone in removal.tombstones(two)]) == 1
    assert two.dataset("pool").count_rows(filter="corpus = 'toys'") == 80
    maintenance.compact_and_clean(two, 0)
    assert verify(two.uri, full=True).ok


def test_two_corpora_become_one_only_where_that_is_meant(two):
    with pytest.raises(UsageError, match="--merge"):
        rename_corpus(two, "toy", "other")
    assert rename_corpus(two, "toy", "other", merge=True) == 79
    assert [(row["corpus"], row["rows"]) for row in list_corpora(two)] == [("other", 99)]


class Killed(BaseException):
    pass


@contextmanager
def killed_at(step: int):
    """The step-th commit, from 1, is made, and then the process ends."""
    count, change = 0, Store.change

    def changed(self, *arguments):
        nonlocal count
        result = change(self, *arguments)
        count += 1
        if count == step:
            raise Killed
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "change", changed)
        yield


@pytest.mark.parametrize("step", range(1, 10))
def test_a_killed_rename_is_finished_by_the_same_command(two, step):
    with killed_at(step):
        try:
            rename_corpus(two, "toy", "toys")
            assert step == 9  # it takes eight commits
        except Killed:
            assert step < 9
    again = Store.open(two.uri)
    if step < 8:
        rename_corpus(again, "toy", "toys")
    with pytest.raises(UsageError, match="no corpus 'toy'"):
        rename_corpus(again, "toy", "toys")
    toys, other = reversed(list_corpora(again))
    assert (toys["corpus"], toys["rows"], toys["files"]) == ("toys", 79, 1)
    assert (toys["removed"], toys["rejected"], other["rows"]) == (1, 3, 20)
    with removal.alone(again):
        assert removal.restore(again, [stone.id for stone in removal.tombstones(again)]) == 1
    assert again.dataset("pool").count_rows(filter="corpus = 'toys'") == 80
    assert verify(again.uri, full=True).ok


def test_rows_kept_of_a_corpus_can_be_renamed_though_their_tombstones_were(two):
    """As a rename that was killed at its end left it, by a version that began with these."""
    rename_corpus(two, "toy", "toys")
    kept = two.dataset("removed_rows").to_table()
    two.upsert("removed_rows", in_corpus(kept, "toy"))
    assert rename_corpus(two, "toy", "toys") == 0
    assert two.dataset("removed_rows").to_table()["corpus"].to_pylist() == ["toys"]


def test_a_corpus_whose_rows_were_all_removed_is_not_merged_unasked(two):
    """Neither rows nor places are left of it: nothing tells of a rename that was killed."""
    with removal.alone(two):
        rows = two.dataset("pool").to_table(columns=["id"], filter="corpus = 'toy'")
        removal.remove(two, dict.fromkeys(rows["id"].to_pylist(), "toy"), state="purging")
        purge.settle(two)
    with pytest.raises(UsageError, match="--merge"):
        rename_corpus(two, "toy", "other")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [("tou", "x", "corpora: other, toy"), ("toy", " ", "printable"), ("toy", "toy", "already")],
)
def test_a_name_that_cannot_be_is_an_error(two, old, new, said):
    with pytest.raises(UsageError, match=said):
        rename_corpus(two, old, new)
