"""Seconds that a person waits for an answer in SQL, beside what Lance alone takes to read as much.

    python benchmarks/sql.py                                100,000 x 256, a few seconds a query
    python benchmarks/sql.py --rows 1000000                 a million rows (0.7 GB on disk)

Makes a store of synthetic rows with random unit vectors, a target of 64 examples, scores by three
methods, and a coreset. Then every query is asked as `coresetdb sql` asks it, in a process of its
own with its bounds: the first one (`open`) with the start of that process, the rest warm, best of
`--repeat`. The floors are Lance's scans of the same columns in this process.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator

import lance
import numpy as np
import pyarrow as pa
from report import best, write_report

from coresetdb.schemas.recipe import Recipe
from coresetdb.schemas.tables import CORESET_ROWS, CORESETS, POOL, SCORES, TARGETS
from coresetdb.store import catalog
from coresetdb.store.sql.session import SqlSession
from coresetdb.store.store import Store

METHODS = ("rds", "less", "trim")
EXAMPLES = 64
MEMBERS = 10_000

QUERIES = {
    "group by": "SELECT corpus, count(*), avg(response_tokens) FROM pool GROUP BY corpus",
    "filter": "SELECT count(*) FROM pool WHERE response_tokens < 20 AND corpus = 'corpus-1'",
    "best of each corpus": "SELECT id FROM pool QUALIFY row_number() OVER "
    "(PARTITION BY corpus ORDER BY response_tokens DESC, id) <= 1000",
    "members": "SELECT corpus, count(*) FROM members('c') GROUP BY corpus",
    "scores": "SELECT method, avg(rank) FROM scores WHERE score > 0 GROUP BY method",
    "scores side by side": "SELECT count(*) FROM scores_t "
    "WHERE rds_rank < 10000 AND less_rank < 10000",
    "one vector": "SELECT rds FROM features WHERE id = '{id}'",
    "all vectors": "SELECT count(rds) FROM features",
    "nearest, mean": "FROM nearest('t', 'rds', 1000)",
    "nearest, max": "FROM nearest('t', 'rds', 1000, by := 'max')",
}
FLOORS = {
    "two columns": ["corpus", "response_tokens"],
    "ids": ["id"],
    "vectors": ["id", "rds"],
}


def unit_vectors(generator: np.random.Generator, rows: int, width: int) -> np.ndarray:
    """(rows, width) float16 unit vectors."""
    vectors = generator.standard_normal((rows, width), np.float32)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def table_of(schema: pa.Schema, rows: int, filled: dict[str, object]) -> pa.Table:
    """A table of that schema; what is not filled is null, what is no array is the same in all."""
    arrays = []
    for field in schema:
        value = filled.get(field.name)
        if not isinstance(value, list | np.ndarray | pa.Array):
            value = pa.nulls(rows, field.type) if value is None else [value] * rows
        arrays.append(value if isinstance(value, pa.Array) else pa.array(value, field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def append(store: Store, table: str, parts: Iterator[pa.Table]) -> None:
    """Straight into Lance: insert-if-absent of a million fresh rows is not what is measured."""
    dataset = store.dataset(table)
    batches = (
        batch
        for part in parts
        for batch in part.cast(dataset.schema).to_batches(max_chunksize=8192)
    )
    reader = pa.RecordBatchReader.from_batches(dataset.schema, batches)
    lance.write_dataset(reader, dataset.uri, mode="append", max_rows_per_file=100_000)


def make_store(place: str, rows: int, width: int) -> tuple[Store, str]:
    """A store with something in every relation that is asked, and the id of one of its rows."""
    recipe = Recipe("rds", 1, {}, {"name": "synthetic"}, ("rds", "rds_reason"))
    made = {b"coresetdb:fingerprint": recipe.fingerprint.encode()}
    vector = pa.field("rds", pa.list_(pa.float16(), width), metadata=made)
    fields = [vector, pa.field("rds_reason", pa.string(), metadata=made)]
    store = Store.create(place, {}, fields, fields)
    catalog.put_recipe(store, recipe)
    generator = np.random.default_rng(0)
    ids = [generator.bytes(16).hex() for _ in range(rows)]
    starts = range(0, rows, 50_000)

    def vectors(count: int) -> pa.Array:
        values = pa.array(unit_vectors(generator, count, width).ravel())
        return pa.FixedSizeListArray.from_arrays(values, type=vector.type)

    def pool() -> Iterator[pa.Table]:
        for start in starts:
            own = ids[start : start + 50_000]
            corpora = [f"corpus-{number % 5}" for number in range(len(own))]
            lengths = generator.integers(1, 400, len(own)).astype(np.int32)
            filled = {"id": own, "corpus": corpora, "response_tokens": lengths, "metadata": "{}"}
            yield table_of(
                pa.schema([*POOL, *fields]), len(own), filled | {"rds": vectors(len(own))}
            )

    def scores() -> Iterator[pa.Table]:
        for method in METHODS:
            values = generator.standard_normal(rows).astype(np.float32)
            ranks = np.empty(rows, np.int64)
            ranks[np.argsort(-values)] = np.arange(1, rows + 1)
            for start in starts:
                part = slice(start, start + 50_000)
                own = {"id": ids[part], "score": values[part], "rank": ranks[part]}
                own |= {"key": [generator.bytes(16).hex() for _ in own["id"]]}
                set_ = {"target": "t", "method": method, "fingerprint": "f", "pool_version": 2}
                yield table_of(SCORES, len(own["id"]), own | set_)

    def members() -> Iterator[pa.Table]:
        count = min(MEMBERS, rows)
        keys = [f"{number:032x}" for number in range(count)]
        own = {"key": keys, "coreset": "c", "rank": np.arange(1, count + 1), "id": ids[:count]}
        yield table_of(CORESET_ROWS, count, own)

    append(store, "pool", pool())
    append(store, "scores", scores())
    append(store, "coreset_rows", members())
    store.insert("coresets", table_of(CORESETS, 1, {"name": "c", "parameters": "{}"}))
    examples = [f"{number:032x}" for number in range(EXAMPLES)]
    own = {"key": examples, "id": examples, "target": "t", "rds": vectors(EXAMPLES)}
    store.insert("targets", table_of(pa.schema([*TARGETS, *fields]), EXAMPLES, own))
    return store, ids[rows // 2]


def measure(store: Store, id_: str, repeat: int) -> dict[str, float]:
    """Seconds of every floor and every query."""
    seconds = {}
    for name, columns in FLOORS.items():
        scanner = store.dataset("pool").scanner(columns=columns, io_buffer_size=64 << 20)
        read = scanner.to_batches
        seconds[f"Lance: {name}"] = best(repeat, lambda read=read: sum(b.num_rows for b in read()))
    start = time.perf_counter()
    with SqlSession(store.uri, time_limit=600) as session:
        session.run("SELECT count(*) FROM pool").read_all()
        seconds["open"] = time.perf_counter() - start
        for name, text in QUERIES.items():
            query = text.replace("{id}", id_)
            seconds[name] = best(repeat, lambda query=query: session.run(query).read_all())
    return seconds


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", default="sql.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store, id_ = make_store(f"{folder}/pool", options.rows, options.width)
        seconds = measure(store, id_, options.repeat)
    print(f"{options.rows:,} rows x {options.width}, {EXAMPLES} examples, {len(METHODS)} methods")
    for name, value in seconds.items():
        print(f"  {name:<24} {value:8.3f} s")
    facts = {"rows": options.rows, "width": options.width, "seconds": seconds}
    write_report(options.json, "sql", facts)


if __name__ == "__main__":
    main()
