"""Seconds to ingest 1,000 new rows into stores of different sizes.

    python benchmarks/append.py --rows 0,100000,1000000
    ... --features rds --folder /big/disk --out append.json

Makes a store of made-up conversations for each size (see grown_store.py), and runs `coresetdb
ingest` on three files of 1,000 rows that it does not have, each a process of its own. By default
with the feature `lexical`, which no model makes, so that what is measured is the store: start,
reading, looking ids up, writing, checksums. `ratio` is the median over that of the first size, by
the clock and in CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
from commands import taken
from grown_store import grow
from report import write_report

NEW_ROWS = 1000
REPEAT = 3
WORDS = [f"w{number:x}" for number in range(20_000)]


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
    print("| rows in the store | 1,000 rows more, s | ratio | CPU s | ratio | MiB |")
    print("|---|---|---|---|---|---|", flush=True)
    for size in map(int, options.rows.split(",")):
        with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
            store = Path(scratch) / "store"
            taken("init", str(store), "--features", options.features)
            if size:
                first = write_rows(Path(scratch) / "first.jsonl", min(size, 10_000), 0)
                taken("ingest", str(store), first)
                grow(store, size)
            times = []
            for number in range(REPEAT):
                file = write_rows(Path(scratch) / f"new-{number}.jsonl", NEW_ROWS, number + 1)
                times.append(taken("ingest", str(store), file))
        seconds = statistics.median(each.seconds for each in times)
        cpu = statistics.median(each.cpu for each in times)
        rows.append({"rows": size, "runs": list(map(asdict, times)), "median": seconds, "cpu": cpu})
        ratio, of_cpu = seconds / rows[0]["median"], cpu / rows[0]["cpu"]
        memory = max(each.mebibytes for each in times)
        print(
            f"| {size:,} | {seconds:.2f} | {ratio:.2f} | {cpu:.2f} | {of_cpu:.2f} | {memory:.0f} |"
        )
    if options.out:
        write_report(options.out, "append", {"features": options.features, "sizes": rows})


if __name__ == "__main__":
    main()
