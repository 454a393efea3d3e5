"""Approximate: the rows nearest to each query by an index, compared exactly, and what it missed.

The index is asked for more rows than are wanted. All it names are compared with all queries as the
exact scan compares them, so that scores and order are exact and only rows may be missing. How many
are is counted each time, on some queries and as many rows as are read in an instant; while it is
too many, twice the partitions are looked into.

How much of what is nearest a search by an index found, counted on a part of queries and pool.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..schemas.errors import UsageError
from ..schemas.ids import IdSet, keys_of
from ..selectors.reductions import RowVectors, Vectors
from ..store.fill import unfilled
from ..store.indices import VectorIndex, indices_of
from .comparison import Comparison
from .features import Feature
from .methods import Method
from .queries import Queries, matrix_of
from .scanning.reducers import Reducer, nearest_wanted
from .scanning.rows import Scanned
from .scanning.vectors import feed_vectors

if TYPE_CHECKING:
    import lance
    import torch

    from .snapshot import Snapshot


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

    def of(self, row_vectors: RowVectors, k: int, eligible: IdSet | None, rows: int) -> float:
        """Of the rows at least as similar as the last of the k found, the share that was found.

        That is recall at k or more, by the square of what was missed at most.

        Args:
            found: what the search named for any of the queries, with vectors.
            k: how many of them each query keeps.
            eligible: rows that may be chosen; None for all.
            rows: how many there are of those that have the feature.
        """
        if len(row_vectors) < k:
            return len(row_vectors) / k
        keys, similarity = self._rows(self.sampled(k))
        if eligible is not None:
            allowed = eligible.contains(keys)
            keys, similarity = keys[allowed], similarity[:, allowed]
        last = -np.partition(-self._similarity(row_vectors.vectors), k - 1, axis=1)[:, k - 1]
        unseen = ~IdSet(row_vectors.keys).contains(keys)
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


ENOUGH = 0.95
"""The recall below which more partitions are looked into, and a person is warned in the end."""

OVER_ASK = 2
"""Rows asked for by one wanted: an index of four bits a number orders them roughly..."""
LEAST_ASKED = 100
"""... and never fewer than these for a query."""

FIRST_SHARE = 8
"""One in so many partitions is looked into first."""

LEAST_SHARE = 0.05
"""Of the pool's rows that must be eligible: the index knows of no filter."""

_ANSWER_BYTES = 64  # of a row that the index names for a query
_MOST_BYTES = 512 << 20


