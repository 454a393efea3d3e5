"""Select: choose rows of the pool for targets, and record them as a coreset.

`answer` chooses and writes nothing, so that `replay` and `explain` can ask again; `select` records.

A budget in response tokens takes the longest prefix of the ranking that fits. How long that is
shows only once the ranking is there, so a ranking of a likely length is made first and a longer one
if it is too short; prefixes nest, so both agree. No ranking is ever longer than the number of
shortest rows that fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..schemas.errors import MissingFeatureError, UsageError
from ..schemas.ids import IdSet, keys_of
from ..schemas.plain_text import count_of
from ..schemas.sizes import parse_budget
from ..schemas.version import VERSION
from ..store.fill import count_unfilled
from .approximate import Search
from .comparison import comparison
from .coresets import Coreset, check_free, free_name, mix_of, record, rule_notes
from .distances import Distances, distances_and_corpora
from .features import Feature
from .methods import Method
from .names import check_name
from .ranking import MEMORY_LIMIT, Picks, merged_picks
from .request import Lengths, Request, ResolvedRequest, length_counts, resolve_request
from .rules.constrained import ConstrainedRanking
from .rules.rules import Rules, keep
from .scanning.rows import BLOCK_BYTES, Scanned
from .scanning.vectors import block_rows, device
from .snapshot import Snapshot

if TYPE_CHECKING:
    import lance

    from ..store.store import Store


@dataclass(frozen=True)
class ChosenRows:
    """The chosen rows, and what is known about the choice.

    Attributes:
        picks: the rows, best first.
        method: with every option spelled out.
        feature: that the method uses, None for none.
        eligible: rows that passed the filter.
        missing: eligible rows left out because they lack the feature.
        short_by: what is left of the budget, in its unit, because the eligible rows ran out.
        tokens: response tokens of the picks, for budgets in tokens.
        distances: of the picks to the queries.
        corpora: of the picks, (k,) strings.
        query_hash: digest of the examples and of the recipe of their features.
        rules: the rules and what they left out, as JSON values.
        notes: sentences for the user.
        like: lengths of the coreset that the method names, None where it names none.
        approximate: which index found the rows and how well, as JSON values; None for no index.
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


def answer(snapshot: Snapshot, request: Request, memory_limit: int = MEMORY_LIMIT) -> ChosenRows:
    """Choose rows of a snapshot's pool.

    Raises:
        UsageError: an unknown method or target, a budget below one row, too much memory planned.
        MissingFeatureError: pool or target lack the feature.
        FingerprintError: pool and target were featurized differently.
        QueryError: the filter is no SQL expression over the pool.
    """
    resolved = resolve_request(snapshot, request)
    method, feature, queries = resolved.method, resolved.feature, resolved.queries
    compared = comparison(snapshot, method, feature, queries, resolved.lengths)
    search = None
    if request.approximate:
        search = Search(snapshot, method, feature, queries)
        compared = replace(compared, scan=search.scan)
    eligible, counted_tokens = _eligible(snapshot, request), None
    if request.budget.unit == "tokens":
        counted_tokens = counted_rows(snapshot.pool, eligible)
        eligible = counted_tokens.rows
    total = snapshot.pool.count_rows()
    rows = total if eligible is None else len(eligible)
    k = None if counted_tokens else request.budget.rows(rows)
    if rows and k == 0:
        raise UsageError(
            f"budget {request.budget} of {count_of(rows, 'eligible row')} is below one row"
        )

    def ranked(k: int, spare: int, rows: int, allowed: IdSet | None) -> tuple[Picks, Scanned]:
        return merged_picks(
            method,
            compared,
            k=k,
            rows=rows,
            seed=request.seed,
            eligible=allowed,
            memory_limit=memory_limit,
            spare=spare,
        )

    ranking = ConstrainedRanking(
        snapshot, request.rules, request.targets, k, eligible, ranked, feature, memory_limit
    )
    tokens = None
    if counted_tokens:
        limit = int(request.budget.amount)
        picks, tokens, short_by = _within_tokens(snapshot, limit, counted_tokens, ranking.first)
    else:
        assert k is not None
        picks = ranking.first(k)
        short_by = k - len(picks.ids)
    missing, account = ranking.missing, ranking.account(picks.ids)
    unfilled = count_unfilled(snapshot.pool, feature.recipe) if feature and missing else 0
    if feature and unfilled and missing == rows:
        raise MissingFeatureError(
            f"no eligible row of {snapshot.store.uri} has {feature.name} yet: "
            f"{_to_featurize(snapshot, feature, unfilled)}"
        )
    distances, corpora = distances_and_corpora(snapshot, feature, queries, picks.ids)
    notes = [
        *_notes(request, resolved, len(picks.ids), rows, missing, short_by),
        *([f"eligible: {rows:,} of {count_of(total, 'row')}"] if rows < total else []),
        *(_uncounted_note(counted_tokens.uncounted) if counted_tokens else []),
        *picks.notes,
        *rule_notes(account),
        *([_to_featurize(snapshot, feature, unfilled)] if feature and unfilled else []),
    ]
    return ChosenRows(
        picks=picks,
        method=method,
        feature=feature,
        eligible=rows,
        missing=missing,
        short_by=short_by,
        tokens=tokens,
        distances=distances,
        corpora=corpora,
        query_hash=resolved.hash,
        rules=account,
        notes=tuple(notes),
        like=length_counts(resolved.lengths[None]) if None in resolved.lengths else None,
        approximate=search.facts if search else None,
    )


