"""Shared by the nearest-neighbour selectors: distances, and a ranking by the mass of rows.

TSDS draws as many rows as are wanted by their mass, with replacement (`draw=with`), and DataFlex
without (`draw=without`); the code of targeted selection takes those of most mass (`draw=none`).
"""

from __future__ import annotations

import numpy as np

from ..schemas.ids import IdSet, codes_of
from ..schemas.plain_text import count_of
from .draws import times_drawn, waits
from .reductions import Lists
from .selector import Option, Ranking, Task

OPTIONS = {
    "alpha": Option(0.01, least=0.0, most=1.0),
    "C": Option(5.0, least=0.0),
    "Lmax": Option(5000, least=1),
    "distance": Option("cosine", ("cosine", "euclidean")),
    "draw": Option("none", ("none", "with", "without")),
    "draws": Option(1000, least=1),
}
"""Of both, with the defaults of the targeted-selection code."""


def distances(similarity: np.ndarray, kind: str) -> np.ndarray:
    """Float64, the same shape: 1 - cosine, or the Euclidean distance of unit vectors."""
    gap = np.maximum(1.0 - similarity.astype(np.float64), 0.0)
    return np.sqrt(2.0 * gap) if kind == "euclidean" else gap


def by_mass(nearest: Lists, mass: np.ndarray, others: Lists, task: Task) -> Ranking:
    """Rows by the mass they got; when those run out, the others by their mean similarity.

    With `draw=without` rows come in the order in which they are drawn, and score their mass over
    the wait for it; with `draw=with` they score how often `draws` draws took them.

    Args:
        nearest: rows of every query; where it has means, these settle ties of mass before the id.
        mass: (M, n) float64, what every query gives to each of its rows.
        others: one list of at least as many rows as are wanted (or of all) by mean similarity.
        task: with the options of this module.

    Returns:
        The query that pulled a row is the most similar of those that gave it mass. Rows without
        mass score 0.
    """
    k = task.k
    assert nearest.scores is not None and others.queries is not None
    query, place = np.nonzero(mass)
    keys = nearest.keys[query, place]
    codes, distinct = codes_of(keys)
    total = np.bincount(codes, mass[query, place], distinct)
    # The first entry of every row is that of its most similar query.
    entries = np.lexsort((query, -nearest.scores[query, place], codes))
    entries = entries[np.searchsorted(codes[entries], np.arange(distinct))]
    scores, ties = total, np.zeros(distinct)
    if nearest.means is not None:
        ties = nearest.means[query, place][entries]
    notes: list[str] = []
    if task.options["draw"] != "none":
        scores = total / waits(keys[entries], task.seed)
    if task.options["draw"] == "with":
        draws, ties = task.options["draws"], scores
        scores = times_drawn(keys[entries], total, draws, task.seed)
        notes.append(_draws_note(scores, draws))
    scores = scores.astype(np.float32)
    order = np.lexsort((np.arange(distinct), -ties, -scores))[:k]
    best = entries[order]
    rest = np.flatnonzero(~IdSet(keys[entries]).contains(others.keys[0]))[: k - len(order)]
    if len(rest):
        notes.append(
            f"{count_of(distinct, 'row is a nearest neighbour', 'rows are nearest neighbours')} "
            "of the examples; the rows after them are ordered by their mean similarity to the "
            "examples"
        )
    return Ranking(
        np.concatenate([keys[best], others.keys[0][rest]]),
        np.concatenate([scores[order], np.zeros(len(rest), np.float32)]),
        np.concatenate([query[best], others.queries[0][rest]]),
        tuple(notes),
    )


def draws_memory(task: Task) -> int:
    """Most bytes that the draws of a task hold: up to twice as many rings, rows and their order."""
    return 128 * task.options["draws"] if task.options["draw"] == "with" else 0


def _draws_note(times: np.ndarray, draws: int) -> str:
    """The note about repeated rows, which a coreset holds once each."""
    drawn = count_of(int(np.count_nonzero(times)), "row")
    most = f", one of them {count_of(int(times.max()), 'time')}" if times.size else ""
    return (
        f"{count_of(draws, 'draw')} with replacement took {drawn}{most}; a coreset holds each "
        "once, and its score says how often it was drawn. Rows that only further draws reach score "
        "0"
    )


def growth_note(selector: str, alpha: float, c: float, rows: int) -> str:
    """The note about neighbourhoods that nothing stopped before they had `rows` rows."""
    return (
        f"{selector}: with alpha={alpha:g} and C={c:g} nothing stopped the neighbourhoods before "
        f"their limit of {rows:,} rows an example; a larger alpha or a smaller C makes them smaller"
    )
