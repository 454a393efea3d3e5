"""Approximate selections: the nearest rows by an index, compared exactly, with counted recall.

LanceDB searches the index for more rows than the selection needs. All rows it names are compared
with all queries as the exact scan compares them, so that scores and order are exact and only rows
may be missing. Their number is estimated each time, from some of the queries and a sample of the
pool; while it is too high, the search is repeated in twice as many partitions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..schemas.errors import UsageError
from ..schemas.ids import IdSet, keys_of
from ..schemas.plain_text import count_of
from ..selectors.reductions import RowVectors
from ..store.fill import unfilled
from ..store.indices import VectorIndex, indices_of
from .features import Feature
from .methods import Method
from .queries import Queries, matrix_of
from .scanning.reducers import BlockConsumer, nearest_wanted
from .scanning.rows import Scanned
from .scanning.vectors import feed_vectors

if TYPE_CHECKING:
    import lance
    import torch

    from .snapshot import Snapshot


RECALL_QUERIES = 16
"""Queries on which recall is estimated, evenly spread over all."""
RECALL_HITS = 400
"""The sample of rows is sized to hold about this many of their nearest rows."""
RECALL_BYTES = 128 << 20
"""Upper bound of the sample's vectors."""

_STRETCH = 100  # rows side by side; stretches are evenly spread over the pool
_SAME = 1e-6  # similarities of blocks of another shape differ by less


