"""Select: a new target becomes a recorded coreset.

Budgets in response tokens: the longest prefix of a ranking that fits.

How long that is shows only once the ranking is there, so a ranking of a likely length is asked for
first and a longer one when it turns out too short; prefixes nest, so both agree. No ranking is ever
longer than the number of shortest rows that fit.

Answer a request: which rows, why, and how well they cover the queries. Writes nothing.

`select` records the answer as a coreset; `replay` answers a recorded request again.
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
from ..schemas.sizes import parse_budget
from ..schemas.version import VERSION
from ..store.fill import count_unfilled
from .approximate import Search
from .comparison import comparison
from .coresets import Coreset, check_free, free_name, mix_of, record, told
from .distances import Distances, distances_and_corpora
from .features import Feature
from .methods import Method
from .names import check_name
from .ranking import MEMORY_LIMIT, Picks, rank
from .request import Lengths, Request, ResolvedRequest, counted, resolve_request
from .rules.constrained import ConstrainedRanking
from .rules.rules import Rules, keep
from .scanning.rows import BLOCK_BYTES, Scanned
from .scanning.vectors import block_rows, device

if TYPE_CHECKING:
    import lance

    from ..store.store import Store


_MARGIN = 1.3
_GROWTH = 3


@dataclass(frozen=True)
class Counted:
    """The eligible rows that a budget in tokens can count.

    Attributes:
        rows: None for all of the pool.
        tokens: of their responses, (n,) int32, in table order.
        uncounted: eligible rows without a count, which have been left out: the chat template
            refused them.
    """

    rows: IdSet | None
    tokens: np.ndarray
    uncounted: int


def counted_rows(dataset: lance.LanceDataset, eligible: IdSet | None) -> Counted:
    """Which eligible rows (None for all) have a count of response tokens, and what it is.

    Raises:
        MissingFeatureError: there are eligible rows, and none has one.
    """
    keys, tokens, uncounted = [np.empty((0, 2), np.int64)], [np.empty(0, np.int32)], 0
    for batch in dataset.scanner(columns=["id", "response_tokens"]).to_batches():
        own, counts = keys_of(batch["id"]), batch["response_tokens"]
        known, there = np.asarray(counts.is_valid()), counts.fill_null(0).to_numpy()
        allowed = np.ones(len(own), bool) if eligible is None else eligible.contains(own)
        uncounted += int((allowed & ~known).sum())
        keys.append(own[allowed & known])
        tokens.append(there[allowed & known])
    found = np.concatenate(tokens)
    if uncounted and not len(found):
        raise MissingFeatureError(
            "no eligible row of the pool has a token count, so a budget in tokens cannot be kept. "
            "Give the budget in rows or per cent"
        )
    return Counted(IdSet(np.concatenate(keys)) if uncounted else eligible, found, uncounted)


def lengths_to_try(tokens: np.ndarray, budget: int) -> Iterator[int]:
    """Ranking lengths, ascending; the last is long enough for any order of the rows."""
    longest = int(np.searchsorted(np.cumsum(np.sort(tokens, kind="stable")), budget, "right"))
    # One row more shows that the next one does not fit.
    longest = min(longest + 1, len(tokens))
    length = int(_MARGIN * budget / max(float(tokens.mean()), 1.0)) + 16 if len(tokens) else 0
    while length < longest:
        yield length
        length *= _GROWTH
    yield longest


def prefix_that_fits(tokens: Sequence[int], budget: int) -> tuple[int, int]:
    """How many leading rows fit, and how many tokens they have together."""
    totals = np.cumsum(np.asarray(tokens, np.int64))
    count = int(np.searchsorted(totals, budget, "right"))
    return count, int(totals[count - 1]) if count else 0


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
    asked = resolve_request(store, request)
    method, feature, queries = asked.method, asked.feature, asked.queries
    version = request.pool_version
    dataset = store.dataset("pool", version)
    compared = comparison(store, dataset, method, feature, queries, asked.lengths)
    search = None
    if request.approximate:
        search = Search(store, dataset, method, feature, queries)
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

    def ranked(k: int, spare: int, suggest: int, allowed: IdSet | None) -> tuple[Picks, Scanned]:
        return rank(
            method,
            compared,
            k=k,
            rows=suggest,
            seed=request.seed,
            eligible=allowed,
            memory_limit=memory_limit,
            spare=spare,
        )

    ruled = ConstrainedRanking(
        store, request, None if by_tokens else k, eligible, ranked, feature, memory_limit
    )
    tokens = None
    if of_tokens:
        picks, tokens, short_by = _within_tokens(store, request, of_tokens, ruled.first)
    else:
        picks = ruled.first(k)
        short_by = k - len(picks.ids)
    missing, account = ruled.missing, ruled.account(picks.ids)
    waiting = count_unfilled(dataset, feature.recipe) if feature and missing else 0
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


def _eligible(store: Store, dataset: lance.LanceDataset, request: Request) -> IdSet | None:
    """The rows that the filter lets through and no excluded coreset holds; None for all."""
    eligible = None
    if request.where is not None:
        from ..store.sql.session import eligible_ids

        eligible = IdSet(keys_of(eligible_ids(store, request.where, request.pool_version)))
    for each in request.rules.excluded:
        if eligible is None:
            eligible = IdSet(keys_of(dataset.to_table(columns=["id"])["id"]))
        eligible = eligible.without(IdSet(each.keys))
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
    request: Request, resolved: ResolvedRequest, chosen: int, rows: int, missing: int, short_by: int
) -> list[str]:
    notes = []
    feature, queries = resolved.feature, resolved.queries
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
    if queries and feature and resolved.method.looks and not resolved.method.needs_target:
        notes.append(
            f"{resolved.method} ranks rows by themselves: the target changes nothing of their order"
        )
    notes += [
        f"target {query.target}: {query.missing} of {query.missing + len(query.ids)} examples lack "
        "the feature and were ignored"
        for query in queries
        if query.missing
    ]
    return notes


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
        store: an open store.
        targets: names of targets; several share the budget by turns. Methods that rank rows by
            themselves need none.
        method: `representation:selector(option=value,...)`, a representation's name, or `random`.
        budget: rows (`1000`), a share of the eligible rows (`5%`) or `200k-tokens`.
        where: SQL expression over the pool; only rows for which it holds are eligible.
        seed: of random methods, and of the shuffling at export.
        name: of the coreset; `<target>-<method>-<n>` by default.
        rules: what shapes the selection beside its method; by default the leakage guard alone.
        memory_limit: bytes the selection may plan for.
        approximate: whether an index finds the rows (docs/indexing.md); every row is compared
            otherwise.

    Raises:
        UsageError: unknown target or method, bad budget, taken name, rules that cannot be kept, too
            much memory planned, or nothing that an index could answer.
        MissingFeatureError: pool or target lack the feature.
        FingerprintError: pool and target were featurized differently.
        QueryError: the filter was refused.
    """
    wanted = parse_budget(budget)
    if not -_MOST_SEED <= seed <= _MOST_SEED:
        raise UsageError(f"seed {seed}: it must be between {-_MOST_SEED} and {_MOST_SEED}")
    if name is not None:
        check_free(store, check_name("coreset", name))
    request = Request(
        targets=tuple(dict.fromkeys(targets)),
        method=method,
        budget=wanted,
        where=where,
        seed=seed,
        pool_version=store.version("pool"),
        targets_version=store.version("targets"),
        rules=rules or Rules(),
        approximate=approximate,
    )
    found = answer(store, request, memory_limit)
    keep(store, request.rules)
    coreset = _coreset(
        store, name or free_name(store, request.targets, str(found.method)), request, found
    )
    while not record(store, coreset):  # somebody else was quicker with the name
        if name is not None:
            check_free(store, name)
        coreset = replace(coreset, name=free_name(store, request.targets, coreset.method))
    return coreset


