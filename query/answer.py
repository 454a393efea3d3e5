"""Answer a request: which rows, why, and how well they cover the queries. Writes nothing.

`select` records the answer as a coreset; `replay` answers a recorded request again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..schemas.budget import Budget
from ..schemas.errors import MissingFeatureError, UsageError
from ..selectors.keys import KeySet, keys_of
from ..store.fill import count_undone
from .comparison import comparison, understood
from .distances import Distances, distances
from .features import Feature
from .methods import Method
from .queries import Queries, load_queries, query_hash
from .ranking import MEMORY_LIMIT, Picks, rank
from .scan import Scanned
from .token_budget import lengths_to_try, prefix_that_fits, response_tokens

if TYPE_CHECKING:
    import lance

    from ..store.store import Store


@dataclass(frozen=True)
class Request:
    """Everything an answer depends on, besides the rows of the store."""

    targets: tuple[str, ...]
    method: str
    budget: Budget
    where: str | None
    seed: int
    pool_version: int
    targets_version: int


@dataclass(frozen=True)
class Answer:
    """The rows and what is to be said about them.

    Attributes:
        picks: the rows, best first.
        method: as it was understood.
        feature: what rows were compared by, None for methods that look at nothing.
        eligible: rows the filter lets through.
        missing: eligible rows left out because they lack the feature.
        short_by: what is left of the budget, in its unit, because the eligible rows ran out.
        tokens: response tokens of the picks, for budgets in tokens.
        distances: of the picks to the queries.
        query_hash: digest of what was asked.
        notes: sentences a person should read.
    """

    picks: Picks
    method: Method
    feature: Feature | None
    eligible: int
    missing: int
    short_by: int
    tokens: int | None
    distances: Distances
    query_hash: str | None
    notes: tuple[str, ...]


def answer(store: Store, request: Request, memory_limit: int = MEMORY_LIMIT) -> Answer:
    """Choose rows of the pool, at the versions the request names.

    Raises:
        UsageError: an unknown method or target, a budget below one row, too much memory planned.
        MissingFeatureError: pool or target lack the feature.
        FingerprintError: pool and target were featurized differently.
        QueryError: the filter is no SQL expression over the pool.
    """
    asked = what_is_asked(store, request)
    method, feature, queries = asked.method, asked.feature, asked.queries
    version = request.pool_version
    dataset = store.dataset("pool", version)
    compared = comparison(store, dataset, method, feature, queries)
    eligible = _eligible(store, request)
    rows = dataset.count_rows() if eligible is None else len(eligible)

    def ranked(k: int) -> tuple[Picks, Scanned]:
        return rank(
            method,
            compared,
            k=min(k, rows),
            rows=rows,
            seed=request.seed,
            eligible=eligible,
            memory_limit=memory_limit,
        )

    tokens = None
    if request.budget.unit == "tokens":
        picks, seen, tokens, short_by = _within_tokens(store, request, dataset, eligible, ranked)
    else:
        k = request.budget.rows(rows)
        if rows and not k:
            raise UsageError(f"budget {request.budget} of {rows} eligible rows is below one row")
        picks, seen = ranked(k)
        short_by = k - len(picks.ids)
    waiting = count_undone(dataset, feature.recipe) if feature and seen.missing else 0
    if feature and waiting and not seen.scored:
        raise MissingFeatureError(
            f"no eligible row of {store.uri} has {feature.name} yet: "
            f"{_to_featurize(store, feature, waiting)}"
        )
    return Answer(
        picks=picks,
        method=method,
        feature=feature,
        eligible=rows,
        missing=seen.missing,
        short_by=short_by,
        tokens=tokens,
        distances=distances(store, feature, queries, picks.ids, version),
        query_hash=asked.hash,
        notes=(
            *_notes(request, asked, rows, seen.missing, short_by),
            *([_to_featurize(store, feature, waiting)] if feature and waiting else []),
        ),
    )


def _within_tokens(
    store: Store,
    request: Request,
    dataset: lance.LanceDataset,
    eligible: KeySet | None,
    ranked: Callable[[int], tuple[Picks, Scanned]],
) -> tuple[Picks, Scanned, int, int]:
    """The longest prefix of the ranking that fits: picks, scan, tokens used, tokens left over.

    Tokens count as left over only when the rows that could be chosen ran out.
    """
    budget, version = int(request.budget.amount), request.pool_version
    picks, seen, count, used = Picks([], [], [], []), Scanned(), 0, 0
    for k in lengths_to_try(response_tokens(dataset, eligible), budget):
        picks, seen = ranked(k)
        lengths = store.take(picks.ids, ["response_tokens"], version)["response_tokens"]
        count, used = prefix_that_fits(lengths.to_pylist(), budget)
        if count < len(picks.ids):
            break
    return picks.first(count), seen, used, budget - used if count == seen.scored else 0


@dataclass(frozen=True)
class Asked:
    """A request as the store understands it.

    Attributes:
        method: with every option spelled out.
        feature: what it looks at, None for nothing.
        queries: the targets' examples, with what the method compares rows by.
    """

    method: Method
    feature: Feature | None
    queries: list[Queries]

    @property
    def hash(self) -> str | None:
        """Digest of the examples and of what made their features."""
        return query_hash(self.queries, self.feature)


def what_is_asked(store: Store, request: Request) -> Asked:
    """Understand a request; reads the targets, not the pool.

    Raises: as `answer`.
    """
    method, feature = understood(store, request.method, request.pool_version)
    if method.needs_target and not request.targets:
        raise UsageError(f"{method} compares rows with a target: name one or more")
    # A ranking that looks at no target can still be held against one, by the vectors of both.
    held_against = feature if feature and (method.needs_target or feature.column) else None
    queries = [
        load_queries(store, each, held_against, request.targets_version) for each in request.targets
    ]
    return Asked(method, feature, queries)


def _eligible(store: Store, request: Request) -> KeySet | None:
    if request.where is None:
        return None
    from ..store.filter import eligible_ids

    return KeySet(keys_of(eligible_ids(store, request.where, request.pool_version)))


def _to_featurize(store: Store, feature: Feature, waiting: int) -> str:
    name = feature.recipe.feature
    return (
        f"{waiting:,} rows of the pool are not featurized with {name} yet; "
        f"run: coresetdb featurize {store.uri} {name}"
    )


def _notes(request: Request, asked: Asked, rows: int, missing: int, short_by: int) -> list[str]:
    notes = []
    feature, queries = asked.feature, asked.queries
    if short_by:
        unit = "response tokens" if request.budget.unit == "tokens" else "rows"
        notes.append(
            f"short by {short_by:,} {unit}: all {rows - missing:,} rows that could be chosen are in"
        )
    if missing and feature:
        notes.append(
            f"{missing:,} of {rows:,} eligible rows lack {feature.name} and were left out "
            f"(the reason stands in {feature.reason})"
        )
    if queries and feature and asked.method.looks and not asked.method.needs_target:
        notes.append(f"{feature.name} ranks rows by themselves: the target changes nothing")
    notes += [
        f"target {each.target}: {each.missing} of {each.missing + len(each.ids)} examples lack the "
        "feature and did not ask"
        for each in queries
        if each.missing
    ]
    return notes
