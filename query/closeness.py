"""How near a coreset comes to its targets: example by example, over the budget, beside random rows.

By the cosines of the method's own feature, or of another that pool and targets share. The pool is
scanned once; of it are kept the nearest row of each example, and one number a row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..schemas.amounts import parse_budget
from ..schemas.ids import IdSet, ids_of
from .comparison import comparison
from .coresets import IMPORTED, Coreset
from .distances import Distances, NearestPicks, nearest_picks
from .distributions import Distribution, distribution
from .explaining.explain import compared_vectors
from .queries import Queries, matrix_of
from .ranking import MEMORY_LIMIT
from .replay import request_of
from .request import Request, ResolvedRequest, resolve_request
from .scanning.reducers import Block
from .scanning.vectors import scan_vectors
from .selection import answer, eligible_rows
from .snapshot import Snapshot

if TYPE_CHECKING:
    from ..store.store import Store

DRAWS = 3
"""Selections of random rows that a coreset is compared with."""

_POINTS = 12
_LEAST_PREFIX = 5


@dataclass(frozen=True)
class CoveredExample:
    """An example of a target, and how near picked rows come to it.

    Attributes:
        target, id, position: of the example; positions from 1.
        pulled: how many rows were chosen for it; None for methods that choose for no example.
        nearest: highest cosine of a pick; rank of that pick, its id.
        possible: highest cosine of an eligible row of the pool, and its id.
        random: mean over draws of the highest cosine of as many random rows.
    """

    target: str
    id: str
    position: int
    pulled: int | None
    nearest: float
    rank: int
    pick: str
    possible: float
    possible_row: str
    random: float | None


@dataclass(frozen=True)
class Prefix:
    """The distances of the first `rows` picks to the targets; of as many random rows, each draw."""

    rows: int
    picks: Distances
    random: tuple[Distances, ...]


@dataclass(frozen=True)
class Closeness:
    """How near a coreset comes to its targets.

    Attributes:
        feature: by whose cosines.
        own: whether that is the feature the method itself compares.
        examples: in the order of the targets.
        prefixes: the distances over the budget, shortest first.
        similarity: each row's highest cosine to an example, in the eligible pool and of the picks.
        scores: the method's own scores alike; None where they are those cosines, or where rows have
            no score one by one.
        eligible: rows of the pool that could be chosen.
    """

    feature: str
    own: bool
    examples: tuple[CoveredExample, ...]
    prefixes: tuple[Prefix, ...]
    similarity: Distribution
    scores: Distribution | None
    eligible: int


def closeness(store: Store, coreset: Coreset, memory_limit: int = MEMORY_LIMIT) -> Closeness | None:
    """Measure how near a coreset comes to its targets.

    Returns:
        None for coresets without target or row, and where no vectors are shared.

    Raises:
        UsageError, MissingFeatureError, FingerprintError: what it was chosen by is gone.
        QueryError: its filter fails.
    """
    snapshot, request = _asked(store, coreset)
    resolved = resolve_request(snapshot, request)
    feature, queries = compared_vectors(snapshot, request, resolved)
    ids = coreset.readable["id"].to_pylist()
    if feature is None or feature.column is None or not queries or not ids:
        return None
    eligible = eligible_rows(snapshot, request)
    counts = prefix_sizes(len(ids))
    draws = _random_ids(snapshot, request, len(ids), eligible, memory_limit)
    picks = nearest_picks(snapshot, feature, queries, ids, counts)
    random = [nearest_picks(snapshot, feature, queries, own, counts) for own in draws]
    pool = _NearestRows(sum(len(query.ids) for query in queries))
    scan_vectors(snapshot.pool, feature.column, matrix_of(queries), [pool], eligible)
    own = resolved.method.uses_feature and resolved.feature == feature
    return Closeness(
        feature=feature.name,
        own=own,
        examples=_examples(snapshot, coreset, queries, picks, pool, random, ids),
        prefixes=tuple(
            Prefix(count, picks.distances[n], tuple(draw.distances[n] for draw in random))
            for n, count in enumerate(counts)
        ),
        similarity=distribution(
            f"highest {feature.name} cosine to an example", pool.rows(), picks.best
        ),
        scores=None if own else _own_scores(snapshot, coreset, resolved, eligible),
        eligible=snapshot.pool.count_rows() if eligible is None else len(eligible),
    )


def _asked(store: Store, coreset: Coreset) -> tuple[Snapshot, Request]:
    """Return what a coreset answered; of an imported one its targets, by no method of ours."""
    if coreset.method != IMPORTED:
        return request_of(store, coreset)
    budget = parse_budget(str(len(coreset)))
    request = Request(coreset.targets, method="random", budget=budget, where=None, seed=0)
    return Snapshot(store, coreset.pool_version), request


def prefix_sizes(rows: int) -> list[int]:
    """Return at most a dozen numbers of rows up to `rows`, each about so many times the last."""
    if rows <= _LEAST_PREFIX:
        return list(range(1, rows + 1))
    return np.unique(np.geomspace(_LEAST_PREFIX, rows, _POINTS).round().astype(int)).tolist()


def _random_ids(
    snapshot: Snapshot, request: Request, count: int, eligible: IdSet | None, memory_limit: int
) -> list[list[str]]:
    """As many random rows of the same filter, once for each of a few seeds."""
    drawn = []
    for seed in range(1, DRAWS + 1):
        random = Request(
            targets=(),
            method="random",
            budget=parse_budget(str(count)),
            where=None,
            seed=seed,
            among=eligible,
        )
        drawn.append(answer(snapshot, random, memory_limit).picks.ids)
    return drawn


class _NearestRows:
    """The nearest row of each example and each row's highest cosine, of all blocks of a scan."""

    def __init__(self, queries: int) -> None:
        self.highest = np.full(queries, -np.inf, np.float32)
        self.keys = np.zeros((queries, 2), np.int64)
        self._rows = [np.empty(0, np.float32)]

    def feed(self, block: Block) -> None:
        """Take in the next rows."""
        assert block.similarity is not None
        if not len(block.keys):
            return
        highest, places = block.similarity.max(dim=1)
        better = highest.numpy() > self.highest
        self.highest[better] = highest.numpy()[better]
        self.keys[better] = block.keys[places.numpy()[better]]
        self._rows.append(block.similarity.amax(dim=0).float().numpy().copy())

    def rows(self) -> np.ndarray:
        """(N,) float32."""
        return np.concatenate(self._rows)


