"""What an index buys: seconds and recall of selections by an index beside those by every row.

    python benchmarks/approximate.py                     100,000 x 256, a minute
    python benchmarks/approximate.py --rows 1000000 --width 1024 --folder /big/disk

The store is that of `selection.py`: synthetic unit vectors with a power-law spectrum, which an
index finds harder than real rows, since nothing lies close together. Warm, best of `--repeat`.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time

from report import write_report
from selection import best, make_store


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--queries", type=int, nargs="*", default=[1, 16])
    parser.add_argument("--budgets", type=int, nargs="*", default=[10, 100, 1_000])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--folder", help="where stores stay (default: a temporary folder)")
    parser.add_argument("--json", default="approximate.json", help="where to write the results")
    options = parser.parse_args()
    print(f"{options.rows:,} rows x {options.width}")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for queries in options.queries:
            name = f"store-{options.rows}x{options.width}x{queries}"
            place = os.path.join(options.folder or folder, name)
            if not os.path.exists(place):
                make_store(place, options.rows, options.width, queries)
            results += measured(place, queries, options)
    facts = {"rows": options.rows, "width": options.width, "results": results}
    write_report(options.json, "approximate", facts)


def measured(place: str, queries: int, options: argparse.Namespace) -> list[dict]:
    """Building the index, then every budget by every row and by the index."""
    from coresetdb.query.indexing import index_feature
    from coresetdb.query.rules.rules import Rules
    from coresetdb.query.selection import select
    from coresetdb.store.store import Store

    store = Store.open(place)
    start = time.perf_counter()
    index = index_feature(store, "rds").index
    built = time.perf_counter() - start
    sizes = store.place.sizes("pool.lance/_indices")
    size = sum(sizes[path] for path in sizes if any(part in path for part in index.parts))
    print(f"  {index.name}: {built:.1f} s, {size / 1e6:.1f} MB")
    results = []
    for budget in options.budgets:
        found: dict = {}

        def run(approximate: bool, budget: int = budget, found: dict = found) -> None:
            found["coreset"] = select(
                store,
                ["t"],
                budget=str(budget),
                rules=Rules(leakage="off"),
                approximate=approximate,
            )

        exact = best(options.repeat, lambda run=run: run(False))
        seconds = best(options.repeat, lambda run=run: run(True))
        facts = found["coreset"].parameters["approximate"]
        results.append({"queries": queries, "budget": budget, "exact": exact, "index": seconds})
        results[-1] |= {"facts": facts, "build_seconds": built, "bytes": size}
        print(
            f"  {queries:3} examples, budget {budget:6,}: every row {exact:7.3f} s, index "
            f"{seconds:7.3f} s, {facts['probes']:4} of {index.partitions} partitions, recall "
            f"{facts['recall']:.3f}",
            flush=True,
        )
    return results


if __name__ == "__main__":
    main()
