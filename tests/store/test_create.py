"""Making, opening and refusing stores, and opening them without coresetdb."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import lance
import polars as pl
import pyarrow as pa
import pytest

import coresetdb
from coresetdb.schemas.errors import (
    DamagedStoreError,
    LayoutError,
    StoreError,
    StoreNotFoundError,
    UsageError,
)
from coresetdb.schemas.tables import TABLES
from coresetdb.store.integrity.verify import verify
from coresetdb.store.place import place_at
from coresetdb.store.status import status_of
from coresetdb.store.store import Store


def test_a_new_store_has_every_table_and_its_configuration(store, features):
    again = Store.open(store.uri)
    assert again.config == {"backbone": {"name": "toy"}}
    for table, schema in TABLES.items():
        found = again.dataset(table).schema
        assert found.names[: len(schema.names)] == schema.names
        assert found.field(0).metadata[b"lance-schema:unenforced-primary-key"] == b"true"
    assert again.dataset("pool").schema.field("rds").type == features[0].type
    assert again.dataset("targets").schema.field("rds").type == features[0].type
    assert verify(store.uri, full=True).ok


def test_create_refuses_an_existing_store(store):
    with pytest.raises(UsageError, match="there is a store already"):
        Store.create(store.uri, {})


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path):
    folder = tmp_path / "data of mine"
    folder.mkdir()
    Store.create(str(folder / "empty"), {})
    for name in ("rows.jsonl", ".hidden"):
        (folder / name).write_text("{}")
    before = sorted(folder.iterdir())
    with pytest.raises(UsageError) as told:
        Store.create(str(folder), {})
    assert "is not empty and holds no store (found .hidden and 2 more)" in str(told.value)
    assert f"'{folder}/pool'" in str(told.value)
    with pytest.raises(UsageError, match="is not empty"):
        coresetdb.create(str(folder))
    assert sorted(folder.iterdir()) == before


def test_files_beside_the_tables_make_a_store_no_less_a_store(store):
    with open(store.place.absolute("notes.txt"), "w") as file:
        file.write("mine")
    with pytest.raises(UsageError, match="there is a store already"):
        Store.create(store.uri, {})


def test_nothing_there_is_a_clear_error(tmp_path):
    with pytest.raises(StoreNotFoundError, match="coresetdb init"):
        Store.open(str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError):
        verify(str(tmp_path / "nowhere"))


def test_commands_that_are_told_can_be_typed(tmp_path):
    folder = str(tmp_path / "pool of mine")
    with pytest.raises(StoreNotFoundError) as told:
        Store.open(folder)
    assert f"`coresetdb init '{folder}'`" in str(told.value)
    made = Store.create(folder, {"backbone": {"name": "toy"}})
    assert made.typed == f"'{folder}'"
    advice = status_of(made).advice()
    assert any(said.endswith(f"coresetdb ingest '{folder}' FILE...") for said in advice)


def test_other_addresses_are_refused():
    with pytest.raises(StoreError, match="local folder or under s3"):
        Store.open("gs://bucket/store")


def test_a_lancedb_folder_of_somebody_else_is_left_alone(tmp_path):
    lance.write_dataset(pa.table({"a": [1]}), str(tmp_path / "runs.lance"))
    with pytest.raises(UsageError, match="not made by coresetdb"):
        Store.create(str(tmp_path), {})
    assert [each.name for each in tmp_path.iterdir()] == ["runs.lance"]
    lance.write_dataset(pa.table({"a": [1]}), str(tmp_path / "pool.lance"))
    with pytest.raises(StoreNotFoundError, match="not a store of coresetdb"):
        Store.open(str(tmp_path))


def test_a_newer_layout_says_who_wrote_it_and_what_to_do(store):
    store.dataset("pool").update_schema_metadata(
        {"coresetdb:layout": "2", "coresetdb:writer": "9.1.0"}
    )
    with pytest.raises(LayoutError, match=r"coresetdb 9\.1\.0 in layout 2.*Upgrade coresetdb"):
        Store.open(store.uri)


def test_a_torn_pool_is_named_with_what_to_type(store):
    manifest = next(path for path in store.place.sizes("pool.lance") if path.endswith(".manifest"))
    os.truncate(store.place.absolute(manifest), 10)
    with pytest.raises(DamagedStoreError, match=r"verify .* --repair"):
        Store.open(store.uri)


def test_a_file_in_the_way_and_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("not a store")
    for uri in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match="a file is in the way"):
            Store.create(str(uri), {})
    with pytest.raises(StoreError, match="cannot be made"):
        Store.create("/proc/no-folder-here", {})


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("coresetdb.store.locks.os.open", refuse)
    with pytest.raises(StoreError, match="cannot be written: Permission denied"):
        Store.create(str(tmp_path / "store"), {})


@pytest.mark.parametrize(
    ("said", "damaged"),
    [
        ("LanceError(IO): Generic S3 error: HTTP error: error sending request", False),
        ("LanceError(IO): Unable to open file: Permission denied (os error 13)", False),
        ("LanceError(IO): Metadata at end of file is not valid", True),
    ],
)
def test_a_table_out_of_reach_is_not_called_damaged(store, monkeypatch, said, damaged):
    def refuse(*_, **__):
        raise OSError(said)

    monkeypatch.setattr(lance, "dataset", refuse)
    for act in (lambda: Store.open(store.uri), lambda: store.dataset("sources")):
        with pytest.raises(StoreError) as raised:
            act()
        assert isinstance(raised.value, DamagedStoreError) == damaged
        assert ("--repair" in str(raised.value)) == damaged and said in str(raised.value)
    if not damaged:
        with pytest.raises(StoreError, match="cannot be reached"):
            store.dataset("pool", 1)


def test_an_interrupted_creation_is_said_and_finished(tmp_path, features):
    uri = str(tmp_path / "half")
    schema = TABLES["sources"].with_metadata({"coresetdb:table": "sources"})
    lance.write_dataset(schema.empty_table(), f"{uri}/sources.lance")
    with pytest.raises(StoreNotFoundError, match="interrupted"):
        Store.open(uri)
    os.makedirs(f"{uri}/pool.lance/_versions")
    Store.create(uri, {}, features)
    assert verify(uri, full=True).ok


def test_a_store_that_lost_its_pool_is_not_taken_for_an_unfinished_one(filled):
    os.rename(f"{filled.uri}/pool.lance", f"{filled.uri}.pool")
    for attempt in (lambda: Store.create(filled.uri, {}), lambda: Store.open(filled.uri)):
        with pytest.raises((UsageError, StoreNotFoundError), match=r"pool.* gone, and 200 rows"):
            attempt()
    os.rename(f"{filled.uri}.pool", f"{filled.uri}/pool.lance")
    assert Store.open(filled.uri).dataset("sources").count_rows() == 200


def test_rows_that_lost_their_manifests_are_not_taken_for_a_new_store(filled):
    for path in filled.place.sizes("pool.lance/_versions"):
        os.remove(filled.place.absolute(path))
    with pytest.raises(DamagedStoreError):
        Store.open(filled.uri)
    with pytest.raises(UsageError, match="store already"):
        Store.create(filled.uri, {})


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.1, 0.2])
def test_kill_during_create(tmp_path, delay):
    uri = str(tmp_path / "killed")
    code = (
        "import sys; from coresetdb.store.store import Store; import lance\n"
        "print('go', flush=True); Store.create(sys.argv[1], {})"
    )
    child = subprocess.Popen([sys.executable, "-c", code, uri], stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline() == b"go\n"
    time.sleep(delay)
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    try:
        Store.open(uri)
    except StoreNotFoundError:
        Store.create(uri, {})
    assert verify(uri, full=True).ok


def test_lancedb_and_polars_open_it(filled):
    import lancedb

    database = lancedb.connect(filled.uri)
    assert set(database.table_names(limit=100)) == set(TABLES)
    assert database.open_table("pool").count_rows() == 200
    assert database.open_table("pool").search([1.0] * 16).limit(3).to_arrow().num_rows == 3
    frame = pl.scan_lance(f"{filled.uri}/pool.lance")
    assert frame.select(pl.col("id").n_unique()).collect().item() == 200


def test_a_place_is_named_by_a_string_or_a_path(tmp_path):
    assert place_at(tmp_path / "pool") == place_at(str(tmp_path / "pool"))
