"""Rows to put into stores: deterministic, so that two processes make the same ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from coresetdb.schemas.canonical import digest
from coresetdb.store.rows import key_of
from coresetdb.store.store import Store

DIM = 16
FEATURES = [
    pa.field("rds", pa.list_(pa.float16(), DIM)),
    pa.field("rds_norm", pa.float32()),
    pa.field("rds_reason", pa.string()),
]


def _vectors(start: int, stop: int) -> pa.Array:
    values = np.random.default_rng(7).standard_normal((stop, DIM)).astype(np.float16)[start:]
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), DIM)


def _pool_rows(start: int, stop: int) -> pa.Table:
    numbers = range(start, stop)
    return pa.table(
        {
            "id": [digest(str(n)) for n in numbers],
            "corpus": ["toy"] * len(numbers),
            "messages": [
                [
                    {"role": "user", "content": f"question {n} " * 5},
                    {"role": "assistant", "content": f"answer {n}"},
                ]
                for n in numbers
            ],
            "tokens": pa.array([n % 97 for n in numbers], pa.int32()),
            "rds": _vectors(start, stop),
            "rds_norm": pa.array([1.0] * len(numbers), pa.float32()),
        }
    ).cast(
        pa.schema(
            [
                pa.field("id", pa.string(), nullable=False),
                pa.field("corpus", pa.string()),
                pa.field("messages", _MESSAGES),
                pa.field("tokens", pa.int32()),
                FEATURES[0],
                FEATURES[1],
            ]
        )
    )


_MESSAGES = pa.list_(pa.struct([pa.field("role", pa.string()), pa.field("content", pa.string())]))


def _source_rows(start: int, stop: int) -> pa.Table:
    numbers = range(start, stop)
    return pa.table(
        {
            "key": [key_of(digest(str(n)), "toy", "toy.jsonl", n) for n in numbers],
            "id": [digest(str(n)) for n in numbers],
            "corpus": ["toy"] * len(numbers),
            "file": ["toy.jsonl"] * len(numbers),
            "line": list(numbers),
        }
    )


@pytest.fixture
def features() -> list[pa.Field]:
    return FEATURES


@pytest.fixture
def pool_rows() -> Callable[[int, int], pa.Table]:
    """Rows number `start` to `stop` of a toy corpus; row n has the id digest(str(n))."""
    return _pool_rows


@pytest.fixture
def source_rows() -> Callable[[int, int], pa.Table]:
    """Where those rows were seen: line n of toy.jsonl."""
    return _source_rows


@pytest.fixture
def store(tmp_path) -> Store:
    return Store.create(str(tmp_path / "store"), {"backbone": {"name": "toy"}}, FEATURES, FEATURES)


@pytest.fixture
def filled(store) -> Store:
    """Five batches of 40 rows, sources before rows, synced."""
    for start in range(0, 200, 40):
        store.insert("sources", _source_rows(start, start + 40))
        store.insert("pool", _pool_rows(start, start + 40))
    store.sync()
    return store