def _eligible(snapshot: Snapshot, request: Request) -> IdSet | None:
    """Return the rows that pass the filter and are in no excluded coreset; None for all."""
    eligible = None
    if request.where is not None:
        from ..store.sql.session import eligible_ids

        ids = eligible_ids(snapshot.store, request.where, snapshot.pool_version)
        eligible = IdSet(keys_of(ids))
    if request.among is not None:
        eligible = eligible or IdSet(keys_of(snapshot.pool.to_table(columns=["id"])["id"]))
        eligible = eligible.within(request.among)
    for coreset in request.rules.excluded:
        if eligible is None:
            eligible = IdSet(keys_of(snapshot.pool.to_table(columns=["id"])["id"]))
        eligible = eligible.without(IdSet(coreset.keys))
    return eligible


def _notes(
    request: Request, resolved: ResolvedRequest, chosen: int, rows: int, missing: int, short_by: int
) -> list[str]:
    notes = []
    method, feature, queries = resolved.method, resolved.feature, resolved.queries
    if short_by:
        unit = "response token" if request.budget.unit == "tokens" else "row"
        rest = f"all {chosen:,} rows that can be chosen were chosen"
        if chosen < 2:
            rest = "the only row that can be chosen was" if chosen else "no row can be chosen"
        notes.append(f"short by {count_of(short_by, unit)}: {rest}")
    if missing and feature:
        lacking = _lacking(missing, count_of(rows, "eligible row"), feature.name, "left out")
        notes.append(f"{lacking} (the column {feature.reason} says why)")
    if queries and feature and method.uses_feature and not method.needs_target:
        notes.append(f"{method} ranks rows by themselves: the target does not change their order")
    for query in queries:
        if query.missing:
            total = count_of(query.missing + len(query.ids), "example")
            lacking = _lacking(query.missing, total, "the feature", "ignored")
            notes.append(f"target {query.target}: {lacking}")
    return notes


def _lacking(missing: int, total: str, what: str, became: str) -> str:
    lack, were = ("lacks", "was") if missing == 1 else ("lack", "were")
    return f"{missing:,} of {total} {lack} {what} and {were} {became}"


def _uncounted_note(rows: int) -> list[str]:
    if not rows:
        return []
    has = "row has" if rows == 1 else "rows have"
    them = "it" if rows == 1 else "them"
    return [
        f"{rows:,} {has} no token count (the chat template refused {them}) and cannot be part of a "
        "budget in tokens"
    ]


