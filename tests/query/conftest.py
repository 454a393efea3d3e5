"""A store of synthetic rows, and what makes others like it."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType

import pytest
from helpers import toy_stores

from coresetdb.store.store import Store


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `store`, of which each test has a copy."""
    folder = tmp_path_factory.mktemp("prepared") / "store"
    store = toy_stores.toy_store(folder)
    for start in (0, 80, 160):
        rows = [
            toy_stores.question(topic, number)
            for number in range(start, start + 80, 4)
            for topic in ("sums", "code", "poems", "facts")
        ]
        corpora = [row.messages[0].content.split()[0] for row in rows]
        store.insert("pool", toy_stores.pool_rows(rows, corpora))
    blank = [toy_stores.question("blank", number) for number in range(6)]
    store.insert("pool", toy_stores.pool_rows(blank, ["blank"] * 6))
    for name, topic, first, count in (("arithmetic", "sums", 1000, 5), ("python", "code", 2000, 3)):
        examples = [toy_stores.question(topic, first + n) for n in range(count)]
        toy_stores.add_target(store, name, examples)
    return folder


@pytest.fixture
def store(prepared: Path, tmp_path: Path) -> Store:
    """240 rows of four corpora in three fragments, six of them without the feature; two targets."""
    return Store.open(str(shutil.copytree(prepared, tmp_path / "store")))


@pytest.fixture(scope="session")
def toys() -> ModuleType:
    """What made that store, for tests that build more."""
    return toy_stores
