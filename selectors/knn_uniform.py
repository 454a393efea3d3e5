"""KNN-uniform: every query spreads its mass evenly over its K nearest rows.

Algorithm 1 of TSDS (Liu et al. 2024): K is the smallest number with (alpha / C) sum over queries
and their K nearest rows of (d_{K+1} - d_j) >= (1 - alpha) M, at most `Lmax` and at most the
eligible rows. A row's mass is p = (queries that have it among their K nearest) / (K M).

Ours: rows of equal p are ordered by mean similarity, then by id (with few queries hundreds of rows
tie, and the order of the pool would decide); rows with p = 0 follow by mean similarity. K does not
depend on the budget, so prefixes nest.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .neighbours import OPTIONS, by_mass, distances, draws_memory, growth_note
from .reductions import TopPerQuery, TopRows
from .selector import Passes, Ranking, Selector, Task


def neighbourhood(distance: np.ndarray, alpha: float, c: float) -> tuple[int, bool]:
    """K, and whether the condition stopped its growth.

    Args:
        distance: (M, n) float64, ascending, to the n nearest rows of every query.
        alpha, c: of the condition; K = n where it is met nowhere below.
    """
    queries, rows = distance.shape
    counts = np.arange(1, rows)
    gaps = (counts * distance[:, 1:] - np.cumsum(distance, axis=1)[:, :-1]).sum(axis=0)
    met = np.flatnonzero(alpha * gaps >= c * (1 - alpha) * queries)
    return (int(met[0]) + 1, True) if met.size else (rows, False)


def _passes(task: Task) -> Passes:
    alpha, c = task.options["alpha"], task.options["C"]
    count = min(task.options["Lmax"], task.rows)
    nearest, others = yield TopPerQuery(count, means=True), TopRows(task.k, "mean")
    distance = distances(nearest.scores, task.options["distance"])
    near, stopped = neighbourhood(distance, alpha, c)
    mass = np.zeros(distance.shape)
    mass[:, :near] = 1 / max(near * task.queries, 1)
    ranking: Ranking = by_mass(nearest, mass, others, task)
    if stopped:
        return ranking
    note = growth_note("knn_uniform", alpha, c, near)
    return replace(ranking, notes=(note, *ranking.notes))


def _own_memory(task: Task) -> int:
    # Distances, masses, codes and their orders, all of 8 bytes.
    return task.queries * min(task.options["Lmax"], task.rows) * 160 + draws_memory(task)


SELECTOR = Selector(
    "knn_uniform",
    1,
    ("query_similarity", "vectors"),
    _passes,
    _own_memory,
    OPTIONS,
    paper="Liu et al. 2024 (TSDS)",
    meaning="rows among the nearest of many examples",
)
