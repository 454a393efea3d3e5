"""What a selector may ask of the pool, and what comes back.

A need that reduces similarities, sets or words is answered by one streaming pass over the pool
(reducers.py and term_reducers.py in `query/scanning/`), whatever the size of the pool; `Vectors`
and `Columns` are fetched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

PENDING = 1 << 22
"""Similarities held back before a running top-k is merged (16 MB of float32)."""

MAX_BLOCK_ROWS = 4096
"""The scan never hands more rows to a reduction at once."""

_SIFTED = 1 << 18  # similarities held against the edges of running lists at once
_ENTRY_BYTES = 20  # float32 score and two 64-bit words of the id


@dataclass(frozen=True)
class TopPerQuery:
    """The `k` most similar rows of every query, with `means` also each row's mean similarity."""

    k: int
    means: bool = False

    def bytes(self, queries: int) -> int:
        """Most memory this reduction holds at once."""
        carried = 16 * queries * (self.k + MAX_BLOCK_ROWS) if self.means else 0
        return top_bytes(queries, self.k) + carried


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


@dataclass(frozen=True)
class LogSumExp:
    """Of every query, log(sum over rows of exp(similarity / temperature)): (M,) float64."""

    temperature: float

    def bytes(self, queries: int) -> int:
        """Most memory this reduction holds at once."""
        return 4 * queries * 8 + 3 * queries * MAX_BLOCK_ROWS * 8


@dataclass(frozen=True, eq=False)
class Votes:
    """The `k` rows with the most votes: mean over queries of exp(similarity / temperature - log).

    With `logs` from `LogSumExp` that is the mean of every query's softmax over the pool. The query
    of a row is the one whose vote for it is the largest.
    """

    k: int
    temperature: float
    logs: np.ndarray

    def bytes(self, queries: int) -> int:
        """Most memory this reduction holds at once."""
        return top_bytes(1, self.k) + 3 * queries * MAX_BLOCK_ROWS * 8


@dataclass(frozen=True, eq=False)
class WordTotals:
    """The sum over all rows of what `of` makes of the words of some of them, (n,) int64."""

    of: Callable[[RowWords], np.ndarray]


@dataclass(frozen=True, eq=False)
class WordSimilarity:
    """What `then` asks of similarities that `of` makes of the words of some rows, (M, n) float32.

    A row's own must not depend on the rows beside it.
    """

    of: Callable[[RowWords], np.ndarray]
    then: TopPerQuery | TopRows

    def bytes(self, queries: int) -> int:
        """Most memory the reduction holds at once, without what `of` takes."""
        return self.then.bytes(queries) + queries * MAX_BLOCK_ROWS * 4


@dataclass(frozen=True, eq=False)
class Vectors:
    """The unit vectors of the rows `keys`, (n, 2) int64; None for all eligible rows that have one.

    Answered by `RowVectors`, in the order of the keys given, else in the order of the ids; rows
    that have no vector are left out.
    """

    keys: np.ndarray | None = None

    def bytes(self, rows: int, width: int) -> int:
        """Most memory they take: float16 twice while they are gathered, keys, ids as text."""
        return rows * (4 * width + 16 + 100)


@dataclass(frozen=True)
class Columns:
    """Columns of the pool, of all eligible rows; answered by `RowColumns`.

    They hold numbers or text, with `numeric` numbers only.
    """

    names: tuple[str, ...]
    numeric: bool = False

    def bytes(self, rows: int) -> int:
        """Most memory they take."""
        return rows * (16 + 100 + 16 * len(self.names))


Counted: TypeAlias = WordTotals | WordSimilarity
Reduced: TypeAlias = TopPerQuery | TopRows | Shuffled | Sets | LogSumExp | Votes
Fetched: TypeAlias = Vectors | Columns
Need: TypeAlias = Reduced | Counted | Fetched


@dataclass(frozen=True)
class Lists:
    """What a reduction found: one or more lists of rows, each by score descending, then by id.

    Attributes:
        keys: (lists, n, 2) int64, see `keys`.
        scores: (lists, n) float32, or None where the order has no score.
        queries: (lists, n) int64, the query most similar to the row, where the reduction knows it.
        means: (lists, n) float32, the row's mean similarity, where it was asked for.
    """

    keys: np.ndarray
    scores: np.ndarray | None = None
    queries: np.ndarray | None = None
    means: np.ndarray | None = None


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
class RowWords:
    """Rows with their words in order, at least one each.

    Attributes:
        keys: (n, 2) int64, see `keys`.
        starts: (n + 1,) int64, row i holds `words[starts[i] : starts[i + 1]]`.
        words: (total,) int32 ids, hashes that are spread evenly over 31 bits.
    """

    keys: np.ndarray
    starts: np.ndarray
    words: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True)
class RowVectors:
    """Rows and their vectors: keys (n, 2) int64, vectors (n, d) float16 unit vectors.

    `missing` counts the rows asked for that have none.
    """

    keys: np.ndarray
    vectors: np.ndarray
    missing: int = 0

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True)
class RowColumns:
    """Rows in the order of their ids: keys (n, 2) int64, and each column as an array (n,).

    Numbers are float64 with NaN for null; text is an object array with None.
    """

    keys: np.ndarray
    columns: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.keys)


def pending_rows(lists: int, k: int) -> int:
    """Rows gathered before `lists` running top-k lists are merged: at least half of k."""
    return max(min(1 << 16, PENDING // lists), k // 2, MAX_BLOCK_ROWS)


def waiting_entries(lists: int, k: int) -> int:
    """Entries gathered before `lists` running top-k lists of similarities are settled."""
    return max(1 << 16, lists * k // 2)


def sifted_rows(lists: int) -> int:
    """Rows of a block whose scores in `lists` lists are held against the edges at once."""
    return min(MAX_BLOCK_ROWS, max(1, _SIFTED // lists))


def top_bytes(lists: int, k: int) -> int:
    """Most bytes of `lists` running top-k lists: kept, waiting, sifted, and sorted at the end."""
    entry = _ENTRY_BYTES + 8  # with the query a row belongs to
    gathered = waiting_entries(lists, k) + lists * sifted_rows(lists)
    waiting = gathered * (entry + 12) + lists * sifted_rows(lists) * 100
    settled = (k + gathered) * 50
    found = lists * k * (entry + 24)
    return lists * k * entry + max(waiting + settled, found)
