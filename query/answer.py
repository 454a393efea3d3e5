"""Answer a request: which rows, why, and how well they cover the queries. Writes nothing.

`select` records the answer as a coreset; `replay` answers a recorded request again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..schemas.budget import Budget
from ..schemas.errors import MissingFeatureError, UsageError
from ..selectors.keys import KeySet, keys_of
from ..store.fill import count_undone
from .approximate import Search
from .comparison import comparison, understood
from .distances import Distances, distances_and_corpora
from .features import Feature
from .lengths import Lengths, counted, lengths_asked
from .methods import Method
from .queries import Queries, load_queries, query_hash
from .ranking import MEMORY_LIMIT, Picks, rank
from .rules.asked import NONE, Rules
from .rules.ruled import Ruled
from .rules.told import told
from .scanning.eligible_rows import Scanned
from .token_budget import Counted, counted_rows, lengths_to_try, prefix_that_fits

if TYPE_CHECKING:
    import lance
    import pyarrow as pa

    from ..store.store import Store


@dataclass(frozen=True)
class Request:
    """Everything an answer depends on, besides the rows of the store.

    `like` holds the lengths of the coreset that a method names, once they are known.
    """

    targets: tuple[str, ...]
    method: str
    budget: Budget
    where: str | None
    seed: int
    pool_version: int
    targets_version: int
    like: Lengths | None = None
    rules: Rules = NONE
    approximate: bool = False


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
        corpora: of the picks, (k,) strings.
        query_hash: digest of what was asked.
        rules: what was asked and what it left out, as JSON values.
        notes: sentences a person should read.
        like: lengths of the coreset that the method names, None where it names none.
        approximate: which index found the rows and how well, as JSON values; None for every row.
    """

    picks: Picks
    method: Method
    feature: Feature | None
    eligible: int
    missing: int
    short_by: int
    tokens: int | None
    distances: Distances
    corpora: pa.Array
    query_hash: str | None
    rules: dict[str, Any]
    notes: tuple[str, ...]
    like: Lengths | None = None
    approximate: dict[str, Any] | None = None


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
    compared = comparison(store, dataset, method, feature, queries, asked.lengths)
    search = None
    if request.approximate:
        search = Search(store, dataset, method, feature, queries, compared)
        compared = replace(compared, scan=search.scan)
    total = dataset.count_rows()
    eligible, of_tokens = _eligible(store, dataset, request), None
    by_tokens = request.budget.unit == "tokens"
    if by_tokens:
        of_tokens = counted_rows(dataset, eligible)
        eligible = of_tokens.rows
    rows = total if eligible is None else len(eligible)
    k = 0 if by_tokens else request.budget.rows(rows)
    if rows and not k and not by_tokens:
        raise UsageError(f"budget {request.budget} of {rows} eligible rows is below one row")

    def ranked(k: int, spare: int, among: int, allowed: KeySet | None) -> tuple[Picks, Scanned]:
        return rank(
            method,
            compared,
            k=k,
            rows=among,
            seed=request.seed,
            eligible=allowed,
            memory_limit=memory_limit,
            spare=spare,
        )

    ruled = Ruled(store, request, None if by_tokens else k, eligible, ranked, feature, memory_limit)
    tokens = None
    if of_tokens:
        picks, tokens, short_by = _within_tokens(store, request, of_tokens, ruled.first)
    else:
        picks = ruled.first(k)
        short_by = k - len(picks.ids)
    missing, account = ruled.missing, ruled.account(picks.ids)
    waiting = count_undone(dataset, feature.recipe) if feature and missing else 0
    if feature and waiting and missing == rows:
        raise MissingFeatureError(
            f"no eligible row of {store.uri} has {feature.name} yet: "
            f"{_to_featurize(store, feature, waiting)}"
        )
    apart, corpora = distances_and_corpora(store, feature, queries, picks.ids, version)
    return Answer(
        picks=picks,
        method=method,
        feature=feature,
        eligible=rows,
        missing=missing,
        short_by=short_by,
        tokens=tokens,
        distances=apart,
        corpora=corpora,
        query_hash=asked.hash,
        rules=account,
        notes=(
            *_notes(request, asked, len(picks.ids), rows, missing, short_by),
            *([f"eligible: {rows:,} of {total:,} rows"] if rows < total else []),
            *(_uncounted(of_tokens.uncounted) if of_tokens else []),
            *picks.notes,
            *told(account),
            *([_to_featurize(store, feature, waiting)] if feature and waiting else []),
        ),
        like=counted(asked.lengths[None]) if None in asked.lengths else None,
        approximate=search.facts if search else None,
    )


