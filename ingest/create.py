"""Make a store, and the featurizer that fits it: backbone and features are settled once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from shlex import quote
from typing import TYPE_CHECKING, Any

from ..schemas.errors import BackboneError, FingerprintError, UsageError
from ..schemas.recipe import ANNOTATION, Recipe, difference
from ..store import catalog
from ..store.catalog import artifacts_of
from ..store.features import completion, drop, droppable, features_of
from ..store.fill import count_unfilled
from ..store.layout import read_config
from ..store.store import Store
from .models.describe import BackboneConfig, BackboneInfo, describe
from .models.model_folder import settled_name
from .representations.registry import (
    FeatureSpec,
    configured_specs,
    expanded,
    fields_of,
    get,
    names,
    options_of,
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
    try_backbone: Callable[[BackboneConfig, Sequence[FeatureSpec]], tuple[str, ...]] | None = None,
) -> tuple[Store, tuple[str, ...]]:
    """Create an empty store whose rows get `features`, made by `backbone`.

    dtype `auto` is resolved here, so that the store records what made its features. Features that
    must be fitted first are declared once that is done (`pending`).

    Args:
        try_backbone: run before the store is made, with the resolved configuration; returns
            notices, or raises where the backbone cannot give a feature.

    Returns:
        The store, and notices about the backbone for its user.

    Raises:
        BackboneError: the backbone cannot be found or is no causal language model.
        UsageError: a feature is unknown, or something already stands at `uri`.
    """
    from .models.backbone import resolve

    resolved = resolve(backbone)
    info = describe(resolved)
    recipes: list[Recipe] = []
    specs = parse_specs(features)
    for spec in specs:
        if not get(spec.representation).fits(info, spec.options):
            recipes.append(recipe_for(spec, info, {}, {}, recipes))
    fields = [field for recipe in recipes for field in fields_of(recipe, info)]
    # The device is chosen anew wherever the store is opened; everything else is fixed.
    settled = replace(resolved, device=backbone.device)
    # Written out: a later version may mean something else by a preset, or have other defaults.
    written_out = ",".join(spec.configured for spec in specs)
    config = {"backbone": settled.as_dict(), "features": written_out}
    notices = list(info.notices)
    if try_backbone is not None:
        Store.require_free(uri, storage_options)
        notices += try_backbone(resolved, specs)
    store = Store.create(uri, config, fields, fields, storage_options)
    for recipe in recipes:
        catalog.put_recipe(store, recipe)
    return store, tuple(notices)


def pending(store: Store) -> list[FeatureSpec]:
    """Return the configured features that have no recipe yet, because their fits did not run.

    A feature made by another version of its representation is not among them: making new rows of
    it is an error that says to drop it first.
    """
    recipes = recipes_of(store)
    return [
        spec
        for spec in _configured(store)
        if not any(spec.matches(recipe) or _is_older(spec, recipe) for recipe in recipes)
    ]


def _is_older(spec: FeatureSpec, recipe: Recipe) -> bool:
    name = spec.representation
    return recipe.representation == name and recipe.version != get(name).version


def _configured(store: Store) -> list[FeatureSpec]:
    """Return the features the store was configured with; none once its last one was dropped."""
    # Another process may have dropped one since.
    return configured_specs(read_config(store.place)["features"])


def list_features(store: Store) -> list[dict[str, Any]]:
    """List the features of a store, and those that wait to be fitted, as plain rows.

    Keys: feature, columns (none before it is fitted), fingerprint, rows without (those with a
    reason in its place), not yet featurized (rows with neither). Annotations are not among them.
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
        if set(recipe.columns) <= set(pool.schema.names) and recipe.representation != ANNOTATION
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
    """Remove a feature; return its recipe, or None for one that was not fitted yet.

    Raises: as `store.features.drop`.
    """
    waiting = [spec for spec in pending(store) if name in (spec.representation, str(spec))]
    if waiting and name not in droppable(store):
        dropped, recipe = waiting, None
    else:
        recipe = drop(store, name, force)
        dropped = [spec for spec in _configured(store) if spec.matches(recipe)]
    kept = ",".join(spec.configured for spec in _configured(store) if spec not in dropped)
    store.configure(features=kept)
    return recipe


def recipes_of(store: Store) -> list[Recipe]:
    """Return the recipes of a store whose features are made here, each once."""
    known = {recipe.fingerprint: recipe for recipe in catalog.recipes(store).values()}
    return [recipe for recipe in known.values() if not recipe.attached]