def _to_featurize(snapshot: Snapshot, feature: Feature, unfilled: int) -> str:
    name = feature.recipe.feature
    rows = count_of(unfilled, "row of the pool is", "rows of the pool are")
    return (
        f"{rows} not featurized with {name} yet; "
        f"run: coresetdb featurize {snapshot.store.typed} {name}"
    )


_MOST_SEED = (1 << 63) - 1  # what the table of coresets can hold


def select(
    store: Store,
    targets: Sequence[str] = (),
    *,
    method: str = "rds:round_robin",
    budget: str = "1000",
    where: str | None = None,
    seed: int = 0,
    name: str | None = None,
    rules: Rules | None = None,
    memory_limit: int = MEMORY_LIMIT,
    approximate: bool = False,
) -> Coreset:
    """Choose rows of the newest pool for one or more targets, and record them as a coreset.

    Args:
        rules: what shapes the selection beside its method; by default the leakage guard alone.
        memory_limit: bytes that the selection may plan for.
        The others are those of `Database.select`.

    Raises:
        UsageError: unknown target or method, bad budget, taken name, rules that cannot be kept, too
            much memory planned, or nothing that an index could answer.
        MissingFeatureError: pool or target lack the feature.
        FingerprintError: pool and target were featurized differently.
        QueryError: the filter was refused.
    """
    amount = parse_budget(budget)
    if not -_MOST_SEED <= seed <= _MOST_SEED:
        raise UsageError(f"seed {seed}: it must be between {-_MOST_SEED} and {_MOST_SEED}")
    if name is not None:
        check_free(store, check_name("coreset", name))
    request = Request(
        targets=tuple(dict.fromkeys(targets)),
        method=method,
        budget=amount,
        where=where,
        seed=seed,
        rules=rules or Rules(),
        approximate=approximate,
    )
    snapshot = Snapshot(store)
    result = answer(snapshot, request, memory_limit)
    keep(store, request.rules)
    coreset = _coreset(
        name or free_name(store, request.targets, str(result.method)), snapshot, request, result
    )
    while not record(snapshot, coreset):  # somebody else was quicker with the name
        if name is not None:
            check_free(store, name)
        coreset = replace(coreset, name=free_name(store, request.targets, coreset.method))
    return coreset


def _coreset(name: str, snapshot: Snapshot, request: Request, result: ChosenRows) -> Coreset:
    picks, feature = result.picks, result.feature
    members = pa.table(
        {
            "rank": pa.array(range(1, len(picks.ids) + 1), pa.int64()),
            "id": pa.array(picks.ids, pa.string()),
            "score": pa.array(picks.scores, pa.float32()),
            "target": pa.array(picks.targets, pa.string()),
            "query": pa.array(picks.queries, pa.string()),
            "corpus": result.corpora,
        }
    )
    return Coreset(
        store=snapshot.store,
        name=name,
        targets=request.targets,
        method=str(result.method),
        parameters=_parameters(snapshot, request, result),
        fingerprint=feature.recipe.fingerprint if feature else None,
        seed=request.seed,
        budget=str(request.budget),
        pool_version=snapshot.pool_version,
        filter=request.where,
        eligible=result.eligible,
        short_by=result.short_by,
        distance=result.distances.nearest,
        query_hash=result.query_hash,
        created_at=datetime.now(UTC),
        members=members,
        mix=mix_of(snapshot, result.corpora),
        notes=result.notes,
    )


