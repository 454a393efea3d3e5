"""The background of a feature: what a representation makes of a sample of the pool.

NAIT's is the pool's mean activation in every layer. The sample are the rows with the lowest ids
that have the feature; ids are digests of the content, so they are drawn at random, whatever the
order of ingestion.

It is made when a method first needs it, and frozen with the first coreset or scores that are kept
when the sample is full. As long as the pool is smaller than that, the background is made of all its
rows at every version.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from ...schemas.errors import MissingFeatureError
from ...schemas.ids import id_order, ids_of
from ...store.catalog import Artifact
from ...store.features import completion
from ...store.rows import row_keys
from ..features import Feature
from ..snapshot import Snapshot
from .statistic import BACKGROUND, statistic_of

SAMPLE_ROWS = 1024
_ROWS_PER_PART = 128


def background_of(snapshot: Snapshot, feature: Feature) -> Artifact:
    """Return the background of a feature.

    Raises:
        MissingFeatureError: no row of the pool has the feature.
        DamagedStoreError: the store lost the one that was recorded or frozen.
    """

    def make() -> tuple[Artifact, bool]:
        sample = _Sample(snapshot, feature)
        made = feature.representation.background(sample)
        artifact = Artifact(made.arrays, {**made.facts, "pool_version": snapshot.pool_version})
        return artifact, sample.rows == SAMPLE_ROWS

    return statistic_of(snapshot, feature, BACKGROUND, make).artifact


class _Sample:
    """The parts of the sample, each read when it is reached.

    Raises:
        MissingFeatureError: no row of the pool has the feature.
    """

    def __init__(self, snapshot: Snapshot, feature: Feature) -> None:
        self._snapshot, self._feature = snapshot, feature
        self.rows = 0

    def __iter__(self) -> Iterator[pa.Table]:
        keys = row_keys(self._snapshot.pool)
        keys = keys[id_order(keys)]
        self.rows, start, reading = 0, 0, SAMPLE_ROWS
        while start < len(keys):
            for part in self._read(ids_of(keys[start : start + reading])):
                yield part.slice(0, SAMPLE_ROWS - self.rows)
                self.rows = min(self.rows + part.num_rows, SAMPLE_ROWS)
                if self.rows == SAMPLE_ROWS:
                    return
            start, reading = start + reading, 2 * reading  # each reading looks through all ids
        if not self.rows:
            store, feature = self._snapshot.store, self._feature
            run = f"coresetdb ingest {store.typed} FILE..."
            if len(keys):
                run = completion(store, feature.recipe)
            raise MissingFeatureError(
                f"no row of {store.uri} has {feature.name} yet, so there is no pool to compare "
                f"with. Run {run}"
            )

    def _read(self, ids: list[str]) -> Iterator[pa.Table]:
        """Rows that have the feature, under the representation's own names of its columns."""
        feature = self._feature
        own = {column: name for name, column in feature.columns.items()}
        for part in self._snapshot.stream(ids, feature.recipe.columns, _ROWS_PER_PART):
            present = part.filter(part[feature.first].is_valid())
            yield present.rename_columns([own[name] for name in present.column_names])
