"""How far a selection is from the queries it was made for: two numbers.

With unit vectors q_1..q_M of the queries and s_1..s_K of the chosen rows:

    nearest = mean over m of (1 - max over j of <q_m, s_j>)
    mmd     = the root of  mean <q_m, q_n> + mean <s_i, s_j> - 2 mean <q_m, s_j>
            = | mean of the q_m - mean of the s_j |

The first says whether every query has a chosen row close by, the second whether the two sets agree
on the whole. The kernel of the maximum mean discrepancy (MMD) is the cosine over all pairs, those
of a vector with itself included; with that kernel it is the distance of the two mean vectors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ..schemas.stored_vectors import vectors_of
from ..store.rows import offsets_of
from .features import Feature
from .queries import Queries, matrix_of

if TYPE_CHECKING:
    import torch

    from .snapshot import Snapshot

_BYTES_PER_TAKE = 2 << 20
"""Larger takes wait for memory: one of 64 MB took six times as long."""


@dataclass(frozen=True)
class Distances:
    """`nearest` in [0, 2] and `mmd` in [0, 2]; None where there is nothing to measure."""

    nearest: float | None = None
    mmd: float | None = None


def distances(
    snapshot: Snapshot,
    feature: Feature | None,
    queries: Sequence[Queries],
    ids: Sequence[str],
) -> Distances:
    """Return both distances of some rows of the pool to the examples of targets.

    Rows without the feature do not count. Vectors are read once, in parts of 2 MB.

    Args:
        snapshot: that has the rows.
        feature: whose vectors are compared.
        queries: with their vectors.
        ids: of the rows.

    Returns:
        None twice without vectors to compare, a target or a row that has the feature.

    Raises:
        StoreError: a row is not in that version of the pool.
    """
    meter = _meter(feature, queries)
    if meter is None or not ids:
        return Distances()
    for _, part in _read(snapshot, ids, meter, []):
        meter.add(part[meter.column].combine_chunks())
    return meter.distances


@dataclass(frozen=True)
class NearestPicks:
    """How near rows come to the queries, in order of their ranks.

    Attributes:
        highest: cosine of the nearest row of each query, (M,) float32.
        places: of these rows among all, (M,) int64; -1 where no row has the feature.
        best: each row's highest cosine to a query, (k,) float32; NaN without the feature.
        distances: of the first so many rows, for each of the `counts`.
    """

    highest: np.ndarray
    places: np.ndarray
    best: np.ndarray
    distances: tuple[Distances, ...]


def nearest_picks(
    snapshot: Snapshot,
    feature: Feature,
    queries: Sequence[Queries],
    ids: Sequence[str],
    counts: Sequence[int],
) -> NearestPicks:
    """Return how near some rows of the pool come to the examples of targets, over their ranks.

    Args:
        ids: of the rows, best first.
        counts: numbers of rows, ascending; distances are those of the first so many.

    Raises:
        StoreError: a row is not in that version of the pool.
    """
    import torch

    meter = _meter(feature, queries)
    assert meter is not None, "a feature with vectors, and a target"
    matrix = matrix_of(queries)
    highest = np.full(len(matrix), -np.inf, np.float32)
    places = np.full(len(matrix), -1, np.int64)
    best = np.full(len(ids), np.nan, np.float32)
    found = []
    for start, end in pairwise([0, *counts]):
        for part, table in _read(snapshot, ids[start:end], meter, []):
            column = table[meter.column].combine_chunks()
            meter.add(column)
            present = part[np.asarray(column.is_valid())] + start
            if not len(present):
                continue
            rows = torch.from_numpy(vectors_of(column).astype(np.float32))
            cosines = matrix @ rows.T
            best[present] = cosines.amax(dim=0).numpy()
            values, at = (each.numpy() for each in cosines.max(dim=1))
            better = values > highest
            highest[better], places[better] = values[better], present[at[better]]
        found.append(meter.distances)
    return NearestPicks(highest, places, best, tuple(found))


def distances_and_corpora(
    snapshot: Snapshot,
    feature: Feature | None,
    queries: Sequence[Queries],
    ids: Sequence[str],
) -> tuple[Distances, pa.Array]:
    """As `distances`, and the corpus of each row in the order of `ids`, from the same reading."""
    meter, parts, places = _meter(feature, queries), [], [np.empty(0, np.int64)]
    for place, part in _read(snapshot, ids, meter, ["corpus"]):
        if meter:
            meter.add(part[meter.column].combine_chunks())
        places.append(place)
        parts += part["corpus"].chunks
    read = pa.chunked_array(parts, pa.string()).combine_chunks()
    corpora = read.take(pa.array(np.argsort(np.concatenate(places))))
    return meter.distances if meter else Distances(), corpora


def _read(
    snapshot: Snapshot, ids: Sequence[str], meter: _Meter | None, columns: list[str]
) -> Iterator[tuple[np.ndarray, pa.Table]]:
    """Yield parts of the rows, with the vectors of the meter, and which of `ids` they are."""
    dataset = snapshot.pool
    offsets = np.array(offsets_of(dataset, snapshot.store.uri, "pool", ids), np.int64)
    order = np.argsort(offsets)  # Lance takes in the order of the table fastest
    wide = [meter.column] if meter else []
    rows = meter.rows if meter else max(len(ids), 1)
    for start in range(0, len(order), rows):
        part = order[start : start + rows]
        table = dataset.take(offsets[part].tolist(), columns=[*wide, *columns])
        yield part, table


def _meter(feature: Feature | None, queries: Sequence[Queries]) -> _Meter | None:
    if feature is None or not feature.column or not queries:
        return None
    return _Meter(feature.column, matrix_of(queries))


class _Meter:
    """Both distances of the vectors it is shown, to the queries.

    Args:
        column: that holds the vectors.
        queries: (M, d) float32.
    """

    def __init__(self, column: str, queries: torch.Tensor) -> None:
        import torch

        self.column, self._queries = column, queries
        self.rows = max(1, _BYTES_PER_TAKE // (2 * queries.shape[1]))
        self._highest = torch.full((len(queries),), -np.inf)
        self._total = torch.zeros(queries.shape[1], dtype=torch.float64)
        self._count = 0

    def add(self, vectors: pa.FixedSizeListArray) -> None:
        """Take in (n, d) unit vectors; rows that are null do not count."""
        import torch

        rows = torch.from_numpy(vectors_of(vectors).astype(np.float32))
        if len(rows):
            self._highest = self._highest.maximum((self._queries @ rows.T).amax(dim=1))
            self._total += rows.sum(dim=0)
            self._count += len(rows)

    @property
    def distances(self) -> Distances:
        if not self._count:
            return Distances()
        apart = self._queries.double().mean(dim=0) - self._total / self._count
        return Distances(float((1 - self._highest.double()).mean()), float(apart.norm()))
