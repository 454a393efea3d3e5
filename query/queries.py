"""The query side of a target: its examples' vectors, read from the store, no model needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..schemas.canonical import digest_of
from ..schemas.errors import MissingFeatureError, UsageError
from .features import Feature, check_fingerprint
from .names import quoted

if TYPE_CHECKING:
    import lance
    import torch

    from ..store.store import Store


@dataclass(frozen=True)
class Queries:
    """A target's examples in their order.

    Attributes:
        target: its name.
        ids: of the examples that are asked with, (M,).
        vectors: (M, d) float16, or None when no feature is asked for.
        missing: examples left out for want of the feature.
    """

    target: str
    ids: tuple[str, ...]
    vectors: np.ndarray | None
    missing: int = 0


def load_queries(
    store: Store, target: str, feature: Feature | None, version: int | None = None
) -> Queries:
    """The examples of a target, at the newest version of `targets` or the one given.

    Raises:
        UsageError: there is no such target; the message lists those there are.
        MissingFeatureError: none of its examples has the feature.
        FingerprintError: its features were made otherwise than the pool's.
    """
    table = store.dataset("targets", version)
    columns = ["id", "position"]
    if feature:
        if feature.column not in table.schema.names:
            raise MissingFeatureError(_no_feature(store, target, feature))
        check_fingerprint(store, feature, f"target {target!r}", table.schema)
        columns.append(feature.column)
    rows = table.to_table(columns=columns, filter=f"target = {quoted(target)}")
    if not rows.num_rows:
        there = ", ".join(_names(table)) or "none yet: coresetdb target add STORE NAME FILE"
        raise UsageError(f"no target {target!r} in {store.uri}; targets: {there}")
    rows = rows.sort_by("position")
    ids = rows["id"].to_pylist()
    if feature is None:
        return Queries(target, tuple(ids), None)
    column = rows[feature.column].combine_chunks()
    width = column.type.list_size
    vectors = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    present = np.asarray(column.is_valid())
    if not present.any():
        raise MissingFeatureError(_no_feature(store, target, feature))
    kept = tuple(each for each, yes in zip(ids, present, strict=True) if yes)
    return Queries(target, kept, vectors, int((~present).sum()))


def query_hash(queries: Sequence[Queries], feature: Feature | None) -> str | None:
    """What was asked, as one digest: the examples' ids in order and the feature's fingerprint."""
    if not queries:
        return None
    return digest_of(
        {
            "targets": [[each.target, list(each.ids)] for each in queries],
            "fingerprint": feature.recipe.fingerprint if feature else None,
        }
    )


def matrix_of(queries: Sequence[Queries]) -> torch.Tensor:
    """All examples' vectors one below the other, (M, d) float32."""
    import torch

    parts = [each.vectors for each in queries if each.vectors is not None]
    return torch.from_numpy(np.concatenate(parts)).float()


def _names(table: lance.LanceDataset) -> list[str]:
    return sorted(set(table.to_table(columns=["target"])["target"].to_pylist()))


def _no_feature(store: Store, target: str, feature: Feature) -> str:
    return (
        f"no example of target {target!r} has the feature {feature.column}. Make it: "
        f"coresetdb featurize {store.uri} {feature.recipe.feature}; the reason of examples that "
        f"cannot have it stands in the column {feature.recipe.reason} of targets"
    )
