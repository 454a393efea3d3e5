"""What rows can be compared by in a store, and whether pool and target hold the same thing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import pyarrow as pa

from ..ingest.representations import registry
from ..ingest.representations.representation import Representation
from ..schemas.errors import FingerprintError, MissingFeatureError
from ..schemas.recipe import FINGERPRINT_KEY, Recipe, difference
from ..store import catalog
from ..store.catalog import as_recipe, recipe_of, recipes_in

if TYPE_CHECKING:
    from ..store.store import Store


@dataclass(frozen=True)
class Feature:
    """What one recipe keeps of every row of the pool.

    Attributes:
        recipe: that fills it.
        columns: the representation's own name of each column -> the pool's.
        representation: that makes and compares it.
        width: numbers in a vector compared by cosine, 0 where no such comparison is made.
    """

    recipe: Recipe
    columns: Mapping[str, str]
    representation: Representation
    width: int

    @property
    def name(self) -> str:
        """As methods write it: the representation's, with `__<8 hex>` for a second recipe."""
        return self.recipe.feature

    @property
    def column(self) -> str | None:
        """The pool's column of vectors compared by cosine."""
        own = self.representation.similarity
        return None if own is None else self.columns[own]

    @property
    def first(self) -> str:
        """The pool's column that is null exactly where a row lacks the feature."""
        return self.column or self.recipe.columns[0]

    @property
    def reason(self) -> str:
        """The pool's column that says why a row lacks it."""
        return self.recipe.reason


Comparison = Literal["cosine", "scorer", "target_scorer"]


def comparison_of(representation: Representation) -> Comparison | None:
    """How rows are compared: by cosine, by a scorer, by one made for a target; None for not at all.

    A scorer belongs to a target where the representation makes facts of targets.
    """
    if representation.similarity is not None:
        return "cosine"
    if type(representation).scorer is Representation.scorer:
        return None
    return "target_scorer" if registry.makes_target_artifact(representation) else "scorer"


def features_of(store: Store, version: int | None = None) -> dict[str, Feature]:
    """The features of the pool by the name that methods use.

    Left out are those whose representation no installed package brings. An older version knows
    its recipes itself, those of features that were dropped since as well.
    """
    schema = store.dataset("pool", version).schema
    known = set(registry.names())
    recipes = {recipe.fingerprint: recipe for recipe in catalog.recipes(store).values()}
    for row in recipes_in(schema.metadata or {}):
        recipes.setdefault(row["fingerprint"], as_recipe(row))
    there = [
        recipe
        for recipe in recipes.values()
        if recipe.representation in known and set(recipe.columns) <= set(schema.names)
    ]
    # A feature that was dropped and made otherwise has the columns of the one before it: the
    # columns of this version say which it is.
    there.sort(key=lambda each: fingerprint_in(schema, each.columns[0]) == each.fingerprint)
    features = [_feature(recipe, schema) for recipe in there]
    return {feature.name: feature for feature in features}


def _feature(recipe: Recipe, schema: pa.Schema) -> Feature:
    representation = registry.get(recipe.representation)
    columns = registry.columns_of(recipe)
    similarity = representation.similarity
    return Feature(
        recipe=recipe,
        columns=columns,
        representation=representation,
        width=schema.field(columns[similarity]).type.list_size if similarity else 0,
    )


def feature_named(store: Store, name: str, version: int | None = None) -> Feature:
    """The pool's feature of that name.

    Raises:
        MissingFeatureError: the pool has no such feature; says what to type.
        FingerprintError: its columns were filled by another recipe than the store's, or this
            coresetdb would compare them otherwise than they were made for.
    """
    features = features_of(store, version)
    if name not in features:
        raise MissingFeatureError(
            f"the pool of {store.uri} has no feature {name!r}. Features of this store: "
            f"{', '.join(features) or 'none'}. Add it: coresetdb featurize {store.typed} {name}"
        )
    feature = features[name]
    if feature.recipe.version != feature.representation.version:
        raise FingerprintError(
            f"{name} of {store.uri} was made by version {feature.recipe.version} of its "
            f"representation, and this coresetdb has version {feature.representation.version}. "
            f"Make it anew: coresetdb feature remove {store.typed} {name}; "
            f"coresetdb featurize {store.typed} {feature.recipe.representation}"
        )
    check_fingerprint(store, feature, "pool", store.dataset("pool", version).schema)
    return feature


def fingerprint_in(schema: pa.Schema, column: str) -> str:
    """Of the recipe that fills a column, as the column itself says; empty where it says nothing."""
    return (schema.field(column).metadata or {}).get(FINGERPRINT_KEY, b"").decode()


def check_fingerprint(store: Store, feature: Feature, place: str, schema: pa.Schema) -> None:
    """Refuse to compare features that were made in different ways.

    Args:
        store: whose recipes know the fingerprints.
        feature: what the query uses.
        place: the table, or the target in it, for the message.
        schema: of that table; it has all columns of the feature.

    Raises:
        FingerprintError: names every point in which the two recipes differ.
    """
    for column in feature.recipe.columns:
        found = fingerprint_in(schema, column)
        if found != feature.recipe.fingerprint:
            raise FingerprintError(_refusal(store, feature, column, place, found))


def _refusal(store: Store, feature: Feature, column: str, place: str, found: str) -> str:
    other = recipe_of(store, found)
    points = "; ".join(difference(other, feature.recipe)) if other else f"made as {found or '?'}"
    return (
        f"{column} of {place} cannot be compared with the pool's {column}: "
        f"{points}. Make it again with this store's recipe {feature.recipe.fingerprint}"
    )
