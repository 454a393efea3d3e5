"""Seconds from a file of examples to a written coreset, by every method, on a pool of any size.

    python benchmarks/new_target.py STORE EXAMPLES --rows 100000
    ... --methods "rds;less;trim" --budget 1000 --folder /big/disk --out new_target.json

Copies STORE, grows the copy to `--rows` with copies of its rows (real features; with `--folder` it
stays there and is used again), and then runs the two commands that a user types, each a process of
its own:

    target      `coresetdb target add`: starts, loads the model, featurizes the examples
    select      `coresetdb select --out`: starts, scans, guards against leakage, writes the file

The first selection reads the pool from the disk, the second has it in the system's cache; both are
printed, and the CPU seconds of the second, which others on the machine do not change.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from commands import taken
from grown_store import grow
from report import write_report

import coresetdb

METHODS = (
    "bm25;dsir;rds;rds:top;rds:knn_uniform;rds:knn_kde;rds:uot;"
    "less;less:top;trim;nait;mads;mads:top"
)
TARGET = "new-target"


def forget_cached(folder: Path) -> None:
    """Ask the system to drop a store's files from its cache."""
    for file in folder.rglob("*"):
        if file.is_file():
            with open(file, "rb") as opened:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measured(store: Path, options: argparse.Namespace, scratch: Path) -> Iterator[dict[str, Any]]:
    """Yield the figures of every method."""
    begun = f"{time.time():.0f}"  # a store that was kept has coresets of earlier runs
    for method in options.methods.split(";"):
        runs = []
        for run in range(2):
            if not run:
                forget_cached(store)
            name = f"{method}-{run}-{begun}".translate({ord(each): "-" for each in ":(,)="})
            out = ["--out", str(scratch / f"{name}.jsonl"), "--name", name]
            given = ["--method", method, "--budget", str(options.budget), *out]
            runs.append(taken("select", str(store), TARGET, *given))
        yield {
            "method": method,
            "from_disk": runs[0].seconds,
            "again": runs[1].seconds,
            "cpu": runs[1].cpu,
            "mebibytes": max(run.mebibytes for run in runs),
        }


def main() -> None:
    """Grow, add the target, select by every method, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("examples", type=Path)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--budget", type=int, default=1000)
    parser.add_argument("--folder", type=Path, help="where the grown store stays")
    parser.add_argument("--out", help="JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        store = (options.folder or Path(scratch)) / f"store-{options.rows}"
        if not store.exists():
            shutil.copytree(options.store, store)
        grow(store, options.rows)
        if TARGET in {each.name for each in coresetdb.connect(store).list_targets()}:
            taken("target", "remove", str(store), TARGET)
        target = taken("target", "add", str(store), TARGET, str(options.examples))
        print(f"target add: {target.seconds:.1f} s, {target.cpu:.1f} CPU s; ", end="")
        print(f"{options.rows:,} rows, budget {options.budget:,}\n")
        print("| method | select, from disk, s | again, s | CPU s | MiB | examples to file, s |")
        print("|---|---|---|---|---|---|")
        rows = []
        for row in measured(store, options, Path(scratch)):
            rows.append(row)
            whole = target.seconds + row["from_disk"]
            print(
                f"| `{row['method']}` | {row['from_disk']:.1f} | {row['again']:.1f} | "
                f"{row['cpu']:.1f} | {row['mebibytes']:.0f} | {whole:.1f} |",
                flush=True,
            )
    if options.out:
        facts = {"rows": options.rows, "budget": options.budget, "target_seconds": target.seconds}
        write_report(options.out, "new_target", {**facts, "methods": rows})


if __name__ == "__main__":
    main()
