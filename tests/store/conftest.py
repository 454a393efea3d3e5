"""Stores of numbered rows."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from helpers.toy_stores import numbered_rows, numbered_sources, rds_fields

from coresetdb.store.store import Store


@pytest.fixture
def features() -> list[pa.Field]:
    return rds_fields()


@pytest.fixture
def pool_rows() -> Callable[[int, int], pa.Table]:
    """Rows number `start` to `stop` of a toy corpus; row n has the id digest(str(n))."""
    return numbered_rows


@pytest.fixture
def source_rows() -> Callable[[int, int], pa.Table]:
    """Where those rows were seen: line n of toy.jsonl."""
    return numbered_sources


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the stores `empty` and `filled`, of which each test has a copy."""
    folder = tmp_path_factory.mktemp("prepared")
    config = {"backbone": {"name": "toy"}}
    Store.create(str(folder / "empty"), config, rds_fields(), rds_fields())
    shutil.copytree(folder / "empty", folder / "filled")
    store = Store.open(str(folder / "filled"))
    for start in range(0, 200, 40):
        store.insert("sources", numbered_sources(start, start + 40))
        store.insert("pool", numbered_rows(start, start + 40))
    store.sync()
    return folder


@pytest.fixture
def store(prepared: Path, tmp_path: Path) -> Store:
    """A store without rows."""
    return Store.open(str(shutil.copytree(prepared / "empty", tmp_path / "store")))


@pytest.fixture
def filled(prepared: Path, tmp_path: Path) -> Store:
    """Five batches of 40 rows, sources before rows, synced."""
    return Store.open(str(shutil.copytree(prepared / "filled", tmp_path / "store")))
