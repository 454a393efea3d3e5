"""Reductions of words: totals over all rows, and what is asked of similarities made of words."""

from __future__ import annotations

import numpy as np

from ...selectors.needs import Counted, Lists, RowSets, RowWords, WordSimilarity, WordTotals
from .reducers import Block, Reducer, reducer_for


class _Totals:
    def __init__(self, need: WordTotals) -> None:
        self._of = need.of
        nothing = RowWords(np.empty((0, 2), np.int64), np.zeros(1, np.int64), np.empty(0, np.int32))
        self._total = need.of(nothing)

    def feed(self, block: Block) -> None:
        assert block.words is not None
        self._total = self._total + self._of(block.words)

    def held_elements(self) -> int:
        return self._total.size

    def result(self) -> np.ndarray:
        return self._total


class _Similarity:
    def __init__(self, need: WordSimilarity, queries: int) -> None:
        self._of = need.of
        self._then = reducer_for(need.then, slice(0, queries))

    def feed(self, block: Block) -> None:
        import torch

        assert block.words is not None
        similarity = np.ascontiguousarray(self._of(block.words))
        self._then.feed(Block(block.keys, torch.from_numpy(similarity)))

    def held_elements(self) -> int:
        return self._then.held_elements()

    def result(self) -> Lists | RowSets | np.ndarray:
        return self._then.result()


def word_reducer(need: Counted, queries: int) -> Reducer:
    """The reducer that answers a need of words, for a target of so many examples."""
    return _Totals(need) if isinstance(need, WordTotals) else _Similarity(need, queries)
