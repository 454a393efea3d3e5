"""Score: every row of the pool by one or more methods for a target, kept in the table `scores`.

A row's score is what a selection ranks it by, so that sorting by it gives what `select` would with
the whole pool as its budget; methods that choose rows together give no row a score of its own.

`transfer` scores the examples of targets instead: what one target's directions find in another's
(docs/methods.md, "nait").
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ingest.representations import registry
from ..ingest.representations.representation import Scorer
from ..schemas.errors import MissingFeatureError, UsageError
from ..schemas.ids import IdSet, ids_of, keys_of
from ..schemas.plain_text import count_of
from ..schemas.progress import Progress, Silence
from ..schemas.tables import literal
from ..selectors.registry import selectors
from ..store.features import completion
from ..store.fill import count_unfilled
from ..store.scores import ROWS_PER_COMMIT, SetKey, put_scores
from .comparison import Comparison, QueryGroup, columns_for, comparison, resolve_method, scorer_of
from .features import Feature, comparison_of
from .methods import Method
from .pool_statistics.statistic import keep_statistics
from .queries import Queries, load_queries
from .ranking import MEMORY_LIMIT, rankings
from .scanning.columns import scan_overlap
from .scanning.reducers import Block
from .scanning.rows import Scanned
from .scores import Scores
from .snapshot import Snapshot

if TYPE_CHECKING:
    import polars as pl

    from ..store.store import Store


_SCORE_EACH_ROW = ("top", "uot", "knn_uniform", "knn_kde", "bm25", "dsir")
"""Selectors that rank rows by a score of their own, whatever else is chosen."""

_SET_BYTES = 100  # of a scored row while its set is put in order and written
_BARE = re.compile(r"(?P<name>[\w+]+)(?P<options>\(.*\))?")


def split_methods(text: str) -> list[str]:
    """Split `less,trim(scope=prompt,penalty=0.3)` into methods; commas in parentheses stay."""
    return [method for method in map(str.strip, re.split(r",(?![^()]*\))", text)) if method]


def score(
    store: Store,
    target: str,
    methods: Sequence[str] | None = None,
    *,
    where: str | None = None,
    keep: bool = False,
    memory_limit: int = MEMORY_LIMIT,
    progress: Progress | None = None,
) -> Scores:
    """Score the rows of the newest pool for a target, and keep scores and ranks.

    Earlier scores for the same target and method are replaced.

    Args:
        methods: such as `rds`, `rds(by=max)` or `trim(scope=response)`; a representation's name
            stands for the order of `select` with `:top`. By default all that this store and target
            allow.
        memory_limit: bytes that ranking may plan for.
        The others are those of `Database.score`.

    Raises:
        UsageError: unknown target or method, a method that gives rows no score of their own, a
            filter that no row passes, or too much memory planned.
        MissingFeatureError: pool or target lack the feature.
        FingerprintError: pool and target were featurized differently.
        QueryError: the filter was refused.
    """
    store.place.require_writable()
    snapshot = Snapshot(store)
    version = snapshot.pool_version
    load_queries(snapshot, target, None)  # refuses an unknown target before any method is looked at
    prepared, notes = _prepare_all(snapshot, target, methods)
    eligible = None if where is None else _eligible(store, where, version)
    rows = snapshot.pool.count_rows() if eligible is None else len(eligible)
    keep_statistics(snapshot)
    keys = []
    for method in prepared:
        keys.append(SetKey(target, method.name, method.fingerprint, version))
        notes += _score_one(
            snapshot, method, keys[-1], rows, eligible, keep, memory_limit, progress
        )
    store.sync()
    return Scores(store, target, tuple(keys), version, where, tuple(notes))


@dataclass(frozen=True)
class _Prepared:
    """A method ready to be run: its name among the scores, and what it compares rows by."""

    name: str
    method: Method
    feature: Feature | None
    comparison: Comparison

    @property
    def fingerprint(self) -> str | None:
        return self.feature.recipe.fingerprint if self.feature else None


def _prepare_all(
    snapshot: Snapshot, target: str, methods: Sequence[str] | None
) -> tuple[list[_Prepared], list[str]]:
    """Prepare every method before the first one runs; the notes say which cannot be used."""
    if methods is not None:
        named = [_prepare(snapshot, target, method) for method in methods]
        if not named:
            raise UsageError("name one or more methods to score by, such as rds")
        return list({method.name: method for method in named}.values()), []
    prepared, notes = [], []
    for name, feature in snapshot.features.items():
        made_by = feature.representation
        if comparison_of(made_by) or made_by.sets or made_by.terms:
            try:
                prepared.append(_prepare(snapshot, target, name))
            except (UsageError, MissingFeatureError) as error:
                notes.append(f"not scored by {name}: {error}")
    if not prepared:
        why = "; ".join(notes) or "rows cannot be compared by any of its features"
        raise UsageError(f"{snapshot.store.uri} has nothing to score rows by for {target!r}: {why}")
    return prepared, notes


def _prepare(snapshot: Snapshot, target: str, text: str) -> _Prepared:
    method, feature = resolve_method(snapshot, _in_full(snapshot, text))
    if feature and method.uses_sets:
        method = _by_overlap(method)
        queries = load_queries(snapshot, target, feature)
        return _Prepared(feature.name, method, feature, _overlap(snapshot, feature, queries))
    if feature is None and method.selector.name == "top":
        column = method.options["score"]
        raise UsageError(
            f"{method}: the column {column} is a score already, the same for every target; "
            "SQL reads it from the pool"
        )
    if method.selector.name not in _SCORE_EACH_ROW:
        instead = f"; {feature.name}:top gives each row a score" if feature else ""
        raise UsageError(
            f"{method}: {method.selector.name} chooses rows together, and no row has a score of "
            f"its own{instead}"
        )
    queries = load_queries(snapshot, target, feature if method.needs_target else None)
    compared = comparison(snapshot, method, feature, [queries], {})
    return _Prepared(_name(method), _by_mean(method), feature, compared)


def _name(method: Method) -> str:
    """Return the shortest name: `rds` and `rds(by=max)`, `bm25`, `rds:uot`, `mads:top`."""
    prefix = f"{method.representation}:"
    if method.selector.feature == method.representation:
        return str(method).removeprefix(prefix)
    if method.made_by and method.made_by.sets:  # `mads` is its own: how much of a set is covered
        return str(method)
    return str(method).replace(":top", "", 1)


def _in_full(snapshot: Snapshot, text: str) -> str:
    """Return a representation alone as the method whose order scores rows: `rds` as `rds:top`.

    Where its sets are covered, or rows are not compared, it is the representation's own:
    `mads:coverage`, `lexical:bm25`.
    """
    match = _BARE.fullmatch(text.strip())
    if not match:
        return text
    name = registry.ALIASES.get(match["name"], match["name"])
    features = snapshot.features
    if name not in features and name not in registry.names():
        return text
    made_by = features[name].representation if name in features else registry.get(name)
    by_top = comparison_of(made_by) and not made_by.sets
    selector = "top" if by_top else made_by.selector
    return f"{name}:{selector}{match['options'] or ''}"


def _by_mean(method: Method) -> Method:
    """Return `bm25` by its mean over the examples: by turns, a row has the score of one example."""
    if method.selector.name == "bm25" and method.options["by"] == "turns":
        return replace(method, options={**method.options, "by": "mean"})
    return method


def _by_overlap(method: Method) -> Method:
    """Return a method that covers sets as one that ranks rows by what each alone would cover."""
    changed = {
        name: value
        for name, value in method.options.items()
        if value != method.selector.options[name].default and (name, value) != ("weights", "target")
    }
    if changed:
        raise UsageError(
            f"{method}: a row's score is how many of the target's units it holds; "
            f"{', '.join(changed)} would only change how rows are chosen together"
        )
    return replace(method, selector=selectors()["top"], options={"by": "mean"})


def _overlap(snapshot: Snapshot, feature: Feature, queries: Queries) -> Comparison:
    own, units = feature.representation.sets, queries.units
    assert own is not None and units is not None, "a method that covers sets has them"
    dataset, column = snapshot.pool, feature.columns[own]

    def fetch(need: object, eligible: object) -> None:
        raise AssertionError("top needs nothing beside the scan")

    return Comparison(
        (QueryGroup(queries.target, 1),),
        lambda reducers, eligible, span=None: scan_overlap(
            dataset, column, units, reducers, eligible, span
        ),
        fetch,  # pyright: ignore[reportArgumentType]
    )


def _score_one(
    snapshot: Snapshot,
    prepared: _Prepared,
    key: SetKey,
    rows: int,
    eligible: IdSet | None,
    keep: bool,
    memory_limit: int,
    progress: Progress | None,
) -> list[str]:
    """Rank all rows by one method, write the scores, and return notes for the user."""
    (ranking, *_), scanned = rankings(
        prepared.method,
        _with_progress(prepared, rows, progress or Silence()),
        k=rows,
        rows=rows,
        seed=0,
        eligible=eligible,
        memory_limit=memory_limit,
        pick_bytes=_SET_BYTES,
    )
    assert ranking.scores is not None, "these selectors score each row"
    put_scores(snapshot.store, key, _in_parts(ranking.keys), ranking.scores, keep)
    missing = _missing_notes(snapshot, prepared.feature, rows, scanned)
    return [*ranking.notes, *scanned.notes, *missing]


def _in_parts(keys: np.ndarray) -> Iterator[list[str]]:
    for start in range(0, len(keys), ROWS_PER_COMMIT):
        yield ids_of(keys[start : start + ROWS_PER_COMMIT])


def _with_progress(prepared: _Prepared, rows: int, progress: Progress) -> Comparison:
    """Return the method's comparison with passes that report how far they are."""
    scan = prepared.comparison.scan
    return replace(
        prepared.comparison,
        scan=lambda reducers, eligible, span=None: scan(
            [*reducers, _RowCounter(prepared.name, rows, progress)], eligible, span
        ),
    )


