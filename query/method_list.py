"""Every method by name: what it needs, where it comes from, and whether a store can answer it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from shlex import quote
from typing import TYPE_CHECKING, Any

from ..ingest.create import pending
from ..ingest.representations.registry import ALIASES, get, names
from ..ingest.representations.representation import Representation
from ..schemas.errors import FingerprintError, MissingFeatureError, UsageError
from ..selectors.reductions import Columns
from ..selectors.selector import Task
from ..store.fill import count_unfilled
from .comparison import scorer_of
from .features import Feature
from .methods import Method, method_names, parse_method
from .queries import load_queries
from .scanning.fetch import check_columns
from .snapshot import Snapshot
from .targets import list_targets

if TYPE_CHECKING:
    from ..store.store import Store


@dataclass(frozen=True)
class ListedMethod:
    """A method and whether it can be asked for.

    Attributes:
        method: its shortest name.
        full: `representation:selector`, with the options that the name implies.
        also: another name it is known by, or None.
        named: whether a representation or a selector stands for it by its name alone.
        feature: that rows must have; None for none.
        target: whether it asks a target's examples.
        paper: where it comes from; empty where it is ours.
        ready: whether the store can answer it now; None where no store was looked at.
        helps: a command, or a sentence that ends in one, where something is missing.
    """

    method: str
    full: str
    also: str | None
    named: bool
    feature: str | None
    target: bool
    paper: str
    ready: bool | None = None
    helps: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def list_methods(store: Store | None = None) -> list[ListedMethod]:
    """All methods that the installed representations and selectors make, named ones first.

    Args:
        store: that is asked whether it can answer each; its second recipes of a representation
            (`rds__<8 hex>`) are listed as well.
    """
    known: dict[str, Representation] = {name: get(name) for name in names()}
    if store:
        known |= {name: each.representation for name, each in Snapshot(store).features.items()}
    methods = sorted(_methods(known), key=lambda each: ":" in each[0])
    listed = [_listed(name, method) for name, method in methods]
    if store is None:
        return listed
    look = _Look(store)
    found = []
    for each, (_, method) in zip(listed, methods, strict=True):
        ready, helps = look.at(method)
        found.append(replace(each, ready=ready, helps=helps))
    return found


def _methods(known: Mapping[str, Representation]) -> Iterator[tuple[str, Method]]:
    """Every method under its shortest name, those of a representation by its own name first."""
    for full in method_names(known):
        method = parse_method(full, known)
        name, made_by = method.representation, method.made_by
        if name and made_by and method.selector.feature == name:
            yield method.selector.name, method
        elif name and made_by and made_by.selector == method.selector.name:
            yield name, method
            for query_defaults in made_by.listed_options:
                yield f"{name}({query_defaults})", parse_method(f"{full}({query_defaults})", known)
        else:
            yield full, method


def _listed(name: str, method: Method) -> ListedMethod:
    own = method.made_by.paper if method.made_by else ""
    # A representation's own name stands for the way of choosing that its paper has.
    papers = [own] if own and ":" not in name else [own, method.selector.paper]
    other = {real: alias for alias, real in ALIASES.items()}
    return ListedMethod(
        method=name,
        full=str(method),
        also=other.get(name),
        named=":" not in name,
        feature=method.representation,
        target=method.needs_target,
        paper="; ".join(dict.fromkeys(filter(None, papers))),
    )


class _Look:
    """A store as it is now; each of its features and targets is looked at once."""

    def __init__(self, store: Store) -> None:
        self._store, self._snapshot = store, Snapshot(store)
        self._rows = self._snapshot.pool.count_rows()
        self._targets = [target.name for target in list_targets(store)]
        self._waiting = {each.representation: str(each) for each in pending(store)}
        self._features: dict[str, tuple[Feature | None, str | None]] = {}
        self._refusals: dict[str | None, str | None] = {}

    def at(self, method: Method) -> tuple[bool, str | None]:
        """Whether it can be answered, and what would help."""
        uri, name = self._store.uri, method.representation
        if not self._rows:
            return False, f"coresetdb ingest {quote(uri)} FILE..."
        feature, helps = None, None
        if name:
            if name not in self._features:
                self._features[name] = self._found(name)
            feature, helps = self._features[name]
            if feature is None:
                return False, helps
        if method.needs_target:
            if name not in self._refusals:
                self._refusals[name] = self._refusal(feature)
            if refusal := self._refusals[name]:
                return False, refusal
        try:
            self._check_options(method, feature)
        except UsageError as error:
            return False, str(error).replace("STORE", uri)
        return True, helps

    def _check_options(self, method: Method, feature: Feature | None) -> None:
        """Whether the columns are there that a method names in its options."""
        if feature and method.compares and not method.needs_target:
            scorer_of(self._store, feature, method)
        if "columns" in method.selector.inputs and not method.matches_lengths:
            task = Task(0, self._rows, 1, options=method.options)
            for need in next(method.selector.passes(task)):
                if isinstance(need, Columns):
                    check_columns(self._snapshot.pool, need)

    def _found(self, name: str) -> tuple[Feature | None, str | None]:
        """The feature if some row has it, and what would help the rows that do not."""
        command = f"coresetdb featurize {self._store.typed} {self._waiting.get(name, name)}"
        try:
            feature = self._snapshot.feature(name)
        except MissingFeatureError:
            return None, command
        except FingerprintError as error:
            return None, str(error)
        waiting = count_unfilled(self._snapshot.pool, feature.recipe)
        if waiting == self._rows:
            return None, command
        return feature, f"{waiting:,} rows lack it: {command}" if waiting else None

    def _refusal(self, feature: Feature | None) -> str | None:
        """Why no target can ask (with a feature); None if one can."""
        if not self._targets:
            return f"coresetdb target add {self._store.typed} NAME FILE"
        refusals = []
        for target in self._targets:
            try:
                load_queries(self._snapshot, target, feature)
            except (UsageError, MissingFeatureError, FingerprintError) as error:
                refusals.append(str(error))
            else:
                return None
        return refusals[0]
