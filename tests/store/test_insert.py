"""Rows on their way in: each id once, whoever writes; unsound rows refused by name."""

from __future__ import annotations

import subprocess
import sys
import uuid
from contextlib import nullcontext

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lance.file import LanceFileReader

from coresetdb.schemas.canonical import digest
from coresetdb.schemas.errors import StoreError, UsageError
from coresetdb.store import rows as incoming
from coresetdb.store.commits import committed
from coresetdb.store.integrity.verify import verify
from coresetdb.store.rows import HeldKeys
from coresetdb.store.store import Store

INSERTER = """
import sys, pyarrow.feather as feather
from coresetdb.store.store import Store
store, done = Store.open(sys.argv[1]), 0
print("ready", flush=True); sys.stdin.readline()
for file in sys.argv[2:]:
    done += store.insert("pool", feather.read_table(file))
store.sync()
print(done)
"""


def ids_of(store: Store) -> list[str]:
    return store.dataset("pool").to_table(columns=["id"])["id"].to_pylist()


FLAT = [[1, 2, 3, 4], None, [], [5, 6]]
PAIRS = [[[1, 2], [3, 4]], None, [], [[5, 6]]]


@pytest.mark.parametrize(
    ("given", "given_type", "wanted", "wanted_type"),
    [
        (FLAT, pa.list_(pa.int8()), PAIRS, pa.list_(pa.list_(pa.int8(), 2))),
        (PAIRS, pa.list_(pa.list_(pa.int8(), 2)), FLAT, pa.list_(pa.int8())),
        (FLAT, pa.list_(pa.int32()), PAIRS, pa.list_(pa.list_(pa.int8(), 2))),
        (PAIRS, pa.list_(pa.list_(pa.int8(), 2)), FLAT, pa.list_(pa.int16())),
    ],
)
def test_lists_of_vectors_and_of_their_numbers_fit_each_other(
    given, given_type, wanted, wanted_type
):
    column = pa.chunked_array([pa.array([*given, [], None], given_type)] * 2)
    schema = pa.schema([pa.field("codes", wanted_type)])
    for rows, expected in (
        (pa.table({"codes": column}), [*wanted, [], None] * 2),
        (pa.table({"codes": column}).slice(1, 3), wanted[1:4]),
    ):
        assert incoming.conform("pool", rows, schema)["codes"].to_pylist() == expected


@pytest.mark.parametrize(
    ("given", "kind", "wanted", "why"),
    [
        ([[1, 2, 3]], pa.list_(pa.int8()), 2, "no multiples of 2 numbers"),
        ([[[1, 2, 3, 4]]], pa.list_(pa.list_(pa.int8(), 4)), 2, "expected list"),
        ([[[1, 2], None]], pa.list_(pa.list_(pa.int8(), 2)), 0, "a vector in a list is null"),
        ([["1", "2"]], pa.list_(pa.string()), 2, "expected list"),
    ],
)
def test_lists_that_do_not_fit_are_refused(given, kind, wanted, why):
    rows = pa.table({"codes": pa.array(given, kind)})
    own = pa.list_(pa.list_(pa.int8(), wanted)) if wanted else pa.list_(pa.int8())
    with pytest.raises(StoreError, match=why):
        incoming.conform("pool", rows, pa.schema([pa.field("codes", own)]))


def test_a_column_without_chunks_fits():
    rows = pa.table({"codes": pa.chunked_array([], pa.list_(pa.int8()))})
    schema = pa.schema([pa.field("codes", pa.list_(pa.list_(pa.int8(), 2)))])
    assert incoming.conform("pool", rows, schema).schema == schema


def test_insert_if_absent(store, pool_rows):
    assert store.insert("pool", pool_rows(0, 30)) == 30
    assert store.insert("pool", pool_rows(20, 50)) == 20
    before = store.version()
    assert store.insert("pool", pool_rows(0, 50)) == 0
    assert store.version() == before, "nothing new makes no version"
    assert sorted(ids_of(store)) == sorted(digest(str(n)) for n in range(50))


def test_append_adds_at_once_and_notes_it(store, pool_rows, monkeypatch):
    store.insert("pool", pool_rows(0, 10))
    monkeypatch.setattr(incoming, "COMMIT_ROWS", 8)
    before = store.version()
    store.append("pool", pool_rows(10, 30))
    assert store.version() == before + 1
    assert ids_of(store) == [digest(str(n)) for n in range(30)]
    store.append("pool", pool_rows(30, 30))
    assert store.version() == before + 1, "nothing makes no version"
    store.sync()
    report = verify(store.uri, full=True)
    assert report.ok and not report.late
    with pytest.raises(StoreError, match="has no column"):
        store.append("pool", pa.table({"id": ["x"], "what": [1]}))


