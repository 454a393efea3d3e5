"""Rows per second of one process and of several workers, threads set each way, on a busy machine.

    python benchmarks/workers.py [--data FILE] [--rows 1000] [--busy 2] [--rounds 1]
    python benchmarks/workers.py --backbone HuggingFaceTB/SmolLM2-135M-Instruct --rows 192 \
        --features fast --dtype bfloat16

What the features need is fitted first, once. Every way ingests the same rows into a copy of that
store, in a process of its own, without and with `--busy` processes that keep a processor each. Ways
take turns. The speed leaves the first tenth of the reports of progress out, in which models are
loaded; `seconds` and `CPU s` have everything. On a machine that others use, CPU seconds are what
can be compared. Each store is held against the first: the same ids in the same order, and the
largest norm-wise difference of a row's feature, of those that are stored in floats. Prints a table;
writes JSON with the differences by column, versions and hardware.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from feature_difference import differences_by_column
from report import write_report

import coresetdb
from coresetdb.schemas.plain_text import text_table
from coresetdb.workers.machine import usable_processors

ROOT = Path(__file__).resolve().parents[1]

INGEST = """
import json, sys, time
import coresetdb
from coresetdb.schemas.progress import Silence

class Clock(Silence):
    marks = []
    def advance(self, *, rows, tokens, **rest):
        if tokens and (not self.marks or self.marks[-1][1] != tokens):
            self.marks.append((time.monotonic(), tokens))

store, data, rows, workers = sys.argv[1:]
began = time.monotonic()
workers = int(workers) or None
account = coresetdb.connect(store).ingest(data, limit=int(rows), workers=workers, progress=Clock())
marks = Clock.marks
start = marks[len(marks) // 10]
print(json.dumps({
    "seconds": time.monotonic() - began,
    "tokens": account.tokens,
    "tokens_per_second": (marks[-1][1] - start[1]) / (marks[-1][0] - start[0]),
}))
"""

BUSY = "while True: sum(range(100_000))"


@contextmanager
def beside(count: int) -> Iterator[None]:
    """Keep so many processors busy inside the block."""
    processes = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def make_empty(store: Path, options: argparse.Namespace) -> None:
    """Create a store and fit what its features need."""
    database = coresetdb.create(
        store, backbone=options.backbone, features=options.features, dtype=options.dtype
    )
    database.fit(options.data, limit=options.rows)


def ingest(store: Path, options: argparse.Namespace, way: dict[str, Any]) -> dict[str, float]:
    """Ingest in a process of its own, with a number of threads and of workers."""
    command = [sys.executable, "-c", INGEST, store, options.data, options.rows, way["workers"]]
    before = cpu_seconds()
    ran = subprocess.run(
        list(map(str, command)),
        env={**os.environ, "OMP_NUM_THREADS": str(way["threads"])},
        capture_output=True,
        text=True,
    )
    if ran.returncode:
        raise SystemExit(ran.stderr)
    return {**json.loads(ran.stdout.splitlines()[-1]), "cpu": cpu_seconds() - before}


def cpu_seconds() -> float:
    """Of all child processes that ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def differences(store: Path, first: Path) -> dict[str, float]:
    """The largest norm-wise difference of a row, by column stored in floats.

    The ids must be the same, in order.
    """
    one, other = (
        coresetdb.connect(path).store.dataset("pool").to_table() for path in (store, first)
    )
    assert one["id"].equals(other["id"]), "other rows, or another order"
    return differences_by_column(one, other)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=str(ROOT / "demo" / "pool.jsonl.gz"))
    parser.add_argument("--backbone", default="builtin")
    parser.add_argument("--features", default="rds,losses")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--busy", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--out", default="workers.json")
    options = parser.parse_args()
    processors = usable_processors()
    ways = [
        {"workers": 0, "threads": processors},
        {"workers": 0, "threads": 1},
        {"workers": processors, "threads": 1},
        {"workers": processors, "threads": processors},
    ]
    runs: list[dict[str, Any]] = []
    by_column: list[dict[str, float]] = []
    with TemporaryDirectory() as folder:
        empty = Path(folder) / "empty"
        make_empty(empty, options)
        first: Path | None = None
        for turn in range(options.rounds):
            for busy in dict.fromkeys((0, options.busy)):
                for number, way in enumerate(ways):
                    store = Path(folder) / f"{turn}-{busy}-{number}"
                    shutil.copytree(empty, store)
                    load = os.getloadavg()[0]
                    with beside(busy):
                        measured = ingest(store, options, way)
                    first = first or store
                    by_column.append(differences(store, first))
                    runs.append(
                        {
                            "beside": f"{busy} busy",
                            "load before": round(load, 1),
                            "workers": way["workers"] or "none",
                            "threads each": way["threads"],
                            "seconds": round(measured["seconds"], 1),
                            "CPU s": round(measured["cpu"], 1),
                            "tokens/s": round(measured["tokens_per_second"]),
                            "rows/s": round(
                                measured["tokens_per_second"] * options.rows / measured["tokens"], 1
                            ),
                            "difference": f"{max(by_column[-1].values(), default=0.0):.1e}",
                        }
                    )
                    print(json.dumps(runs[-1]), file=sys.stderr)
    print(text_table(runs))
    figures = {"options": vars(options), "runs": runs, "differences": by_column}
    write_report(options.out, "workers", figures)


if __name__ == "__main__":
    main()
