"""The query side of a target: its examples and what a feature holds of them; no model runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ..ingest.jobs.target_artifacts import artifact_name, find_target_artifact
from ..ingest.representations import registry
from ..ingest.representations.representation import REFUSED
from ..schemas.canonical import digest_of
from ..schemas.errors import FingerprintError, MissingFeatureError, UsageError
from ..schemas.recipe import difference
from ..schemas.stored_vectors import vectors_of
from ..schemas.tables import literal
from ..store.catalog import Artifact, recipe_of
from ..store.features import completion
from .features import Feature, check_fingerprint, comparison_of
from .names import unknown_target

if TYPE_CHECKING:
    import lance
    import torch

    from ..store.store import Store
    from .snapshot import Snapshot


@dataclass(frozen=True)
class Queries:
    """A target's examples in their order.

    Attributes:
        target: its name.
        ids: of the examples that have the feature, (M,).
        vectors: (M, d) where rows are compared by cosine, float16 or float32; None otherwise.
        artifact: of the target as a whole, where a scorer needs one.
        units: of all examples together, (n,) int64, where sets are covered.
        words: of each example, (n,) int32, where words are counted.
        missing: how many examples lack the feature and are ignored.
        groups: of each of `ids`, as text, where examples are compared by group; () elsewhere.
    """

    target: str
    ids: tuple[str, ...]
    vectors: np.ndarray | None = None
    artifact: Artifact | None = None
    units: np.ndarray | None = None
    words: tuple[np.ndarray, ...] | None = None
    missing: int = 0
    groups: tuple[str, ...] = ()


def load_queries(snapshot: Snapshot, target: str, feature: Feature | None) -> Queries:
    """Read the examples of a target, and what the feature holds of them.

    Raises:
        UsageError: there is no such target (the message names those most like it), or the feature
            cannot use it.
        MissingFeatureError: none of its examples has the feature, or it was never made for them.
        FingerprintError: its features were made by another recipe than the pool's.
    """
    store, table = snapshot.store, snapshot.targets
    columns = ["id", "position"]
    if feature:
        if not set(feature.recipe.columns) <= set(table.schema.names):
            raise MissingFeatureError(_never_made(store, target, feature))
        check_fingerprint(store, feature, f"target {target!r}", table.schema)
        columns += [feature.first, feature.reason]
    rows = table.to_table(columns=columns, filter=f"target = {literal(target)}")
    if not rows.num_rows:
        raise UsageError(unknown_target(store, target, _names(table)))
    rows = rows.sort_by("position")
    ids = rows["id"].to_pylist()
    if feature is None:
        return Queries(target, tuple(ids))
    column = rows[feature.first].combine_chunks()
    present = np.asarray(column.is_valid())
    if not present.any():
        raise MissingFeatureError(_all_lack_it(store, target, feature, rows))
    present_ids = tuple(id for id, has_it in zip(ids, present, strict=True) if has_it)
    missing = int((~present).sum())
    if feature.column:
        return Queries(target, present_ids, vectors_of(column), missing=missing)
    if feature.representation.sets:
        units = np.unique(column.flatten().to_numpy()).astype(np.int64)
        artifact = None
        if feature.representation.example_columns:
            artifact = _with_examples(table, target, feature, Artifact({}))
        return Queries(target, present_ids, units=units, artifact=artifact, missing=missing)
    if feature.representation.terms:
        words = tuple(np.array(example, np.int32) for example in column.drop_null().to_pylist())
        return Queries(target, present_ids, words=words, missing=missing)
    if comparison_of(feature.representation) == "target_scorer":
        artifact = Artifact({})
        if registry.makes_target_artifact(feature.representation):
            artifact = _target_artifact(store, target, feature, ids)
        if feature.representation.example_columns:
            artifact = _with_examples(table, target, feature, artifact)
        return Queries(target, present_ids, artifact=artifact, missing=missing)
    return Queries(target, present_ids, missing=missing)


def query_hash(queries: Sequence[Queries], feature: Feature | None) -> str | None:
    """Digest of the examples' ids, in order, and the feature's fingerprint; None for no query."""
    if not queries:
        return None
    facts = {
        "targets": [[query.target, list(query.ids)] for query in queries],
        "fingerprint": feature.recipe.fingerprint if feature else None,
    }
    groups = [list(query.groups) for query in queries]
    return digest_of(facts | ({"groups": groups} if any(groups) else {}))


def matrix_of(queries: Sequence[Queries]) -> torch.Tensor:
    """The vectors of all examples, (M, d) float32."""
    import torch

    parts = [query.vectors for query in queries if query.vectors is not None]
    return torch.from_numpy(np.concatenate(parts)).float()


def _target_artifact(store: Store, target: str, feature: Feature, ids: Sequence[str]) -> Artifact:
    artifact = find_target_artifact(store, feature.recipe.fingerprint, ids)
    if artifact is None:
        _refuse_other_artifact(store, target, feature, ids)
        raise MissingFeatureError(_never_made(store, target, feature))
    if REFUSED in artifact.facts:
        raise UsageError(f"target {target!r}: {feature.name}: {artifact.facts[REFUSED]}")
    return artifact


def _with_examples(
    table: lance.LanceDataset, target: str, feature: Feature, artifact: Artifact
) -> Artifact:
    """The artifact with what a representation reads of the examples that have the feature."""
    names = feature.representation.example_columns
    own = {feature.columns[name]: name for name in names if name in feature.columns}
    rows = table.to_table(columns=["position", *own], filter=f"target = {literal(target)}")
    rows = rows.sort_by("position").drop_columns(["position"])
    rows = rows.filter(rows[feature.first].is_valid())
    examples = rows.rename_columns([own[column] for column in rows.column_names])
    return feature.representation.with_examples(artifact, examples)


def _refuse_other_artifact(store: Store, target: str, feature: Feature, ids: Sequence[str]) -> None:
    """Raise FingerprintError if another recipe made these examples' artifact."""
    artifacts = store.dataset("artifacts").to_table(
        columns=["fingerprint"], filter=f"name = {literal(artifact_name(ids))}"
    )
    others = [recipe_of(store, fingerprint) for fingerprint in artifacts["fingerprint"].to_pylist()]
    for other in others:
        if other and other.representation == feature.recipe.representation:
            raise FingerprintError(
                f"target {target!r} was prepared for another {feature.name}: "
                f"{'; '.join(difference(other, feature.recipe))}. {_make_it(store, feature)}"
            )


def _names(table: lance.LanceDataset) -> list[str]:
    return sorted(set(table.to_table(columns=["target"])["target"].to_pylist()))


def _never_made(store: Store, target: str, feature: Feature) -> str:
    if feature.recipe.attached:
        return (
            f"target {target!r} has no vectors {feature.name}, which were made elsewhere. Give "
            f"them: {completion(store, feature.recipe)} --target {target}"
        )
    return (
        f"{feature.name} was never made for target {target!r}: the target was added before the "
        f"feature. {_make_it(store, feature)}"
    )


def _make_it(store: Store, feature: Feature) -> str:
    return f"Run {completion(store, feature.recipe)}"


def _all_lack_it(store: Store, target: str, feature: Feature, rows: pa.Table) -> str:
    reasons = sorted(set(rows[feature.reason].drop_null().to_pylist()))
    if not reasons:
        return _never_made(store, target, feature)
    return f"no example of target {target!r} has the feature {feature.name}: {'; '.join(reasons)}"