def test_of_equal_ids_in_a_batch_the_first_counts(store, pool_rows):
    rows = pool_rows(0, 2)
    rows = pa.concat_tables([rows, rows.set_column(1, "corpus", pa.array(["x", "y"]))])
    assert store.insert("pool", rows) == 2
    assert store.dataset("pool").to_table()["corpus"].to_pylist() == ["toy", "toy"]


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.lists(st.integers(0, 25), max_size=30), min_size=1, max_size=5))
def test_any_batches_leave_every_id_once(tmp_path, batches):
    store = Store.create(str(tmp_path / uuid.uuid4().hex), {})
    known: set[str] = set()
    for batch in batches:
        ids = [digest(str(n)) for n in batch]
        assert store.insert("pool", pa.table({"id": pa.array(ids, pa.string())})) == len(
            set(ids) - known
        )
        known |= set(ids)
        assert sorted(ids_of(store)) == sorted(known)


def test_two_processes_leave_every_id_once(store, pool_rows, tmp_path):
    files = []
    for start in range(0, 600, 60):
        file = str(tmp_path / f"{start}.feather")
        feather.write_feather(pool_rows(start, start + 100), file)  # 40 rows in common
        files.append(file)
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", INSERTER, store.uri, *order],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for order in (files, files[::-1])
    ]
    for worker in workers:
        assert worker.stdout is not None and worker.stdout.readline() == "ready\n"
    counts = [int(worker.communicate("go\n", timeout=120)[0]) for worker in workers]
    assert all(worker.returncode == 0 for worker in workers)
    assert sum(counts) == 640
    assert sorted(ids_of(store)) == sorted(digest(str(n)) for n in range(640))
    report = verify(store.uri, full=True)
    assert report.ok and not report.late


def test_keys_are_not_read_again_at_every_commit(store, pool_rows, monkeypatch):
    monkeypatch.setattr(incoming, "COMMIT_ROWS", 10)
    read = []
    whole = HeldKeys.refresh

    def refresh(held, dataset):
        before = set(held._fragments)
        known = whole(held, dataset)
        read.append(len(set(held._fragments) - before))
        return known

    monkeypatch.setattr(HeldKeys, "refresh", refresh)
    monkeypatch.setattr(Store, "_merge", None)  # joins with all keys of the table
    for start in range(0, 200, 20):
        assert store.insert("pool", pool_rows(start, start + 20)) == 20
    assert len(store.dataset("pool").get_fragments()) == 20
    assert max(read) == 2, "the fragments of the insert before, once"


def test_a_writer_that_takes_no_turn_leaves_every_id_once(store, pool_rows, monkeypatch):
    ours, theirs = Store.open(store.uri), Store.open(store.uri)
    ours.insert("pool", pool_rows(0, 10))
    append = ours._append

    def after_them(table, rows):
        monkeypatch.setattr(ours, "_append", append)
        monkeypatch.setattr(theirs, "named_lock", lambda name: nullcontext())
        named = pool_rows(20, 60)
        named = named.set_column(1, "corpus", pa.array(["theirs"] * 40))
        assert theirs.insert("pool", named) == 40
        return append(table, rows)

    monkeypatch.setattr(ours, "_append", after_them)
    assert ours.insert("pool", pool_rows(0, 40)) == 10
    rows = store.dataset("pool").to_table(columns=["id", "corpus"])
    assert sorted(rows["id"].to_pylist()) == sorted(digest(str(n)) for n in range(60))
    assert rows["corpus"].to_pylist().count("theirs") == 40, "who came first stays"
    assert ours.insert("pool", pool_rows(0, 60)) == 0
    ours.sync()
    assert verify(store.uri, full=True).ok


def test_stale_handles_stay_exact(store, pool_rows):
    ours, theirs = Store.open(store.uri), Store.open(store.uri)
    assert ours.insert("pool", pool_rows(0, 40)) == 40
    assert theirs.insert("pool", pool_rows(20, 60)) == 20
    assert ours.insert("pool", pool_rows(0, 60)) == 0


def test_a_deleted_row_may_come_back(store, pool_rows):
    store.insert("pool", pool_rows(0, 10))
    assert store.delete("pool", f"id = '{digest('3')}'") == 1
    assert store.delete("pool", f"id = '{digest('3')}'") == 0
    assert store.insert("pool", pool_rows(0, 10)) == 1