class _RowCounter:
    """Reports how many rows of a pass were read."""

    def __init__(self, name: str, rows: int, progress: Progress) -> None:
        self._name, self._rows, self._progress = name, rows, progress
        self._seen = 0

    def feed(self, block: Block) -> None:
        self._seen += len(block.keys)
        text = f"{self._seen:,} of {count_of(self._rows, 'row')}"
        self._progress.learn(name=self._name, share=self._seen / max(self._rows, 1), said=text)

    def result(self) -> None:
        """A counter has no result: it reports while it is fed."""


def _missing_notes(
    snapshot: Snapshot, feature: Feature | None, rows: int, scanned: Scanned
) -> list[str]:
    if feature is None or not scanned.missing:
        return []
    lack, have = ("lacks", "has") if scanned.missing == 1 else ("lack", "have")
    missing = (
        f"{scanned.missing:,} of {count_of(rows, 'row')} {lack} {feature.name} and {have} no score "
        "by it"
    )
    if unfilled := count_unfilled(snapshot.pool, feature.recipe):
        waiting = count_of(unfilled, "row of the pool is", "rows of the pool are")
        command = completion(snapshot.store, feature.recipe)
        return [f"{missing}; {waiting} not featurized yet: {command}"]
    return [f"{missing} (the column {feature.reason} says why)"]


