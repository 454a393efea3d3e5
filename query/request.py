"""The request of a selection, and what it means in a store: method, feature, queries, lengths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from ..schemas.amounts import Budget
from ..schemas.errors import UsageError
from ..schemas.ids import IdSet
from ..schemas.tables import literal
from .comparison import resolve_method
from .coresets import load_coreset
from .features import Feature
from .groups import by_groups, grouped
from .methods import Method
from .queries import Queries, load_queries, query_hash
from .rules.rules import NONE, Rules
from .snapshot import Snapshot
from .weights import Weights, check_weights

Lengths: TypeAlias = tuple[tuple[int, int], ...]
"""Response tokens and how many rows have that many, ascending."""


@dataclass(frozen=True)
class Request:
    """Everything a selection depends on besides the rows of its snapshot.

    Attributes:
        targets: their names, each once.
        method: its name, as `parse_method` takes it.
        budget: how much is chosen.
        where: SQL expression over the pool; only rows for which it holds are eligible.
        seed: of random methods.
        like: lengths of the coreset that the method names, once they are known.
        rules: what shapes the selection beside its method.
        approximate: whether an index finds the rows.
        weights: of the targets in their order; None where they take turns row by row.
        group: field of the examples' metadata by which they are compared in groups.
        fitted: values of options that an earlier selection fitted, and that stand for them now.
        among: the rows of the pool that there are for it; None for all. For what was chosen before
            a purge moved it to a later version of the pool.
    """

    targets: tuple[str, ...]
    method: str
    budget: Budget
    where: str | None
    seed: int
    like: Lengths | None = None
    rules: Rules = NONE
    approximate: bool = False
    weights: Weights | None = None
    group: str | None = None
    fitted: Mapping[str, Any] = field(default_factory=dict)
    among: IdSet | None = None


@dataclass(frozen=True)
class ResolvedRequest:
    """What a request means in a store.

    Attributes:
        method: with every option spelled out.
        feature: that it uses, None for none.
        queries: of each target, with what the feature holds of its examples.
        lengths: to be matched, see `lengths_to_match`.
    """

    method: Method
    feature: Feature | None
    queries: list[Queries]
    lengths: Mapping[str | None, np.ndarray]

    @property
    def hash(self) -> str | None:
        """Digest of the examples and of the recipe of their features."""
        return query_hash(self.queries, self.feature)


def resolve_request(snapshot: Snapshot, request: Request) -> ResolvedRequest:
    """Find what a request names in the store; reads the targets, and no row of the pool.

    Raises: as `answer`.
    """
    method, feature = resolve_method(snapshot, request.method)
    if request.fitted:
        method = replace(method, options={**method.options, **request.fitted})
    if method.needs_target and not request.targets:
        instead = ", or a coreset: length_matched(like=CORESET)" if method.matches_lengths else ""
        raise UsageError(f"{method} compares rows with a target: name one or more{instead}")
    check_weights(request.weights, method)
    if request.group is not None:
        method = by_groups(method, request.approximate)
    # A ranking without a target still has a distance to one, by the vectors of both.
    compared_by = feature if feature and (method.needs_target or feature.column) else None
    queries = [load_queries(snapshot, target, compared_by) for target in request.targets]
    if request.group is not None:
        queries = [grouped(snapshot, query, request.group) for query in queries]
    return ResolvedRequest(method, feature, queries, lengths_to_match(snapshot, request, method))


def lengths_to_match(
    snapshot: Snapshot, request: Request, method: Method
) -> Mapping[str | None, np.ndarray]:
    """Return the lengths to be matched, (n,) int64, of each target; under None, of a coreset.

    Empty for methods that match none. Lengths that a request records go before those of the
    coreset it names, which may have been removed or replaced since.

    Raises:
        UsageError: there is no such coreset, it has no rows, or no example has an answer.
    """
    if not method.matches_lengths:
        return {}
    if name := method.options["like"]:
        pairs = request.like or _lengths_of_coreset(snapshot, name)
        tokens, rows = np.array(pairs, np.int64).T
        return {None: np.repeat(tokens, rows)}
    return {target: _lengths_of_target(snapshot, target) for target in request.targets}


def length_counts(lengths: np.ndarray) -> Lengths:
    """Return lengths (n,) as pairs that can be recorded."""
    tokens, rows = np.unique(lengths, return_counts=True)
    return tuple(zip(tokens.tolist(), rows.tolist(), strict=True))


def _lengths_of_coreset(snapshot: Snapshot, name: str) -> Lengths:
    coreset = load_coreset(snapshot.store, name)
    ids = coreset.left["id"].to_pylist()
    rows = snapshot.store.take(ids, ["response_tokens"], coreset.pool_version)
    lengths = rows["response_tokens"].drop_null().to_numpy()
    if not len(lengths):
        raise UsageError(f"coreset {name!r} has no rows whose lengths could be matched")
    return length_counts(lengths)


def _lengths_of_target(snapshot: Snapshot, target: str) -> np.ndarray:
    rows = snapshot.targets.to_table(
        columns=["response_tokens"], filter=f"target = {literal(target)} AND response_tokens > 0"
    )
    if not rows.num_rows:
        raise UsageError(
            f"no example of target {target!r} has an answer, so there is no length to match. "
            "Name a coreset: length_matched(like=CORESET)"
        )
    return rows["response_tokens"].to_numpy().astype(np.int64)
