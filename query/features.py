"""The features of a pool, how rows are compared by them, and whether targets hold the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import pyarrow as pa

from ..ingest.representations import registry
from ..ingest.representations.representation import Representation
from ..schemas.errors import FingerprintError
from ..schemas.recipe import FINGERPRINT_KEY, VECTORS, Recipe, difference
from ..schemas.stored_vectors import width_of
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
        width: numbers in a vector, 0 where rows are not compared by cosine.
    """

    recipe: Recipe
    columns: Mapping[str, str]
    representation: Representation
    width: int

    @property
    def name(self) -> str:
        """The name in methods: the representation's, with `__<8 hex>` for a second recipe."""
        return self.recipe.feature

    @property
    def column(self) -> str | None:
        """The pool's column of vectors, None where rows are not compared by cosine."""
        own = self.representation.similarity
        return None if own is None else self.columns[own]

    @property
    def first(self) -> str:
        """The pool's column that is null exactly where a row lacks the feature."""
        return self.column or self.recipe.columns[0]

    @property
    def is_coded(self) -> bool:
        """Whether the vectors are stored as codes, for which there is no index."""
        return self.column is not None and self.recipe.stored_dtype in ("int8", "int2")

    @property
    def reason(self) -> str:
        """The pool's column that says why a row lacks it."""
        return self.recipe.reason


Comparison = Literal["cosine", "scorer", "target_scorer"]


def comparison_of(representation: Representation) -> Comparison | None:
    """How rows are compared: by cosine, by a scorer, by a scorer of the target, or not (None).

    A target has a scorer of its own where the representation makes an artifact of its examples, or
    reads their columns.
    """
    if representation.similarity is not None:
        return "cosine"
    if type(representation).scorer is Representation.scorer:
        return None
    by_target = registry.makes_target_artifact(representation) or representation.example_columns
    return "target_scorer" if by_target else "scorer"


def features_in(store: Store, schema: pa.Schema) -> dict[str, Feature]:
    """The features of a version of the pool by the names that methods use.

    Left out are those whose representation no installed package brings. An older version knows
    its recipes itself, including those of features that were dropped since.

    Args:
        store: whose recipes are known.
        schema: of the pool at that version.
    """
    known = {*registry.names(), VECTORS}
    recipes = {recipe.fingerprint: recipe for recipe in catalog.recipes(store).values()}
    for row in recipes_in(schema.metadata or {}):
        recipes.setdefault(row["fingerprint"], as_recipe(row))
    present = [
        recipe
        for recipe in recipes.values()
        if recipe.representation in known and set(recipe.columns) <= set(schema.names)
    ]
    # A feature that was dropped and made again by another recipe has the columns of the one before
    # it: the columns of this version say which it is.
    present.sort(key=lambda recipe: fingerprint_in(schema, recipe.columns[0]) == recipe.fingerprint)
    features = [_feature(recipe, schema) for recipe in present]
    return {feature.name: feature for feature in features}


def _feature(recipe: Recipe, schema: pa.Schema) -> Feature:
    representation = registry.of(recipe)
    columns = registry.columns_of(recipe)
    similarity = representation.similarity
    return Feature(
        recipe=recipe,
        columns=columns,
        representation=representation,
        width=width_of(schema.field(columns[similarity]).type) if similarity else 0,
    )


def fingerprint_in(schema: pa.Schema, column: str) -> str:
    """The fingerprint of the recipe that fills a column, by its metadata; empty for none."""
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
        fingerprint = fingerprint_in(schema, column)
        if fingerprint != feature.recipe.fingerprint:
            raise FingerprintError(_refusal(store, feature, column, place, fingerprint))


def _refusal(store: Store, feature: Feature, column: str, place: str, fingerprint: str) -> str:
    other = recipe_of(store, fingerprint)
    points = (
        "; ".join(difference(other, feature.recipe)) if other else f"made as {fingerprint or '?'}"
    )
    return (
        f"{column} of {place} cannot be compared with the pool's {column}: "
        f"{points}. Make it again with this store's recipe {feature.recipe.fingerprint}"
    )
