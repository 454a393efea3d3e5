"""Stores of numbered rows."""

from __future__ import annotations

from collections.abc import Callable

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


@pytest.fixture
def store(tmp_path) -> Store:
    config = {"backbone": {"name": "toy"}}
    return Store.create(str(tmp_path / "store"), config, rds_fields(), rds_fields())


@pytest.fixture
def filled(store) -> Store:
    """Five batches of 40 rows, sources before rows, synced."""
    for start in range(0, 200, 40):
        store.insert("sources", numbered_sources(start, start + 40))
        store.insert("pool", numbered_rows(start, start + 40))
    store.sync()
    return store
