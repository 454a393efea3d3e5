"""The process that commits, alone: rows a second and memory, with workers that only pretend.

    python benchmarks/driver.py STORE... [--new 32768] [--rate 10] [--out driver.json]

Every STORE (as `coresetdb init` makes them, or `benchmarks/scale.py --keep` leaves them) gets
`--new` rows more by a real ingestion: files are read, ids looked up, shards handed to workers, and
what these give back is committed. The workers answer at once with random features of the store's
columns, and say that they took as long as a model of `--rate` rows a second, which decides how
large shards are. So what is measured is the driver: its own CPU seconds, and the clock's. On a
machine that others use the former are what can be compared; those of the workers are not in them.

    rows/s      rows a CPU second of the driver, and a second by the clock
    commit      CPU seconds of a commit, and of its inserts into `pool` and `sources` (medians)
    start       CPU seconds until the ids of the pool are in memory
    files       that a commit leaves, each of which an object store counts as a request and more
    manifest    bytes of the newest manifest of the pool, and milliseconds to open it
    MiB         peak memory of the driver
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
from append import write_rows
from report import write_report

from coresetdb.ingest.jobs import ingestion
from coresetdb.ingest.readers.options import ReadOptions
from coresetdb.ingest.sources import open_sources
from coresetdb.schemas.plain_text import text_table
from coresetdb.schemas.tables import POOL
from coresetdb.store.store import Store
from coresetdb.workers.opening import open_group
from coresetdb.workers.options import Placement, WorkerOptions
from coresetdb.workers.task import Answer, Given, Owner, to_bytes, to_table

KEPT_ROWS = 2048  # of random features that a worker has ready
LIST_LENGTH = 60
TOKENS = 120


class Pretender:
    """A worker's role (`workers.task.Role`): random features of a store's columns, at once.

    Args:
        settings: `store`, whose columns are filled, and `rate`, rows a second that it claims.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        schema = Store.open(settings["store"]).dataset("pool").schema
        own = ("tokens", "prompt_tokens", "response_tokens", "truncated")
        fields = [field for field in schema if field.name not in POOL.names or field.name in own]
        generator = np.random.default_rng(0)
        self._rows = pa.table(
            [random_values(field.type, KEPT_ROWS, generator) for field in fields],
            schema=pa.schema(fields),
        )
        self._rate = settings["rate"]

    def equip(self, facts: dict[str, Any], blobs: Sequence[bytes]) -> None:
        """A pretender needs no recipes."""

    def do(
        self, facts: dict[str, Any], body: bytes, parts: Sequence[Given], owner: Owner
    ) -> Answer:
        """Give as many rows of features as the task has."""
        rows = to_table(body).num_rows
        owner.seen(rows, rows * TOKENS)
        return {"seconds": rows / self._rate}, to_bytes(self._rows.slice(0, rows))


def random_values(kind: pa.DataType, rows: int, generator: np.random.Generator) -> pa.Array:
    """Values of a column: vectors, lists and numbers; texts, which are reasons, are null."""
    if pa.types.is_fixed_size_list(kind):
        values = random_values(kind.value_type, rows * kind.list_size, generator)
        return pa.FixedSizeListArray.from_arrays(values, type=kind)
    if pa.types.is_list(kind):
        values = random_values(kind.value_type, rows * LIST_LENGTH, generator)
        offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * LIST_LENGTH)
        return pa.ListArray.from_arrays(offsets, values, kind)
    if pa.types.is_floating(kind):
        return pa.array(generator.standard_normal(rows).astype(kind.to_pandas_dtype()), kind)
    if pa.types.is_integer(kind):
        return pa.array(generator.integers(1, 100, rows), kind)
    if pa.types.is_boolean(kind):
        return pa.array(np.zeros(rows, bool), kind)
    return pa.nulls(rows, kind)


