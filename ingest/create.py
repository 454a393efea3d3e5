"""Make a store, and the featurizer that fits it: backbone and features are settled once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..schemas.errors import FingerprintError, UsageError
from ..schemas.recipe import Recipe, difference
from ..store import catalog
from ..store.catalog import artifacts_of
from ..store.features import drop, droppable, features_of
from ..store.fill import count_unfilled
from ..store.layout import read_config
from ..store.store import Store
from .models.describe import BackboneConfig, describe
from .representations.registry import (
    FeatureSpec,
    expanded,
    fields_of,
    get,
    names,
    parse_specs,
    recipe_for,
)

if TYPE_CHECKING:
    from .featurizer import Featurizer
    from .models.backbone import Backbone


def create_store(
    uri: str,
    backbone: BackboneConfig,
    features: str,
    storage_options: dict[str, str] | None = None,
) -> tuple[Store, tuple[str, ...]]:
    """Create an empty store whose rows get `features`, made by `backbone`.

    dtype `auto` is resolved here, so that the store says what made its features. Features that
    must be fitted first are remembered and declared once that is done (`pending`).

    Returns:
        The store, and sentences about the backbone that its user should read.

    Raises:
        BackboneError: the backbone cannot be found or is no causal language model.
        UsageError: a feature is unknown, or something already stands at `uri`.
    """
    from .models.backbone import resolve

    resolved = resolve(backbone)
    info = describe(resolved)
    recipes: list[Recipe] = []
    wanted = parse_specs(features)
    for spec in wanted:
        if not get(spec.representation).fits(info, spec.options):
            recipes.append(recipe_for(spec, info, {}, {}, recipes))
    fields = [field for recipe in recipes for field in fields_of(recipe, info)]
    # The device is found again wherever the store is opened; everything else is settled.
    settled = replace(resolved, device=backbone.device)
    # Written out: a later version may mean something else by a preset.
    config = {"backbone": settled.as_dict(), "features": ",".join(map(str, wanted))}
    store = Store.create(uri, config, fields, fields, storage_options)
    for recipe in recipes:
        catalog.put_recipe(store, recipe)
    return store, info.notices


def pending(store: Store) -> list[FeatureSpec]:
    """Features the store was asked for and cannot make yet, because nothing was fitted for them.

    One that another version of its representation made does not wait: who would make rows of it
    is told to drop it first.
    """
    recipes = recipes_of(store)
    return [
        each
        for each in _configured(store)
        if not any(each.matches(recipe) or _is_older(each, recipe) for recipe in recipes)
    ]


def _is_older(spec: FeatureSpec, recipe: Recipe) -> bool:
    name = spec.representation
    return recipe.representation == name and recipe.version != get(name).version


def _configured(store: Store) -> list[FeatureSpec]:
    """What the store was asked for; nothing once its last feature was dropped."""
    text = read_config(store.place)["features"]  # another process may have dropped one since
    return parse_specs(text) if text else []


def list_features(store: Store) -> list[dict[str, Any]]:
    """List the features of a store, and those that wait to be fitted, as plain rows.

    Keys: feature, columns (none before it is fitted), fingerprint, rows without (those with a
    reason in its place), not yet featurized (rows with neither).
    """
    pool = store.dataset("pool")
    rows = [
        {
            "feature": name,
            "columns": [column for column in recipe.columns if column != recipe.reason],
            "fingerprint": recipe.fingerprint,
            "rows without": pool.count_rows(filter=f"{recipe.reason} IS NOT NULL"),
            "not yet featurized": count_unfilled(pool, recipe),
        }
        for name, recipe in features_of(store).items()
        if set(recipe.columns) <= set(pool.schema.names)
    ]
    return rows + [
        {
            "feature": str(spec),
            "columns": [],
            "fingerprint": None,
            "rows without": 0,
            "not yet featurized": pool.count_rows(),
        }
        for spec in pending(store)
    ]


def drop_feature(store: Store, name: str, force: bool = False) -> Recipe | None:
    """Remove a feature, or stop waiting for one that is not fitted yet (which gives None).

    Raises: as `store.features.drop`.
    """
    waiting = [each for each in pending(store) if name in (each.representation, str(each))]
    if waiting and name not in droppable(store):
        gone, recipe = waiting, None
    else:
        recipe = drop(store, name, force)
        gone = [each for each in _configured(store) if each.matches(recipe)]
    kept = ",".join(str(spec) for spec in _configured(store) if spec not in gone)
    store.configure(features=kept)
    return recipe


def recipes_of(store: Store) -> list[Recipe]:
    """The recipes of a store, each once."""
    return list({recipe.fingerprint: recipe for recipe in catalog.recipes(store).values()}.values())


def asked_for(store: Store, features: str) -> list[Recipe | FeatureSpec]:
    """What `features` names: recipes that the store has, and features that it lacks.

    A name may be that of a feature of the store (`losses__1a2b3c4d`), or a representation with
    options as `init` takes them, or a preset. Without any name: every feature of the store, and
    those that wait to be fitted.

    Raises:
        UsageError: an unknown feature or option, or no name and no feature.
        BackboneError, FingerprintError: as `load_featurizer`.
    """
    present = features_of(store)
    config = BackboneConfig(**store.config["backbone"])
    check_backbone(store.uri, config, list(present.values()))
    asked: dict[str, Recipe | FeatureSpec] = {}
    if not features.strip(" ,"):
        asked |= present | {str(each): each for each in pending(store)}
    for entry in expanded(features):
        for each in [present[entry]] if entry in present else parse_specs(entry):
            if isinstance(each, FeatureSpec):
                made = [recipe for recipe in present.values() if each.matches(recipe)]
                each = made[-1] if made else each
            asked[each.feature if isinstance(each, Recipe) else str(each)] = each
    if not asked:
        raise UsageError(f"{store.uri} has no features: name some of {', '.join(names())}")
    return list(asked.values())


def load_featurizer(store: Store) -> Featurizer:
    """Load the store's backbone, checked against what made the features so far.

    Raises:
        BackboneError: the backbone is gone or broken.
        FingerprintError: its weights, tokenizer or template are no longer those of the store.
    """
    return featurizer_for(store, load_backbone(store), recipes_of(store))


def load_backbone(store: Store) -> Backbone:
    """Load the store's backbone, checked as `load_featurizer` says."""
    from .models.backbone import Backbone

    config = BackboneConfig(**store.config["backbone"])
    check_backbone(store.uri, config, recipes_of(store))
    return Backbone.load(config)


def featurizer_for(store: Store, backbone: Backbone, recipes: Sequence[Recipe]) -> Featurizer:
    """A featurizer of some of a store's recipes, with what was fitted for them."""
    from .featurizer import Featurizer

    artifacts = {
        recipe.artifacts[name]: artifact
        for recipe in recipes
        for name, artifact in artifacts_of(store, recipe).items()
    }
    return Featurizer(backbone, recipes, artifacts=artifacts)


def check_backbone(uri: str, config: BackboneConfig, recipes: Sequence[Recipe]) -> None:
    """Make sure a backbone is the one that made a store's features; reads files, loads nothing.

    Raises:
        BackboneError: the backbone is gone or broken.
        FingerprintError: its weights, tokenizer or template are no longer those of the store.
    """
    info = describe(config)
    for recipe in recipes:
        identity = get(recipe.representation).identity(info, recipe.options)
        if recipe.backbone != identity:
            raise FingerprintError(
                f"{config.name} is no longer the backbone that made the features of {uri}: "
                + "; ".join(
                    difference(Recipe("", 0, {}, identity), Recipe("", 0, {}, recipe.backbone))
                )
                + ". Put the original model back, or make a new store"
            )
