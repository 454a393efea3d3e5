"""Stores whose folders have any name: they work, and leave no other folder behind."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from helpers import toy_stores

import coresetdb
from coresetdb.database import Database
from coresetdb.schemas.errors import StoreError, UsageError
from coresetdb.store import maintenance
from coresetdb.store.integrity.repair import repair
from coresetdb.store.integrity.verify import verify
from coresetdb.store.place import place_at
from coresetdb.store.store import Store

NAMES = ["пул", "数据", "mit raum", "a%20b", "a?b", "a#b", "100%", 'it\'s "x"', "a[b]*", "é\\~"]


def folders(root: Path) -> list[str]:
    """Everything beside the store, at any depth but within it."""
    return sorted(os.listdir(root))


@pytest.mark.parametrize("name", NAMES)
def test_a_tag_makes_no_other_folder(tmp_path, name):
    store = toy_stores.toy_store(tmp_path / name / "inner")
    store.tag("kept", store.dataset("pool").version)
    assert list(store.tags()) == ["kept"]
    store.move_tag("kept", store.dataset("pool").version)
    store.move_tag("moved", store.dataset("pool").version)
    assert sorted(store.tags()) == ["kept", "moved"]
    store.untag("moved")
    store.untag("kept")
    assert folders(tmp_path) == [name] and folders(tmp_path / name) == ["inner"]


@pytest.mark.parametrize("name", ["пул", "数据 a%20b?#[x]*\"'\\~100%"])
def test_a_store_of_any_name_works_and_leaves_no_ghost(tmp_path, name):
    uri = str(tmp_path / name / "inner")
    store = toy_stores.toy_store(uri)
    rows = [toy_stores.question("sums", number) for number in range(40)]
    store.insert("pool", toy_stores.pool_rows(rows, ["sums"] * 40))
    toy_stores.add_target(store, "arithmetic", [toy_stores.question("sums", 100)])
    database = Database(Store.open(uri))
    coreset = database.select("arithmetic", budget=5, where="corpus = 'sums'")
    assert database.replay(coreset.name).same
    assert set(database.store.tags()) == {f"coreset-{coreset.name}-pool"}
    assert database.sql("SELECT count(*) AS n FROM pool").read_all()["n"].to_pylist() == [40]
    assert database.table().count_rows() == 40
    assert database.table("coresets").count_rows() == 1
    store.insert("pool", toy_stores.pool_rows([toy_stores.question("sums", 41)], ["sums"]))
    maintenance.compact_and_clean(store, 0)
    assert database.replay(coreset.name).same
    out = str(tmp_path / name / "out.jsonl")
    database.export(coreset, out)
    assert len([json.loads(line) for line in open(out, encoding="utf-8")]) == 5
    database.remove_coreset(coreset.name)
    assert verify(uri, full=True).ok and repair(uri).ok
    assert folders(tmp_path) == [name]
    assert [entry for entry in folders(tmp_path / name) if "out.jsonl" not in entry] == ["inner"]


def test_an_index_is_found_by_a_name_that_is_encoded(tmp_path):
    store = toy_stores.toy_store(tmp_path / "пул 1%")
    rows = [toy_stores.question("sums", number) for number in range(300)]
    store.insert("pool", toy_stores.pool_rows(rows, ["sums"] * 300))
    toy_stores.add_target(store, "arithmetic", [toy_stores.question("sums", 1000)])
    database = Database(store)
    database.create_index("rds")
    found = database.select("arithmetic", budget=5, approximate=True)
    assert len(found) == 5 and database.replay(found.name).same
    database.remove_index("rds")
    assert folders(tmp_path) == ["пул 1%"]


@pytest.mark.parametrize("name", ["пул", "a b", "a%20b"])
def test_a_file_address_names_the_folder_that_it_encodes(tmp_path, name):
    toy_stores.toy_store(tmp_path / name)
    address = (tmp_path / name).as_uri()
    assert place_at(address).root == str(tmp_path / name)
    assert coresetdb.connect(address).list_coresets() == []
    assert folders(tmp_path) == [name]


@pytest.mark.parametrize("name", ["a%20b", "a?b", "a#b"])
def test_s3_addresses_that_are_read_in_two_ways_are_refused(name):
    with pytest.raises(StoreError, match="Choose another name"):
        place_at(f"s3://bucket/{name}")


def test_no_link_is_made_for_plain_names(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "symlink", None)
    with place_at(tmp_path / "pool v1.2 (new)").plain_uri() as root:
        assert root == str(tmp_path / "pool v1.2 (new)")


def test_a_tag_needs_no_folder_for_temporary_files(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "not there"))
    store = toy_stores.toy_store(tmp_path / "пул")
    store.tag("kept", store.version())
    assert list(store.tags()) == ["kept"] and folders(tmp_path) == ["пул"]


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31m", "a\rb", "a\x7fb"])
def test_control_characters_in_a_path_are_refused_and_shown(tmp_path, name):
    with pytest.raises(UsageError, match="control character") as refused:
        toy_stores.toy_store(tmp_path / name, copied=False)
    assert name not in str(refused.value) and not folders(tmp_path)
    with pytest.raises(UsageError, match="control character"):
        Store.require_free(str(tmp_path / name))
