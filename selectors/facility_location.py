"""Facility location: rows that together lie close to all others.

F(S) = sum over represented rows r of the highest cosine between r and a row of S, where an empty S
counts -1 each; nothing is clipped. F is submodular, so the greedy order, which takes the row of the
largest gain every time, gains within 1 - 1/e of the most there is to gain. It is exact and lazy.
Represented are all eligible rows or, where they are more than `represent`, a seeded sample of that
many.

The score of a row is its gain when it was taken. Cosines count in steps of 2^-20 and gains are
rounded to float32, so that the order of summation cannot change one and equal rows tie.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .lazy_greedy import lazy_greedy
from .random_order import shuffled
from .reductions import RowVectors, Vectors
from .selector import Option, Passes, Ranking, Selector, Task
from .unit_vectors import STEPS, blocks, steps, unit_vectors

if TYPE_CHECKING:
    import torch

_ROWS_AT_ONCE = 256
_REPRESENTED_AT_ONCE = 2048
_WORK_BYTES = 64 << 20


class Facilities:
    """Rows, what they are to represent, and how close the taken ones come.

    Args:
        rows: that may be taken.
        represented: numbers of those that are represented, (R,) int64.
    """

    def __init__(self, rows: RowVectors, represented: np.ndarray) -> None:
        import torch

        self._vectors = rows.vectors
        count, width = len(represented), rows.vectors.shape[1]
        self._represented = torch.empty(count, width, dtype=torch.float64)
        for part in blocks(count, width):
            self._represented[part] = unit_vectors(rows.vectors[represented[part]])
        self._closest = torch.full((count,), -STEPS, dtype=torch.float64)

    def bounds(self) -> np.ndarray:
        """At least the gain of each row while none is taken, (n,) int64: linear, so in one go."""
        count, width = self._represented.shape
        total = self._represented.sum(dim=0)
        most = np.empty(len(self._vectors), np.int64)
        for part in blocks(len(self._vectors), width):
            cosines = unit_vectors(self._vectors[part]) @ total
            # Each cosine may be rounded up by half a step.
            most[part] = _whole(cosines.mul_(STEPS).ceil_().add_(count * (STEPS + 0.5) + 1))
        return most

    def gains(self, rows: np.ndarray) -> np.ndarray:
        """What each of the rows would add now, (m,) int64 in `STEPS`, as float32 holds it."""
        import torch

        total = torch.zeros(len(rows), dtype=torch.float64)
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            some = slice(start, start + _ROWS_AT_ONCE)
            vectors = unit_vectors(self._vectors[rows[some]])
            for first in range(0, len(self._represented), _REPRESENTED_AT_ONCE):
                part = slice(first, first + _REPRESENTED_AT_ONCE)
                closer = steps(vectors @ self._represented[part].T).sub_(self._closest[part])
                total[some] += closer.clamp_(min=0).sum(dim=1)
        return _whole(total)

    def take(self, row: int) -> None:
        """Choose a row: what it represents well gains less from now on."""
        cosines = steps(self._represented @ unit_vectors(self._vectors[row : row + 1])[0])
        self._closest = self._closest.maximum(cosines)


def _whole(gains: torch.Tensor) -> np.ndarray:
    return gains.float().long().numpy()


def _passes(task: Task) -> Passes:
    (rows,) = yield (Vectors(),)
    represented = np.arange(len(rows))
    notes = ()
    if (most := task.options["represent"]) < len(rows):
        represented = np.sort(shuffled(rows.keys, task.seed)[:most])
        notes = (
            f"facility_location represents a sample of {most:,} of the {len(rows):,} rows (seed "
            f"{task.seed}); facility_location(represent={len(rows)}) represents all of them",
        )
    facilities = Facilities(rows, represented)
    k = min(task.k, len(rows))
    picks, gains = lazy_greedy(facilities.bounds(), k, facilities.gains, facilities.take)
    return Ranking(rows.keys[picks], (gains / STEPS).astype(np.float32), notes=notes)


def _own_memory(task: Task) -> int:
    represented = min(task.rows, task.options["represent"])
    return task.rows * 64 + represented * (8 * task.width + 32) + _WORK_BYTES


SELECTOR = Selector(
    "facility_location",
    1,
    ("vectors",),
    _passes,
    _own_memory,
    {"represent": Option(20_000, least=1)},
    paper="Nemhauser et al. 1978",
    meaning="typical rows, which lie close to many others",
)
