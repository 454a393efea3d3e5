"""Artifacts of a target as a whole, made once, when the target or the feature is added.

They are kept in the table `artifacts` under the fingerprint of the recipe and a digest of the
examples in their order. So equal examples share them, and they outlive the target: a coreset that
was chosen by them can be replayed. Where a recipe cannot use the target, the fact `refused` of its
artifact says why (a sentence); `notes` (a list of sentences) is what a user should know otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...schemas.conversations import conversation_columns, conversations_in
from ...schemas.instruction import Instruction
from ...schemas.recipe import Recipe
from ...store import catalog
from ...store.catalog import Artifact
from ..conversations.tokenization import Encoded
from ..representations import registry
from ..representations.representation import NOTES, REFUSED

if TYPE_CHECKING:
    from ...store.store import Store
    from ..featurizer import Features, Featurizer


def artifact_name(ids: Sequence[str]) -> str:
    """The name under which the artifact of these examples, in this order, is kept."""
    return catalog.target_artifact_name(ids)


def find_target_artifact(store: Store, fingerprint: str, ids: Sequence[str]) -> Artifact | None:
    """The artifact that a recipe has of these examples, or None."""
    data = catalog.artifact(store, fingerprint, artifact_name(ids))
    return None if data is None else Artifact.unpack(data)


def make_target_artifacts(
    store: Store, featurizer: Featurizer, ids: Sequence[str], features: Features
) -> tuple[str, ...]:
    """Make and keep the artifacts of a target, one per recipe; those that exist stay.

    Args:
        store: where they are kept.
        featurizer: of the recipes.
        ids: of all examples of the target, in their order.
        features: of the same examples, computed by `featurizer` with `of="target"`.

    Returns:
        Sentences for the user: recipes that cannot use the target, and the notes of others.
    """
    usable = [index for index, row in enumerate(features.encoded) if isinstance(row, Encoded)]
    rows = [row for row in features.encoded if isinstance(row, Encoded)]
    notes: list[str] = []
    for recipe in featurizer.recipes if rows else ():
        artifact = find_target_artifact(store, recipe.fingerprint, ids)
        if artifact is None:
            artifact = registry.get(recipe.representation).target_artifact(
                featurizer.backbone,
                rows,
                {
                    name: features.columns[column][np.asarray(usable)]
                    for name, column in registry.columns_of(recipe).items()
                },
                featurizer.setup(recipe, of="target"),
            )
            if artifact is None:
                continue
            stored = catalog.put_artifact(
                store, recipe.fingerprint, artifact_name(ids), artifact.pack()
            )
            artifact = Artifact.unpack(stored)
        if REFUSED in artifact.facts:
            notes.append(f"{recipe.representation} cannot use it: {artifact.facts[REFUSED]}")
        notes += artifact.facts.get(NOTES, ())
    return tuple(notes)


def complete_target_artifacts(
    store: Store, recipes: Sequence[Recipe], featurizer: Callable[[], Featurizer]
) -> tuple[str, ...]:
    """Make the artifacts that targets lack because a feature was added after them.

    Args:
        store: where targets and artifacts are kept.
        recipes: whose artifacts are made.
        featurizer: makes the featurizer of these recipes; called if an artifact is lacking.

    Returns:
        Sentences for the user, each with its target.
    """
    fingerprints = [
        recipe.fingerprint
        for recipe in recipes
        if registry.makes_target_artifact(registry.get(recipe.representation))
    ]
    if not fingerprints:
        return ()
    dataset = store.dataset("targets")
    columns = ["target", "id", "position", *conversation_columns(dataset.schema)]
    order = [("target", "ascending"), ("position", "ascending")]
    rows = dataset.to_table(columns=columns).sort_by(order)
    examples: dict[str, list[tuple[str, Instruction]]] = {}
    for target, row_id, instruction in zip(
        rows["target"].to_pylist(), rows["id"].to_pylist(), conversations_in(rows), strict=True
    ):
        examples.setdefault(target, []).append((row_id, instruction))
    notes: list[str] = []
    for target, target_rows in examples.items():
        ids = [row_id for row_id, _ in target_rows]
        if all(
            find_target_artifact(store, fingerprint, ids) is not None
            for fingerprint in fingerprints
        ):
            continue
        instructions = [instruction for _, instruction in target_rows]
        loaded = featurizer()
        features = loaded.compute(instructions, of="target")
        sentences = make_target_artifacts(store, loaded, ids, features)
        notes += [f"target {target}: {sentence}" for sentence in sentences]
    return tuple(notes)
