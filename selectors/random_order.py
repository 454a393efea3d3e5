"""Random: a seeded order of the eligible rows, the baseline every selection is measured against.

The order is that of a 64-bit mix of the row id and the seed, so it depends neither on where rows
are stored nor on the version of a random generator, and one pass with a bounded heap suffices.
"""

from __future__ import annotations

import numpy as np

from ..schemas.ids import unsigned_halves
from .reductions import Shuffled
from .selector import Passes, Ranking, Selector, Task


def shuffle_words(keys: np.ndarray, seed: int) -> np.ndarray:
    """The word that orders each row, (n, 2) int64 -> (n,) uint64; equal words go by id.

    The mix is the finaliser of SplitMix64 (Steele, Lea and Flood, 2014), applied to the two halves
    of the id and the seed in turn.
    """
    high, low = unsigned_halves(keys).T
    return _mix(high ^ _mix(low ^ _mix(np.full(1, seed % (1 << 64), np.uint64))))


def stream_words(words: np.ndarray, first: int, count: int) -> np.ndarray:
    """Numbers `first` to `first + count` of the SplitMix64 generators that words (n,) seed.

    Returns:
        (n, count) uint64.
    """
    steps = np.arange(first, first + count, dtype=np.uint64) * _STEP  # wraps on purpose
    return _mix(words[:, None] + steps)


def shuffled(keys: np.ndarray, seed: int) -> np.ndarray:
    """The numbers of the rows `keys`, (n, 2) int64, in the seeded random order, (n,) int64."""
    return np.lexsort((keys[:, 1], keys[:, 0], shuffle_words(keys, seed)))


_STEP = np.uint64(0x9E3779B97F4A7C15)


def _mix(words: np.ndarray) -> np.ndarray:
    words = words + _STEP  # wraps on purpose
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _passes(task: Task) -> Passes:
    (drawn,) = yield (Shuffled(task.k, task.seed),)
    return Ranking(drawn.keys[0])


SELECTOR = Selector("random", 1, ("ids",), _passes, meaning="a random sample")
