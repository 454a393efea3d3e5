"""The registry of representations, and the syntax of lists of features with their presets.

Third parties add representations through the entry-point group `coresetdb.representations`; the
entry is an object of the class `Representation`.

Presets are names for whole lists of features. `fast` is everything that one checkpoint gives
without training: one forward and one backward over each row, and a second forward over the answers
alone for IFD. `lean` is the same in fewer bytes, at a small loss. `paper` is what each paper
describes: warm-up checkpoints, the ensemble, the encoder.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pyarrow as pa

from ...schemas.errors import UsageError, meant
from ...schemas.recipe import FINGERPRINT_KEY, Recipe
from ...store.catalog import Artifact
from ..models.describe import BackboneInfo
from ..passes.reducer import Side
from .attached import ATTACHED, own_columns
from .representation import Representation, Setup

PRESETS = {
    "fast": (
        "rds",
        "losses:grad_norm=sketch",
        "nait:keep=mean:overlap=0.95:stored=int8",
        "mads",
        "trim:bits=4",
        "less:dims=8192:stored=int8",
    ),
    "lean": (
        "rds:stored=int8",
        "losses:grad_norm=sketch",
        "nait:keep=mean:overlap=0.85:stored=int8",
        "mads",
        "trim:bits=4:rank=32",
        "less:dims=8192:stored=int2",
    ),
    "paper": (
        "rds",
        "losses:grad_norm=exact",
        "nait",
        "mads",
        "trim:warmup=lora",
        "less:warmup=lora",
        "gradfiltering",
        "embed",
    ),
}
"""Preset -> its features, each with its options."""


def expanded(features: str) -> list[str]:
    """Return the entries of a list of features, with presets written out.

    An entry beside a preset replaces the preset's own of that representation:
    `fast,less:dims=2048` has one `less`. An entry with a minus removes it: `paper,-embed`.

    Raises:
        UsageError: no preset in the list has what is to be removed.
    """
    entries = [entry.strip() for entry in features.split(",") if entry.strip()]
    explicit = {_name(entry).removeprefix("-") for entry in entries if entry not in PRESETS}
    of_presets = {_name(feature) for entry in entries for feature in PRESETS.get(entry, ())}
    written_out: dict[str, None] = {}
    for entry in entries:
        if entry in PRESETS:
            written_out |= dict.fromkeys(o for o in PRESETS[entry] if _name(o) not in explicit)
        elif not entry.startswith("-"):
            written_out[entry] = None
        elif entry[1:] not in of_presets:
            raise UsageError(
                f"{entry}: no preset in {features!r} contains {entry[1:]!r}, "
                "so it cannot be taken out"
            )
    return list(written_out)


def _name(entry: str) -> str:
    return entry.partition(":")[0].strip()


ENTRY_POINTS = "coresetdb.representations"

BUILTIN = {
    "rds": ".rds",
    "losses": ".losses",
    "embed": ".embed",
    "less": ".less",
    "gradfiltering": ".gradfiltering",
    "trim": ".trim",
    "mads": ".mads",
    "nait": ".nait",
    "lexical": ".lexical",
    "lang": ".language",
    "flags": ".flags",
}
"""Name -> module of this package; its `representation` is the object."""

_MARKS = ",:"
"""Separators of features and of options, which no option may contain."""

_ADDED: dict[str, Representation] = {}

ALIASES = {"rds+": "rds"}
"""Other common names, of features and of methods."""


@dataclass(frozen=True)
class FeatureSpec:
    """A requested feature: a representation with a value for every option."""

    representation: str
    options: Mapping[str, Any]

    def __str__(self) -> str:
        """Return the text that `parse_specs` reads, with options that differ from defaults."""
        return self._beside(get(self.representation).defaults)

    @property
    def configured(self) -> str:
        """The text that `configured_specs` reads, for the configuration of a store."""
        representation = get(self.representation)
        return self._beside({**representation.defaults, **representation.former_defaults})

    def _beside(self, defaults: Mapping[str, Any]) -> str:
        settings = [f"{name}={v}" for name, v in self.options.items() if v != defaults[name]]
        return ":".join([self.representation, *settings])

    def matches(self, recipe: Recipe, in_any_form: bool = False) -> bool:
        """Return whether a recipe is of this feature, whatever was fitted for it.

        Options newer than the recipe have their former default in it; without one they do not count
        at their defaults. Nor does the version: a newer package must not take an old feature for
        one that is still to be made.

        Args:
            in_any_form: whether options that only say how values are stored do not count either.
        """
        if recipe.representation != self.representation:
            return False
        representation = get(self.representation)
        made = {**representation.former_defaults, **options_of(recipe)}
        wanted = {
            name: value
            for name, value in self.options.items()
            if name in made or value != representation.defaults[name]
        }
        forms = representation.implied if in_any_form else {}
        return {**made, **forms} == {**wanted, **forms}


def names() -> list[str]:
    """Return the names of all representations, sorted."""
    return sorted({*BUILTIN, *_ADDED, *_entry_points()})


@contextmanager
def added(representation: Representation) -> Iterator[None]:
    """Register a representation inside the block, installed or not, to try and test it."""
    before = dict(_ADDED)
    _ADDED[representation.name] = representation
    get.cache_clear()
    try:
        yield
    finally:
        _ADDED.clear()
        _ADDED.update(before)
        get.cache_clear()


@cache
def get(name: str) -> Representation:
    """Return the representation of a name (`rds+` is accepted for `rds`).

    Raises:
        UsageError: there is none.
    """
    name = ALIASES.get(name, name)
    if name in _ADDED:
        return _ADDED[name]
    if name in BUILTIN:
        return import_module(BUILTIN[name], __package__).representation
    if name in _entry_points():
        return _entry_points()[name].load()
    raise UsageError(
        f"unknown feature {name!r}: known are {', '.join(names())}, and the presets "
        f"{', '.join(PRESETS)}{meant(name, [*names(), *PRESETS])}"
    )


def of(recipe: Recipe) -> Representation:
    """Return the representation of a recipe: that of its name, or of what was made elsewhere.

    Raises:
        UsageError: no installed package brings it.
    """
    return ATTACHED[recipe.representation] if recipe.attached else get(recipe.representation)


def makes_target_artifact(representation: Representation) -> bool:
    """Return whether it computes an artifact of a target as a whole."""
    return type(representation).target_artifact is not Representation.target_artifact


def feature_spec(name: str, options: Mapping[str, Any] | None = None) -> FeatureSpec:
    """Return the feature of a representation with some options, the others at their defaults.

    Raises:
        UsageError: an unknown representation or option, or a value of the wrong type.
    """
    representation = get(name)
    settled = dict(representation.settled(_checked(representation, options or {})))
    for option, value in settled.items():
        if isinstance(value, str) and set(value) & set(_MARKS):
            raise UsageError(
                f"{representation.name}: {option}={value}: a list of features cannot hold a comma "
                "or a colon inside a value. Give the folder another name, or a link to it"
            )
    return FeatureSpec(representation.name, settled)


def parse_specs(text: str) -> list[FeatureSpec]:
    """Parse a list such as `rds,losses:alone=false` or `fast,embed`; return each feature once.

    Options follow a name as `:option=value`; presets stand for their features.

    Raises:
        UsageError: an unknown name (the known ones are listed) or option, or an empty list.
    """
    specs = [feature_spec(name, options) for name, options in _entries(text)]
    if not specs:
        raise UsageError(
            f"no features named: choose from {', '.join(names())}, or the presets "
            f"{' and '.join(PRESETS)}"
        )
    return _unique(specs)


def configured_specs(text: str) -> list[FeatureSpec]:
    """Parse the features of a store's configuration, by the defaults of the day it was written.

    Args:
        text: `FeatureSpec.configured` of each, with commas between; empty for none.
    """
    return _unique(
        feature_spec(name, {**get(name).former_defaults, **options})
        for name, options in _entries(text)
    )


def _entries(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the options of each entry, with presets written out."""
    for entry in expanded(text):
        name, *settings = entry.split(":")
        options = dict(_setting(entry, setting) for setting in settings)
        yield name.strip(), _typed(get(name.strip()), options)


