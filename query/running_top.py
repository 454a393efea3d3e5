"""The best k of a stream, for many lists at once: concatenate, take the top k, go on.

SUBSTRATE 3: this beats comparing with a threshold first. Ties at the edge are settled exactly (the
lower id stays), so the result does not depend on how the stream was cut.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..selectors.needs import Lists, pending_rows

if TYPE_CHECKING:
    import torch


class RunningTop:
    """The `k` best rows of each of `lists` lists: score descending, then id ascending.

    Every list sees the same rows with scores of its own. Each row carries its key and, if asked,
    one more number (the query it belongs to, its mean).
    """

    def __init__(self, lists: int, k: int) -> None:
        self.lists, self.k = lists, k
        self._pending_rows = pending_rows(lists, k)
        self._kept: torch.Tensor | None = None  # (lists, <= k) scores
        self._carried: list[torch.Tensor] = []  # (lists, <= k) each: high, low[, extra]
        self._scores: list[torch.Tensor] = []  # (lists, n) of every pending block
        self._rows: list[tuple[torch.Tensor, ...]] = []  # (n,) each: high, low[, extra]
        self._waiting = 0

    def held_elements(self) -> int:
        """Numbers held at this moment, kept and pending."""
        kept = 0 if self._kept is None else self._kept.numel() * (1 + len(self._carried))
        pending = sum(block.numel() for block in self._scores)
        return kept + pending + sum(part.numel() for rows in self._rows for part in rows)

    def add(self, scores: torch.Tensor, keys: np.ndarray, extra: torch.Tensor | None = None):
        """Take in a block: scores (lists, n) float32, keys (n, 2) int64, extra (n,)."""
        import torch

        if not self.k:
            return
        words = torch.from_numpy(keys)
        self._scores.append(scores)
        self._rows.append((words[:, 0], words[:, 1]) + (() if extra is None else (extra,)))
        self._waiting += scores.shape[1]
        if self._waiting >= self._pending_rows:
            self._merge()

    def _merge(self) -> None:
        import torch

        fresh = [torch.cat(parts) for parts in zip(*self._rows, strict=True)]
        parts = self._scores if self._kept is None else [self._kept, *self._scores]
        scores = torch.cat(parts, dim=1)
        old = 0 if self._kept is None else self._kept.shape[1]
        self._scores, self._rows, self._waiting = [], [], 0
        if scores.shape[1] <= self.k:
            index = torch.arange(scores.shape[1]).expand(self.lists, -1)
            best = scores
        else:
            # One more than is kept: it shows where a tie crosses the edge.
            values, index = scores.topk(self.k + 1, dim=1)
            tied = (values[:, self.k - 1] == values[:, self.k]).nonzero()[:, 0].tolist()
            best, index = values[:, : self.k].clone(), index[:, : self.k].clone()
            for row in tied:
                index[row] = self._lowest_of_tied(scores[row], best[row, -1], row, fresh, old)
                best[row] = scores[row, index[row]]
        self._carried = [
            self._gather(self._carried[i] if old else None, fresh[i], index, old)
            for i in range(len(fresh))
        ]
        self._kept = best

    def _lowest_of_tied(
        self,
        scores: torch.Tensor,
        edge: torch.Tensor,
        row: int,
        fresh: list[torch.Tensor],
        old: int,
    ) -> torch.Tensor:
        """Where k rows of one list stand: all above the edge, then the lowest ids upon it, (k,)."""
        import torch

        above = (scores > edge).nonzero()[:, 0]
        equal = (scores == edge).nonzero()[:, 0]
        high, low = (
            self._gather(
                self._carried[i][row : row + 1] if old else None, fresh[i], equal[None], old
            )[0].numpy()
            for i in (0, 1)
        )
        lowest = np.lexsort((low, high))[: self.k - len(above)]
        return torch.cat([above, equal[torch.from_numpy(lowest)]])

    @staticmethod
    def _gather(
        kept: torch.Tensor | None, fresh: torch.Tensor, index: torch.Tensor, old: int
    ) -> torch.Tensor:
        """`cat([kept, fresh for every list])` at index, without ever building it."""
        taken = fresh[(index - old).clamp_(min=0)]
        if kept is None:
            return taken
        return kept.gather(1, index.clamp(max=old - 1)).where(index < old, taken)

    def lists_found(self) -> Lists:
        """What was found, sorted; all lists have the same length."""
        if self._scores:
            self._merge()
        if self._kept is None:
            return Lists(
                np.empty((self.lists, 0, 2), np.int64),
                np.empty((self.lists, 0), np.float32),
                np.empty((self.lists, 0), np.int64),
            )
        scores = self._kept.numpy()
        high, low, *extra = (carried.numpy() for carried in self._carried)
        order = np.lexsort((low, high, -scores), axis=1)
        keys = np.stack([np.take_along_axis(part, order, 1) for part in (high, low)], axis=2)
        return Lists(
            keys,
            np.take_along_axis(scores, order, 1),
            np.take_along_axis(extra[0], order, 1) if extra else None,
        )