class Search:
    """Stands in for the scan of a comparison by cosine.

    Args:
        snapshot: whose pool is searched.
        method: for messages.
        feature: whose index is asked.
        queries: of the targets, as the comparison has them.
        comparison: the exact one.

    Raises:
        UsageError: the method compares nothing by cosine, or the feature has no index.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        method: Method,
        feature: Feature | None,
        queries: Sequence[Queries],
        comparison: Comparison,
    ) -> None:
        dataset = snapshot.pool
        if feature is None or feature.column is None or not method.compares:
            raise UsageError(
                f"{method} does not look for the nearest vectors, so there is nothing that an "
                "index could answer: leave --approximate out"
            )
        self._dataset, self._method, self._feature = dataset, method, feature
        self._column, self._matrix = feature.column, matrix_of(queries)
        self._fetch = comparison.fetch
        self._recall = Recall(dataset, self._column, feature.width, self._matrix)
        self._index = _index_of(snapshot, feature, self._column)
        self.facts: dict[str, Any] = {}

    def scan(self, reducers: Sequence[Reducer], eligible: IdSet | None) -> Scanned:
        """Feed the rows that the index finds; as `Comparison.scan`, with a note on the recall.

        Raises:
            UsageError: a reducer needs more than the nearest rows, or too many of them, or so few
            rows may be chosen that the exact scan is quicker.
        """
        wanted = [nearest_wanted(reducer) for reducer in reducers]
        most = max((each for each in wanted if each is not None), default=0)
        if None in wanted:
            raise UsageError(
                f"{self._method} looks at more than each example's nearest rows, which is all that "
                "an index finds: leave --approximate out, or use round_robin or top(by=max)"
            )
        rows = self._dataset.count_rows()
        allowed = rows if eligible is None else len(eligible)
        if allowed < LEAST_SHARE * rows:
            raise UsageError(
                f"{allowed:,} of {rows:,} rows may be chosen, so few that comparing each of them "
                "is quicker than asking an index: leave --approximate out"
            )
        missing = self._missing(eligible)
        seen = Scanned(rows, rows - allowed, missing, allowed - missing)
        if k := min(most, seen.scored):
            found, probes, recall = self._found(k, eligible, seen.scored)
            feed_vectors(found.keys, found.vectors, self._matrix, reducers)
            seen.notes = (self._note(k, probes, recall),)
        return seen

    def _found(self, k: int, eligible: IdSet | None, rows: int) -> tuple[RowVectors, int, float]:
        """Rows the index names, partitions it looked into, and how many of the right ones."""
        probes = max(1, self._index.partitions // FIRST_SHARE)
        while True:
            keys = self._candidates(k, probes, eligible)
            found = self._fetch(Vectors(keys), None)
            assert isinstance(found, RowVectors)
            recall = self._recall.of(found, k, eligible, rows)
            if recall >= ENOUGH or probes >= self._index.partitions:
                return found, probes, recall
            probes = min(2 * probes, self._index.partitions)

    def _candidates(self, k: int, probes: int, eligible: IdSet | None) -> np.ndarray:
        """Keys of the eligible rows that the index names for any query, each once, (n, 2)."""
        rows, queries = self._dataset.count_rows(), len(self._matrix)
        share = 1.0 if eligible is None else len(eligible) / rows
        ask = min(max(math.ceil(OVER_ASK * k / share), LEAST_ASKED), rows)
        while True:
            self._check(queries * ask * _ANSWER_BYTES, k)
            named = self._dataset.to_table(
                columns=["id", "_distance"],
                nearest={
                    "column": self._column,
                    "q": self._matrix.numpy().astype(np.float16),
                    "k": ask,
                    "nprobes": probes,
                },
            )
            keys, query = keys_of(named["id"]), named["query_index"].to_numpy()
            if eligible is not None:
                allowed = eligible.contains(keys)
                keys, query = keys[allowed], query[allowed]
            enough = np.bincount(query, minlength=queries).min() >= k
            if enough or ask == rows or named.num_rows < queries * ask:
                break
            ask = min(4 * ask, rows)
        keys = np.unique(keys, axis=0)
        self._check(len(keys) * 2 * self._feature.width, k)
        return keys

    def _check(self, size: int, k: int) -> None:
        if size > _MOST_BYTES:
            raise UsageError(
                f"the nearest {k:,} rows of {len(self._matrix):,} examples are too many for an "
                f"index, which pays for small budgets ({size >> 20:,} MiB, {_MOST_BYTES >> 20:,} "
                "allowed): leave --approximate out"
            )

    def _missing(self, eligible: IdSet | None) -> int:
        """Eligible rows without the feature."""
        reason = self._feature.reason
        parts = [self._dataset.to_table(columns=["id"], filter=f"`{reason}` IS NOT NULL")["id"]]
        for fragment in self._dataset.get_fragments():
            parts += [keys for keys, _ in unfilled(self._dataset, fragment, self._feature.recipe)]
        lacking = [keys_of(part) for part in parts]
        if eligible is not None:
            lacking = [keys[eligible.contains(keys)] for keys in lacking]
        return sum(len(keys) for keys in lacking)

    def _note(self, k: int, probes: int, recall: float) -> str:
        index, queries, counted = self._index, self._recall.queries, self._recall.sampled(k)
        self.facts = {
            "index": index.name,
            "parts": list(index.parts),
            "probes": probes,
            "nearest": k,
            "recall": round(recall, 4),
            "recall_queries": queries,
            "recall_rows": counted,
        }
        said = (
            f"approximate: {index.name}, asked in {probes:,} of {index.partitions:,} partitions, "
            f"finds {recall:.1%} of the nearest {k:,} rows (counted for {queries:,} examples "
            f"among {counted:,} rows)"
        )
        if recall >= ENOUGH:
            return said
        return f"{said}. That is below {ENOUGH:.0%}: without --approximate every row is compared"


def _index_of(snapshot: Snapshot, feature: Feature, column: str) -> VectorIndex:
    store, index = snapshot.store, indices_of(snapshot.pool).get(column)
    if index is None:
        raise UsageError(
            f"{feature.name} of {store.uri} has no index: coresetdb index {store.typed} "
            f"{feature.name}, or leave --approximate out"
        )
    return index


def is_there(snapshot: Snapshot, recorded: dict[str, Any]) -> bool:
    """Whether the index that a coreset was found with still belongs to that version of the pool."""
    there = {part for index in indices_of(snapshot.pool).values() for part in index.parts}
    return set(recorded["parts"]) <= there and all(
        snapshot.store.place.sizes(f"pool.lance/_indices/{part}") for part in recorded["parts"]
    )