def _eligible(store: Store, where: str, version: int) -> IdSet:
    from ..store.sql.session import eligible_ids

    ids = eligible_ids(store, where, version)
    if not len(ids):  # an empty set of scores would replace those that are kept
        raise UsageError(
            f"--where {where!r}: no row of the pool passes it. `coresetdb status {store.typed}` "
            "lists the corpora"
        )
    return IdSet(keys_of(ids))


def transfer(store: Store, targets: Sequence[str], method: str = "nait") -> pl.DataFrame:
    """Return the mean score of every target's examples as every other target scores them.

    The diagonal is null: a target's own examples made what it scores by.

    Args:
        store: that holds the targets.
        targets: two or more names.
        method: one that scores rows for a target as a whole, with the options of its comparison.

    Returns:
        A row for each target whose examples are scored (`examples`), a column for each target
        that scores, named after it, float64; null where no example has the feature.

    Raises:
        UsageError: fewer than two targets, an unknown one, or a method of another kind.
        MissingFeatureError, FingerprintError: as for a selection.
    """
    import polars as pl

    names = list(dict.fromkeys(targets))
    if len(names) < 2:
        raise UsageError("transfer compares targets with one another: name two or more")
    snapshot = Snapshot(store)
    parsed, feature = resolve_method(snapshot, method)
    if feature is None or comparison_of(feature.representation) != "target_scorer":
        raise UsageError(
            f"{parsed}: transfer takes a method that scores for a target, such as nait"
        )
    scorers = {
        name: scorer_of(snapshot, feature, parsed, load_queries(snapshot, name, feature))
        for name in names
    }
    columns: dict[str, Any] = {"examples": names}
    for scoring, scorer in scorers.items():
        columns[scoring] = [
            None if scoring == name else _mean(snapshot, feature, scorer, name) for name in names
        ]
    return pl.DataFrame(columns, schema_overrides=dict.fromkeys(names, pl.Float64))


def _mean(snapshot: Snapshot, feature: Feature, scorer: Scorer, target: str) -> float | None:
    rows = snapshot.targets.to_table(
        columns=[feature.columns[own] for own in scorer.columns],
        filter=f"target = {literal(target)}",
    )
    scores = scorer.scores(columns_for(scorer, feature, rows)).astype(np.float64)
    scores = scores[~np.isnan(scores)]
    return float(scores.mean()) if len(scores) else None
