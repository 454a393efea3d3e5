"""Seconds and memory of every kind of command on stores of a million rows and more.

    python benchmarks/scale.py STORE EXAMPLES --rows 1000000,5000000 --folder /big/disk
    ... --methods "random;bm25;rds:top;rds" --out scale.json

Copies STORE and grows the copy to every size with copies of its own rows (see grown_store.py), in
commits of 20,000 rows, which is what an ingestion's merges leave. Then every command is run as a
user types it, in a process of its own: seconds by the clock, seconds of processors, and the largest
resident memory of that process and those it waited for. `ratio` is that of the processors' seconds
of the last size to the first: on a machine that others use it is what can be compared. Where it is
far above the ratio of the rows, something grows worse than the pool.

STORE needs the features of the methods. The appended rows are of a few words, so that what is
measured is the store and not the model.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from commands import Taken, taken
from grown_store import grow
from report import write_report

from coresetdb.store.store import Store

METHODS = "random;bm25;dsir;rds:top;rds"
SCORED = "rds"
TARGET = "scale"
NEW_ROWS = 1000
BUDGET = 1000
LARGE_BUDGET = 50_000
SMALL_COMMITS, SMALL_COMMIT_ROWS = 40, 8192

QUERIES = {
    "count": "SELECT count(*) FROM pool",
    "group by": "SELECT corpus, count(*), avg(response_tokens) FROM pool GROUP BY corpus",
    "filter on a score": "SELECT count(*), avg(score) FROM scores WHERE score > 0.5",
    "top by score": "SELECT id, score FROM scores ORDER BY score DESC, id LIMIT 100",
    "texts of the top": "SELECT p.id, s.score, p.messages FROM pool p JOIN scores s ON p.id = s.id "
    "WHERE s.rank <= 20 ORDER BY s.rank",
}


def write_short_rows(path: Path, count: int, seed: int) -> str:
    """Write questions and answers of a few random words each; return the path."""
    words = np.random.default_rng(seed).integers(1 << 30, size=(count, 4))
    with open(path, "w", encoding="utf-8") as file:
        for row in words.tolist():
            row = {"prompt": f"{row[0]:x} {row[1]:x}", "response": f"{row[2]:x} {row[3]:x}"}
            file.write(json.dumps(row) + "\n")
    return str(path)


def actions(store: str, methods: str, scratch: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield what is measured: a name and a command each, in this order."""
    tag = f"{time.time():.0f}"  # a store that was kept has coresets and rows of earlier runs
    new = write_short_rows(scratch / "new.jsonl", NEW_ROWS, seed=int(tag))
    yield f"append {NEW_ROWS:,} rows", ("ingest", store, new)
    yield f"the same {NEW_ROWS:,} again", ("ingest", store, new)
    yield "status", ("status", store)
    for number, method in enumerate(methods.split(";")):
        given = ("--method", method, "--budget", str(BUDGET), "--name", f"chosen-{number}-{tag}")
        yield f"select `{method}`", ("select", store, TARGET, *given)
    yield (
        f"select {LARGE_BUDGET:,} at random",
        (
            "select",
            store,
            "--method",
            "random",
            "--budget",
            str(LARGE_BUDGET),
            "--name",
            f"large-{tag}",
        ),
    )
    yield "export 1,000", ("export", store, f"chosen-0-{tag}", "--out", str(scratch / "few.jsonl"))
    yield (
        f"export {LARGE_BUDGET:,}",
        ("export", store, f"large-{tag}", "--out", str(scratch / "x.jsonl")),
    )
    yield f"score `{SCORED}`", ("score", "run", store, TARGET, "--with", SCORED)
    for name, query in QUERIES.items():
        yield f"sql: {name}", ("sql", store, query)
    yield "verify", ("verify", store)
    yield "verify --full", ("verify", store, "--full")


def measure(store: Path, rows: int, options: argparse.Namespace) -> dict[str, Taken]:
    """Grow a store, and return seconds and MiB of every action."""
    figures: dict[str, Taken] = {}

    def note(name: str, figure: Taken) -> None:
        figures[name] = figure
        told = f"{figure.seconds:.2f} s, {figure.cpu:.2f} CPU s, {figure.mebibytes:,.0f} MiB"
        print(f"  {rows:>11,}  {name:<28} {told}", flush=True)

    if not store.exists():
        shutil.copytree(options.store, store)
        taken("target", "add", str(store), TARGET, str(options.examples))
    start, cpu = time.perf_counter(), time.process_time()
    grow(store, rows)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    note("growing", Taken(seconds, cpu, memory))
    with TemporaryDirectory(dir=store.parent) as scratch:
        for name, command in actions(str(store), options.methods, Path(scratch)):
            if options.only and not any(each in name for each in options.only.split(";")):
                continue
            note(name, taken(*command))
    if not options.only or "compact" in options.only:
        more = SMALL_COMMITS * SMALL_COMMIT_ROWS
        grow(store, Store.open(str(store)).dataset("pool").count_rows() + more, SMALL_COMMIT_ROWS)
        note(f"compact, {SMALL_COMMITS} new fragments", taken("compact", str(store)))
    return figures


def main() -> None:
    """Measure every size, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("examples", type=Path)
    parser.add_argument("--rows", default="1000000,5000000")
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--only", default="", help="names of actions, or parts of them, by ;")
    parser.add_argument("--folder", type=Path, required=True, help="where the stores are made")
    parser.add_argument("--keep", action="store_true", help="leave the stores there")
    parser.add_argument("--out", help="JSON")
    options = parser.parse_args()
    sizes = [int(size) for size in options.rows.split(",")]
    of_size: dict[int, dict[str, Taken]] = {}
    for rows in sizes:
        store = options.folder / f"scale-{rows}"
        of_size[rows] = measure(store, rows, options)
        if not options.keep:
            shutil.rmtree(store)
    print_table(of_size)
    if options.out:
        sizes_taken = {
            rows: {name: asdict(figure) for name, figure in own.items()}
            for rows, own in of_size.items()
        }
        facts: dict[str, Any] = {"load": os.getloadavg(), "sizes": sizes_taken}
        write_report(options.out, "scale", facts)


def print_table(of_size: dict[int, dict[str, Taken]]) -> None:
    """Print the figures of every size, the ratio of CPU seconds of the last to the first."""
    units = {"s": "seconds", "CPU s": "cpu", "MiB": "mebibytes"}
    titles = [f"{rows:,}, {unit}" for unit in units for rows in of_size] + ["ratio"]
    print(f"\n| | {' | '.join(titles)} |\n|{'---|' * (len(titles) + 1)}")
    first, *_, last = of_size.values() if len(of_size) > 1 else [*of_size.values()] * 2
    for name in last:
        cells = [
            f"{getattr(own[name], key):,.1f}" for key in units.values() for own in of_size.values()
        ]
        ratio = f"{last[name].cpu / max(first[name].cpu, 0.01):.1f}"
        print(f"| {name} | {' | '.join([*cells, ratio])} |")


if __name__ == "__main__":
    main()
