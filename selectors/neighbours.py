"""Shared by the nearest-neighbour selectors: distances, and a ranking by the mass of rows."""

from __future__ import annotations

import numpy as np

from ..schemas.ids import IdSet, codes_of
from .reductions import Lists
from .selector import Option, Ranking

OPTIONS = {
    "alpha": Option(0.01, least=0.0, most=1.0),
    "C": Option(5.0, least=0.0),
    "Lmax": Option(5000, least=1),
    "distance": Option("cosine", ("cosine", "euclidean")),
}
"""Of both, with the defaults of the targeted-selection code."""


def distances(similarity: np.ndarray, kind: str) -> np.ndarray:
    """Float64, the same shape: 1 - cosine, or the Euclidean distance of unit vectors."""
    gap = np.maximum(1.0 - similarity.astype(np.float64), 0.0)
    return np.sqrt(2.0 * gap) if kind == "euclidean" else gap


def by_mass(nearest: Lists, mass: np.ndarray, others: Lists, k: int) -> Ranking:
    """Rows by the mass they got; when those run out, the others by their mean similarity.

    Args:
        nearest: rows of every query; where it has means, these settle ties of mass before the id.
        mass: (M, n) float64, what every query gives to each of its rows.
        others: one list of at least `k` rows (or of all) by mean similarity.
        k: how many rows.

    Returns:
        The query that pulled a row is the most similar of those that gave it mass. Rows without
        mass score 0.
    """
    assert nearest.scores is not None and others.queries is not None
    query, place = np.nonzero(mass)
    keys = nearest.keys[query, place]
    codes, distinct = codes_of(keys)
    total = np.bincount(codes, mass[query, place], distinct).astype(np.float32)
    # The first entry of every row is that of its most similar query.
    entries = np.lexsort((query, -nearest.scores[query, place], codes))
    entries = entries[np.searchsorted(codes[entries], np.arange(distinct))]
    mean = np.zeros(distinct) if nearest.means is None else nearest.means[query, place][entries]
    order = np.lexsort((np.arange(distinct), -mean, -total))[:k]
    best = entries[order]
    rest = np.flatnonzero(~IdSet(keys[entries]).contains(others.keys[0]))[: k - len(order)]
    notes = ()
    if len(rest):
        notes = (
            f"{distinct:,} rows are neighbours of an example; the rows after them are ordered by "
            "their mean similarity to the examples",
        )
    return Ranking(
        np.concatenate([keys[best], others.keys[0][rest]]),
        np.concatenate([total[order], np.zeros(len(rest), np.float32)]),
        np.concatenate([query[best], others.queries[0][rest]]),
        notes,
    )


def growth_note(selector: str, alpha: float, c: float, rows: int) -> str:
    """The note about neighbourhoods that nothing stopped before they had `rows` rows."""
    return (
        f"{selector}: with alpha={alpha:g} and C={c:g} nothing stopped the neighbourhoods before "
        f"their limit of {rows:,} rows an example; a larger alpha or a smaller C makes them smaller"
    )
