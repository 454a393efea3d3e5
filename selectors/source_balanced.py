"""Source-balanced: corpora take turns, each gives its rows in a seeded random order.

The baseline for pools of unequal corpora. Corpora take turns in the order of their names; one that
runs out is passed over, so that the counts of the others differ by at most one. The order within a
corpus is that of `random`.
"""

from __future__ import annotations

import numpy as np

from .random_order import shuffled
from .reductions import Columns
from .selector import Passes, Ranking, Selector, Task


def turns_of(groups: np.ndarray) -> np.ndarray:
    """How many rows of its group come before each row, (n,) int64 -> (n,) int64."""
    order = np.argsort(groups, kind="stable")
    sizes = np.bincount(groups)
    turns = np.empty(len(groups), np.int64)
    turns[order] = np.arange(len(groups)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return turns


def _passes(task: Task) -> Passes:
    (rows,) = yield (Columns(("corpus",)),)
    order = shuffled(rows.keys, task.seed)
    names = rows.columns["corpus"][order].tolist()
    numbers = {name: number for number, name in enumerate(sorted(set(names)))}
    corpora = np.array([numbers[name] for name in names], np.int64)
    turns = np.lexsort((corpora, turns_of(corpora)))
    return Ranking(rows.keys[order[turns[: task.k]]])


def _own_memory(task: Task) -> int:
    return task.rows * 80


SELECTOR = Selector(
    "source_balanced",
    1,
    ("columns",),
    _passes,
    _own_memory,
    meaning="a random sample with as many rows of each corpus",
)