def _parameters(snapshot: Snapshot, request: Request, result: ChosenRows) -> dict[str, Any]:
    method, feature = result.method, result.feature
    parameters = {
        "representation": method.representation,
        "column": feature.column if feature else None,
        "selector": method.selector.name,
        "selector_version": method.selector.version,
        "options": dict(method.options),
        "asked": dict(method.asked),
        "targets_version": snapshot.targets_version,
        "missing": result.missing,
        "tokens": result.tokens,
        "rules": result.rules,
        "mmd": result.distances.mmd,
        "code_version": VERSION,
    }
    if feature and method.compares_queries:
        import torch

        block = (
            {"block_rows": block_rows(feature.width), "device": device()}
            if feature.column
            else {"block_bytes": BLOCK_BYTES}
        )
        parameters |= {**block, "torch": str(torch.__version__)}
    if result.like:
        parameters["like"] = [list(pair) for pair in result.like]
    if result.approximate is not None:
        parameters["approximate"] = result.approximate
    return parameters


# -- budgets in response tokens --------------------------------------------------------------

_MARGIN = 1.3  # of the first ranking, over the length at the mean number of tokens
_GROWTH = 3  # of each ranking over the one before


@dataclass(frozen=True)
class RowsWithTokens:
    """The eligible rows whose response tokens are known.

    Attributes:
        rows: None for all of the pool.
        tokens: of their responses, (n,) int32, in table order.
        uncounted: eligible rows left out because the chat template refused them.
    """

    rows: IdSet | None
    tokens: np.ndarray
    uncounted: int


def counted_rows(dataset: lance.LanceDataset, eligible: IdSet | None) -> RowsWithTokens:
    """Return which eligible rows (None for all) have a count of response tokens, and the counts.

    Raises:
        MissingFeatureError: there are eligible rows, and none has one.
    """
    keys, tokens, uncounted = [np.empty((0, 2), np.int64)], [np.empty(0, np.int32)], 0
    for batch in dataset.scanner(columns=["id", "response_tokens"]).to_batches():
        own, counts = keys_of(batch["id"]), batch["response_tokens"]
        known = np.asarray(counts.is_valid())
        allowed = np.ones(len(own), bool) if eligible is None else eligible.contains(own)
        uncounted += int((allowed & ~known).sum())
        keys.append(own[allowed & known])
        tokens.append(counts.fill_null(0).to_numpy()[allowed & known])
    counted = np.concatenate(tokens)
    if uncounted and not len(counted):
        raise MissingFeatureError(
            "no eligible row of the pool has a token count, so a budget in tokens cannot be kept. "
            "Give the budget in rows or per cent"
        )
    rows = IdSet(np.concatenate(keys)) if uncounted else eligible
    return RowsWithTokens(rows, counted, uncounted)


def lengths_to_try(tokens: np.ndarray, budget: int) -> Iterator[int]:
    """Yield ranking lengths, ascending; the last is long enough for any order of the rows."""
    longest = int(np.searchsorted(np.cumsum(np.sort(tokens, kind="stable")), budget, "right"))
    # One row more shows that the next one does not fit.
    longest = min(longest + 1, len(tokens))
    length = int(_MARGIN * budget / max(float(tokens.mean()), 1.0)) + 16 if len(tokens) else 0
    while length < longest:
        yield length
        length *= _GROWTH
    yield longest


def prefix_that_fits(tokens: Sequence[int], budget: int) -> tuple[int, int]:
    """Return how many leading rows fit, and how many tokens they have together."""
    totals = np.cumsum(np.asarray(tokens, np.int64))
    count = int(np.searchsorted(totals, budget, "right"))
    return count, int(totals[count - 1]) if count else 0


def _within_tokens(
    snapshot: Snapshot, budget: int, counted: RowsWithTokens, first: Callable[[int], Picks]
) -> tuple[Picks, int, int]:
    """Return the longest prefix of the ranking that fits, its tokens, and the tokens left over.

    Tokens count as left over only when the rows that could be chosen ran out.
    """
    picks, count, used = Picks([], [], [], []), 0, 0
    for k in lengths_to_try(counted.tokens, budget):
        picks = first(k)
        lengths = snapshot.take(picks.ids, ["response_tokens"])["response_tokens"]
        count, used = prefix_that_fits(lengths.to_pylist(), budget)
        if count < len(picks.ids):
            break
    return picks.first(count), used, budget - used if count == len(picks.ids) else 0
