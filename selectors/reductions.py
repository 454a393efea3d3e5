"""The reductions of the pool that a selector may ask for, and the results it gets.

Reductions of similarities, sets and words are computed in one streaming pass over the pool
(`query/scanning/reducers.py`); `Vectors`, `SampledVectors` and `Columns` are fetched
(`query/scanning/fetch.py`).
`query/scanning/reducers.py` also states how much memory each of them takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

MAX_BLOCK_ROWS = 4096
"""Most rows that a pass hands to a reduction at once."""


@dataclass(frozen=True)
class TopPerQuery:
    """The `k` most similar rows of every query; with `means` also each row's mean similarity."""

    k: int
    means: bool = False


@dataclass(frozen=True)
class TopRows:
    """The `k` rows of highest similarity, taken `by` the mean or the maximum over the queries."""

    k: int
    by: str


@dataclass(frozen=True)
class Shuffled:
    """The first `k` rows in a seeded random order that depends on nothing but the row ids."""

    k: int
    seed: int


@dataclass(frozen=True)
class Sets:
    """The sets of all eligible rows: `RowSets`."""


@dataclass(frozen=True)
class LogSumExp:
    """Of every query, log(sum over rows of exp(similarity / temperature)): (M,) float64."""

    temperature: float


@dataclass(frozen=True, eq=False)
class Votes:
    """The `k` rows with the most votes: mean over queries of exp(similarity / temperature - log).

    With `logs` from `LogSumExp` that is the mean of every query's softmax over the pool. The query
    of a row is the one whose vote for it is the largest.
    """

    k: int
    temperature: float
    logs: np.ndarray


@dataclass(frozen=True, eq=False)
class WordTotals:
    """The sum of `of(rows)` over all blocks of rows, (n,) int64."""

    of: Callable[[RowWords], np.ndarray]


@dataclass(frozen=True, eq=False)
class WordSimilarity:
    """The reduction `then` of similarities `of(rows)`, (M, n) float32, computed from words.

    A row's similarities must not depend on the other rows of its block.
    """

    of: Callable[[RowWords], np.ndarray]
    then: TopPerQuery | TopRows


@dataclass(frozen=True, eq=False)
class Vectors:
    """The unit vectors of the rows `keys`, (n, 2) int64; of all eligible rows where that is None.

    The result is a `RowVectors` in the order of the keys given, else in the order of the ids. Rows
    without a vector are left out.
    """

    keys: np.ndarray | None = None


@dataclass(frozen=True)
class SampledVectors:
    """The unit vectors of `rows` rows of the whole pool, whatever rows are eligible.

    They are drawn by a hash of their ids, of the rows that have a vector. The result is a
    `RowVectors` in the order of the draw.
    """

    rows: int


@dataclass(frozen=True)
class Columns:
    """Columns of all eligible rows, of numbers or text, with `numeric` of numbers only.

    The result is a `RowColumns`.
    """

    names: tuple[str, ...]
    numeric: bool = False


WordReduction: TypeAlias = WordTotals | WordSimilarity
RowReduction: TypeAlias = TopPerQuery | TopRows | Shuffled | Sets | LogSumExp | Votes
Fetched: TypeAlias = Vectors | SampledVectors | Columns
Reduction: TypeAlias = RowReduction | WordReduction | Fetched


@dataclass(frozen=True)
class Lists:
    """One or more lists of rows, each by score descending, then by id.

    Attributes:
        keys: (lists, n, 2) int64, see `schemas/ids.py`.
        scores: (lists, n) float32; None where the order has no score.
        queries: (lists, n) int64, the query most similar to the row; None where it is not known.
        means: (lists, n) float32, the row's mean similarity; None unless `means` was set.
    """

    keys: np.ndarray
    scores: np.ndarray | None = None
    queries: np.ndarray | None = None
    means: np.ndarray | None = None


@dataclass(frozen=True)
class RowSets:
    """Rows with a set of units each.

    Attributes:
        keys: (n, 2) int64, see `schemas/ids.py`.
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
        keys: (n, 2) int64, see `schemas/ids.py`.
        starts: (n + 1,) int64, row i holds `words[starts[i] : starts[i + 1]]`.
        words: (total,) int32, hashes spread evenly over 31 bits.
    """

    keys: np.ndarray
    starts: np.ndarray
    words: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True)
class RowVectors:
    """Rows and their vectors: keys (n, 2) int64, vectors (n, d) float16 unit vectors.

    `missing` counts the requested rows that have none.
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
