"""Make a store: settle backbone and features once, so that every later row is comparable."""

from __future__ import annotations

from ..schemas.errors import FingerprintError
from ..schemas.recipe import Recipe, difference
from ..store.store import Store
from .backbone import BackboneConfig, describe
from .representations.registry import parse_features, representation


def create_store(
    uri: str,
    *,
    backbone: BackboneConfig,
    features: str = "rds,losses",
    storage_options: dict[str, str] | None = None,
) -> Store:
    """Create an empty store whose pool asks for `features` made by `backbone`.

    Raises:
        BackboneError: the backbone cannot be found or is no causal language model.
        UsageError: a feature is unknown.
        StoreError: something already stands at `uri`.
    """
    info = describe(backbone)
    recipes = parse_features(features, info)
    fields = [field for recipe in recipes for field in fields_of(recipe, info)]
    config = {"backbone": info.config.as_dict(), "features": [r.representation for r in recipes]}
    store = Store.create(uri, config, fields, fields, storage_options)
    for recipe in recipes:
        store.put_recipe(recipe)
    return store


def fields_of(recipe, info):
    """The pool columns of a recipe."""
    return representation(recipe.representation).fields(info, recipe.options)


def featurizer_of(store: Store, *, device: str | None = None):
    """The featurizer that makes a store's features, checked against how they were made so far.

    Raises:
        FingerprintError: the backbone is no longer the one the store was created with.
    """
    from .backbone import Backbone
    from .featurizer import Featurizer
    raise NotImplementedError
