"""Seconds and memory from a target to a coreset, beside what cannot be avoided.

    python benchmarks/selection.py                     100,000 x 256, two minutes
    python benchmarks/selection.py --rows 1000000 --width 1024 --budget 10000 --folder /big/disk
    ... --methods rds:round_robin --leakage ranked     with the guard that users have by default
    ... --stored int8                                  vectors as int8 codes

Makes a store of synthetic unit vectors with a power-law spectrum (real embeddings are like that;
with `--folder` it stays there and is used again), then measures the floors and every method, each
in a process of its own, warm, best of `--repeat`:

    scan        read ids and vectors in table order, nothing else
    multiply    cast blocks to float32 and multiply with the queries, vectors in memory
    top-k       `torch.topk` of all similarities, 64k rows at a time, similarities in memory
    METHOD      the whole: queries read, pool scanned, rows chosen, distance, coreset recorded;
                of it `pass` reading and scoring, and `choose` the selector's own work

`ratio` is a method's time over the sum of the three floors, `added` the peak of memory above what
the process held when the store was open and all libraries were loaded.

The benchmark is not called select.py: a script's folder comes first on Python's path, and there
the standard library would find it in place of its own `select`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
import pyarrow as pa
from report import best, write_report

METHODS = (
    "random",
    "rds:top",
    "rds:top(by=max)",
    "rds:round_robin",
    "rds:knn_uniform",
    "rds:knn_kde",
    "rds:uot",
)
FLOORS = ("scan", "multiply", "top-k")
TOP_ROWS = 1 << 16
ASKED = ("rows", "width", "queries", "budget", "where", "leakage", "stored")
WORDS = np.array([f"w{number:x}" for number in range(20_000)], object)


def unit_vectors(generator: np.random.Generator, rows: int, width: int) -> np.ndarray:
    """(rows, width) float16 unit vectors, the i-th eigenvalue of their covariance about 1/i."""
    scale = (1 / np.sqrt(np.arange(1, width + 1))).astype(np.float32)
    vectors = generator.standard_normal((rows, width), np.float32) * scale
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def messages(generator: np.random.Generator, count: int, kind: pa.DataType) -> pa.Array:
    """A question of 10 random words and an answer of 30, for the leakage guard to look at."""
    words = WORDS[generator.integers(0, len(WORDS), (count, 40))]
    turns = [
        [
            {"role": "user", "content": " ".join(row[:10])},
            {"role": "assistant", "content": " ".join(row[10:])},
        ]
        for row in words
    ]
    return pa.array(turns, kind)


def columns(schema: pa.Schema, count: int, filled: dict[str, pa.Array]) -> pa.Table:
    """A table of that schema; what is not filled is null."""
    arrays = [filled.get(field.name, pa.nulls(count, field.type)) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def make_store(place: str, rows: int, width: int, queries: int, stored: str) -> None:
    """A store of `rows` random rows and a target "t" of `queries` examples."""
    import lance

    from coresetdb.schemas.recipe import Recipe
    from coresetdb.schemas.stored_vectors import encoded_column
    from coresetdb.schemas.tables import POOL, TARGETS
    from coresetdb.store import catalog
    from coresetdb.store.rows import key_of
    from coresetdb.store.store import Store

    recipe = Recipe("rds", 1, {}, {"name": "synthetic"}, ("rds", "rds_reason"), stored)
    metadata = {b"coresetdb:fingerprint": recipe.fingerprint.encode()}
    kind = pa.list_(pa.type_for_alias("halffloat" if stored == "float16" else stored), width)
    field = pa.field("rds", kind, metadata=metadata)
    fields = [field, pa.field("rds_reason", pa.string(), metadata=metadata)]
    store = Store.create(place, {}, fields, fields)
    catalog.put_recipe(store, recipe)
    generator = np.random.default_rng(0)
    step = 8_000_000 // (2 * width)

    def part(schema: pa.Schema, count: int, extra: dict[str, pa.Array]) -> pa.Table:
        vectors = unit_vectors(generator, count, width)
        filled = {"rds": encoded_column(vectors, kind, np.zeros(count, bool))}
        return columns(pa.schema([*schema, *fields]), count, filled | extra)

    def batches():
        for start in range(0, rows, step):
            count = min(step, rows - start)
            ids = [generator.bytes(16).hex() for _ in range(count)]
            corpora = pa.array([f"corpus-{number % 5}" for number in range(count)])
            lengths = pa.array(generator.integers(1, 400, count), pa.int32())
            texts = messages(generator, count, POOL.field("messages").type)
            extra = {"id": pa.array(ids), "corpus": corpora, "response_tokens": lengths}
            extra["messages"] = texts
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
        "messages": messages(generator, queries, TARGETS.field("messages").type),
        "key": pa.array([key_of("t", each) for each in ids]),
        "id": pa.array(ids),
        "target": pa.array(["t"] * queries),
        "position": pa.array(range(queries), pa.int32()),
    }
    store.insert("targets", part(TARGETS, queries, extra))


def floor(name: str, options: argparse.Namespace) -> dict[str, float]:
    """Seconds of one part that no selection can do without."""
    import lance
    import torch

    from coresetdb.query.scanning.vectors import block_rows
    from coresetdb.schemas.stored_vectors import encoded

    size, generator = block_rows(options.width), np.random.default_rng(1)

    def scan() -> None:
        pool = lance.dataset(os.path.join(options.store, "pool.lance"))
        scanner = pool.scanner(columns=["id", "rds"], batch_size=size, io_buffer_size=64 << 20)
        for _ in scanner.to_batches():
            pass

    vectors = unit_vectors(generator, size, options.width)
    block = torch.from_numpy(encoded(vectors) if options.stored == "int8" else vectors)
    queries = torch.from_numpy(unit_vectors(generator, options.queries, options.width)).float()
    gathered = torch.empty(size, options.width)

    def multiply() -> None:
        for _ in range(-(-options.rows // size)):
            gathered.copy_(block)
            gathered @ queries.T

    rows = min(options.rows, TOP_ROWS)
    fresh = torch.rand(options.queries, rows)

    def top() -> None:
        kept = torch.empty(options.queries, 0)
        for _ in range(-(-options.rows // rows)):
            scores = torch.cat([kept, fresh], dim=1)
            kept = scores.topk(min(options.budget, scores.shape[1]), dim=1).values

    actions = {"scan": scan, "multiply": multiply, "top-k": top}
    return {"seconds": best(options.repeat, actions[name])}


def whole(method: str, options: argparse.Namespace) -> dict[str, float]:
    """Seconds of a selection, of its passes and of the selector, and the memory it adds."""
    import duckdb  # noqa: F401  what a selection imports on its way is not its memory
    import torch  # noqa: F401

    from coresetdb.query import comparison, ranking
    from coresetdb.query.rules.rules import Rules
    from coresetdb.query.selection import select
    from coresetdb.store.store import Store

    spent = {"pass": 0.0, "choose": 0.0}

    def timed(part: str, function: Callable) -> Callable:
        def run(*given, **named):
            start = time.perf_counter()
            try:
                return function(*given, **named)
            finally:
                spent[part] += time.perf_counter() - start

        return run

    for name in ("scan_ids", "scan_vectors"):
        setattr(comparison, name, timed("pass", getattr(comparison, name)))
    ranking._send = timed("choose", ranking._send)
    store = Store.open(options.store)
    before = peak_mib()
    found: dict[str, float] = {"seconds": float("inf")}
    for _ in range(1 + options.repeat):
        spent |= {"pass": 0.0, "choose": 0.0}
        start = time.perf_counter()
        select(
            store,
            ["t"],
            method=method,
            budget=str(options.budget),
            where=options.where,
            rules=Rules(leakage=options.leakage),
        )
        seconds = time.perf_counter() - start
        if seconds < found["seconds"]:
            found = {"seconds": seconds, **spent}
    return found | {"added_mib": peak_mib() - before}


def peak_mib() -> float:
    """The most memory this process ever held; Linux counts a parent's in `getrusage`."""
    if os.path.exists("/proc/self/status"):
        with open("/proc/self/status", encoding="utf-8") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def alone(name: str, options: argparse.Namespace) -> dict[str, float]:
    """One measurement in a fresh process, which prints JSON."""
    command = [sys.executable, __file__, "--one", name, "--store", options.store]
    for key in ("rows", "width", "queries", "budget", "repeat", "leakage", "stored"):
        command += [f"--{key}", str(getattr(options, key))]
    if options.where:
        command += ["--where", options.where]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(run.stdout)


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--queries", type=int, default=64)
    parser.add_argument("--budget", type=int, default=1_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--methods", nargs="*", default=METHODS)
    parser.add_argument("--leakage", default="off", help="off, ranked or full: the leakage guard")
    parser.add_argument("--stored", default="float16", choices=["float16", "int8"])
    parser.add_argument("--where", help="a filter, such as \"corpus = 'corpus-1'\"")
    parser.add_argument("--folder", help="where the store stays (default: a temporary folder)")
    parser.add_argument("--json", default="selection.json", help="where to write the results")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--store", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        measure = floor if options.one in FLOORS else whole
        print(json.dumps(measure(options.one, options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        name = f"store-{options.rows}x{options.width}x{options.queries}-{options.stored}"
        options.store = os.path.join(options.folder or folder, name)
        if not os.path.exists(options.store):
            make_store(options.store, options.rows, options.width, options.queries, options.stored)
        report(options)


def report(options: argparse.Namespace) -> None:
    """The floors, then every method beside them."""
    print(
        f"{options.rows:,} rows x {options.width} {options.stored}, {options.queries} queries, "
        f"budget {options.budget:,}" + (f", where {options.where}" if options.where else "")
    )
    floors = {name: alone(name, options)["seconds"] for name in FLOORS}
    for name, seconds in floors.items():
        print(f"  {name:<20} {seconds:8.3f} s", flush=True)
    total = sum(floors.values())
    print(f"  {'all three':<20} {total:8.3f} s")
    print(f"  {'method':<20} {'whole':>8}   {'pass':>8} {'choose':>8} {'ratio':>6} {'added':>10}")
    methods = {}
    for method in options.methods:
        found = methods[method] = alone(method, options)
        print(
            f"  {method:<20} {found['seconds']:8.3f} s {found['pass']:8.3f} {found['choose']:8.3f} "
            f"{found['seconds'] / total:6.2f} {found['added_mib']:6.0f} MiB",
            flush=True,
        )
    import torch

    asked = {each: getattr(options, each) for each in ASKED}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    ran = {"threads": torch.get_num_threads(), "device": device}
    facts = asked | ran | {"floors": floors, "methods": methods}
    write_report(options.json, "selection", facts)


if __name__ == "__main__":
    main()
