"""DEITA's filter: the best rows by a score that are not too close to a better one.

Rows are walked by a column of the pool, highest first (of equals the lower id); a row is taken if
its highest cosine to the rows taken before is below `threshold` (Liu et al. 2024, *What Makes Good
Data for Alignment?*, "repr filter"; their score is complexity times quality by two trained judges,
which any column can hold). Rows without the score are left out. Cosines count in steps of 2^-20.

The walk fetches vectors as it goes and ends with the budget, so its memory depends on the rows
taken and not on the pool.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..schemas.ids import IdSet
from ..schemas.plain_text import count_of
from .reductions import Columns, Reduction, Vectors
from .selector import Option, Passes, Ranking, Selector, Task
from .unit_vectors import STEPS, steps, unit_vectors

if TYPE_CHECKING:
    import torch

_FIRST_FETCH = 4096
_MOST_PER_FETCH = 1 << 16
_BYTES_PER_FETCH = 128 << 20
_WALKED_AT_ONCE = 512
_TAKEN_AT_ONCE = 4096
_WORK_BYTES = 64 << 20


class TakenVectors:
    """Vectors no two of which have a cosine of `threshold` or more.

    Args:
        k: most of them.
        width: numbers in a vector.
        threshold: a cosine.
    """

    def __init__(self, k: int, width: int, threshold: float) -> None:
        import torch

        self._taken = torch.empty(k, width, dtype=torch.float64)
        self._least = threshold * STEPS
        self.count = 0

    def take_apart_rows(self, vectors: np.ndarray) -> list[int]:
        """Which of the vectors (n, d) float16 were taken, ascending; they are kept."""
        chosen: list[int] = []
        for start in range(0, len(vectors), _WALKED_AT_ONCE):
            some = unit_vectors(vectors[start : start + _WALKED_AT_ONCE])
            chosen += [start + place for place in self._walk(some)]
        return chosen

    def _walk(self, vectors: torch.Tensor) -> list[int]:
        apart = self._far_from_taken(vectors)
        close = (steps(vectors[apart] @ vectors[apart].T) >= self._least).numpy()
        left = np.ones(len(apart), bool)
        chosen = []
        for place in range(len(apart)):
            if left[place] and self.count < len(self._taken):
                left &= ~close[place]
                self._taken[self.count] = vectors[apart[place]]
                self.count += 1
                chosen.append(int(apart[place]))
        return chosen

    def _far_from_taken(self, vectors: torch.Tensor) -> np.ndarray:
        left = np.arange(len(vectors))
        for start in range(0, self.count, _TAKEN_AT_ONCE):
            taken = self._taken[start : min(start + _TAKEN_AT_ONCE, self.count)]
            closest = steps(vectors[left] @ taken.T).amax(dim=1)
            left = left[(closest < self._least).numpy()]
        return left


def _passes(task: Task) -> Passes:
    name, threshold = task.options["score"], task.options["threshold"]
    (rows,) = yield (Columns((name,), numeric=True),)
    scores = rows.columns[name].astype(np.float32)
    order = np.argsort(-scores, kind="stable")  # rows come by id; NaN goes last
    order = order[: len(order) - int(np.isnan(scores).sum())]
    k = min(task.k, len(order))
    apart = TakenVectors(k, task.width, threshold)
    picks, walked, step = [order[:0]], 0, _FIRST_FETCH
    while walked < len(order) and apart.count < k:
        part = order[walked : walked + step]
        (found,) = yield (Vectors(rows.keys[part]),)
        part = part[IdSet(found.keys).contains(rows.keys[part])]  # those that have a vector
        picks.append(part[apart.take_apart_rows(found.vectors)])
        walked, step = walked + step, min(2 * step, _most_per_fetch(task.width))
    chosen = np.concatenate(picks)
    notes = _notes(task, len(rows), len(order), len(chosen))
    return Ranking(rows.keys[chosen], scores[chosen], notes=notes)


def _most_per_fetch(width: int) -> int:
    """Rows whose vectors are fetched at once, at most."""
    return max(_FIRST_FETCH, min(_MOST_PER_FETCH, _BYTES_PER_FETCH // (2 * width)))


def _notes(task: Task, rows: int, scored: int, chosen: int) -> tuple[str, ...]:
    name, threshold = task.options["score"], task.options["threshold"]
    notes = []
    if rows > scored:
        notes.append(f"left out: {count_of(rows - scored, 'eligible row')} without {name}")
    if chosen < min(task.k - task.spare, scored):
        notes.append(
            f"only {chosen:,} of {scored:,} rows with {name} were taken: every other one has no "
            f"vector, or a cosine of {threshold:g} or more to a row taken before it"
        )
    return tuple(notes)


def _own_memory(task: Task) -> int:
    return (
        task.rows * 56  # keys, scores and orders of all rows
        + (task.k + 4 * _WALKED_AT_ONCE) * 8 * task.width
        + _WORK_BYTES
    )


def _later(task: Task) -> tuple[Reduction, ...]:
    rows = min(task.rows, _most_per_fetch(task.width))
    return (Vectors(np.empty((rows, 2), np.int64)),)


SELECTOR = Selector(
    "deita_filter",
    1,
    ("vectors", "columns"),
    _passes,
    _own_memory,
    {"score": Option("ifd"), "threshold": Option(0.9, least=-1.0)},
    later=_later,
    paper="Liu et al. 2024 (DEITA)",
    meaning="rows of the highest IFD or score, none too like another",
)
