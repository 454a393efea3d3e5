"""Sources to files: paths, globs, folders, addresses."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from coresetdb.ingest.readers.locations import find_files, look_up
from coresetdb.ingest.sources import open_source
from coresetdb.schemas.errors import InputError, NoSuchFileError

ROW = json.dumps({"question": "q", "answer": "a"}) + "\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (
        "b.jsonl",
        "a.json.gz",
        "sub/c.CSV",
        "sub/.hidden/d.jsonl",
        "sub/.e.jsonl",
        "notes.txt",
        "sub/deep/f.tsv.zst",
        "saved/data.arrow",
        "saved/state.json",
        "saved/dataset_info.json",
        "t.lance/data/x.lance",
        "[odd].jsonl",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(ROW)
    return tmp_path


def names(files: list[str], folder: Path) -> list[str]:
    return [os.path.relpath(file, folder) for file in files]


def test_a_folder_is_searched(folder: Path) -> None:
    assert names(find_files([str(folder)]), folder) == [
        "[odd].jsonl",
        "a.json.gz",
        "b.jsonl",
        "saved",
        "sub/c.CSV",
        "sub/deep/f.tsv.zst",
        "t.lance",
    ]


def test_globs_and_names(folder: Path) -> None:
    assert names(find_files([str(folder / "*.json*")]), folder) == [
        "[odd].jsonl",
        "a.json.gz",
        "b.jsonl",
    ]
    assert names(find_files([str(folder / "**" / "*.tsv.zst")]), folder) == ["sub/deep/f.tsv.zst"]
    assert names(find_files([str(folder / "sub*")]), folder) == ["sub/c.CSV", "sub/deep/f.tsv.zst"]
    assert names(find_files([str(folder / "[odd].jsonl")]), folder) == ["[odd].jsonl"]
    assert names(find_files([str(folder / "notes.txt")]), folder) == ["notes.txt"]
    assert find_files(["-"]) == ["-"]


def test_each_file_once_and_absolute(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    files = find_files(["b.jsonl", "*.jsonl", str(folder / "b.jsonl")])
    assert names(files, folder) == ["b.jsonl", "[odd].jsonl"]
    assert all(os.path.isabs(file) for file in files)


@pytest.mark.parametrize("source", ["absent.jsonl", "absent/*.jsonl", "empty"])
def test_nothing_found(tmp_path: Path, source: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"nothing to read was found|no such file"):
        find_files([str(tmp_path / source)])


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        open_source(str(tmp_path / "gone.jsonl"))


def test_credentials_in_an_address() -> None:
    with pytest.raises(InputError, match="credentials in an address") as error:
        find_files(["s3://me:hunter2@bucket/a.jsonl"])
    assert "hunter2" not in str(error.value)


def test_a_store_is_no_data(tmp_path):
    for table in ("pool", "recipes", "targets"):
        (tmp_path / "stores" / "math" / f"{table}.lance").mkdir(parents=True)
    file = tmp_path / "stores" / "rows.jsonl"
    file.write_text(ROW)
    for source in (tmp_path / "stores", tmp_path / "stores" / "*"):
        found = look_up([str(source)])
        assert list(found.files) == [str(file)]
        assert list(found.passed_over.values()) == ["a store of coresetdb"]
    with pytest.raises(NoSuchFileError, match="this is a store, not data"):
        find_files([str(tmp_path / "stores" / "math")])
    rows = str(tmp_path / "stores" / "math" / "pool.lance")
    assert find_files([rows]) == [rows]
