"""Seconds from a target to a coreset, beside the bare scan and the bare multiplication.

    python benchmarks/selection.py                     100,000 x 256, about a minute
    python benchmarks/selection.py --rows 1000000 --width 1024 --budget 10000

Makes a store of synthetic unit vectors with a power-law spectrum (real embeddings are like that),
then times each part alone, warm, best of `--repeat`:

    scan        read the vector column in table order, nothing else
    multiply    cast blocks from float16 and multiply with the queries, vectors in memory
    select      the whole: queries read, pool scanned, rows chosen, distance, coreset recorded

The benchmark is not called select.py: a script's folder comes first on Python's path, and there
the standard library would find it in place of its own `select`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime

import lance
import numpy as np
import pyarrow as pa
import torch

import coresetdb
from coresetdb.query.scan import block_rows
from coresetdb.query.selection import select
from coresetdb.schemas.recipe import Recipe
from coresetdb.schemas.tables import POOL, TARGETS
from coresetdb.store.keys import key_of
from coresetdb.store.store import Store

METHODS = ("random", "rds:top", "rds:top(by=max)", "rds:round_robin")


def unit_vectors(generator: np.random.Generator, rows: int, width: int) -> np.ndarray:
    """(rows, width) float16 unit vectors, the i-th eigenvalue of their covariance about 1/i."""
    scale = (1 / np.sqrt(np.arange(1, width + 1))).astype(np.float32)
    vectors = generator.standard_normal((rows, width), np.float32) * scale
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def columns(schema: pa.Schema, count: int, filled: dict[str, pa.Array]) -> pa.Table:
    """A table of that schema; what is not filled is null."""
    arrays = [filled.get(field.name, pa.nulls(count, field.type)) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def make_store(place: str, rows: int, width: int, queries: int) -> Store:
    """A store of `rows` random rows and a target "t" of `queries` examples."""
    recipe = Recipe("rds", 1, {}, {"name": "synthetic"}, ("rds", "rds_reason"))
    metadata = {b"coresetdb:fingerprint": recipe.fingerprint.encode()}
    field = pa.field("rds", pa.list_(pa.float16(), width), metadata=metadata)
    fields = [field, pa.field("rds_reason", pa.string(), metadata=metadata)]
    store = Store.create(place, {}, fields, fields)
    store.put_recipe(recipe)
    generator = np.random.default_rng(0)
    step = 8_000_000 // (2 * width)

    def part(schema: pa.Schema, count: int, extra: dict[str, pa.Array]) -> pa.Table:
        vectors = pa.array(unit_vectors(generator, count, width).ravel())
        filled = {"rds": pa.FixedSizeListArray.from_arrays(vectors, type=field.type)}
        return columns(pa.schema([*schema, *fields]), count, filled | extra)

    def batches():
        for start in range(0, rows, step):
            count = min(step, rows - start)
            ids = [generator.bytes(16).hex() for _ in range(count)]
            corpora = pa.array([f"corpus-{number % 5}" for number in range(count)])
            lengths = pa.array(generator.integers(1, 400, count), pa.int32())
            extra = {"id": pa.array(ids), "corpus": corpora, "response_tokens": lengths}
            yield from part(POOL, count, extra).to_batches()

    # Straight into Lance: insert-if-absent of a million fresh rows is not what is measured here.
    schema = store.dataset("pool").schema
    lance.write_dataset(
        pa.RecordBatchReader.from_batches(schema, (batch.cast(schema) for batch in batches())),
        store.dataset("pool").uri,
        mode="append",
        max_rows_per_file=100_000,
    )
    ids = [generator.bytes(16).hex() for _ in range(queries)]
    extra = {
        "key": pa.array([key_of("t", each) for each in ids]),
        "id": pa.array(ids),
        "target": pa.array(["t"] * queries),
        "position": pa.array(range(queries), pa.int32()),
    }
    store.insert("targets", part(TARGETS, queries, extra))
    return store


def best(repeat: int, action: Callable[[], object]) -> float:
    """Shortest of `repeat` runs, in seconds, after one to warm up."""
    action()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)


def bare_scan(store: Store, width: int) -> int:
    """Read ids and vectors, use nothing."""
    scanner = store.dataset("pool").scanner(
        columns=["id", "rds"], batch_size=block_rows(width), io_buffer_size=64 << 20
    )
    return sum(batch.num_rows for batch in scanner.to_batches())


def bare_multiplication(blocks: int, block: torch.Tensor, queries: torch.Tensor) -> None:
    """Cast and multiply as many blocks as the pool has, from memory."""
    for _ in range(blocks):
        block.float() @ queries.T


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--queries", type=int, default=64)
    parser.add_argument("--budget", type=int, default=1_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--folder", help="where to put the store (default: a temporary folder)")
    parser.add_argument("--json", default="selection.json", help="where to write the results")
    options = parser.parse_args()
    rows, width, queries = options.rows, options.width, options.queries
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        store = make_store(os.path.join(folder, "store"), rows, width, queries)
        size = block_rows(width)
        block = torch.from_numpy(unit_vectors(np.random.default_rng(1), size, width))
        matrix = block[:queries].float()
        seconds = {
            "scan": best(options.repeat, lambda: bare_scan(store, width)),
            "multiply": best(
                options.repeat, lambda: bare_multiplication(-(-rows // size), block, matrix)
            ),
        }
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for method in METHODS:
            seconds[f"select {method}"] = best(
                options.repeat,
                lambda method=method: select(
                    store, ["t"], method=method, budget=str(options.budget)
                ),
            )
        added = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"{rows:,} rows x {width}, {queries} queries, budget {options.budget:,}")
    for name, value in seconds.items():
        print(f"  {name:<24} {value:8.3f} s")
    print(f"  added peak memory        {added / 1024:8.0f} MiB")
    report = {
        "benchmark": "selection",
        "rows": rows,
        "width": width,
        "queries": queries,
        "budget": options.budget,
        "seconds": seconds,
        "added_peak_mib": added / 1024,
        "versions": {
            "coresetdb": coresetdb.__version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "lance": lance.__version__,
            "pyarrow": pa.__version__,
        },
        "hardware": {
            "processor": _processor(),
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "load": os.getloadavg()[0],
        },
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with open(options.json, "w", encoding="utf-8") as file:
        json.dump(report, file, indent=2)
    print(f"written to {options.json}", file=sys.stderr)


def _processor() -> str:
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