def resolve_features(store: Store, features: str) -> list[Recipe | FeatureSpec]:
    """Resolve a list of names to recipes that the store has, and features that it lacks.

    A name is that of a feature of the store (`losses__1a2b3c4d`), a representation with options as
    `init` takes them, or a preset, which is content with features that are stored otherwise.
    Without any name, return every feature of the store, and those that are not fitted yet.

    Raises:
        UsageError: an unknown feature or option, or no name and no feature.
        BackboneError, FingerprintError: as `load_featurizer`.
    """
    every = features_of(store)
    present = {name: recipe for name, recipe in every.items() if not recipe.attached}
    check_backbone(store.uri, backbone_config(store), list(present.values()))
    resolved: dict[str, Recipe | FeatureSpec] = {}
    if not features.strip(" ,"):
        resolved |= {recipe.fingerprint: recipe for recipe in present.values()}
        resolved |= {str(spec): spec for spec in pending(store)}
    written_out = {entry.strip() for entry in features.split(",")}
    for entry in expanded(features):
        if entry in every and entry not in present:
            raise UsageError(
                f"{entry} of {store.uri} was made elsewhere, so no model can make it here. Rows "
                f"that lack it get it from a file: {completion(store, every[entry])}"
            )
        if entry in present:
            resolved[present[entry].fingerprint] = present[entry]
            continue
        for spec in parse_specs(entry):
            made = present.values()
            recipes = [recipe for recipe in made if spec.matches(recipe)]
            if not recipes and entry not in written_out:
                recipes = [recipe for recipe in made if spec.matches(recipe, in_any_form=True)]
            if recipes:
                resolved[recipes[-1].fingerprint] = recipes[-1]
            else:
                resolved[str(spec)] = spec
    if not resolved:
        raise UsageError(f"{store.uri} has no features: name some of {', '.join(names())}")
    return list(resolved.values())


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

    config = backbone_config(store)
    check_backbone(store.uri, config, recipes_of(store))
    return Backbone.load(config)


def backbone_config(store: Store) -> BackboneConfig:
    """Return which model makes the features of a store, and where it runs."""
    return BackboneConfig(**store.config["backbone"])


def describe_backbone(uri: str, config: BackboneConfig) -> BackboneInfo:
    """Describe the backbone of the store at `uri` from the model's files.

    Raises:
        BackboneError: it is gone or broken; says how to name the place it was moved to.
    """
    try:
        return describe(config)
    except BackboneError as error:
        raise type(error)(
            f"{error}. The store {uri} makes its features with this model; if it was moved, name "
            f"its new place: coresetdb backbone {quote(uri)} FOLDER"
        ) from error


@dataclass(frozen=True)
class Relocated:
    """A backbone that is looked for elsewhere from now on.

    Attributes:
        name: where it is looked for: a folder, a Hugging Face name or `builtin`.
        before: where it was looked for.
        features: that it made; by their fingerprints it is the same model.
    """

    name: str
    before: str
    features: tuple[str, ...]


def relocate_backbone(store: Store, name: str) -> Relocated:
    """Look for a store's backbone in another place, if the model there is the same.

    Features that are not made yet have no fingerprint: a store without any takes every backbone.

    Args:
        name: a folder, a Hugging Face name or `builtin`.

    Raises:
        BackboneError: there is no model, or it is broken.
        FingerprintError: it is not the model that made the store's features; nothing was changed.
    """
    before = backbone_config(store)
    after = replace(before, name=settled_name(name))
    recipes = recipes_of(store)
    info = describe(after)
    _check_recipes(store.uri, info, recipes)
    store.configure(backbone=after.as_dict())
    # A feature with an encoder of its own says nothing about the backbone.
    made = (recipe.feature for recipe in recipes if recipe.backbone == info.identity)
    return Relocated(after.name, before.name, tuple(made))


def featurizer_for(store: Store, backbone: Backbone, recipes: Sequence[Recipe]) -> Featurizer:
    """Return a featurizer of some of a store's recipes, with the artifacts they need."""
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
    _check_recipes(uri, describe_backbone(uri, config), recipes)


def _check_recipes(uri: str, info: BackboneInfo, recipes: Sequence[Recipe]) -> None:
    for recipe in recipes:
        if recipe.attached:
            continue
        identity = get(recipe.representation).identity(info, options_of(recipe))
        if recipe.backbone != identity:
            raise FingerprintError(
                f"{info.name} is not the backbone that made the features of {uri}: "
                + "; ".join(
                    difference(Recipe("", 0, {}, identity), Recipe("", 0, {}, recipe.backbone))
                )
                + ". Put the original model back, say where it is (coresetdb backbone "
                f"{quote(uri)} FOLDER), or make a new store"
            )