def test_columns_that_are_missing_become_null(store):
    store.insert("pool", pa.table({"corpus": ["x"], "id": ["a" * 32]}))
    row = store.dataset("pool").to_table().to_pylist()[0]
    assert (row["corpus"], row["messages"], row["rds"]) == ("x", None, None)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ({"id": ["a" * 32], "colour": ["red"]}, "no column 'colour'"),
        ({"corpus": ["x"]}, "lack the column 'id'"),
        ({"id": pa.array([None], pa.string())}, "no value"),
        ({"id": ["a" * 32], "tokens": ["many"]}, "column 'tokens'"),
    ],
)
def test_rows_that_do_not_fit_are_refused(store, rows, words):
    with pytest.raises(StoreError, match=words):
        store.insert("pool", pa.table(rows))


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_unsound_vectors_are_refused_by_row(value, dtype):
    vectors = np.ones((5, 8), dtype)
    vectors[3, :] = value
    array = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 8)
    column = pa.array([None, *array.to_pylist()], array.type)
    rows = pa.table({"id": [f"row{n}" for n in range(6)], "v": column})
    with pytest.raises(StoreError, match="row row4, column 'v'"):
        incoming.check_vectors("pool", rows, "id")
    incoming.check_vectors("pool", rows.slice(0, 4), "id")


def test_a_null_inside_a_vector_is_refused():
    rows = pa.table({"id": ["a"], "v": pa.array([[1.0, None]], pa.list_(pa.float16(), 2))})
    with pytest.raises(StoreError, match="row a"):
        incoming.check_vectors("pool", rows, "id")


def test_wide_rows_are_committed_in_pages_of_a_good_size(tmp_path):
    dim, count = 4096, 2500
    fields = [pa.field("rds", pa.list_(pa.float16(), dim))]
    store = Store.create(str(tmp_path / "wide"), {}, fields)
    vectors = np.full(count * dim, 0.5, np.float16)
    rows = pa.table(
        {
            "id": [digest(str(n)) for n in range(count)],
            "rds": pa.FixedSizeListArray.from_arrays(pa.array(vectors), dim),
        }
    )
    assert store.insert("pool", rows) == count
    for path in store.place.sizes("pool.lance/data"):
        column = LanceFileReader(store.place.absolute(path)).metadata().columns[-1]
        sizes = [sum(buffer.size for buffer in page.buffers) for page in column.pages]
        assert 2 << 20 <= max(sizes) <= incoming.PAGE_BYTES
    assert store.version() == 2, "one commit, however wide the rows are"


def test_upsert_replaces_and_the_last_counts(store):
    def run(status: str) -> dict[str, str]:
        return {"run": "r1", "status": status}

    store.upsert("runs", pa.Table.from_pylist([run("running")]))
    store.upsert("runs", pa.Table.from_pylist([run("failed"), run("done")]))
    assert store.dataset("runs").to_table()["status"].to_pylist() == ["done"]


def test_add_columns_twice_and_with_another_type(store, pool_rows):
    store.insert("pool", pool_rows(0, 5))
    late = pa.field("late", pa.float32(), metadata={b"coresetdb:fingerprint": b"abc"})
    for _ in range(2):
        store.add_columns("pool", [late])
    found = store.dataset("pool").schema.field("late")
    assert found.metadata[b"coresetdb:fingerprint"] == b"abc"
    assert store.dataset("pool").to_table(columns=["late"])["late"].null_count == 5
    with pytest.raises(StoreError, match="'late' of type float"):
        store.add_columns("pool", [pa.field("late", pa.string())])


def test_unknown_tables_and_versions(store):
    with pytest.raises(UsageError, match="no table 'pol'"):
        store.dataset("pol")
    with pytest.raises(UsageError, match="no version 99"):
        store.dataset("pool", 99)


def test_lost_races_are_run_again_and_other_errors_are_not(monkeypatch):
    monkeypatch.setattr("coresetdb.store.commits.time.sleep", lambda seconds: None)
    calls = []

    def third_time() -> str:
        calls.append(1)
        if len(calls) < 3:
            raise OSError("Retryable commit conflict for version 3")
        return "done"

    assert committed("writing", third_time) == "done"
    with pytest.raises(StoreError, match="committed first 4 times"):
        committed("writing", lambda: raising("Retryable commit conflict"), attempts=4)
    with pytest.raises(StoreError, match="disk is full"):
        committed("writing", lambda: raising("No space left on device (os error 28)"))


def raising(text: str) -> None:
    raise OSError(text)
