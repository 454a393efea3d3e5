"""K-center: every next row is the one farthest from those taken.

Greedy farthest point, which is within twice the best possible radius, as an angle (Gonzalez 1985):
the distance of a row is 1 - its highest cosine to a row taken before. The first is the row nearest
to the mean of all. The score of a row is its distance when it was taken, so that of the last one is
the radius within which every other row lies; the first has 3, above every distance (2 at most).

Exact and lazy: a row is compared with the newest centres only when its distance to the older ones
would still make it the farthest. Distances count in steps of 2^-20; of equals the lower id goes
first.
"""

from __future__ import annotations

import numpy as np

from .lazy_greedy import lazy_greedy
from .reductions import RowVectors, Vectors
from .selector import Passes, Ranking, Selector, Task
from .unit_vectors import STEPS, blocks, mean_direction, steps, unit_vectors

_WORK_BYTES = 128 << 20
_CENTRES_AT_ONCE = 2048


class Centres:
    """Rows, the centres taken so far, and how far each row was when it was last evaluated."""

    def __init__(self, rows: RowVectors, k: int) -> None:
        import torch

        self._vectors = rows.vectors
        self._centres = torch.empty(k, rows.vectors.shape[1], dtype=torch.float64)
        self._count = 0
        self._known = np.zeros(len(rows), np.int64)  # centres a row was compared with
        self._closest = torch.full((len(rows),), -STEPS, dtype=torch.float64)

    def take(self, row: int) -> None:
        """Make a row a centre."""
        self._centres[self._count] = unit_vectors(self._vectors[row : row + 1])[0]
        self._count += 1

    def distances(self, rows: np.ndarray) -> np.ndarray:
        """How far the rows are from the nearest centre, (m,) int64 in `STEPS`."""
        import torch

        vectors = unit_vectors(self._vectors[rows])
        at = torch.from_numpy(rows)
        closest = self._closest[at]
        for start in range(int(self._known[rows].min()), self._count, _CENTRES_AT_ONCE):
            centres = self._centres[start : min(start + _CENTRES_AT_ONCE, self._count)]
            closest = closest.maximum(steps(vectors @ centres.T).amax(dim=1))
        self._closest[at], self._known[rows] = closest, self._count
        return (STEPS - closest).clamp_(min=0).long().numpy()


def nearest_to_mean(rows: RowVectors) -> int:
    """The number of the row with the highest cosine to the mean of all, the first of equals."""
    mean = mean_direction(rows.vectors)
    cosines = np.empty(len(rows))
    for part in blocks(len(rows), rows.vectors.shape[1]):
        cosines[part] = steps(unit_vectors(rows.vectors[part]) @ mean[0]).numpy()
    return int(cosines.argmax())


def _passes(task: Task) -> Passes:
    (rows,) = yield (Vectors(),)
    k = min(task.k, len(rows))
    if not k:
        return Ranking(rows.keys, np.empty(0, np.float32))
    farthest = np.full(len(rows), int(2 * STEPS))
    centres, first = Centres(rows, k), nearest_to_mean(rows)
    centres.take(first)
    farthest[first] = -1
    picks, distances = lazy_greedy(farthest, k - 1, centres.distances, centres.take)
    scores = np.concatenate([[3.0], distances / STEPS]).astype(np.float32)
    return Ranking(rows.keys[np.concatenate([[first], picks])], scores)


def _own_memory(task: Task) -> int:
    return task.rows * 64 + task.k * 8 * task.width + _WORK_BYTES


SELECTOR = Selector(
    "k_center",
    1,
    ("vectors",),
    _passes,
    _own_memory,
    paper="Gonzalez 1985",
    meaning="rows as unlike one another as can be",
)
