"""Select: choose rows of the pool for targets, and record them as a coreset.

`answer` chooses and writes nothing, so that `replay` and `explain` can ask again; `select` records.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..schemas.amounts import parse_budget
from ..schemas.errors import MissingFeatureError, ReadOnlyStoreError, UsageError
from ..schemas.ids import IdSet, keys_of
from ..schemas.plain_text import count_of
from ..schemas.progress import Progress, Silence
from ..schemas.version import VERSION
from ..store.features import annotations_used, completion
from ..store.fill import count_unfilled
from ..store.rows import row_keys
from ..workers.options import WorkerOptions
from .approximate import Search
from .comparison import comparison
from .coresets import Coreset, check_free, free_name, mix_of, record, rule_notes
from .distances import Distances, distances_and_corpora
from .features import Feature
from .methods import Method
from .names import check_name
from .pool_statistics.statistic import as_parameters, keep_statistics
from .ranking import MEMORY_LIMIT, Picks, Shares, merged_picks
from .request import Lengths, Request, ResolvedRequest, length_counts, resolve_request
from .rules.constrained import ConstrainedRanking
from .rules.rules import Rules, keep
from .scanning.rows import BLOCK_BYTES, Scanned
from .scanning.vectors import block_rows, device
from .shared_scan import SharedScans, open_scan_workers, require_scan
from .sketch_noise import selection_notes
from .snapshot import Snapshot
from .token_budget import counted_rows, tokens_of, within_tokens
from .weights import WeightsLike, parse_weights, recorded_weights, whole_weights

if TYPE_CHECKING:
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
        tokens: of the picks, as the budget counts them; None for budgets in rows.
        distances: of the picks to the queries.
        corpora: of the picks, (k,) strings.
        query_hash: digest of the examples and of the recipe of their features.
        rules: the rules and what they left out, as JSON values.
        notes: sentences for the user.
        like: lengths of the coreset that the method names, None where it names none.
        approximate: which index found the rows and how well, as JSON values; None for no index.
        target_tokens: of the picks of each target, where a budget in tokens is shared by weight.
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
    target_tokens: dict[str, int] | None = None


def answer(
    snapshot: Snapshot,
    request: Request,
    memory_limit: int = MEMORY_LIMIT,
    shared: SharedScans | None = None,
) -> ChosenRows:
    """Choose rows of a snapshot's pool.

    Args:
        shared: scans of this request that workers share; None for none.

    Raises:
        UsageError: an unknown method or target, a budget below one row, too much memory planned.
        MissingFeatureError: pool or target lack the feature.
        FingerprintError: pool and target were featurized differently.
        QueryError: the filter is no SQL expression over the pool.
    """
    resolved = resolve_request(snapshot, request)
    method, feature, queries = resolved.method, resolved.feature, resolved.queries
    compared = comparison(snapshot, method, feature, queries, resolved.lengths)
    if shared:
        require_scan(method, compared, request.approximate)
    search = None
    if request.approximate:
        search = Search(snapshot, method, feature, queries)
        compared = replace(compared, scan=search.scan)
    eligible, counted_tokens = eligible_rows(snapshot, request), None
    counting = request.budget.token_column
    if counting:
        counted_tokens = counted_rows(snapshot.pool, eligible, counting)
        eligible = counted_tokens.rows
    total = snapshot.pool.count_rows()
    rows = total if eligible is None else len(eligible)
    k = None if counted_tokens else request.budget.rows(rows)
    if rows and k == 0:
        raise UsageError(
            f"budget {request.budget} of {count_of(rows, 'eligible row')} is below one row"
        )

    shares = None
    if request.weights:
        sizes = partial(tokens_of, snapshot, counting) if counting else None
        shares = Shares(whole_weights(request.weights), sizes)

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
            shares=shares,
            shared=shared,
        )

    ranking = ConstrainedRanking(
        snapshot, request.rules, request.targets, k, eligible, ranked, feature, memory_limit
    )
    tokens = None
    if counting and counted_tokens:
        limit = int(request.budget.amount)
        picks, tokens, short_by = within_tokens(
            snapshot, counting, limit, counted_tokens, ranking.first
        )
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
        target_tokens=_target_tokens(snapshot, counting, picks) if shares and counting else None,
    )


def _target_tokens(snapshot: Snapshot, column: str, picks: Picks) -> dict[str, int]:
    spent = Counter[str]()
    lengths = snapshot.take(picks.ids, [column])[column].to_pylist()
    for target, tokens in zip(picks.targets, lengths, strict=True):
        if target is not None:
            spent[target] += tokens
    return dict(spent)


def eligible_rows(snapshot: Snapshot, request: Request) -> IdSet | None:
    """Return the rows that pass the filter and are in no excluded coreset; None for all."""
    eligible = None
    if request.where is not None:
        from ..store.sql.session import eligible_ids

        ids = eligible_ids(snapshot.store, request.where, snapshot.pool_version)
        eligible = IdSet(keys_of(ids))
    if request.among is not None:
        if eligible is None:
            eligible = IdSet(row_keys(snapshot.pool))
        eligible = eligible.within(request.among)
    for coreset in request.rules.excluded:
        if eligible is None:
            eligible = IdSet(row_keys(snapshot.pool))
        eligible = eligible.without(IdSet(coreset.keys))
    return eligible


def _notes(
    request: Request, resolved: ResolvedRequest, chosen: int, rows: int, missing: int, short_by: int
) -> list[str]:
    notes = []
    method, feature, queries = resolved.method, resolved.feature, resolved.queries
    if short_by:
        unit = request.budget.noun
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
    name, command = feature.recipe.feature, completion(snapshot.store, feature.recipe)
    if feature.recipe.attached:
        rows = count_of(unfilled, "row of the pool", "rows of the pool")
        return f"{rows} came after {name}; run: {command}"
    rows = count_of(unfilled, "row of the pool is", "rows of the pool are")
    return f"{rows} not featurized with {name} yet; run: {command}"


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
    weights: WeightsLike | None = None,
    group: str | None = None,
    dry_run: bool = False,
    workers: WorkerOptions | None = None,
    progress: Progress | None = None,
) -> Coreset:
    """Choose rows of the newest pool for one or more targets, and record them as a coreset.

    A dry run records nothing; nor can anything be recorded where the store is read-only. The
    coreset then says so (`Coreset.saved`, and a note).

    Args:
        rules: what shapes the selection beside its method; by default the leakage guard alone.
        memory_limit: bytes that the selection may plan for.
        workers: that share the scans; none by default.
        The others are those of `Database.select`.

    Raises:
        UsageError: unknown target or method, bad budget, taken name, a filter that no row passes,
            rules that cannot be kept, too much memory planned, or nothing that an index could
            answer or workers could share.
        MissingFeatureError: pool or target lack the feature.
        FingerprintError: pool and target were featurized differently.
        QueryError: the filter was refused.
        WorkerError: workers died over the same rows, or none can be started.
    """
    amount = parse_budget(budget)
    if not -_MOST_SEED <= seed <= _MOST_SEED:
        raise UsageError(f"seed {seed}: it must be between {-_MOST_SEED} and {_MOST_SEED}")
    if name is not None:
        check_free(store, check_name("coreset", name))
    targets = tuple(dict.fromkeys(targets))
    request = Request(
        targets=targets,
        method=method,
        budget=amount,
        where=where,
        seed=seed,
        rules=rules or Rules(),
        approximate=approximate,
        weights=parse_weights(weights, targets),
        group=group,
    )
    snapshot = Snapshot(store)
    progress = progress or Silence()
    with open_scan_workers(store, workers or WorkerOptions(), progress.say) as scanning:
        shared = SharedScans(scanning, snapshot, request, progress) if scanning else None
        result = answer(snapshot, request, memory_limit, shared)
    _require_rows(snapshot, request, result)
    drowned = selection_notes(snapshot, result.method, result.feature, targets)
    result = replace(result, notes=(*result.notes, *drowned))
    coreset = _coreset(
        name or free_name(store, request.targets, str(result.method)), snapshot, request, result
    )
    if dry_run:
        return _unsaved(coreset, "nothing was saved, because this is a dry run")
    try:
        keep(store, request.rules)
        keep_statistics(snapshot)
        while not record(snapshot, coreset):  # somebody else was quicker with the name
            if name is not None:
                check_free(store, name)
            coreset = replace(coreset, name=free_name(store, request.targets, coreset.method))
    except ReadOnlyStoreError:
        return _unsaved(coreset, f"nothing was saved, because {store.uri} cannot be written to")
    return coreset


def _require_rows(snapshot: Snapshot, request: Request, result: ChosenRows) -> None:
    """Refuse a request whose filter leaves nothing to choose from.

    Not part of `answer`: coresets of earlier versions may record such a request.

    Raises:
        UsageError: the filter lets no row through, or only rows of excluded coresets.
    """
    if result.eligible or request.where is None or not snapshot.pool.count_rows():
        return
    besides = ""
    if request.rules.excluded:
        names = ", ".join(rows.coreset for rows in request.rules.excluded)
        besides = f" that is not in an excluded coreset ({names})"
    raise UsageError(
        f"--where {request.where!r}: no row of the pool passes it{besides}. `coresetdb status "
        f"{snapshot.store.typed}` lists the corpora"
    )


def _unsaved(coreset: Coreset, why: str) -> Coreset:
    return replace(coreset, saved=False, notes=(*coreset.notes, why))


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
    if feature:
        parameters |= as_parameters(snapshot, feature)
    if request.weights:
        parameters["weights"] = recorded_weights(request.weights)
    if request.group is not None:
        parameters["group"] = request.group
    if result.picks.fitted:
        parameters["fitted"] = dict(result.picks.fitted)
    if result.target_tokens is not None:
        parameters["target_tokens"] = result.target_tokens
    named = [request.rules.quota_by, str(method.options.get("score", ""))]
    if annotations := annotations_used(snapshot.store, named, request.where):
        parameters["annotations"] = annotations
    if result.like:
        parameters["like"] = [list(pair) for pair in result.like]
    if result.approximate is not None:
        parameters["approximate"] = result.approximate
    return parameters