def _unique(specs: Iterable[FeatureSpec]) -> list[FeatureSpec]:
    unique: list[FeatureSpec] = []
    for spec in specs:
        if spec not in unique:
            unique.append(spec)
    return unique


def preset_of(specs: Sequence[FeatureSpec]) -> str | None:
    """Return the preset that stands for exactly these features, or None."""
    return next((name for name in PRESETS if parse_specs(name) == list(specs)), None)


def recipe_for(
    spec: FeatureSpec,
    info: BackboneInfo,
    artifacts: Mapping[str, Artifact],
    digests: Mapping[str, str],
    present: Iterable[Recipe] = (),
) -> Recipe:
    """Return the recipe of a feature on a backbone.

    Args:
        artifacts: everything fitted for it, by name.
        digests: of the artifacts' contents, by name.
        present: recipes of the store; where one has the same representation, the new one gets
            columns of its own, `<column>__<8 hex of the fingerprint>`.
    """
    representation = get(spec.representation)
    options = dict(spec.options)
    setup = Setup(info, options, artifacts)
    implied = representation.implied
    recipe = Recipe(
        representation=representation.name,
        version=representation.version,
        options={k: v for k, v in options.items() if k not in implied or v != implied[k]},
        backbone=representation.identity(info, options),
        columns=tuple(field.name for field in representation.fields(setup)),
        stored_dtype=options["stored"] if "stored" in implied else Recipe.stored_dtype,
        artifacts=dict(digests),
    )
    others = [other for other in present if other.representation == recipe.representation]
    if any(other.fingerprint != recipe.fingerprint for other in others):
        suffix = f"__{recipe.fingerprint[:8]}"
        recipe = replace(recipe, columns=tuple(column + suffix for column in recipe.columns))
    return recipe


