"""Which vector column answers a representation, and whether pool and target hold the same one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from ..schemas.errors import FingerprintError, MissingFeatureError
from ..schemas.recipe import Recipe, difference
from ..store.catalog import as_recipe, recipe_of, recipes_in

if TYPE_CHECKING:
    from ..store.store import Store

FINGERPRINT = b"coresetdb:fingerprint"


@dataclass(frozen=True)
class Feature:
    """A vector column of the pool, the length of its vectors, and the recipe that fills it."""

    column: str
    width: int
    recipe: Recipe


def vector_features(store: Store, version: int | None = None) -> dict[str, Feature]:
    """The vector columns of the pool by the name methods use: the column's own.

    An older version knows its recipes itself, those of features that were dropped since as well.
    """
    schema = store.dataset("pool", version).schema
    recipes = store.recipes()
    for row in recipes_in(schema.metadata or {}):
        recipe = as_recipe(row)
        recipes |= dict.fromkeys(recipe.columns, recipe)
    return {
        column: Feature(column, schema.field(column).type.list_size, recipe)
        for column, recipe in recipes.items()
        if column in schema.names and pa.types.is_fixed_size_list(schema.field(column).type)
    }


def feature_named(store: Store, name: str, version: int | None = None) -> Feature:
    """The pool's feature of that name.

    Raises:
        MissingFeatureError: the pool has no such vector column; says what to type.
        FingerprintError: the column was filled by another recipe than the store's.
    """
    features = vector_features(store, version)
    if name not in features:
        has = f"Vectors of this store: {', '.join(features) or 'none'}"
        if any(recipe.representation == name for recipe in store.recipes().values()):
            raise MissingFeatureError(f"{name} holds no vectors to compare with a target. {has}")
        raise MissingFeatureError(
            f"the pool of {store.uri} has no column {name!r}. {has}. To add a feature to the rows "
            f"that are there: coresetdb featurize {store.uri} {name}"
        )
    feature = features[name]
    check_fingerprint(store, feature, "pool", store.dataset("pool", version).schema)
    return feature


def check_fingerprint(store: Store, feature: Feature, place: str, schema: pa.Schema) -> None:
    """Refuse to compare vectors that were made in different ways.

    Args:
        store: whose recipes know the fingerprints.
        feature: what the query uses.
        place: the table, or the target in it, for the message.
        schema: of that table.

    Raises:
        FingerprintError: names every point in which the two recipes differ.
    """
    found = (schema.field(feature.column).metadata or {}).get(FINGERPRINT, b"").decode()
    if found == feature.recipe.fingerprint:
        return
    other = recipe_of(store, found)
    points = "; ".join(difference(other, feature.recipe)) if other else f"made as {found or '?'}"
    raise FingerprintError(
        f"{feature.column} of {place} cannot be compared with the pool's {feature.column}: "
        f"{points}. Make it again with this store's recipe {feature.recipe.fingerprint}"
    )
