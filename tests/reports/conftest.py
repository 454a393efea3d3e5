"""Stores whose texts are hostile, and one of 50,000 rows."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from helpers import toy_stores
from helpers.hostile_texts import HOSTILE, IMAGE, SCRIPT

from coresetdb.database import Database
from coresetdb.query.rules.rules import Rules
from coresetdb.query.selection import select
from coresetdb.schemas.canonical import digest
from coresetdb.schemas.instruction import Instruction
from coresetdb.schemas.tables import POOL
from coresetdb.store import catalog
from coresetdb.store.store import Store

pytest.importorskip("altair", reason="the extra `report` is not installed")
pytest.importorskip("vl_convert", reason="the extra `report` is not installed")


def empty_store(place: Path) -> Store:
    """A store of toy vectors that has a configuration, so that its status can be looked at."""
    config = {"backbone": {"name": "toy"}, "features": ""}
    fields = toy_stores.rds_fields(toy_stores.RECIPE)
    store = Store.create(str(place), config, fields, fields)
    catalog.put_recipe(store, toy_stores.RECIPE)
    return store


def fill(store: Store) -> None:
    """Put 8 hostile rows, 120 plain ones of three topics and 4 without the feature into a store."""
    hostile = [
        Instruction.from_turns(("user", text), ("assistant", f"answer {SCRIPT} {n}"))
        for n, text in enumerate(HOSTILE)
    ]
    plain = [
        toy_stores.question(topic, number)
        for number in range(40)
        for topic in ("sums", "code", "poems")
    ]
    blank = [toy_stores.question("blank", number) for number in range(4)]
    rows = [*hostile, *plain, *blank]
    corpora = [f"evil {SCRIPT}"] * len(hostile) + [
        row.messages[0].content.split()[0] for row in [*plain, *blank]
    ]
    kinds = [{"kind": IMAGE if n % 2 else "plain"} for n in range(len(rows))]
    store.insert("pool", toy_stores.pool_rows(rows, corpora, kinds))
    store.append(
        "runs",
        pa.Table.from_pylist(
            [
                {
                    "run": "r1",
                    "command": f"coresetdb ingest {SCRIPT}",
                    "status": "done",
                    "started_at": datetime.now(UTC),
                    "read": len(rows) + 3,
                    "new": len(rows),
                    "duplicate": 1,
                    "rejected": 2,
                    "metadata_keys": ["kind"],
                }
            ],
            store.dataset("runs").schema,
        ),
    )
    store.append(
        "rejects",
        pa.Table.from_pylist(
            [
                {
                    "key": f"k{n}",
                    "corpus": "evil",
                    "file": f"{SCRIPT}.jsonl",
                    "line": n,
                    "reason": f"not JSON: {IMAGE}",
                    "excerpt": SCRIPT,
                    "run": "r1",
                }
                for n in (1, 2)
            ],
            store.dataset("rejects").schema,
        ),
    )
    examples = [toy_stores.question("sums", 1000 + n) for n in range(5)]
    examples[2] = Instruction.from_turns(("user", f"sums {SCRIPT}"), ("assistant", IMAGE))
    toy_stores.add_target(store, "arithmetic", examples)
    toy_stores.add_target(store, "python", [toy_stores.question("code", 2000 + n) for n in (0, 1)])


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
