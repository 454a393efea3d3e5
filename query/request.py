"""Whose response lengths a selection is to match: a target's examples, or the rows of a coreset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from ..schemas.errors import UsageError
from ..schemas.sizes import Budget
from ..schemas.tables import literal
from .comparison import understood
from .coresets import load_coreset
from .features import Feature
from .methods import Method
from .queries import Queries, load_queries, query_hash
from .rules.rules import NONE, Rules

if TYPE_CHECKING:
    from ..store.store import Store


Lengths: TypeAlias = tuple[tuple[int, int], ...]
"""Response tokens and how many rows have that many, ascending."""


def lengths_to_match(
    store: Store, request: Request, method: Method
) -> Mapping[str | None, np.ndarray]:
    """The lengths to be matched, (n,) int64, of each target; under None, those of a coreset.

    Empty for methods that match none. A request that names the lengths of its coreset is answered
    by those, whatever has become of the coreset.

    Raises:
        UsageError: there is no such coreset, it has no rows, or no example has an answer.
    """
    if not method.matches_lengths:
        return {}
    if name := method.options["like"]:
        pairs = request.like or _of_coreset(store, name)
        tokens, rows = np.array(pairs, np.int64).T
        return {None: np.repeat(tokens, rows)}
    return {
        target: _of_target(store, target, request.targets_version) for target in request.targets
    }


def counted(lengths: np.ndarray) -> Lengths:
    """Lengths (n,) as pairs that can be recorded."""
    tokens, rows = np.unique(lengths, return_counts=True)
    return tuple(zip(tokens.tolist(), rows.tolist(), strict=True))


def _of_coreset(store: Store, name: str) -> Lengths:
    coreset = load_coreset(store, name)
    rows = store.take(coreset.ids, ["response_tokens"], coreset.pool_version)
    lengths = rows["response_tokens"].drop_null().to_numpy()
    if not len(lengths):
        raise UsageError(f"coreset {name!r} has no rows whose lengths could be matched")
    return counted(lengths)


def _of_target(store: Store, target: str, version: int) -> np.ndarray:
    found = store.dataset("targets", version).to_table(
        columns=["response_tokens"], filter=f"target = {literal(target)} AND response_tokens > 0"
    )
    if not found.num_rows:
        raise UsageError(
            f"no example of target {target!r} has an answer, so there is no length to match. "
            "Name a coreset: length_matched(like=CORESET)"
        )
    return found["response_tokens"].to_numpy().astype(np.int64)


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
class ResolvedRequest:
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


def resolve_request(store: Store, request: Request) -> ResolvedRequest:
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
        load_queries(store, target, held_against, request.targets_version)
        for target in request.targets
    ]
    return ResolvedRequest(method, feature, queries, lengths_to_match(store, request, method))
