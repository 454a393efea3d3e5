"""How much of what is nearest a search by an index found, counted on a part of queries and pool."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ..selectors.keys import KeySet, keys_of
from ..selectors.needs import RowVectors

if TYPE_CHECKING:
    import lance
    import torch

QUERIES = 16
"""Recall is counted for so many queries, evenly spread..."""
ROWS_FOUND = 400
"""... on about so many of the rows that they should find..."""
BYTES = 128 << 20
"""... as far as reading those takes no more of the pool than this."""

_STRETCH = 100  # rows side by side; stretches are evenly spread over the pool
_SAME = 1e-6  # similarities of blocks of another shape differ by less


class Recall:
    """Counts for one search.

    Args:
        dataset: the pool at the version asked.
        column: of float16 vectors, `width` numbers each.
        width: of a vector.
        matrix: of all queries, (M, d) float32.
    """

    def __init__(
        self, dataset: lance.LanceDataset, column: str, width: int, matrix: torch.Tensor
    ) -> None:
        self._dataset, self._column, self._width = dataset, column, width
        numbers = np.linspace(0, len(matrix) - 1, min(len(matrix), QUERIES))
        self._queries = matrix[np.unique(numbers.round().astype(int))]
        self._sample: tuple[int, np.ndarray, np.ndarray] | None = None

    @property
    def queries(self) -> int:
        """For how many queries it is counted."""
        return len(self._queries)

    def sampled(self, k: int) -> int:
        """On how many rows it is counted where each query wants k."""
        rows = self._dataset.count_rows()
        wanted = math.ceil(ROWS_FOUND * rows / (self.queries * k))
        return min(rows, max(wanted, _STRETCH), max(BYTES // (2 * self._width), _STRETCH))

    def of(self, found: RowVectors, k: int, eligible: KeySet | None, rows: int) -> float:
        """Of the rows at least as similar as the last of the k found, the share that was found.

        That is recall at k or more, by the square of what was missed at most.

        Args:
            found: what the search named for any of the queries, with vectors.
            k: how many of them each query keeps.
            eligible: rows that may be chosen; None for all.
            rows: how many there are of those that have the feature.
        """
        if len(found) < k:
            return len(found) / k
        keys, similarity = self._rows(self.sampled(k))
        if eligible is not None:
            allowed = eligible.contains(keys)
            keys, similarity = keys[allowed], similarity[:, allowed]
        last = -np.partition(-self._similarity(found.vectors), k - 1, axis=1)[:, k - 1]
        unseen = ~KeySet(found.keys).contains(keys)
        missed = int((similarity[:, unseen] > last[:, None] + _SAME).sum())
        expected = self.queries * k * len(keys) / rows
        return expected / (expected + missed) if missed else 1.0

    def _rows(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the sample that have a vector: keys (n, 2), similarities (queries, n)."""
        if self._sample is None or self._sample[0] != count:
            rows = self._dataset.count_rows()
            places = np.arange(rows)
            if count < rows:
                starts = np.linspace(0, rows - _STRETCH, count // _STRETCH).astype(int)
                places = np.unique(starts[:, None] + np.arange(_STRETCH))
            taken = self._dataset.take(places.tolist(), columns=["id", self._column])
            vectors = taken[self._column].combine_chunks()
            keys = keys_of(taken["id"])[np.asarray(vectors.is_valid())]
            matrix = np.array(vectors.flatten()).reshape(-1, self._width)
            self._sample = count, keys, self._similarity(matrix)
        return self._sample[1:]

    def _similarity(self, vectors: np.ndarray) -> np.ndarray:
        """Of the sampled queries to some rows, (queries, n) float32."""
        import torch

        parts = [self._queries @ block.float().T for block in torch.from_numpy(vectors).split(4096)]
        return torch.cat(parts, dim=1).numpy()
