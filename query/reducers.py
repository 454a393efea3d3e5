"""Reductions of the streaming scan: what selectors ask for, computed block by block.

A reducer is fed every block of the pool once and holds no more than its need's formula says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ..selectors.random_order import shuffle_words
from ..selectors.task import Lists, Need, Shuffled, TopPerQuery, TopRows, pending_rows
from .running_top import RunningTop

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Block:
    """Some rows of the pool: keys (n, 2) int64 and, if vectors were read, (M, n) similarities."""

    keys: np.ndarray
    similarity: torch.Tensor | None


class Reducer(Protocol):
    """Takes in blocks, answers once at the end."""

    def feed(self, block: Block) -> None:
        """Take in the next rows."""
        ...

    def held_elements(self) -> int:
        """Numbers held at this moment."""
        ...

    def result(self) -> Lists:
        """What the whole stream came to."""
        ...


class _TopPerQuery:
    def __init__(self, need: TopPerQuery, queries: slice) -> None:
        self._queries = queries
        self._top = RunningTop(queries.stop - queries.start, need.k)

    def feed(self, block: Block) -> None:
        assert block.similarity is not None
        self._top.add(block.similarity[self._queries], block.keys)

    def held_elements(self) -> int:
        return self._top.held_elements()

    def result(self) -> Lists:
        return self._top.lists_found()


class _TopRows:
    def __init__(self, need: TopRows, queries: slice) -> None:
        self._queries, self._by = queries, need.by
        self._top = RunningTop(1, need.k)

    def feed(self, block: Block) -> None:
        assert block.similarity is not None
        similarity = block.similarity[self._queries]
        highest, nearest = similarity.max(dim=0)
        scores = highest if self._by == "max" else similarity.mean(dim=0)
        self._top.add(scores[None], block.keys, nearest)

    def held_elements(self) -> int:
        return self._top.held_elements()

    def result(self) -> Lists:
        return self._top.lists_found()


class _Shuffled:
    """Plain NumPy: random selections import no torch."""

    def __init__(self, need: Shuffled) -> None:
        self._k, self._seed = need.k, need.seed
        self._most = need.k + pending_rows(1, need.k)
        self._keys = [np.empty((0, 2), np.int64)]
        self._held = 0

    def feed(self, block: Block) -> None:
        self._keys.append(block.keys)
        self._held += len(block.keys)
        if self._held > self._most:
            self._keep_first()

    def _keep_first(self) -> None:
        keys = np.concatenate(self._keys)
        words = shuffle_words(keys, self._seed)
        first = np.lexsort((keys[:, 1], keys[:, 0], words))[: self._k]
        self._keys, self._held = [keys[first]], len(first)

    def held_elements(self) -> int:
        return 2 * self._held

    def result(self) -> Lists:
        self._keep_first()
        return Lists(self._keys[0][None])


def reducer_for(need: Need, queries: slice) -> Reducer:
    """The reducer that answers a need, for the queries of one target (a slice of all queries)."""
    match need:
        case TopPerQuery():
            return _TopPerQuery(need, queries)
        case TopRows():
            return _TopRows(need, queries)
        case Shuffled():
            return _Shuffled(need)
