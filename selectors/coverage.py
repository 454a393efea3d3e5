"""Coverage: rows whose sets of neurons together cover the most.

F(S) = sum over units n of w_n g(rows of S that hold n); g is concave, so F is submodular and the
greedy order, which takes the row of the largest gain every time, is within 1 - 1/e of the best.
No target is needed. The score of a row is its gain when it was taken.

The greedy order is exact and lazy (`lazy_greedy.py`; CELF is the same with a heap).

Gains are summed as whole multiples of 2^-40, so that neither the order of summation nor the width
of a front can change one, and rounded to 2^-30: rows that cover equally well tie (the lower id goes
first), though the parts of their gains may differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .lazy_greedy import lazy_greedy
from .reductions import RowSets, Sets
from .selector import Option, Passes, Ranking, Selector, Task

WORTH = float(1 << 40)
"""What a unit is worth is counted in this part of one..."""
_ROUNDED = 10
SCALE = float(1 << 30)
"""... and gains in this one."""

_UNITS_AT_ONCE = 1 << 20
_TABLE_BYTES = 256 << 20  # counts, weights and worths of 8 million units, and one evaluation


def gain_tables(g: str, cap: int) -> Callable[[np.ndarray], np.ndarray]:
    """g(c + 1) - g(c) for counts c, float64; written so that they fall in floating point too."""
    match g:
        case "sqrt":
            return lambda count: 1.0 / (np.sqrt(count + 1.0) + np.sqrt(count))
        case "log1p":
            return lambda count: np.log1p(1.0 / (count + 1.0))
        case "capped":
            return lambda count: (count < cap).astype(np.float64)
        case _:
            return lambda count: (count < 1).astype(np.float64)


class Cover:
    """The rows, what each would still add to the coverage, and the counts of what was taken.

    Args:
        sets: rows, of which the first wins a tie.
        weights: (units,) float64, of every unit.
        rise: g(c + 1) - g(c) of counts c.
    """

    def __init__(
        self, sets: RowSets, weights: np.ndarray, rise: Callable[[np.ndarray], np.ndarray]
    ) -> None:
        self._starts, self._units = sets.starts, sets.units
        self._weights, self._rise = weights, rise
        self._counts = np.zeros(len(weights), np.int64)
        self._worth = self._of(np.arange(len(weights)))  # what one more row adds to each unit
        most = max(_UNITS_AT_ONCE, int(np.diff(sets.starts).max(initial=0)))
        # Reused: fresh memory costs more than the sums do.
        self._listed, self._added = np.empty(most, sets.units.dtype), np.empty(most, np.int64)

    def _of(self, units: np.ndarray) -> np.ndarray:
        worth = self._weights[units] * self._rise(self._counts[units])
        return np.rint(worth * WORTH).astype(np.int64)

    def take(self, row: int) -> None:
        """Choose a row: its units are worth less from now on."""
        units = self._units[self._starts[row] : self._starts[row + 1]]
        self._counts[units] += 1
        self._worth[units] = self._of(units)

    def gains(self, rows: np.ndarray) -> np.ndarray:
        """What each of the rows adds now, (n,) int64 in parts of `SCALE`."""
        gains = np.empty(len(rows), np.int64)
        sizes = self._starts[rows + 1] - self._starts[rows]
        ends = np.cumsum(sizes)
        start = 0
        while start < len(rows):
            before = int(ends[start - 1]) if start else 0
            stop = int(np.searchsorted(ends, before + _UNITS_AT_ONCE, "right"))
            stop = max(stop, start + 1)
            gains[start:stop] = self._sums(rows[start:stop], sizes[start:stop])
            start = stop
        return gains

    def _sums(self, rows: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        gains = np.zeros(len(rows), np.int64)
        holding = rows[sizes > 0]
        if len(holding):
            first, last = self._starts[holding].tolist(), self._starts[holding + 1].tolist()
            # Slices side by side: much cheaper than gathering unit by unit.
            slices = [self._units[a:b] for a, b in zip(first, last, strict=True)]
            ends = np.cumsum(sizes[sizes > 0])
            units, added = self._listed[: ends[-1]], self._added[: ends[-1]]
            np.concatenate(slices, out=units)
            # Units are in bounds; "clip" spares the copy that "raise" makes for its check.
            np.take(self._worth, units, out=added, mode="clip")
            gains[sizes > 0] = np.add.reduceat(added, ends - sizes[sizes > 0])
        return (gains + (1 << (_ROUNDED - 1))) >> _ROUNDED


def weights_of(sets: RowSets, option: str, counting: np.ndarray | None) -> np.ndarray:
    """The weight of every unit, float64.

    Args:
        option: "one"; "idf", log(rows / rows that hold the unit), so that what all rows share
            counts nothing; "target", one for the units in `counting` and zero for all others.
        counting: units of the target's examples.
    """
    units = int(sets.units.max(initial=0)) + 1
    match option:
        case "idf":
            holding = np.bincount(sets.units, minlength=units)
            return np.log(max(len(sets), 1) / np.maximum(holding, 1))
        case "target":
            assert counting is not None, "a task with weights=target has units"
            weights = np.zeros(units)
            weights[counting[counting < units]] = 1.0
            return weights
        case _:
            return np.ones(units)


def _passes(task: Task) -> Passes:
    (found,) = yield (Sets(),)
    sets = found.sorted()
    options: Mapping[str, Any] = task.options
    weights = weights_of(sets, options["weights"], task.units)
    cover = Cover(sets, weights, gain_tables(options["g"], options["cap"]))
    first = cover.gains(np.arange(len(sets)))
    k = min(task.k, len(sets))
    picks, gains = lazy_greedy(first, k, cover.gains, cover.take)
    return Ranking(sets.keys[picks], (gains / SCALE).astype(np.float32))


def _own_memory(task: Task) -> int:
    return task.rows * 64 + _TABLE_BYTES  # the bounds of the rows, and tables of the units


SELECTOR = Selector(
    "coverage",
    1,
    ("neuron_sets",),
    _passes,
    _own_memory,
    {
        "g": Option("sqrt", ("sqrt", "log1p", "capped", "binary")),
        "cap": Option(10, least=1),
        "weights": Option("one", ("one", "idf", "target")),
    },
    meaning="rows that together cover the most {sees}",
)
