"""A store whose texts are hostile: of rows, corpora, metadata, runs and rejects."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from coresetdb.schemas.instruction import Instruction
from coresetdb.store import catalog
from coresetdb.store.store import Store

from . import toy_stores
from .hostile_texts import HOSTILE, IMAGE, SCRIPT


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
                    "files": [
                        {
                            "file": f"{SCRIPT}.jsonl",
                            "corpus": "evil",
                            **{"read": len(rows) + 3, "new": len(rows)},
                            **{"duplicate": 1, "rejected": 2},
                        }
                    ],
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
