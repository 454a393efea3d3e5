"""Make a store, and the featurizer that fits it: backbone and features are settled once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa

from ..schemas.errors import FingerprintError, UsageError
from ..schemas.recipe import Recipe, difference
from ..store.features import features_of
from ..store.store import Store
from .describe import BackboneConfig, describe
from .representations.registry import fields_of, names, parse_features

if TYPE_CHECKING:
    from .featurizer import Featurizer


def create_store(
    uri: str,
    backbone: BackboneConfig,
    features: str,
    storage_options: dict[str, str] | None = None,
) -> tuple[Store, tuple[str, ...]]:
    """Create an empty store whose rows get `features`, made by `backbone`.

    dtype `auto` is resolved here, so that the store says what made its features.

    Returns:
        The store, and sentences about the backbone that its user should read.

    Raises:
        BackboneError: the backbone cannot be found or is no causal language model.
        UsageError: a feature is unknown, or something already stands at `uri`.
    """
    from .backbone import resolve

    resolved = resolve(backbone)
    info = describe(resolved)
    recipes = parse_features(features, info)
    fields = [field for recipe in recipes for field in fields_of(recipe, info)]
    # The device is found again wherever the store is opened; everything else is settled.
    settled = replace(resolved, device=backbone.device)
    config = {"backbone": settled.as_dict(), "features": features}
    store = Store.create(uri, config, fields, fields, storage_options)
    for recipe in recipes:
        store.put_recipe(recipe)
    return store, info.notices


def asked_for(store: Store, features: str) -> list[tuple[Recipe, list[pa.Field]]]:
    """The recipes that `features` names, with their columns: the store's own, or new ones.

    A name may be that of a feature of the store (`losses__1a2b3c4d`), or a representation with
    options as `init` takes them; one the store does not have yet becomes a new recipe. Without
    any name: every feature of the store.

    Raises:
        UsageError: an unknown feature or option, or no name and no feature.
        BackboneError, FingerprintError: as `load_featurizer`.
    """
    config = BackboneConfig(**store.config["backbone"])
    present = features_of(store)
    check_backbone(store.uri, config, list(present.values()))
    info = describe(config)
    by_fingerprint = {recipe.fingerprint: recipe for recipe in present.values()}
    asked: dict[str, Recipe] = {} if features.strip(" ,") else dict(by_fingerprint)
    for entry in filter(None, map(str.strip, features.split(","))):
        if entry in present:
            asked[present[entry].fingerprint] = present[entry]
            continue
        known = [*present.values(), *asked.values()]
        for recipe in parse_features(entry, info, known) or parse_features(entry, info):
            asked.setdefault(recipe.fingerprint, by_fingerprint.get(recipe.fingerprint, recipe))
    if not asked:
        raise UsageError(f"{store.uri} has no features: name some of {', '.join(names())}")
    return [(recipe, fields_of(recipe, info)) for recipe in asked.values()]


def load_featurizer(store: Store) -> Featurizer:
    """Load the store's backbone, checked against what made the features so far.

    Raises:
        BackboneError: the backbone is gone or broken.
        FingerprintError: its weights, tokenizer or template are no longer those of the store.
    """
    from .backbone import Backbone
    from .featurizer import Featurizer

    config = BackboneConfig(**store.config["backbone"])
    recipes = list({recipe.fingerprint: recipe for recipe in store.recipes().values()}.values())
    check_backbone(store.uri, config, recipes)
    return Featurizer(Backbone.load(config), recipes)


def check_backbone(uri: str, config: BackboneConfig, recipes: Sequence[Recipe]) -> None:
    """Make sure a backbone is the one that made a store's features; reads files, loads nothing.

    Raises:
        BackboneError: the backbone is gone or broken.
        FingerprintError: its weights, tokenizer or template are no longer those of the store.
    """
    identity = describe(config).identity
    for recipe in recipes:
        if recipe.backbone and recipe.backbone != identity:
            raise FingerprintError(
                f"{config.name} is no longer the backbone that made the features of {uri}: "
                + "; ".join(
                    difference(Recipe("", 0, {}, identity), Recipe("", 0, {}, recipe.backbone))
                )
                + ". Put the original model back, or make a new store"
            )
