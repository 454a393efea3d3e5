"""An exact scan of one process and of workers: seconds, CPU seconds, and the same rows.

    python benchmarks/shared_scan.py STORE TARGET [--methods rds,less] [--workers 2] [--rounds 3]

Every way selects in a process of its own and saves nothing; ways take turns. `seconds` are those of
`Database.select`, so that the libraries of the process are loaded and those of its workers are not;
CPU seconds are of all its processes, on a machine that others use the ones to compare. Prints a
table of medians; writes JSON with versions and hardware.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from statistics import median
from typing import Any

from report import write_report

from coresetdb.schemas.plain_text import text_table

SELECT = """
import json, resource, sys, time
import torch
import coresetdb

def used():
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in both)

store, target, method, budget, workers = sys.argv[1:]
database = coresetdb.connect(store)
began, before = time.monotonic(), used()
coreset = database.select(
    target, method=method, budget=budget, dry_run=True, workers=int(workers) or None
)
print(json.dumps({
    "seconds": time.monotonic() - began,
    "cpu": used() - before,
    "members": coreset.members.select(["id", "score"]).to_pylist(),
}))
"""


def selected(options: argparse.Namespace, method: str, workers: int) -> dict[str, Any]:
    """Return what a selection took and chose, in a process of its own."""
    arguments = [options.store, options.target, method, options.budget, str(workers)]
    ran = subprocess.run(
        [sys.executable, "-c", SELECT, *arguments], capture_output=True, text=True, check=True
    )
    return json.loads(ran.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store")
    parser.add_argument("target")
    parser.add_argument("--methods", default="rds,less,trim")
    parser.add_argument("--budget", default="1000")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", default="shared_scan.json")
    options = parser.parse_args()
    rows = []
    for method in options.methods.split(","):
        runs: dict[int, list[dict[str, Any]]] = {0: [], options.workers: []}
        for _ in range(options.rounds):
            for workers, own in runs.items():
                own.append(selected(options, method, workers))
        expected = runs[0][0]["members"]
        for workers, own in runs.items():
            rows.append(
                {
                    "method": method,
                    "workers": workers or "none",
                    "seconds": round(median(run["seconds"] for run in own), 2),
                    "CPU seconds": round(median(run["cpu"] for run in own), 2),
                    "same": all(run["members"] == expected for run in own),
                }
            )
            print(rows[-1], flush=True)
    print(text_table(rows))
    write_report(options.out, "shared_scan", {"rows": rows, "options": vars(options)})


if __name__ == "__main__":
    main()
