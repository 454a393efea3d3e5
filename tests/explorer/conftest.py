"""A store of hostile texts, to be explored."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from helpers.hostile_store import empty_store, fill

from coresetdb.database import Database
from coresetdb.query.rules.rules import Rules
from coresetdb.query.selection import select

if not all(map(find_spec, ("marimo", "jscatter", "sklearn"))):
    pytest.skip("the extra `explore` is not installed", allow_module_level=True)


@pytest.fixture(scope="session")
def explored(tmp_path_factory: pytest.TempPathFactory) -> Database:
    """132 rows, 128 of them with vectors, a coreset `near`, and scores for a target."""
    store = empty_store(tmp_path_factory.mktemp("explorer") / "pool")
    fill(store)
    select(store, ["arithmetic"], method="rds", budget="30", name="near", rules=Rules())
    database = Database(store)
    database.score("arithmetic", "rds")
    return database
