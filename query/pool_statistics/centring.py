"""Cosines after a mean is subtracted: `rds(centre=pool)`, `embed(centre=pool)` (ours).

Hidden states and embeddings share a large common part, so that all cosines are high and differ
little. Without the pool's mean m a row x and an example q compare by cos(x - m, q - m). m is the
mean of `CENTRE_ROWS` stored vectors of the pool, drawn by their ids, at the pool's version.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ...schemas.errors import MissingFeatureError
from ...schemas.ids import IdSet
from ...selectors.reductions import Fetched, RowColumns, RowVectors
from ...store.catalog import Artifact
from ..features import Feature
from ..methods import Method
from ..queries import Queries
from ..scanning.fetch import sampled_vectors
from ..snapshot import Snapshot
from .statistic import CENTRE, statistic_of

CENTRE_ROWS = 4096


def centre_of(snapshot: Snapshot, method: Method, feature: Feature | None) -> Artifact | None:
    """Return the mean that a method subtracts; None where it subtracts none.

    Args:
        snapshot: whose pool is sampled, unless it records a mean.
        method: that compares rows.
        feature: that it uses.

    Returns:
        `centre`, (d,) float32. Fact: `rows`.

    Raises:
        MissingFeatureError: no row of the pool has the feature.
        DamagedStoreError: the store lost the mean that was recorded.
    """
    if not (method.is_centred and method.uses_feature and feature and feature.column):
        return None
    column, width = feature.column, feature.width

    def make() -> tuple[Artifact, bool]:
        drawn = sampled_vectors(snapshot.pool, column, width, CENTRE_ROWS)
        if not len(drawn):
            raise MissingFeatureError(
                f"{method}: no row of {snapshot.store.uri} has {feature.name} yet, so there is no "
                f"mean to subtract. Run `coresetdb featurize {snapshot.store.typed}` first"
            )
        mean = drawn.vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
        return Artifact({CENTRE: mean}, {"rows": len(drawn)}), False

    return statistic_of(snapshot, feature, CENTRE, make).artifact


def centred(vectors: np.ndarray, centre: Artifact) -> np.ndarray:
    """Return (n, d) float32 unit vectors without the mean; a vector equal to it stays zero."""
    without = vectors.astype(np.float32) - centre.arrays[CENTRE]
    lengths = np.linalg.norm(without.astype(np.float64), axis=1, keepdims=True)
    return (without / np.where(lengths, lengths, 1)).astype(np.float32)


def centred_queries(queries: Sequence[Queries], centre: Artifact) -> list[Queries]:
    """Return examples with vectors without the mean."""
    return [
        query if query.vectors is None else replace(query, vectors=centred(query.vectors, centre))
        for query in queries
    ]


def centred_fetch(
    fetch: Callable[[Fetched, IdSet | None], RowVectors | RowColumns], centre: Artifact
) -> Callable[[Fetched, IdSet | None], RowVectors | RowColumns]:
    """Return a fetch whose vectors are unit vectors, in float16, without the mean."""

    def without_mean(need: Fetched, eligible: IdSet | None) -> RowVectors | RowColumns:
        answer = fetch(need, eligible)
        if isinstance(answer, RowColumns):
            return answer
        for start in range(0, len(answer), _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            answer.vectors[part] = centred(answer.vectors[part], centre)
        return answer

    return without_mean


_ROWS_AT_ONCE = 4096