class Clock:
    """CPU seconds of this process for every call, by what was called."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, list[float]] = defaultdict(list)

    def timed(self, action: Callable[..., Any], name: Callable[..., str]) -> Callable[..., Any]:
        """Return the action, timed under what `name` makes of its arguments."""

        def run(*arguments: Any, **keywords: Any) -> Any:
            own, start = name(*arguments, **keywords), time.process_time()
            try:
                return action(*arguments, **keywords)
            finally:
                self.seconds[own].append(time.process_time() - start)

        return run

    def median(self, name: str) -> float:
        """Of a call."""
        return round(statistics.median(self.seconds[name]), 2)


def measure(place: str, new: int, rate: float, workers: int) -> dict[str, Any]:
    """Ingest new rows into a store, and return what the driver took."""
    store, clock = Store.open(place), Clock()
    before = store.dataset("pool").count_rows()
    ingestion.Commit.write = clock.timed(ingestion.Commit.write, lambda *_: "commit")
    Store.insert = clock.timed(Store.insert, lambda own, table, rows: f"insert {table}")
    Store.known_ids = clock.timed(Store.known_ids, lambda *_: "start")
    placed = Placement(workers, 1, why="they only pretend")
    settings = {"store": place, "rate": rate}
    with TemporaryDirectory() as folder:
        file = write_rows(Path(folder) / "new.jsonl", new, seed=before % 1000 + 1)
        sources = open_sources(file, ReadOptions())
        role = f"{Path(__file__).stem}.{Pretender.__name__}"
        options = WorkerOptions(workers=workers)
        objects = len(files_of(store))
        start, cpu = time.perf_counter(), time.process_time()
        with open_group(options, placed, role, settings, lambda sentence: None) as group:
            account = ingestion.ingest(
                store, sources.sources(), unused, workers=group, command="benchmarks/driver.py"
            )
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        objects = len(files_of(store)) - objects
    made = account.total("new")
    dataset = store.dataset("pool")
    start = time.perf_counter()
    store.dataset("pool")
    opening = time.perf_counter() - start
    manifests = sorted(Path(dataset.uri, "_versions").glob("*.manifest"))
    commits = len(clock.seconds["commit"])
    return {
        "rows in the store": f"{before:,}",
        "fragments": len(dataset.get_fragments()),
        "rows/CPU s": round(made / cpu),
        "rows/s": round(made / seconds),
        "commit, CPU s": clock.median("commit"),
        "into pool": clock.median("insert pool"),
        "into sources": clock.median("insert sources"),
        "files": round(objects / commits, 1),
        "start, CPU s": clock.median("start"),
        "manifest, kB": round(manifests[0].stat().st_size / 1000, 1),
        "open, ms": round(opening * 1000, 1),
        "MiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def files_of(store: Store) -> list[Path]:
    """All files of a local store."""
    return [path for path in Path(store.uri).rglob("*") if path.is_file()]


def unused() -> Any:
    """A featurizer in the driver's own process."""
    raise AssertionError("workers make the features")


def main() -> None:
    """Measure every store in a process of its own, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("stores", nargs="+")
    parser.add_argument("--new", type=int, default=32_768, help="rows")
    parser.add_argument("--rate", type=float, default=10.0, help="rows a second of a worker")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", help="JSON")
    parser.add_argument("--alone", action="store_true", help="one store, in this process")
    options = parser.parse_args()
    given = [options.new, options.rate, options.workers]
    if options.alone:
        print(json.dumps(measure(options.stores[0], *given)))
        return
    rows = []
    for store in options.stores:
        own = ["--new", options.new, "--rate", options.rate, "--workers", options.workers]
        command = [sys.executable, __file__, str(Path(store).resolve()), "--alone", *map(str, own)]
        ran = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if ran.returncode:
            sys.exit(f"{store}: it ended with status {ran.returncode}")
        rows.append(json.loads(ran.stdout.splitlines()[-1]))
        print(json.dumps(rows[-1]), file=sys.stderr)
    print(text_table(rows))
    if options.out:
        write_report(options.out, "driver", {"options": vars(options), "stores": rows})


if __name__ == "__main__":
    main()