def _within_tokens(
    store: Store,
    request: Request,
    of_tokens: Counted,
    first: Callable[[int], Picks],
) -> tuple[Picks, int, int]:
    """The longest prefix of the ranking that fits: picks, tokens used, tokens left over.

    Tokens count as left over only when the rows that could be chosen ran out.
    """
    budget, version = int(request.budget.amount), request.pool_version
    picks, count, used = Picks([], [], [], []), 0, 0
    for k in lengths_to_try(of_tokens.tokens, budget):
        picks = first(k)
        lengths = store.take(picks.ids, ["response_tokens"], version)["response_tokens"]
        count, used = prefix_that_fits(lengths.to_pylist(), budget)
        if count < len(picks.ids):
            break
    return picks.first(count), used, budget - used if count == len(picks.ids) else 0


@dataclass(frozen=True)
class Asked:
    """A request as the store understands it.

    Attributes:
        method: with every option spelled out.
        feature: what it looks at, None for nothing.
        queries: the targets' examples, with what the method compares rows by.
        lengths: those to be matched, see `lengths_asked`.
    """

    method: Method
    feature: Feature | None
    queries: list[Queries]
    lengths: Mapping[str | None, np.ndarray]

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
        instead = ", or a coreset: length_matched(like=CORESET)" if method.matches_lengths else ""
        raise UsageError(f"{method} compares rows with a target: name one or more{instead}")
    # A ranking that looks at no target can still be held against one, by the vectors of both.
    held_against = feature if feature and (method.needs_target or feature.column) else None
    queries = [
        load_queries(store, each, held_against, request.targets_version) for each in request.targets
    ]
    return Asked(method, feature, queries, lengths_asked(store, request, method))


def _eligible(store: Store, dataset: lance.LanceDataset, request: Request) -> KeySet | None:
    """The rows that the filter lets through and no excluded coreset holds; None for all."""
    eligible = None
    if request.where is not None:
        from ..store.filter import eligible_ids

        eligible = KeySet(keys_of(eligible_ids(store, request.where, request.pool_version)))
    for each in request.rules.excluded:
        if eligible is None:
            eligible = KeySet(keys_of(dataset.to_table(columns=["id"])["id"]))
        eligible = eligible.without(KeySet(each.keys))
    return eligible


def _uncounted(rows: int) -> list[str]:
    if not rows:
        return []
    return [
        f"{rows:,} rows have no token count (the chat template refused them) and cannot be part of "
        "a budget in tokens"
    ]


def _to_featurize(store: Store, feature: Feature, waiting: int) -> str:
    name = feature.recipe.feature
    return (
        f"{waiting:,} rows of the pool are not featurized with {name} yet; "
        f"run: coresetdb featurize {store.typed} {name}"
    )


def _notes(
    request: Request, asked: Asked, chosen: int, rows: int, missing: int, short_by: int
) -> list[str]:
    notes = []
    feature, queries = asked.feature, asked.queries
    if short_by:
        unit = "response tokens" if request.budget.unit == "tokens" else "rows"
        notes.append(
            f"short by {short_by:,} {unit}: all {chosen:,} rows that could be chosen are in"
        )
    if missing and feature:
        notes.append(
            f"{missing:,} of {rows:,} eligible rows lack {feature.name} and were left out "
            f"(the reason stands in {feature.reason})"
        )
    if queries and feature and asked.method.looks and not asked.method.needs_target:
        notes.append(
            f"{asked.method} ranks rows by themselves: the target changes nothing of their order"
        )
    notes += [
        f"target {each.target}: {each.missing} of {each.missing + len(each.ids)} examples lack the "
        "feature and did not ask"
        for each in queries
        if each.missing
    ]
    return notes