def _coreset(store: Store, name: str, request: Request, found: Answer) -> Coreset:
    picks, feature = found.picks, found.feature
    members = pa.table(
        {
            "rank": pa.array(range(1, len(picks.ids) + 1), pa.int64()),
            "id": pa.array(picks.ids, pa.string()),
            "score": pa.array(picks.scores, pa.float32()),
            "target": pa.array(picks.targets, pa.string()),
            "query": pa.array(picks.queries, pa.string()),
            "corpus": found.corpora,
        }
    )
    return Coreset(
        store=store,
        name=name,
        targets=request.targets,
        method=str(found.method),
        parameters=_parameters(request, found),
        fingerprint=feature.recipe.fingerprint if feature else None,
        seed=request.seed,
        budget=str(request.budget),
        pool_version=request.pool_version,
        filter=request.where,
        eligible=found.eligible,
        short_by=found.short_by,
        distance=found.distances.nearest,
        query_hash=found.query_hash,
        created_at=datetime.now(UTC),
        members=members,
        mix=mix_of(store, found.corpora, request.pool_version),
        notes=found.notes,
    )


def _parameters(request: Request, found: Answer) -> dict:
    method, feature = found.method, found.feature
    parameters = {
        "representation": method.representation,
        "column": feature.column if feature else None,
        "selector": method.selector.name,
        "selector_version": method.selector.version,
        "options": dict(method.options),
        "asked": dict(method.asked),
        "targets_version": request.targets_version,
        "missing": found.missing,
        "tokens": found.tokens,
        "rules": found.rules,
        "mmd": found.distances.mmd,
        "code_version": VERSION,
    }
    if feature and method.compares:
        import torch

        block = (
            {"block_rows": block_rows(feature.width), "device": device()}
            if feature.column
            else {"block_bytes": BLOCK_BYTES}
        )
        parameters |= {**block, "torch": str(torch.__version__)}
    if found.like:
        parameters["like"] = [list(pair) for pair in found.like]
    if found.approximate is not None:
        parameters["approximate"] = found.approximate
    return parameters
