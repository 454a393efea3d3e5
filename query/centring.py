"""Cosines after a mean is subtracted: `rds(centre=pool)`, `embed(centre=pool)` (ours).

Hidden states and embeddings share a large common part, so that all cosines are high and differ
little. Without the pool's mean m a row x and an example q compare by cos(x - m, q - m). m is the
mean of `CENTRE_ROWS` stored vectors of the pool, drawn by their ids. A selection keeps it as an
artifact, so that a replay uses the same, whatever became of the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..schemas.errors import MissingFeatureError
from ..schemas.ids import IdSet
from ..selectors.reductions import Fetched, RowColumns, RowVectors
from ..store import catalog
from ..store.catalog import Artifact
from .features import Feature
from .methods import Method
from .queries import Queries
from .scanning.fetch import sampled_vectors

if TYPE_CHECKING:
    from ..store.store import Store
    from .snapshot import Snapshot

CENTRE = "centre"
"""Of the artifact its name, of its arrays the mean, (d,) float32."""

CENTRE_ROWS = 4096


def centre_of(
    snapshot: Snapshot, method: Method, feature: Feature | None, recorded: str | None = None
) -> Artifact | None:
    """Return the mean that a method subtracts; None where it subtracts none.

    Args:
        snapshot: whose pool is sampled.
        method: that compares rows.
        feature: that it uses.
        recorded: digest of the artifact of an earlier selection, which is then used again.

    Raises:
        MissingFeatureError: no row of the pool has the feature.
    """
    if not (method.is_centred and method.uses_feature and feature and feature.column):
        return None
    if recorded is not None:
        return catalog.load_artifact(snapshot.store, recorded, CENTRE)
    drawn = sampled_vectors(snapshot.pool, feature.column, feature.width, CENTRE_ROWS)
    if not len(drawn):
        raise MissingFeatureError(
            f"{method}: no row of {snapshot.store.uri} has {feature.name} yet, so there is no mean "
            f"to subtract. Run `coresetdb featurize {snapshot.store.typed}` first"
        )
    mean = drawn.vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    return Artifact({CENTRE: mean}, {"rows": len(drawn)})


def keep_centre(store: Store, centre: Artifact) -> None:
    """Keep in the store the mean that a selection subtracted."""
    data = centre.pack()
    catalog.put_artifact(store, catalog.content_of(data), CENTRE, data)


def record_of(centre: Artifact) -> dict[str, str | int]:
    """Return what a coreset records of the mean, as JSON values."""
    return {"artifact": catalog.content_of(centre.pack()), "rows": centre.facts["rows"]}


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
