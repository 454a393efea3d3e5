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
from ..schemas.plain_text import PrintedResult, text_table
from ..selectors.reductions import Columns
from ..selectors.selector import Task
from ..store.features import completion
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
    """A method, and whether a store can run it now.

    Attributes:
        method: its shortest name.
        full: `representation:selector`, with the options that the name implies.
        also: an alias, or None.
        named: whether the name of a representation or a selector alone stands for it.
        feature: that rows must have; None for none.
        target: whether it needs a target's examples.
        paper: its source; empty where it is ours.
        ready: whether the store can run it now; None without a store.
        next: where something is missing, a command, or a sentence that ends in one.
    """

    method: str
    full: str
    also: str | None
    named: bool
    feature: str | None
    target: bool
    paper: str
    ready: bool | None = None
    next: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


class MethodList(PrintedResult, list[ListedMethod]):
    """A list of methods that prints as two tables: those with a name of their own, then the rest.

    A notebook shows the same.
    """

    def __str__(self) -> str:
        named, pairs = ([each for each in self if each.named is own] for own in (True, False))
        return "\n\n".join(text_table([_row(each) for each in some]) for some in (named, pairs))


def _row(method: ListedMethod) -> dict[str, Any]:
    needs = [method.feature or "", "a target" if method.target else ""]
    row: dict[str, Any] = {
        "method": f"{method.method}, {method.also}" if method.also else method.method,
        "needs": " and ".join(filter(None, needs)) or "nothing",
        "paper": method.paper,
    }
    if method.ready is not None:
        return {**row, "ready": method.ready, "next": method.next}
    return {**row, "in full": method.full} if method.named else row


def list_methods(store: Store | None = None) -> MethodList:
    """List all methods of the installed representations and selectors, named ones first.

    Args:
        store: if given, each method says whether this store can run it now; its second recipes of
            a representation (`rds__<8 hex>`) are listed as well.
    """
    known: dict[str, Representation] = {name: get(name) for name in names()}
    if store:
        known |= {name: each.representation for name, each in Snapshot(store).features.items()}
    methods = sorted(_methods(known), key=lambda each: ":" in each[0])
    listed = MethodList(_listed(name, method) for name, method in methods)
    if store is None:
        return listed
    readiness = _Readiness(store)
    checked = MethodList()
    for row, (_, method) in zip(listed, methods, strict=True):
        ready, next_step = readiness.of(method)
        checked.append(replace(row, ready=ready, next=next_step))
    return checked


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
    made_by = method.made_by
    own = made_by.paper if made_by else ""
    if made_by and method.compares_queries:
        own = made_by.comparison_paper or own
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


class _Readiness:
    """Which methods a store can run now; each of its features and targets is read once."""

    def __init__(self, store: Store) -> None:
        self._store, self._snapshot = store, Snapshot(store)
        self._rows = self._snapshot.pool.count_rows()
        self._targets = [target.name for target in list_targets(store)]
        self._waiting = {each.representation: str(each) for each in pending(store)}
        self._features: dict[str, tuple[Feature | None, str | None]] = {}
        self._refusals: dict[str | None, str | None] = {}

    def of(self, method: Method) -> tuple[bool, str | None]:
        """Whether a method can be run, and what would help."""
        uri, name = self._store.uri, method.representation
        if not self._rows:
            return False, f"coresetdb ingest {quote(uri)} FILE..."
        feature, next_step = None, None
        if name:
            if name not in self._features:
                self._features[name] = self._feature(name)
            feature, next_step = self._features[name]
            if feature is None:
                return False, next_step
        if method.needs_target:
            if name not in self._refusals:
                self._refusals[name] = self._refusal(feature)
            if refusal := self._refusals[name]:
                return False, refusal
        try:
            self._check_options(method, feature)
        except UsageError as error:
            return False, str(error).replace("STORE", uri)
        return True, next_step

    def _check_options(self, method: Method, feature: Feature | None) -> None:
        """Check that the pool has the columns that a method's options name."""
        if feature and method.compares_queries and not method.needs_target:
            scorer_of(self._snapshot, feature, method)
        if "columns" in method.selector.inputs and not method.matches_lengths:
            task = Task(0, self._rows, 1, options=method.options)
            for reduction in next(method.selector.passes(task)):
                if isinstance(reduction, Columns):
                    check_columns(self._snapshot.pool, reduction)

    def _feature(self, name: str) -> tuple[Feature | None, str | None]:
        """The feature, if some row has it, and what would help the rows that do not."""
        command = f"coresetdb featurize {self._store.typed} {self._waiting.get(name, name)}"
        try:
            feature = self._snapshot.feature(name)
            if feature.recipe.attached:
                command = completion(self._store, feature.recipe)
        except MissingFeatureError:
            return None, command
        except FingerprintError as error:
            return None, str(error)
        waiting = count_unfilled(self._snapshot.pool, feature.recipe)
        if waiting == self._rows:
            return None, command
        return feature, f"{waiting:,} rows lack it: {command}" if waiting else None

    def _refusal(self, feature: Feature | None) -> str | None:
        """Why no target can be selected for (with a feature); None if one can."""
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
