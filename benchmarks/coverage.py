"""Seconds of the lazy greedy that covers neurons (MADS), on 52,000 rows, 15 % of them chosen.

    python benchmarks/coverage.py                        rows as wide as Llama-3.2-3B makes them
    python benchmarks/coverage.py --layers 8 --width 1365    as the built-in proxy's

Rows are synthetic: of every layer the strongest 1 % of its units, drawn by a popularity that falls
as real neurons' does, half of them shifted by the row's topic. What is timed is the selector alone,
from the sets in memory to the ranking; reading them from a store is a scan of a list column.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from report import write_report

from coresetdb.selectors.coverage import SELECTOR
from coresetdb.selectors.reductions import RowSets
from coresetdb.selectors.selector import Task

TOPICS = 50


def rows_of_units(rows: int, layers: int, width: int, active: int) -> RowSets:
    """Sets of about `layers * active` units of `layers * width`."""
    generator = np.random.default_rng(0)
    topics = generator.integers(0, TOPICS, rows)[:, None]
    parts, kept = [], []
    for layer in range(layers):
        units = (width * generator.random((rows, active), np.float32) ** 3).astype(np.int32)
        units[:, ::2] = (units[:, ::2] + topics * (width // TOPICS)) % width
        units.sort(axis=1)
        fresh = np.ones(units.shape, bool)
        fresh[:, 1:] = units[:, 1:] != units[:, :-1]
        parts.append(units + np.int32(layer * width))
        kept.append(fresh)
    inside = np.concatenate(kept, axis=1)
    keys = generator.integers(-(2**63), 2**63 - 1, (rows, 2))
    starts = np.concatenate([[0], np.cumsum(inside.sum(axis=1))])
    return RowSets(keys, starts, np.concatenate(parts, axis=1)[inside])


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=52_000)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--width", type=int, default=8192, help="units of a layer")
    parser.add_argument("--share", type=float, default=15.0, help="per cent of the rows")
    parser.add_argument("--json", default="coverage.json", help="where to write the results")
    options = parser.parse_args()
    active = max(1, -(-options.width // 100))
    sets = rows_of_units(options.rows, options.layers, options.width, active)
    size = len(sets.units) // len(sets)
    k = round(options.rows * options.share / 100)
    chosen = {name: option.default for name, option in SELECTOR.options.items()}
    task = Task(0, options.rows, k, options=chosen, set_size=size)
    start = time.perf_counter()
    passes = SELECTOR.passes(task)
    next(passes)
    try:
        passes.send((sets,))
    except StopIteration as end:
        found = len(end.value)
    seconds = time.perf_counter() - start
    print(f"{options.rows:,} rows of about {size:,} units: the best {found:,} in {seconds:.1f} s")
    asked = {key: getattr(options, key) for key in ("rows", "layers", "width", "share")}
    planned = SELECTOR.memory(task) / 2**20
    found = {"units_per_row": size, "picks": found, "seconds": seconds, "planned_mib": planned}
    write_report(options.json, "coverage", asked | found)


if __name__ == "__main__":
    main()
