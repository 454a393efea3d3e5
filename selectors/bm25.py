"""BM25: rows that share the rare words of the target's examples.

Every example is a query of all its words. A row scores the sum over the query's words t, as often
as it holds them, of

    log(1 + (N - n_t + 1/2) / (n_t + 1/2)) * f_t (k1 + 1) / (f_t + k1 (1 - b + b l / L))

where f_t counts t in the row, n_t the eligible rows that hold t, l is the row's length in words and
N and L are the number and mean length of the eligible rows (Robertson and Zaragoza 2009, with the
logarithm that Lucene takes, which is never negative). A first pass brings N, L and n_t.

How several examples make one order is ours. Scores of a long query are larger than those of a short
one, so by default examples take turns (as in `round_robin`), which needs no common scale. `by=mean`
is for examples of one kind: the score for all of them written as one query. `by=max` finds rows
that nearly repeat any one example. Rows that share no word score 0 and come last, by id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from .reductions import (
    MAX_BLOCK_ROWS,
    Reduction,
    RowWords,
    TopPerQuery,
    TopRows,
    WordSimilarity,
    WordTotals,
)
from .round_robin import in_turns, turns_bytes
from .selector import Option, Passes, Ranking, Selector, Task

_NUMBERS_AT_ONCE = 1 << 22
_WORDS_AT_ONCE = 1 << 20  # of a block of 4 MB
_BYTES_PER_WORD = 64  # place, row, code, twice while they are sorted


class QueryWords:
    """The words of the examples, each word once.

    Attributes:
        words: (V,) int32, ascending.
        counts: (V, M) float64, how often each example holds each word.
    """

    def __init__(self, examples: Sequence[np.ndarray]) -> None:
        self.words = np.unique(np.concatenate(examples))
        self.counts = np.zeros((len(self.words), len(examples)))
        for column, example in enumerate(examples):
            places = np.searchsorted(self.words, example)
            self.counts[:, column] = np.bincount(places, minlength=len(self.words))

    def matches(self, rows: RowWords) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows, places in `words` and counts of the words that occur, by row, then place."""
        places = np.searchsorted(self.words, rows.words)
        places[places == len(self.words)] = 0
        hits = np.flatnonzero(self.words[places] == rows.words)
        row = np.repeat(np.arange(len(rows)), np.diff(rows.starts))[hits]
        codes, counts = np.unique(row * len(self.words) + places[hits], return_counts=True)
        return *np.divmod(codes, len(self.words)), counts

    def totals(self, rows: RowWords) -> np.ndarray:
        """Rows, their words, and the rows that hold each of `words`, (V + 2,) int64."""
        _, places, _ = self.matches(rows)
        holding = np.bincount(places, minlength=len(self.words))
        return np.concatenate([[len(rows), len(rows.words)], holding])


class Bm25Scores:
    """BM25 of rows for every example, from the totals of `QueryWords` over all rows."""

    def __init__(self, query: QueryWords, totals: np.ndarray, k1: float, b: float) -> None:
        rows, words, holding = totals[0], totals[1], totals[2:]
        rarity = np.log1p((rows - holding + 0.5) / (holding + 0.5))
        self._query, self._weights = query, query.counts * rarity[:, None]
        self._k1, self._b = k1, b
        self._mean_length = words / max(rows, 1)

    def scores(self, rows: RowWords) -> np.ndarray:
        """(M, n) float32; a row's sums run over its words in one order, whatever the block."""
        row, places, counts = self._query.matches(rows)
        length = np.diff(rows.starts)[row] / self._mean_length
        worth = counts * (self._k1 + 1) / (counts + self._k1 * (1 - self._b + self._b * length))
        scores = np.zeros((len(rows), self._weights.shape[1]), np.float32)
        begins = np.flatnonzero(np.diff(row, prepend=-1))
        for some in self._parts(begins, len(row)):
            first, last = some[0], some[-1]
            values = self._weights[places[first:last]] * worth[first:last, None]
            scores[row[some[:-1]]] = np.add.reduceat(values, some[:-1] - first, axis=0)
        return scores.T

    def _parts(self, begins: np.ndarray, end: int) -> Iterator[np.ndarray]:
        """The beginnings of rows in parts of bounded work, each with the end of its last row."""
        bounds = np.append(begins, end)
        at, room = 0, max(1, _NUMBERS_AT_ONCE // self._weights.shape[1])
        while at < len(begins):
            stop = int(np.searchsorted(bounds, bounds[at] + room, "right")) - 1
            stop = max(stop, at + 1)
            yield bounds[at : stop + 1]
            at = stop


def _passes(task: Task) -> Passes:
    k1, b = task.options["k1"], task.options["b"]
    query = QueryWords(task.words)
    (totals,) = yield (WordTotals(query.totals),)
    scores = Bm25Scores(query, totals, k1, b)
    (best,) = yield (_best(task, scores.scores),)
    if task.options["by"] == "turns":
        return in_turns(best, task.k)
    return Ranking(best.keys[0], best.scores[0], best.queries[0])


def _best(task: Task, similarity: Callable[[RowWords], np.ndarray]) -> WordSimilarity:
    by = task.options["by"]
    return WordSimilarity(similarity, TopPerQuery(task.k) if by == "turns" else TopRows(task.k, by))


def _own_memory(task: Task) -> int:
    words = len(np.unique(np.concatenate(task.words))) * task.queries * 16
    block = _WORDS_AT_ONCE * _BYTES_PER_WORD + (_NUMBERS_AT_ONCE + MAX_BLOCK_ROWS) * 16
    return words + block + (turns_bytes(task) if task.options["by"] == "turns" else 0)


def _later(task: Task) -> tuple[Reduction, ...]:
    return (_best(task, lambda rows: rows.words),)


SELECTOR = Selector(
    "bm25",
    1,
    ("terms",),
    _passes,
    _own_memory,
    {
        "k1": Option(1.2, least=0.0),
        "b": Option(0.75, least=0.0, most=1.0),
        "by": Option("turns", ("turns", "mean", "max")),
    },
    feature="lexical",
    later=_later,
    paper="Robertson and Zaragoza 2009",
    meaning="rows that share rare words with your examples",
)
