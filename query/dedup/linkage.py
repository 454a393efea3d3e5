"""From close pairs of rows to clusters: chains, or stars around the rows that are kept.

Rows are numbered in the order in which they are preferred, so that the kept row of a cluster is its
first. Pairs need not be held: they are joined as they are found, and memory is a number a row.
"""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np

LinkageName = Literal["single", "star"]


class Linkage(Protocol):
    """Clusters that grow by close pairs.

    When a pair (left, right), left < right, is joined, all pairs that end in `left` have been.
    """

    def leads(self, row: int) -> bool:
        """Whether pairs that begin with the row can change the clusters at all."""
        ...

    def matters(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Which pairs could change the clusters, (n,) bool; the others need not be compared."""
        ...

    def join(self, left: np.ndarray, right: np.ndarray) -> None:
        """Take in close pairs, (n,) int64 each, with left < right."""
        ...

    def kept(self) -> np.ndarray:
        """The kept row of each row's cluster, (rows,) int64; a row's own number where it is."""
        ...


class Chains:
    """Single linkage: a cluster is all rows that chains of close pairs connect.

    The first and the last of a chain may have little in common.
    """

    def __init__(self, rows: int) -> None:
        self._parents = np.arange(rows)

    def leads(self, row: int) -> bool:
        return True

    def matters(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return self._roots(left) != self._roots(right)

    def join(self, left: np.ndarray, right: np.ndarray) -> None:
        # Every root with a lower one beside it is hung below it, until each pair has one root.
        while True:
            roots, others = self._roots(left), self._roots(right)
            apart = roots != others
            if not apart.any():
                return
            left, right = roots[apart], others[apart]
            np.minimum.at(self._parents, np.maximum(left, right), np.minimum(left, right))

    def kept(self) -> np.ndarray:
        return self._roots(np.arange(len(self._parents)))

    def _roots(self, rows: np.ndarray) -> np.ndarray:
        roots = self._parents[rows]
        while True:
            above = self._parents[roots]
            if (above == roots).all():
                break
            roots = above
        self._parents[rows] = roots
        return roots


class Stars:
    """A row belongs to the first kept row that is close to it; a row close to none is kept.

    So every row that is not kept is close to the one that stands for it, and no two kept rows are
    close to each other.
    """

    def __init__(self, rows: int) -> None:
        self._centres = np.arange(rows)

    def leads(self, row: int) -> bool:
        return self._centres[row] == row

    def matters(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return self._is_kept(left) & self._is_kept(right)

    def join(self, left: np.ndarray, right: np.ndarray) -> None:
        order = np.argsort(left, kind="stable")
        left, right = left[order], right[order]
        centres, starts = np.unique(left, return_index=True)
        for centre, close in zip(centres.tolist(), np.split(right, starts)[1:], strict=True):
            if self._centres[centre] == centre:
                free = close[self._is_kept(close)]
                self._centres[free] = centre

    def kept(self) -> np.ndarray:
        return self._centres

    def _is_kept(self, rows: np.ndarray) -> np.ndarray:
        return self._centres[rows] == rows


LINKAGES = {"single": Chains, "star": Stars}
