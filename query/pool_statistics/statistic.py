"""What is learned once of the pool for comparisons, and recorded by digest.

A statistic is what a sample of rows amounts to, such as the mean of their vectors; rows and
examples are compared with respect to it. The sample depends on the ids of the rows and on nothing
else, and nothing is learned at ingestion, so every store can have every statistic. A selection
keeps it as an artifact, its coreset records the digest, and a replay reads that one, whatever
became of the rows.

One kind is a module: `background` of a representation's own making, which is frozen for its feature
once its sample is full, and `centring`, which subtracts a mean and is made anew for every version
of the pool.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ...store.catalog import (
    Artifact,
    content_of,
    find_artifact,
    keep_artifact,
    load_artifact,
    put_artifact,
)
from ..features import Feature
from ..snapshot import PoolStatistic, Snapshot

BACKGROUND, CENTRE = KINDS = ("background", "centre")


def statistic_of(
    snapshot: Snapshot, feature: Feature, kind: str, make: Callable[[], tuple[Artifact, bool]]
) -> PoolStatistic:
    """Return a statistic of a feature: the recorded one, the frozen one, or else a new one.

    Args:
        snapshot: whose pool is sampled; it holds on to the statistic.
        feature: that the sampled rows have.
        kind: of the statistic, its name among the artifacts and in a coreset's parameters.
        make: makes it of the snapshot's pool; returns also whether it is to be frozen: whether it
            is the feature's from then on, at every version of the pool.

    Raises:
        DamagedStoreError: the store lost the one that was recorded or frozen.
    """
    store, fingerprint = snapshot.store, feature.recipe.fingerprint
    if (fingerprint, kind) not in snapshot.statistics:
        digest = snapshot.recorded.get(kind) or find_artifact(store, fingerprint, kind)
        if digest is None:
            artifact, freeze = make()
            digest, kept = content_of(artifact.pack()), False
        else:
            artifact, freeze, kept = load_artifact(store, digest, kind), False, True
        snapshot.statistics[fingerprint, kind] = PoolStatistic(artifact, digest, freeze, kept)
    return snapshot.statistics[fingerprint, kind]


def keep_statistics(snapshot: Snapshot) -> None:
    """Keep the statistics that a snapshot's comparisons used, and freeze those that are to be.

    Raises:
        ReadOnlyStoreError: there is one to keep, and the store cannot be written to.
    """
    for (fingerprint, kind), statistic in snapshot.statistics.items():
        if statistic.kept:
            continue
        if statistic.freeze:
            keep_artifact(snapshot.store, fingerprint, kind, statistic.artifact)
        else:
            put_artifact(snapshot.store, statistic.digest, kind, statistic.artifact.pack())


def statistics_in(parameters: Mapping[str, Any]) -> dict[str, str]:
    """Return kind -> digest of the statistics that a coreset's parameters record."""
    recorded = {kind: parameters[kind] for kind in KINDS if kind in parameters}
    return {
        kind: value if isinstance(value, str) else value["artifact"]
        for kind, value in recorded.items()
    }


def as_parameters(snapshot: Snapshot, feature: Feature) -> dict[str, Any]:
    """Return what a coreset records of a feature's statistics, as JSON values.

    A background is recorded as its digest, a centre with the number of its rows.
    """
    return {
        kind: {"artifact": statistic.digest, "rows": statistic.artifact.facts["rows"]}
        if kind == CENTRE
        else statistic.digest
        for (fingerprint, kind), statistic in snapshot.statistics.items()
        if fingerprint == feature.recipe.fingerprint
    }