class Recall:
    """Estimate the recall of one search from a sample of queries and rows.

    Args:
        dataset: the pool at the version of the search.
        column: of float16 vectors, `width` numbers each.
        width: of a vector.
        matrix: of all queries, (M, d) float32.
    """

    def __init__(
        self, dataset: lance.LanceDataset, column: str, width: int, matrix: torch.Tensor
    ) -> None:
        self._dataset, self._column, self._width = dataset, column, width
        numbers = np.linspace(0, len(matrix) - 1, min(len(matrix), RECALL_QUERIES))
        self._queries = matrix[np.unique(numbers.round().astype(int))]
        self._sample: tuple[int, np.ndarray, np.ndarray] | None = None

    @property
    def queries(self) -> int:
        """The number of sampled queries."""
        return len(self._queries)

    def sampled(self, k: int) -> int:
        """The number of sampled rows, where each query needs k."""
        rows = self._dataset.count_rows()
        enough = math.ceil(RECALL_HITS * rows / (self.queries * k))
        return min(rows, max(enough, _STRETCH), max(RECALL_BYTES // (2 * self._width), _STRETCH))

    def of(self, row_vectors: RowVectors, k: int, eligible: IdSet | None, rows: int) -> float:
        """Of the rows at least as similar as the last of the k found, the share that was found.

        That is recall at k, or above it by the square of what was missed at most.

        Args:
            row_vectors: the rows that the search named for any of the queries.
            k: how many of them each query keeps.
            eligible: rows that may be chosen; None for all.
            rows: how many of these have the feature.
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
"""The recall below which more partitions are searched, and the user is warned in the end."""

OVER_ASK = 2
"""Rows to search for per row wanted: an index of four bits a number orders them only roughly."""
LEAST_ASKED = 100
"""Fewest rows to search for, per query."""

FIRST_SHARE = 8
"""One partition in this many is searched first."""

LEAST_SHARE = 0.05
"""Share of the pool's rows that must be eligible: others are dropped after the search."""

_ANSWER_BYTES = 64  # of a row that the index names for a query
_MOST_BYTES = 512 << 20
_BYTES_PER_TAKE = 64 << 20


class Search:
    """A search that takes the place of the scan of a comparison by cosine.

    Args:
        snapshot: whose pool is searched.
        method: for messages.
        feature: whose index is searched.
        queries: of the targets, as the comparison has them.

    Raises:
        UsageError: the method compares nothing by cosine, or the feature has no index.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        method: Method,
        feature: Feature | None,
        queries: Sequence[Queries],
    ) -> None:
        import lancedb

        dataset = snapshot.pool
        if feature is None or feature.column is None or not method.compares_queries:
            raise UsageError(
                f"{method} does not look for the nearest vectors, so there is nothing that an "
                "index could answer: leave --approximate out"
            )
        if feature.is_coded:
            raise UsageError(
                f"{feature.name} is stored as {feature.recipe.stored_dtype}, which Lance has no "
                "index for: leave --approximate out, or make it in float16: coresetdb featurize "
                f"{snapshot.store.typed} {feature.representation.name}:stored=float16"
            )
        if method.is_centred:
            raise UsageError(
                f"{method} compares vectors without the pool's mean, and the index has them with "
                "it: leave --approximate or centre=pool out"
            )
        if method.ignores_sign:
            raise UsageError(
                f"{method} looks for opposite vectors as well, which an index does not find: leave "
                "--approximate or sign=any out"
            )
        self._dataset, self._method, self._feature = dataset, method, feature
        self._column, self._matrix = feature.column, matrix_of(queries)
        self._recall = Recall(dataset, self._column, feature.width, self._matrix)
        self._index = _index_of(snapshot, feature, self._column)
        place = snapshot.store.place
        database = lancedb.connect(place.uri, storage_options=place.options or None)
        self._table = database.open_table("pool")
        self._table.checkout(dataset.version)
        self.facts: dict[str, Any] = {}

    def scan(
        self, reducers: Sequence[BlockConsumer], eligible: IdSet | None, span: range | None = None
    ) -> Scanned:
        """Feed the rows that the index finds; as `Comparison.scan`, with a note on the recall.

        Raises:
            UsageError: a reducer needs more than the nearest rows, or too many of them, or so few
                rows may be chosen that the exact scan is quicker.
        """
        assert span is None, "an index names rows of the whole table"
        counts = [nearest_wanted(reducer) for reducer in reducers]
        most = max((count for count in counts if count is not None), default=0)
        if None in counts:
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
            seen.remarks = (self._note(k, probes, recall),)
        return seen

    def _found(self, k: int, eligible: IdSet | None, rows: int) -> tuple[RowVectors, int, float]:
        """Rows that the index names, the partitions that were searched, and the recall."""
        probes = max(1, self._index.partitions // FIRST_SHARE)
        while True:
            found = self._vectors(self._candidates(k, probes, eligible))
            recall = self._recall.of(found, k, eligible, rows)
            if recall >= ENOUGH or probes >= self._index.partitions:
                return found, probes, recall
            probes = min(2 * probes, self._index.partitions)

    def _candidates(self, k: int, probes: int, eligible: IdSet | None) -> list[int]:
        """LanceDB's row ids of the eligible rows that the index names for any query."""
        rows, queries = self._dataset.count_rows(), len(self._matrix)
        share = 1.0 if eligible is None else len(eligible) / rows
        ask = min(max(math.ceil(OVER_ASK * k / share), LEAST_ASKED), rows)
        while True:
            self._check(queries * ask * _ANSWER_BYTES, k)
            vectors = list(self._matrix.numpy().astype(np.float16))
            search: Any = self._table.search(vectors, vector_column_name=self._column)
            search = search.distance_type("cosine").nprobes(probes).limit(ask)
            named = search.select(["id", "_distance"]).with_row_id(True).to_arrow()
            rowids, query = named["_rowid"].to_numpy(), np.zeros(named.num_rows, np.int64)
            if queries > 1:
                query = named["query_index"].to_numpy()
            if eligible is not None:
                allowed = eligible.contains(keys_of(named["id"]))
                rowids, query = rowids[allowed], query[allowed]
            enough = np.bincount(query, minlength=queries).min() >= k
            if enough or ask == rows or named.num_rows < queries * ask:
                break
            ask = min(4 * ask, rows)
        unique = np.unique(rowids).tolist()
        self._check(len(unique) * 2 * self._feature.width, k)
        return unique

    def _vectors(self, rowids: list[int]) -> RowVectors:
        """The vectors of some rows, in no particular order."""
        step = max(1, _BYTES_PER_TAKE // (2 * self._feature.width))
        keys = [np.empty((0, 2), np.int64)]
        vectors = [np.empty((0, self._feature.width), np.float16)]
        for start in range(0, len(rowids), step):
            take = self._table.take_row_ids(rowids[start : start + step])
            taken = take.select(["id", self._column]).to_arrow()
            flat = taken[self._column].combine_chunks().flatten()
            keys.append(keys_of(taken["id"]))
            vectors.append(np.array(flat).reshape(-1, self._feature.width))
        return RowVectors(np.concatenate(keys), np.concatenate(vectors))

    def _check(self, size: int, k: int) -> None:
        if size > _MOST_BYTES:
            raise UsageError(
                f"the nearest {k:,} rows of {len(self._matrix):,} examples are too many for an "
                f"index, which pays for small budgets ({size >> 20:,} MiB, {_MOST_BYTES >> 20:,} "
                "allowed): leave --approximate out"
            )

    def _missing(self, eligible: IdSet | None) -> int:
        """The number of eligible rows without the feature."""
        reason = self._feature.reason
        parts = [self._dataset.to_table(columns=["id"], filter=f"`{reason}` IS NOT NULL")["id"]]
        for fragment in self._dataset.get_fragments():
            parts += [keys for keys, _ in unfilled(self._dataset, fragment, self._feature.recipe)]
        lacking = [keys_of(part) for part in parts]
        if eligible is not None:
            lacking = [keys[eligible.contains(keys)] for keys in lacking]
        return sum(len(keys) for keys in lacking)

    def _note(self, k: int, probes: int, recall: float) -> str:
        index, queries, sampled = self._index, self._recall.queries, self._recall.sampled(k)
        self.facts = {
            "index": index.name,
            "parts": list(index.parts),
            "probes": probes,
            "nearest": k,
            "recall": round(recall, 4),
            "recall_queries": queries,
            "recall_rows": sampled,
        }
        note = (
            f"approximate: {index.name}, searched in {probes:,} of {index.partitions:,} "
            f"partitions, finds {recall:.1%} of the nearest {k:,} rows (estimated from "
            f"{count_of(queries, 'example')} and {count_of(sampled, 'row')})"
        )
        if recall >= ENOUGH:
            return note
        return f"{note}. That is below {ENOUGH:.0%}: without --approximate every row is compared"


def _index_of(snapshot: Snapshot, feature: Feature, column: str) -> VectorIndex:
    store, index = snapshot.store, indices_of(snapshot.pool).get(column)
    if index is None:
        raise UsageError(
            f"{feature.name} of {store.uri} has no index: coresetdb index create {store.typed} "
            f"{feature.name}, or leave --approximate out"
        )
    return index


def index_is_present(snapshot: Snapshot, recorded: dict[str, Any]) -> bool:
    """Whether the index that a coreset was found with still belongs to that version of the pool."""
    there = {part for index in indices_of(snapshot.pool).values() for part in index.parts}
    return set(recorded["parts"]) <= there and all(
        snapshot.store.place.sizes(f"pool.lance/_indices/{part}") for part in recorded["parts"]
    )