def parse_features(text: str, info: BackboneInfo, present: Iterable[Recipe] = ()) -> list[Recipe]:
    """Return recipes of a list of features that need no fit, without those of `present`.

    Raises:
        UsageError: an unknown name (the known ones are listed) or option, or an empty list.
    """
    recipes = list(present)
    before = len(recipes)
    for spec in parse_specs(text):
        new = recipe_for(spec, info, {}, {}, recipes)
        if all(new.fingerprint != recipe.fingerprint for recipe in recipes):
            recipes.append(new)
    return recipes[before:]


def columns_of(recipe: Recipe) -> dict[str, str]:
    """Return a representation's own column names -> those of a recipe."""
    if recipe.attached:
        return own_columns(recipe)
    suffix = f"__{recipe.fingerprint[:8]}"
    return {column.removesuffix(suffix): column for column in recipe.columns}


def options_of(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe's options, with those that it leaves out."""
    if recipe.attached:
        return recipe.options
    known = get(recipe.representation)
    implied = {name: value for name, value in known.implied.items() if name in known.defaults}
    return {**implied, **recipe.options}


def setup_of(
    recipe: Recipe,
    info: BackboneInfo,
    artifacts: Mapping[str, Artifact] | None = None,
    side: Side = "pool",
) -> Setup:
    """Return what a recipe's representation works with."""
    return Setup(info, options_of(recipe), artifacts or {}, side)


def fields_of(
    recipe: Recipe, info: BackboneInfo, artifacts: Mapping[str, Artifact] | None = None
) -> list[pa.Field]:
    """Return the pool's fields for a recipe, its fingerprint in the metadata of each."""
    renamed = columns_of(recipe)
    metadata = {FINGERPRINT_KEY: recipe.fingerprint.encode()}
    return [
        field.with_name(renamed[field.name]).with_metadata(metadata)
        for field in get(recipe.representation).fields(setup_of(recipe, info, artifacts))
    ]


def forget_installed() -> None:
    """Look for installed representations anew when one is asked for."""
    get.cache_clear()
    _entry_points.cache_clear()


@cache  # every distribution's metadata is read for it
def _entry_points() -> dict[str, EntryPoint]:
    return {entry_point.name: entry_point for entry_point in entry_points(group=ENTRY_POINTS)}


def _setting(entry: str, setting: str) -> tuple[str, str]:
    name, equals, value = setting.partition("=")
    if not equals:
        raise UsageError(f"feature {entry!r}: write options as {entry.split(':')[0]}:option=value")
    return name.strip(), value.strip()


def _typed(representation: Representation, settings: Mapping[str, str]) -> dict[str, Any]:
    """Convert option texts to the types of the defaults; others are left to `_checked`."""
    typed: dict[str, Any] = {}
    for name, text in settings.items():
        default = representation.defaults.get(name)
        if isinstance(default, bool):
            truths = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
            typed[name] = truths.get(text.lower(), text)
        elif isinstance(default, int | float):
            try:
                typed[name] = type(default)(text)
            except ValueError:
                typed[name] = text
        else:
            typed[name] = text
    return typed


def _checked(representation: Representation, options: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in options.items():
        if name not in representation.defaults:
            known: Sequence[str] = sorted(representation.defaults)
            raise UsageError(
                f"{representation.name} has no option {name!r}: "
                + (f"it has {', '.join(known)}" if known else "it has none")
            )
        default = representation.defaults[name]
        if type(value) is not type(default):
            raise UsageError(
                f"{representation.name}: option {name} is of type {type(default).__name__} "
                f"(default {default!r}), not {value!r}"
            )
    return {**representation.defaults, **options}
