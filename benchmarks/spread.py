"""Seconds of the selectors that look at how rows lie among themselves, beside plain greedy.

    python benchmarks/spread.py                              94,000 x 256, budget 1,000
    python benchmarks/spread.py --rows 20000 --budget 200    a tenth of the time

Rows are synthetic: 400 clusters of unequal sizes, ten parts in each, and a common direction, as
embeddings have one. What is timed is the selector alone, from vectors in memory to the ranking, in
seconds of the processor (of all threads together) and of the clock. `plain` is what greedy without
laziness would take of the processor: every row looked at for every pick, from a measured share.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
from report import write_report

from coresetdb.selectors.facility_location import Facilities
from coresetdb.selectors.reductions import Columns, RowColumns, RowVectors
from coresetdb.selectors.registry import selectors
from coresetdb.selectors.selector import Task

CLUSTERS, PARTS = 400, 10
SAMPLE = 256
PLAIN_PICKS = 10
NAMES = ("k_center", "facility_location", "deita_filter")


def clustered(rows: int, width: int) -> np.ndarray:
    """(rows, width) float16 unit vectors."""
    generator = np.random.default_rng(0)
    odds = 1 / np.arange(1, CLUSTERS + 1)
    cluster = generator.choice(CLUSTERS, rows, p=odds / odds.sum())
    part = cluster * PARTS + generator.integers(0, PARTS, rows)
    centres = 0.7 * generator.standard_normal((CLUSTERS, width), np.float32)
    parts = 0.5 * generator.standard_normal((CLUSTERS * PARTS, width), np.float32)
    noise = generator.uniform(0.2, 0.9, (rows, 1)).astype(np.float32)
    vectors = centres[cluster] + parts[part] + 1.2 * generator.standard_normal(width, np.float32)
    vectors += noise * generator.standard_normal((rows, width), np.float32)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def timed(name: str, rows: RowVectors, scores: np.ndarray, k: int) -> dict[str, Any]:
    """Run a selector."""
    selector = selectors()[name]
    options = {key: option.default for key, option in selector.options.items()}
    task = Task(0, len(rows), k, options=options, width=rows.vectors.shape[1])
    clock, processor = time.perf_counter(), time.process_time()
    passes, answers = selector.passes(task), None
    while True:
        try:
            needs = passes.send(answers)
        except StopIteration as end:
            ranking = end.value
            break
        answers = tuple(answer(need, rows, scores) for need in needs)
    return {
        "selector": name,
        "picks": len(ranking),
        "clock": time.perf_counter() - clock,
        "processor": time.process_time() - processor,
        "planned_mib": selector.memory(task) / 2**20,
        "last_score": float(ranking.scores[-1]),
        "notes": ranking.notes,
    }


def answer(need: Any, rows: RowVectors, scores: np.ndarray) -> RowVectors | RowColumns:
    """Rows as a store would bring them."""
    if isinstance(need, Columns):
        return RowColumns(rows.keys, {need.names[0]: scores})
    if need.keys is None:
        return rows
    return RowVectors(need.keys, rows.vectors[need.keys[:, 1]])


def plain(rows: RowVectors, k: int) -> dict[str, float]:
    """Seconds of the processor that greedy without laziness would take."""
    some = np.arange(0, len(rows), max(1, len(rows) // SAMPLE))[:SAMPLE]
    facilities = Facilities(rows, np.arange(min(20_000, len(rows))))
    start = time.process_time()
    facilities.gains(some)
    location = (time.process_time() - start) * k * len(rows) / len(some)
    vectors, closest = rows.vectors.astype(np.float32), np.full(len(rows), -1, np.float32)
    start = time.process_time()
    for centre in range(PLAIN_PICKS):
        np.maximum(closest, vectors @ vectors[centre], out=closest).argmin()
    centres = (time.process_time() - start) * k / PLAIN_PICKS
    return {"facility_location": location, "k_center": centres}


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=94_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--budget", type=int, default=1000)
    parser.add_argument("--json", default="spread.json", help="where to write the results")
    options = parser.parse_args()
    keys = np.stack([np.zeros(options.rows, np.int64), np.arange(options.rows)], axis=1)
    rows = RowVectors(keys, clustered(options.rows, options.width))
    scores = np.random.default_rng(1).standard_normal(options.rows)
    without = plain(rows, options.budget)
    print(f"{options.rows:,} x {options.width}, budget {options.budget:,}")
    print(f"{'selector':20}{'processor':>12}{'clock':>10}{'plain':>12}")
    found = []
    for name in NAMES:
        each = timed(name, rows, scores, options.budget) | {"plain": without.get(name)}
        found.append(each)
        shown = f"{without[name]:10.0f} s" if name in without else ""
        print(f"{name:20}{each['processor']:10.1f} s{each['clock']:8.1f} s{shown:>12}")
    asked = {key: getattr(options, key) for key in ("rows", "width", "budget")}
    write_report(options.json, "spread", asked | {"found": found})


if __name__ == "__main__":
    main()
