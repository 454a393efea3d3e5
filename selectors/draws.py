"""Seeded draws of rows in proportion to weights, with and without replacement.

Every row has a clock of its own (a Poisson process whose rate is the row's weight): each ring is a
draw of that row, and the rings of all rows in the order of time are draws with replacement. Taken
at its first ring alone, each row is drawn once, as without replacement. Clocks are computed from
the word that orders rows in `random`: the same for a row wherever it is stored, and the first k
rows that are drawn are among the first k + 1.
"""

from __future__ import annotations

import numpy as np

from .random_order import shuffle_words, stream_words


def waits(keys: np.ndarray, seed: int) -> np.ndarray:
    """The time until the first ring of a clock of rate 1, of each row, (n, 2) -> (n,) float64.

    Rows by weight / wait, the largest first, are drawn without replacement.
    """
    return _exponential(shuffle_words(keys, seed))


def gumbel(keys: np.ndarray, seed: int) -> np.ndarray:
    """A standard Gumbel variable for each row, (n,) float64: minus the logarithm of its wait."""
    return -np.log(waits(keys, seed))


def times_drawn(keys: np.ndarray, weights: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """How often each row is among the first draws with replacement, (n,) int64.

    Args:
        keys: (n, 2) int64, of distinct rows.
        weights: (n,) float64 above 0, in any unit.
        draws: how many; the counts add up to it, where there is a row.
        seed: of the clocks; the rows that are drawn are the first that `waits` has.
    """
    counts = np.zeros(len(keys), np.int64)
    if not len(keys) or not draws:
        return counts
    ringing = np.arange(len(keys))
    latest = waits(keys, seed) / weights
    rows, times, rings = [ringing], [latest], 1
    while True:
        known = np.concatenate(times)
        last = np.partition(known, draws - 1)[draws - 1] if len(known) >= draws else np.inf
        ringing, latest = ringing[latest <= last], latest[latest <= last]
        if not len(ringing):
            break
        # As many rings as there were before, so that few rounds do where a row has most draws.
        words = shuffle_words(keys[ringing], seed)
        gaps = _exponential(stream_words(words, rings - 1, rings)) / weights[ringing, None]
        later = latest[:, None] + np.cumsum(gaps, axis=1)
        rows.append(np.repeat(ringing, rings))
        times.append(later.ravel())
        latest, rings = later[:, -1], 2 * rings
    drawn = np.concatenate(rows)[np.lexsort((np.concatenate(rows), known))[:draws]]
    return counts + np.bincount(drawn, minlength=len(keys))


def _exponential(words: np.ndarray) -> np.ndarray:
    """Exponential variables of mean 1, float64, from 64 random bits each."""
    return -np.log(1.0 - ((words >> np.uint64(11)) + 0.5) / (1 << 53))
