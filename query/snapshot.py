"""What one request reads: the pool and the targets, each opened once and at one version."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import pyarrow as pa

from ..ingest.representations.registry import ALIASES, names
from ..schemas.errors import FingerprintError, MissingFeatureError, meant
from ..store.catalog import Artifact
from ..store.rows import offsets_of
from .features import Feature, check_fingerprint, features_in

if TYPE_CHECKING:
    import lance

    from ..store.store import Store

_ROWS_PER_PART = 1000


@dataclass(frozen=True)
class PoolStatistic:
    """What a sample of the pool amounts to, which comparisons by a feature make use of.

    Attributes:
        artifact: what was made of the sample.
        digest: of its content.
        freeze: whether it is to be that of the feature from now on.
        kept: whether the store has it.
    """

    artifact: Artifact
    digest: str
    freeze: bool
    kept: bool


class Snapshot:
    """The pool and the targets of a store at two versions.

    A table is opened when it is first read, and never again.

    Args:
        store: an open store.
        pool_version: the newest by default, as found when the pool is first read.
        targets_version: alike.
        recorded: kind -> digest of the pool's statistics that a coreset recorded.

    Attributes:
        statistics: those in use, by the fingerprint of their feature and their kind.
    """

    def __init__(
        self,
        store: Store,
        pool_version: int | None = None,
        targets_version: int | None = None,
        recorded: Mapping[str, str] | None = None,
    ) -> None:
        self.store = store
        self._pool_version, self._targets_version = pool_version, targets_version
        self.recorded = recorded or {}
        self.statistics: dict[tuple[str, str], PoolStatistic] = {}

    @cached_property
    def pool(self) -> lance.LanceDataset:
        """The table `pool`."""
        return self.store.dataset("pool", self._pool_version)

    @cached_property
    def targets(self) -> lance.LanceDataset:
        """The table `targets`."""
        return self.store.dataset("targets", self._targets_version)

    @property
    def pool_version(self) -> int:
        """The version of the pool."""
        return self._pool_version or self.pool.version

    @property
    def targets_version(self) -> int:
        """The version of the targets."""
        return self._targets_version or self.targets.version

    def with_targets(self, version: int) -> Snapshot:
        """Return the same pool beside another version of the targets."""
        other = copy.copy(self)
        other._pool_version, other._targets_version = self.pool_version, version
        other.__dict__.pop("targets", None)
        return other

    def with_targets_table(self, targets: lance.LanceDataset) -> Snapshot:
        """Return the same pool beside targets that no version of the store has."""
        other = self.with_targets(targets.version)
        other.__dict__["targets"] = targets
        return other

    @cached_property
    def features(self) -> dict[str, Feature]:
        """The features of the pool by the names that methods use."""
        return features_in(self.store, self.pool.schema)

    def feature(self, name: str) -> Feature:
        """Return the pool's feature of that name.

        Raises:
            MissingFeatureError: the pool has no such feature; says what to type.
            FingerprintError: its columns were filled by another recipe than the store's, or by a
                version of the representation that this coresetdb does not compare.
        """
        store = self.store
        if name not in self.features:
            known = name in names() or name in ALIASES
            add = f". Add it: coresetdb featurize {store.typed} {name}" if known else ""
            raise MissingFeatureError(
                f"the pool of {store.uri} has no feature {name!r}. Features of this store: "
                f"{', '.join(self.features) or 'none'}{add or meant(name, self.features)}"
            )
        feature = self.features[name]
        if feature.recipe.version != feature.representation.version:
            raise FingerprintError(
                f"{name} of {store.uri} was made by version {feature.recipe.version} of its "
                f"representation, and this coresetdb has version {feature.representation.version}. "
                f"To make it again: coresetdb feature remove {store.typed} {name}; "
                f"coresetdb featurize {store.typed} {feature.recipe.representation}"
            )
        check_fingerprint(store, feature, "pool", self.pool.schema)
        return feature

    def take(self, ids: Sequence[str], columns: Sequence[str]) -> pa.Table:
        """Return rows of the pool in the order of their ids.

        Raises:
            StoreError: some ids are not in this version; names the first of them.
        """
        offsets = offsets_of(self.pool, self.store.uri, "pool", ids)
        return self.pool.take(offsets, columns=list(columns))

    def stream(
        self, ids: Sequence[str], columns: Sequence[str], rows: int = _ROWS_PER_PART
    ) -> Iterator[pa.Table]:
        """Yield what `take` returns in parts of at most `rows`.

        Raises:
            StoreError: as `take`, before the first part.
        """
        offsets = offsets_of(self.pool, self.store.uri, "pool", ids)
        for start in range(0, len(offsets), rows):
            yield self.pool.take(offsets[start : start + rows], columns=list(columns))
