"""Stores whose texts are hostile, and one of 50,000 rows."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from helpers import toy_stores
from helpers.hostile_store import empty_store, fill

from coresetdb.database import Database
from coresetdb.query.rules.rules import Rules
from coresetdb.query.selection import select
from coresetdb.schemas.canonical import digest
from coresetdb.schemas.tables import POOL

if not all(map(find_spec, ("altair", "vl_convert"))):
    pytest.skip("the extra `report` is not installed", allow_module_level=True)


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Database:
    """A store of hostile texts with coresets `near`, `evil`, `both`, `chance`, `all`; read only."""
    store = empty_store(tmp_path_factory.mktemp("reports") / "hostile store")
    fill(store)
    select(store, ["arithmetic"], method="rds", budget="30", name="near", rules=Rules())
    evil = "corpus LIKE 'evil%'"
    select(store, ["arithmetic"], method="rds", budget="8", name="evil", where=evil, rules=Rules())
    select(store, ["arithmetic", "python"], method="rds:top", budget="30", name="both")
    select(store, method="random", budget="12", name="chance")
    select(store, ["arithmetic"], method="rds", budget="1000", name="all")
    return Database(store)


LARGE = 50_000


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Database:
    """50,000 rows of forty corpora, a target, and a coreset of a thousand, `thousand`."""
    store = empty_store(tmp_path_factory.mktemp("reports") / "large")
    numbers = np.arange(LARGE)
    random = np.random.default_rng(5)
    vectors = random.standard_normal((LARGE, toy_stores.WIDTH)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    tokens = random.lognormal(4, 1, LARGE).astype(np.int32)
    turns = [
        [{"role": "user", "content": f"question {n}"}, {"role": "assistant", "content": f"{n}"}]
        for n in range(LARGE)
    ]
    fixed = {
        "id": [digest(str(n)) for n in range(LARGE)],
        "corpus": [f"corpus {n % 40}" for n in numbers],
        "messages": pa.array(turns, POOL.field("messages").type),
        "metadata": ["{}"] * LARGE,
        "tokens": tokens + 5,
        "prompt_tokens": np.full(LARGE, 5, np.int32),
        "response_tokens": tokens,
        "truncated": np.zeros(LARGE, bool),
    }
    flat = pa.array(vectors.astype(np.float16).ravel())
    vector_fields = toy_stores.rds_fields(toy_stores.RECIPE)
    columns = {
        **{name: pa.array(values, POOL.field(name).type) for name, values in fixed.items()},
        "rds": pa.FixedSizeListArray.from_arrays(flat, toy_stores.WIDTH),
        "rds_norm": pa.array(np.ones(LARGE, np.float32)),
        "rds_reason": pa.nulls(LARGE, pa.string()),
    }
    schema = pa.schema([*(POOL.field(name) for name in fixed), *vector_fields])
    store.append("pool", pa.table(list(columns.values()), schema=schema))
    toy_stores.add_target(store, "sums", [toy_stores.question("sums", n) for n in range(20)])
    select(store, ["sums"], method="rds", budget="1000", name="thousand", rules=Rules())
    return Database(store)


@pytest.fixture
def empty(tmp_path: Path) -> Database:
    """A store without a row."""
    return Database(empty_store(tmp_path / "empty"))
