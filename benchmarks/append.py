"""Seconds to ingest 1,000 new rows into stores of different sizes.

    python benchmarks/append.py --rows 0,100000,1000000
    ... --features rds --folder /big/disk --out append.json

Makes a store of made-up conversations for each size (see grown_store.py), and runs `coresetdb
ingest` on three files of 1,000 rows that it does not have, each a process of its own. By default
with the feature `lexical`, which no model makes, so that what is measured is the store: start,
reading, looking ids up, writing, checksums. `ratio` is the median over that of the first size.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from grown_store import grow
from report import write_report

NEW_ROWS = 1000
REPEAT = 3
WORDS = [f"w{number:x}" for number in range(20_000)]


def run(*command: str) -> float:
    """Run a command of coresetdb; return how long it took."""
    start = time.perf_counter()
    program = Path(sys.executable).with_name("coresetdb")
    done = subprocess.run([program, *command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"coresetdb {' '.join(command)}: {done.stderr}")
    return time.perf_counter() - start


def write_rows(path: Path, count: int, seed: int) -> str:
    """Write questions of 30 random words and answers of 60; return the path."""
    generator = np.random.default_rng(seed)
    with open(path, "w", encoding="utf-8") as file:
        for _ in range(count):
            words = [WORDS[place] for place in generator.integers(len(WORDS), size=90)]
            row = {"prompt": " ".join(words[:30]), "response": " ".join(words[30:])}
            file.write(json.dumps(row) + "\n")
    return str(path)


def main() -> None:
    """Make a store of each size, append to it, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", default="0,100000")
    parser.add_argument("--features", default="lexical")
    parser.add_argument("--folder", type=Path, help="where the stores are made")
    parser.add_argument("--out", help="JSON")
    options = parser.parse_args()
    rows = []
    print("| rows in the store | 1,000 rows more, s | ratio |\n|---|---|---|")
    for size in map(int, options.rows.split(",")):
        with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
            store = Path(scratch) / "store"
            run("init", str(store), "--features", options.features)
            if size:
                first = write_rows(Path(scratch) / "first.jsonl", min(size, 10_000), 0)
                run("ingest", str(store), first)
                grow(store, size)
            times = []
            for number in range(REPEAT):
                file = write_rows(Path(scratch) / f"new-{number}.jsonl", NEW_ROWS, number + 1)
                times.append(run("ingest", str(store), file))
        median = statistics.median(times)
        rows.append({"rows": size, "seconds": times, "median": median})
        print(f"| {size:,} | {median:.2f} | {median / rows[0]['median']:.2f} |", flush=True)
    if options.out:
        write_report(options.out, "append", {"features": options.features, "sizes": rows})


if __name__ == "__main__":
    main()
