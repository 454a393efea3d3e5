"""What a representation is, where they are found, and how `--features` names them.

A representation turns what one pass of the backbone leaves of a row into columns. Third parties
add theirs through the entry-point group `coresetdb.representations`; the entry is an object of
the protocol below.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Literal, Protocol

import pyarrow as pa

from ...schemas.errors import UsageError
from ...schemas.recipe import Recipe
from ..describe import BackboneInfo

if TYPE_CHECKING:
    import numpy as np
    import torch

    from ..batch import Batch
    from ..encoding import Encoded

ENTRY_POINTS = "coresetdb.representations"

BUILTIN = {
    "rds": ".rds",
    "losses": ".losses",
}
"""Name -> module of this package; its `representation` is the object."""

ALIASES = {"rds+": "rds"}
"""Other names people know them by, here and in methods."""

View = Literal["row", "alone"]
"""What a forward is shown: whole rows, or their answers without the questions."""


@dataclass(frozen=True)
class Needs:
    """What a pass must hand to a reducer; the pass does nothing that nobody needs.

    `hidden`: final states of every token. `logits`: those that predict the response tokens.
    """

    hidden: bool = False
    logits: bool = False


class Reducer:
    """Takes in what one forward over one batch gives and keeps only what becomes columns.

    The pass calls the methods its `Needs` ask for, and `columns` last.
    """

    def hidden(self, states: torch.Tensor) -> None:
        """Final states (B, T, D) in the compute dtype; padding as in the batch's mask."""
        raise NotImplementedError

    def logits(self, logits: torch.Tensor, targets: torch.Tensor, rows: torch.Tensor) -> None:
        """Some of the response tokens: logits (n, V) float32, token ids (n,) and rows (n,)."""
        raise NotImplementedError

    def columns(self) -> dict[str, np.ndarray]:
        """Column -> (B,) or (B, d) float32, NaN where a row has no such value."""
        raise NotImplementedError


class Representation(Protocol):
    """A feature: what it needs, what it keeps of a pass, what its columns are.

    Attributes:
        name: unique; the first column bears it, and `<name>_reason` is the last.
        version: rises when the numbers change.
        defaults: option -> default value (bool, int, float or str).
        similarity: the vector column by which pool and target are compared (cosine), or None.
    """

    name: str
    version: int
    defaults: Mapping[str, Any]
    similarity: str | None

    def fields(self, info: BackboneInfo, options: Mapping[str, Any]) -> list[pa.Field]:
        """Arrow fields of the columns, the reason last."""
        ...

    def passes(self, options: Mapping[str, Any]) -> dict[View, Needs]:
        """The forwards it needs something of."""
        ...

    def reducer(self, view: View, batch: Batch, options: Mapping[str, Any]) -> Reducer:
        """A fresh reducer for one batch of one pass."""
        ...

    def finish(
        self,
        rows: Sequence[Encoded],
        passed: Mapping[View, Mapping[str, np.ndarray]],
        options: Mapping[str, Any],
    ) -> dict[str, np.ndarray]:
        """Final columns of all rows, before storage precision, from the columns of each pass.

        A row without the feature holds NaN, and says why in `<name>_reason` (str or None).
        """
        ...


def names() -> list[str]:
    """Every representation known here, sorted."""
    return sorted({*BUILTIN, *_entry_points()})


@cache
def get(name: str) -> Representation:
    """The representation of that name (`rds+` is accepted for `rds`).

    Raises:
        UsageError: there is none.
    """
    name = ALIASES.get(name, name)
    if name in BUILTIN:
        return import_module(BUILTIN[name], __package__).representation
    if name in _entry_points():
        return _entry_points()[name].load()
    raise UsageError(f"unknown feature {name!r}: known are {', '.join(names())}")


def recipe(name: str, info: BackboneInfo, options: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of a representation on a backbone, every option spelled out.

    Raises:
        UsageError: an unknown representation or option, or a value of the wrong type.
    """
    representation = get(name)
    full = _checked(representation, options or {})
    return Recipe(
        representation=representation.name,
        version=representation.version,
        options=full,
        backbone=info.identity,
        columns=tuple(field.name for field in representation.fields(info, full)),
    )


def parse_features(text: str, info: BackboneInfo, present: Iterable[Recipe] = ()) -> list[Recipe]:
    """Recipes of a list such as `rds,losses` or `rds,losses:alone=false`.

    Options follow a name as `:option=value`. A recipe whose representation is already among
    `present` (or earlier in the list) with another fingerprint gets columns of its own,
    `<column>__<8 hex of the fingerprint>`; one that is there already is left out.

    Raises:
        UsageError: an unknown name (the known ones are listed) or option, or an empty list.
    """
    taken = {each.fingerprint: each.representation for each in present}
    recipes: list[Recipe] = []
    for entry in filter(None, map(str.strip, text.split(","))):
        name, *settings = entry.split(":")
        options = dict(_setting(entry, each) for each in settings)
        found = recipe(name.strip(), info, _typed(get(name.strip()), options))
        if found.fingerprint in taken:
            continue
        if found.representation in taken.values():
            suffix = f"__{found.fingerprint[:8]}"
            found = replace(found, columns=tuple(column + suffix for column in found.columns))
        taken[found.fingerprint] = found.representation
        recipes.append(found)
    if not taken:
        raise UsageError(f"no features named: choose from {', '.join(names())}")
    return recipes


def columns_of(made: Recipe) -> dict[str, str]:
    """A representation's own column name -> this recipe's, for a recipe of the pool."""
    suffix = f"__{made.fingerprint[:8]}"
    return {column.removesuffix(suffix): column for column in made.columns}


def fields_of(made: Recipe, info: BackboneInfo) -> list[pa.Field]:
    """The pool's fields for a recipe, its fingerprint in the metadata of each."""
    renamed = columns_of(made)
    metadata = {b"coresetdb:fingerprint": made.fingerprint.encode()}
    return [
        field.with_name(renamed[field.name]).with_metadata(metadata)
        for field in get(made.representation).fields(info, made.options)
    ]


def _entry_points() -> dict[str, EntryPoint]:
    return {each.name: each for each in entry_points(group=ENTRY_POINTS)}


def _setting(entry: str, setting: str) -> tuple[str, str]:
    name, equals, value = setting.partition("=")
    if not equals:
        raise UsageError(f"feature {entry!r}: write options as {entry.split(':')[0]}:option=value")
    return name.strip(), value.strip()


def _typed(representation: Representation, settings: Mapping[str, str]) -> dict[str, Any]:
    """Option texts as values of the defaults' types; unknown ones are left for `_checked`."""
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
                f"{representation.name}: option {name} is a {type(default).__name__} "
                f"(default {default!r}), not {value!r}"
            )
    return {**representation.defaults, **options}
