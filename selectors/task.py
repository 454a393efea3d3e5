"""What a selector is asked, what it may ask of the scan, and what it answers.

A selector is a generator: each `yield` names the reductions it needs, one streaming pass over the
pool makes them, and they are sent back in the same order; what it returns is the ranking. `random`
needs one pass over ids, `round_robin` and `top` one over similarities; a selector of two passes
(METHODS 3.2, uot) yields twice. It never sees the pool, Lance, or a model.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

PENDING = 1 << 22
"""Similarities held back before a running top-k is merged (16 MB of float32)."""

MAX_BLOCK_ROWS = 4096
"""The scan never hands more rows to a reduction at once."""

_ENTRY_BYTES = 20  # float32 score and two 64-bit words of the id


@dataclass(frozen=True)
class Task:
    """The question: the best `k` of at most `rows` eligible rows for `queries` target examples.

    Where sets are covered, a row's has about `set_size` units, and `units` are those of the
    target's examples, (n,) int64.
    """

    queries: int
    rows: int
    k: int
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    set_size: int = 0
    units: np.ndarray | None = None


@dataclass(frozen=True)
class TopPerQuery:
    """The `k` most similar rows of every query."""

    k: int

    def bytes(self, queries: int) -> int:
        """Most memory this reduction holds at once."""
        return top_bytes(queries, self.k)


@dataclass(frozen=True)
class TopRows:
    """The `k` rows of highest similarity, taken `by` the mean or the maximum over the queries."""

    k: int
    by: str

    def bytes(self, queries: int) -> int:
        """Most memory this reduction holds at once."""
        return top_bytes(1, self.k)


@dataclass(frozen=True)
class Shuffled:
    """The first `k` rows in a seeded random order that depends on nothing but the row ids."""

    k: int
    seed: int

    def bytes(self, queries: int) -> int:
        """Most memory this reduction holds at once."""
        return top_bytes(1, self.k)


@dataclass(frozen=True)
class Sets:
    """The sets of all eligible rows."""

    def bytes(self, rows: int, set_size: int) -> int:
        """Most memory they take, while they are collected or put in order: twice what they are."""
        return 2 * rows * (4 * set_size + 24)


Need: TypeAlias = TopPerQuery | TopRows | Shuffled | Sets


@dataclass(frozen=True)
class Lists:
    """What a reduction found: one or more lists of rows, each by score descending, then by id.

    Attributes:
        keys: (lists, n, 2) int64, see `keys`.
        scores: (lists, n) float32, or None where the order has no score.
        queries: (lists, n) int64, the query most similar to the row, where the reduction knows it.
    """

    keys: np.ndarray
    scores: np.ndarray | None = None
    queries: np.ndarray | None = None


@dataclass(frozen=True)
class RowSets:
    """Rows with a set of units each.

    Attributes:
        keys: (n, 2) int64, see `keys`.
        starts: (n + 1,) int64, row i holds `units[starts[i] : starts[i + 1]]`.
        units: (total,) int32, each at most once in a row.
    """

    keys: np.ndarray
    starts: np.ndarray
    units: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)

    def sorted(self) -> RowSets:
        """The same rows in the order of their ids."""
        order = np.lexsort((self.keys[:, 1], self.keys[:, 0]))
        sizes = np.diff(self.starts)[order]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        units = np.empty_like(self.units)
        for at in range(0, len(order), MAX_BLOCK_ROWS):
            part = slice(at, at + MAX_BLOCK_ROWS)
            first, last = starts[at], starts[min(at + MAX_BLOCK_ROWS, len(order))]
            shift = np.repeat(self.starts[order[part]] - starts[:-1][part], sizes[part])
            units[first:last] = self.units[shift + np.arange(first, last)]
        return RowSets(self.keys[order], starts, units)


@dataclass(frozen=True)
class Ranking:
    """An ordered selection of distinct rows: keys (n, 2) int64, scores (n,) float32, queries (n,).

    `queries` is the number of the target example that pulled the row. Scores and queries are None
    for selectors that know none.
    """

    keys: np.ndarray
    scores: np.ndarray | None = None
    queries: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.keys)


Passes: TypeAlias = Generator[tuple[Need, ...], tuple[Any, ...], Ranking]
"""What comes back is `Lists`, or `RowSets` for `Sets`."""


@dataclass(frozen=True)
class Option:
    """An option of a selector: its default and, where only some values make sense, all of them."""

    default: Any
    choices: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Selector:
    """A way of choosing rows.

    Attributes:
        name: as it stands after the colon of a method, in underscores.
        version: rises when the same question gets another answer.
        inputs: what it looks at: "ids", "query_similarity", "neuron_sets".
        passes: the selection itself (see the module).
        memory: most bytes it needs for a task, scan included; checked before it starts.
        options: by name.
    """

    name: str
    version: int
    inputs: tuple[str, ...]
    passes: Callable[[Task], Passes]
    memory: Callable[[Task], int]
    options: Mapping[str, Option] = field(default_factory=dict)


def pending_rows(lists: int, k: int) -> int:
    """Rows gathered before `lists` running top-k lists are merged: at least half of k."""
    return max(min(1 << 16, PENDING // lists), k // 2, MAX_BLOCK_ROWS)


def top_bytes(lists: int, k: int) -> int:
    """Most bytes of `lists` running top-k lists: what is kept, what is pending, one merge.

    A merge copies kept and pending scores side by side and writes new lists beside the old ones.
    """
    kept = lists * k * _ENTRY_BYTES
    rows = pending_rows(lists, k) + MAX_BLOCK_ROWS
    pending = rows * (4 * lists + 24)
    merged = lists * (k + rows) * 5
    return 2 * kept + pending + merged + lists * k * 24
