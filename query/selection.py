"""Select: a new target becomes a recorded coreset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pyarrow as pa

from ..schemas.budget import parse_budget
from ..schemas.errors import UsageError
from ..schemas.version import VERSION
from .answer import Answer, Request, answer
from .coresets import Coreset, check_free, free_name, mix_of, record
from .names import check_name
from .ranking import MEMORY_LIMIT
from .rules.asked import Rules, keep
from .scanning.products import device
from .scanning.scan import BLOCK_BYTES, block_rows

if TYPE_CHECKING:
    from ..store.store import Store

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