def _examples(
    snapshot: Snapshot,
    coreset: Coreset,
    queries: Sequence[Queries],
    picks: NearestPicks,
    pool: _NearestRows,
    random: Sequence[NearestPicks],
    ids: Sequence[str],
) -> tuple[CoveredExample, ...]:
    names = [(query.target, example) for query in queries for example in query.ids]
    recorded = Counter(
        zip(
            coreset.members["target"].to_pylist(), coreset.members["query"].to_pylist(), strict=True
        )
    )
    known = set(names)
    by_example = any(pair in known for pair in recorded)
    positions = _positions(snapshot, [query.target for query in queries])
    ranks = coreset.readable["rank"].to_pylist()
    possible_ids = ids_of(pool.keys)
    return tuple(
        CoveredExample(
            target=target,
            id=example,
            position=positions[target, example] + 1,
            pulled=recorded[target, example] if by_example else None,
            nearest=float(picks.highest[at]),
            rank=ranks[int(picks.places[at])],
            pick=ids[int(picks.places[at])],
            possible=float(pool.highest[at]),
            possible_row=possible_ids[at],
            random=float(np.mean([draw.highest[at] for draw in random])) if random else None,
        )
        for at, (target, example) in enumerate(names)
        if picks.places[at] >= 0
    )


def _positions(snapshot: Snapshot, targets: Sequence[str]) -> dict[tuple[str, str], int]:
    rows = snapshot.targets.to_table(columns=["target", "id", "position"]).to_pylist()
    return {
        (row["target"], row["id"]): row["position"] for row in rows if row["target"] in set(targets)
    }


class _ScoresOfRows:
    """Each row's score, the highest over targets, of all blocks of a scan."""

    def __init__(self) -> None:
        self.parts = [np.empty(0, np.float32)]

    def feed(self, block: Block) -> None:
        """Take in the next rows."""
        if block.similarity is not None and len(block.keys):
            self.parts.append(block.similarity.amax(dim=0).float().numpy().copy())


def _own_scores(
    snapshot: Snapshot, coreset: Coreset, resolved: ResolvedRequest, eligible: IdSet | None
) -> Distribution | None:
    """The scores that the method gives rows one by one; None for methods that give none."""
    method, feature = resolved.method, resolved.feature
    recorded = coreset.members["score"]
    if feature is None or method.uses_sets or method.uses_words or not method.compares_queries:
        return None
    if recorded.null_count or method.selector.name not in ("top", "round_robin"):
        return None
    compared = comparison(snapshot, method, feature, resolved.queries, resolved.lengths)
    scores = _ScoresOfRows()
    compared.scan([scores], eligible)
    values = np.concatenate(scores.parts)
    if not np.isfinite(values).any():
        return None
    picked = recorded.to_numpy().astype(np.float64)
    return distribution(f"score by {method}", values.astype(np.float64), picked)
