"""A small store with something in every relation, made through the store's own writers."""

from __future__ import annotations

import datetime
import json

import numpy as np
import pyarrow as pa
import pytest
from helpers.toy_stores import WIDTH, rds_fields

from coresetdb.store.rows import key_of
from coresetdb.store.store import Store

ROWS = 60
CORPORA = ("gsm8k", "dolly", "code")
NOON = datetime.datetime(2026, 11, 20, 12, tzinfo=datetime.UTC)
FEATURES = [
    *rds_fields(),
    pa.field("layers", pa.list_(pa.list_(pa.float16(), 4))),
    pa.field("nll", pa.float32()),
]
METADATA_KEYS = ["category", "level", "id", "Category", 'a"b', "a/b", "~", "nested", "it's", "*"]


def pool_row(number: int) -> dict:
    """Row `number`, with gaps, NaN, unusual text and a collision of metadata names."""
    corpus = CORPORA[number % 3]
    metadata = {"level": number % 5, "id": f"own-{number}", "nested": {"deep": [1, 2]}}
    if corpus == "dolly":
        metadata |= {"category": f"kind {number % 4}", "Category": True, 'a"b': 1.5, "a/b": "slash"}
        metadata |= {"~": "tilde", "it's": "quote", "*": "star"}
    return {
        "id": key_of("row", number),
        "corpus": corpus,
        "source_id": None if number % 2 else f"s{number}",
        "messages": [
            {"role": "user", "content": f"question {number}"},
            {"role": "assistant", "content": f"answer {number}\nwith “two” lines 数"},
        ],
        "tools": None,
        "metadata": json.dumps(metadata, sort_keys=True),
        "tokens": 10 + number,
        "prompt_tokens": 4 + number // 2,
        "response_tokens": 6 + number - number // 2,
        "truncated": number % 7 == 0,
        "added_at": NOON + datetime.timedelta(seconds=number),
        "run": "r1",
        "rds_norm": 1 + number / 10,
        "nll": None if number % 10 == 3 else float("nan") if number == 7 else number / 8,
    }


def with_vectors(rows: list[dict], schema: pa.Schema) -> pa.Table:
    """The rows as a table, unit vectors added where the schema has `rds`."""
    rng = np.random.default_rng(len(rows))
    for row in rows:
        vector = rng.normal(size=WIDTH)
        row["rds"] = (vector / np.linalg.norm(vector)).astype(np.float16)
        row["layers"] = [vector[:4].astype(np.float16), None, vector[4:8].astype(np.float16)]
    rows[5 % len(rows)]["rds"] = None
    return pa.Table.from_pylist(rows, schema=schema)


def fill(store: Store) -> None:
    """Put something into every relation."""
    rows = [pool_row(number) for number in range(ROWS)]
    store.insert("pool", with_vectors(rows, store.dataset("pool").schema))
    ids = [row["id"] for row in rows]

    def put(table: str, rows: list[dict]) -> None:
        store.insert(table, pa.Table.from_pylist(rows, schema=store.dataset(table).schema))

    sources = [(row["id"], row["corpus"], number) for number, row in enumerate(rows, 1)]
    sources.append((ids[0], "code", 100))
    put(
        "sources",
        [
            {
                "key": key_of(id_, corpus, f"/data/{corpus}.json", line),
                "id": id_,
                "corpus": corpus,
                "file": f"/data/{corpus}.json",
                "line": line,
                "metadata": "{}",
            }
            for id_, corpus, line in sources
        ],
    )
    examples = [
        {
            "key": key_of("gsm8k", f"q{n}"),
            "target": "gsm8k",
            "id": f"q{n}",
            "position": n,
            "messages": [{"role": "user", "content": f"example {n}"}],
            "metadata": "{}",
        }
        for n in range(4)
    ]
    store.insert("targets", with_vectors(examples, store.dataset("targets").schema))
    put(
        "scores",
        [
            {
                "key": key_of("gsm8k", "rds", "f", 2, id_),
                "target": "gsm8k",
                "method": "rds",
                "fingerprint": "f",
                "pool_version": 2,
                "id": id_,
                "score": 1 - rank / 100,
                "rank": rank,
            }
            for rank, id_ in enumerate(ids, 1)
        ],
    )
    put(
        "coresets",
        [
            {
                "name": "math",
                "targets": ["gsm8k"],
                "method": "rds:round_robin",
                "rows": 6,
                "parameters": "{}",
                "pool_version": 2,
                "created_at": NOON,
            }
        ],
    )
    put(
        "coreset_rows",
        [
            {
                "key": key_of("math", rank),
                "coreset": "math",
                "rank": rank,
                "id": ids[3 * rank],
                "score": 1 - rank / 100,
                "target": "gsm8k",
                "query": f"q{rank % 4}",
            }
            for rank in range(1, 7)
        ],
    )
    put(
        "recipes",
        [{"fingerprint": "f", "representation": "rds", "version": 1, "columns": ["rds"]}],
    )
    put(
        "runs",
        [
            {"run": "r1", "command": "ingest", "status": "done", "metadata_keys": METADATA_KEYS},
            {"run": "r2", "command": "ingest", "status": "done", "metadata_keys": ["category"]},
            {"run": "r3", "command": "ingest", "status": "failed", "metadata_keys": None},
        ],
    )
    put(
        "rejects",
        [
            {
                "key": key_of("dolly", "/data/dolly.json", 9, "empty response"),
                "corpus": "dolly",
                "file": "/data/dolly.json",
                "line": 9,
                "reason": "empty response",
                "excerpt": "{",
            }
        ],
    )


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The small store, for reading only."""
    store = Store.create(str(tmp_path_factory.mktemp("sql") / "pool"), {}, FEATURES, FEATURES)
    fill(store)
    return store
