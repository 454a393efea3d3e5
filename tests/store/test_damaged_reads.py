"""Reading what is damaged ends in a sentence that names the table and the command."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest
from helpers import toy_stores

import coresetdb
from coresetdb.database import Database
from coresetdb.schemas.errors import DamagedStoreError, StoreError, UsageError
from coresetdb.store.commits import committed
from coresetdb.store.store import Store


def broken(store: Store, table: str, harm: str) -> None:
    for part in store.dataset(table).get_fragments():
        path = Path(store.place.absolute(f"{table}.lance/data/{part.metadata.files[0].path}"))
        if harm == "cut":
            os.truncate(path, path.stat().st_size // 2)
        elif harm == "gone":
            path.unlink()
        else:
            path.write_bytes(bytes(byte ^ 0x5A for byte in path.read_bytes()))


@pytest.fixture
def store(tmp_path) -> Store:
    store = toy_stores.toy_store(tmp_path / "pool")
    rows = [toy_stores.question("sums", number) for number in range(30)]
    store.insert("pool", toy_stores.pool_rows(rows, ["sums"] * 30))
    toy_stores.add_target(store, "arithmetic", [toy_stores.question("sums", 100)])
    Database(store).select("arithmetic", budget=5, name="one")
    store.sync()
    return Store.open(store.uri)


@pytest.mark.parametrize("table", ["coresets", "targets", "pool"])
def test_a_manifest_of_zeros_is_named(store, table):
    newest = min(store.place.sizes(f"{table}.lance/_versions"))
    path = Path(store.place.absolute(newest))
    content = path.read_bytes()
    tail = content[-16:]  # where the rest is to be found
    for harmed in (bytes(len(content)), bytes(len(content) - len(tail)) + tail):
        path.write_bytes(harmed)
        try:
            database = Database(Store.open(store.uri))
            database.list_coresets()
            database.list_targets()
            database.store.dataset(table).to_table()
        except (DamagedStoreError, StoreError) as error:
            assert table in str(error) or "manifest" in str(error), error
    path.write_bytes(content)
    names = [coreset["coreset"] for coreset in Database(Store.open(store.uri)).list_coresets()]
    assert names == ["one"]


@pytest.mark.parametrize("harm", ["cut", "gone", "flipped"])
@pytest.mark.parametrize("table", ["recipes", "coresets", "coreset_rows", "targets", "pool"])
def test_a_damaged_table_is_named_with_what_to_type(store, table, harm):
    broken(store, table, harm)
    database = Database(Store.open(store.uri))
    said = re.compile(rf"the table {table} .*coresetdb verify .* --repair", re.DOTALL)

    def read() -> None:
        database.open_coreset("one")
        database.list_coresets()
        database.list_targets()
        list(store.dataset(table).scanner(columns=None).to_batches())

    with pytest.raises(DamagedStoreError, match=said):
        read()
    with pytest.raises(DamagedStoreError):
        database.select("arithmetic", budget=5, name="two", where="corpus = 'sums'")
        read()


@pytest.mark.parametrize("version", [0, -1, 1 << 63, 1 << 64, 10**40])
def test_a_version_beyond_all_numbers_is_none(store, version):
    with pytest.raises(UsageError, match="has no version"):
        store.dataset("pool", version)
    with pytest.raises(UsageError, match="has no version"):
        Database(store).sql("SELECT 1", at=version)


def test_a_clock_before_1970_is_said(store, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: -5.0)
    with pytest.raises(StoreError, match="clock of this machine stands before 1970"):
        coresetdb.connect(store.uri)


def test_no_file_is_written_into_a_store(store, tmp_path):
    database = Database(store)
    os.symlink(store.uri, tmp_path / "link")
    before = sorted(store.place.sizes("."))
    for folder in (store.uri, f"{store.uri}/pool.lance/data", f"{tmp_path}/link"):
        for name in ("x.jsonl", "x.parquet"):
            with pytest.raises(UsageError, match="is a store"):
                database.export("one", f"{folder}/{name}", overwrite=True)
    assert sorted(store.place.sizes(".")) == before


def test_the_seal_of_another_store_is_found(store, tmp_path):
    other = toy_stores.toy_store(tmp_path / "other", copied=False)
    for number in range(40):
        other.insert("pool", toy_stores.pool_rows([toy_stores.question("code", number)], ["code"]))
        other.sync()
    for kind in ("files-",):
        theirs = next(path for path in other.place.sizes("_checksums") if f"/{kind}" in path)
        store.place.write(theirs, other.place.read(theirs))
    report = coresetdb.verify(store.uri)
    assert not report.ok and [damage.what for damage in report.damages] == ["checksums"]
    assert "another store's" in str(report)
    done = coresetdb.repair(store.uri)
    assert done.ok, done.lines()
    assert store.dataset("pool").count_rows() == 30 and not store.place.exists(theirs)


def test_a_note_of_another_store_takes_nothing_out(store, tmp_path):
    other = toy_stores.toy_store(tmp_path / "other", copied=False)
    other.checksums.note("pool", {"pool.lance/_versions/18446744073709551613.manifest": 2})
    theirs = next(path for path in other.place.sizes("_checksums") if "/pool-" in path)
    store.place.write(theirs, other.place.read(theirs))
    report = coresetdb.verify(store.uri, full=True)
    assert [damage.what for damage in report.damages] == ["checksums"]
    done = coresetdb.repair(store.uri)
    assert done.ok, done.lines()
    assert store.dataset("pool").count_rows() == 30


def test_what_lance_says_on_committing_is_a_sentence():
    said = (
        "Encountered corrupt file x.manifest: bad magic, rust/lance-table/manifest.rs:71:19\n"
        "and more"
    )

    def commit() -> None:
        raise ValueError(said)

    with pytest.raises(StoreError, match=r"^adding rows: Encountered corrupt file") as error:
        committed("adding rows", commit)
    assert "and more" not in str(error.value)

    def mistake() -> None:
        raise ValueError("ours")

    with pytest.raises(ValueError, match=r"^ours$"):
        committed("adding rows", mistake)
