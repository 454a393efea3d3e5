"""Source-balanced: corpora take turns, each gives its rows in a seeded random order (METHODS 3.2).

The baseline for pools of unequal corpora. Corpora take turns in the order of their names; one that
runs out is passed over, so that the counts of the others differ by at most one. The order within a
corpus is that of `random`.
"""

from __future__ import annotations

import numpy as np

from .needs import Columns
from .random_order import shuffled
from .task import Passes, Ranking, Selector, Task
from .turns import turns_of


def _passes(task: Task) -> Passes:
    (rows,) = yield (Columns(("corpus",)),)
    order = shuffled(rows.keys, task.seed)
    names = rows.columns["corpus"][order].tolist()
    numbers = {name: number for number, name in enumerate(sorted(set(names)))}
    corpora = np.array([numbers[name] for name in names], np.int64)
    turns = np.lexsort((corpora, turns_of(corpora)))
    return Ranking(rows.keys[order[turns[: task.k]]])


def _memory(task: Task) -> int:
    return Columns(("corpus",)).bytes(task.rows) + task.rows * 80


SELECTOR = Selector("source_balanced", 1, ("columns",), _passes, _memory)
