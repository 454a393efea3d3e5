"""Every pair of rows whose vectors have a cosine above a threshold, found block by block.

The triangle of all pairs is computed in square tiles, on a GPU where there is one. The vectors of a
panel of rows are held, as many as the memory allows; all later rows are read past it once. So a
pool that fits is read once, and a larger one once for every panel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...schemas.progress import Progress
from ...schemas.stored_vectors import vectors_of
from ..scanning.rows import read_ahead
from ..scanning.vectors import device
from .linkage import Linkage

if TYPE_CHECKING:
    import lance
    import torch

TILE_ROWS = 2048
"""Rows and columns of a tile; the most pairs that are held at once are its square."""

PANEL_SHARE = 0.5
"""Of the memory limit, for the vectors of a panel."""

_ROUNDING = 1e-6  # so that a threshold of 1 finds equal vectors


@dataclass(frozen=True)
class VectorRows:
    """The vectors of some rows of a table.

    Attributes:
        dataset: at the version to read.
        column: of unit vectors.
        offsets: of the rows, all with a vector, in the order in which they are preferred.
        width: numbers in a vector.
    """

    dataset: lance.LanceDataset
    column: str
    offsets: np.ndarray
    width: int

    def __len__(self) -> int:
        return len(self.offsets)

    def tiles(self, start: int, stop: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the rows from `start` to `stop` as (number of the first, (n, width) float16)."""
        for first in range(start, stop, TILE_ROWS):
            offsets = self.offsets[first : min(first + TILE_ROWS, stop)]
            order = np.argsort(offsets)
            column = self.dataset.take(offsets[order].tolist(), columns=[self.column])[self.column]
            vectors = np.empty((len(offsets), self.width), np.float16)
            vectors[order] = vectors_of(column)
            yield first, vectors


def panel_rows(width: int, memory_limit: int) -> int:
    """How many rows a panel has: whole tiles, at least one."""
    return max(1, int(memory_limit * PANEL_SHARE) // (2 * width * TILE_ROWS)) * TILE_ROWS


def cluster_vectors(
    rows: VectorRows, threshold: float, linkage: Linkage, memory_limit: int, progress: Progress
) -> np.ndarray:
    """The kept row of each row, (n,) int64, where a cosine of at least `threshold` is close.

    Args:
        rows: that are compared; a vector's length does not matter.
        threshold: cosine.
        linkage: of as many rows; takes in the close pairs.
        memory_limit: bytes that may be planned for.
        progress: is told how many pairs are compared.
    """
    count = len(rows)
    tally = _Tally(count, progress)
    step = panel_rows(rows.width, memory_limit)
    for start in range(0, count, step):
        stop = min(start + step, count)
        panel = list(rows.tiles(start, stop))
        for place, (first, vectors) in enumerate(panel):
            left = _units(vectors)
            for other, others in panel[place:]:
                right = left if other == first else _units(others)
                _join(first, left, other, right, threshold, linkage)
                tally.saw(len(vectors), len(others), other == first)
        for other, others in read_ahead(rows.tiles(stop, count)):
            right = _units(others)
            for first, vectors in panel:
                _join(first, _units(vectors), other, right, threshold, linkage)
                tally.saw(len(vectors), len(others), False)
    return linkage.kept()


def _units(vectors: np.ndarray) -> torch.Tensor:
    """Vectors of length 1: what is stored as float16 is off by up to a thousandth."""
    import torch

    wide = torch.from_numpy(vectors).to(device()).float()
    return wide / torch.linalg.vector_norm(wide, dim=1, keepdim=True).clamp_min(1e-12)


def _join(
    first: int,
    left: torch.Tensor,
    other: int,
    right: torch.Tensor,
    threshold: float,
    linkage: Linkage,
) -> None:
    """Join the close pairs of a tile; `first` and `other` number its first row and column."""
    close = (left @ right.T >= threshold - _ROUNDING).nonzero().cpu().numpy()
    rows, columns = close[:, 0] + first, close[:, 1] + other
    if first == other:
        above = rows < columns
        rows, columns = rows[above], columns[above]
    matters = linkage.matters(rows, columns)
    linkage.join(rows[matters], columns[matters])


class _Tally:
    """Counts compared pairs for the progress."""

    def __init__(self, rows: int, progress: Progress) -> None:
        self._total, self._done = rows * (rows + 1) // 2, 0
        self._progress = progress

    def saw(self, rows: int, columns: int, on_diagonal: bool) -> None:
        self._done += rows * (rows + 1) // 2 if on_diagonal else rows * columns
        said = f"{self._done:,} of {self._total:,} pairs"
        self._progress.learn(name="vectors", share=self._done / self._total, said=said)
