"""How a method compares the rows of the pool with its queries: the pass over the pool it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa

from ..ingest.representations.registry import names, options_of
from ..ingest.representations.representation import BACKGROUND, Scorer
from ..schemas.errors import UsageError
from ..schemas.ids import IdSet
from ..selectors.reductions import Fetched, RowColumns, RowVectors
from ..store.catalog import Artifact, LazyArtifacts
from .features import Feature
from .groups import queries_compared
from .methods import Method, parse_method
from .pool_statistics.background import background_of
from .pool_statistics.centring import centre_of, centred_fetch, centred_queries
from .pool_statistics.statistic import CENTRE
from .queries import Queries, matrix_of
from .scanning.columns import scan_scores, scan_sets, scan_words, size_of_sets
from .scanning.fetch import fetcher
from .scanning.reducers import BlockConsumer
from .scanning.rows import Scanned
from .scanning.vectors import scan_ids, scan_vectors

if TYPE_CHECKING:
    import lance

    from .snapshot import Snapshot


def resolve_method(snapshot: Snapshot, text: str) -> tuple[Method, Feature | None]:
    """Return a method by its name, and the feature of the pool that it uses (None for none).

    Args:
        snapshot: whose features can be named.
        text: see `parse_method`.

    Raises:
        UsageError: no such method; the message lists those this store can answer.
        MissingFeatureError: the store lacks the feature.
        FingerprintError: the pool's columns were made otherwise than the store says.
    """
    known = {name: feature.representation for name, feature in snapshot.features.items()}
    method = parse_method(text, known, elsewhere=names())
    if method.representation is None:
        return method, None
    return method, snapshot.feature(method.representation)


@dataclass(frozen=True)
class QueryGroup:
    """The queries that share one ranking: those of a target, or none.

    Attributes:
        target: its name; None for a ranking without a target.
        queries: how many rows of the similarity matrix belong to it.
        examples: ids behind those rows, or names of groups of examples; empty where a target is
            compared as a whole.
        units: that its examples hold, (n,) int64, where sets are covered.
        lengths: response tokens of the rows whose lengths are to be matched, (n,) int64.
        words: of each example, (n,) int32, where words are counted.
    """

    target: str | None
    queries: int
    examples: tuple[str, ...] = ()
    units: np.ndarray | None = None
    lengths: np.ndarray | None = None
    words: tuple[np.ndarray, ...] = ()


class Scan(Protocol):
    """A pass over the pool, or a part of it."""

    def __call__(
        self, reducers: Sequence[BlockConsumer], eligible: IdSet | None, span: range | None = None
    ) -> Scanned:
        """Feed reducers with the (eligible) rows at the places of a span; None for all."""
        ...


Fetch = Callable[[Fetched, IdSet | None], RowVectors | RowColumns]


@dataclass(frozen=True)
class Comparison:
    """The queries, and the pass that feeds reducers with how every row compares with them.

    Attributes:
        query_groups: each has a ranking of its own.
        scan: feeds reducers with all (eligible) rows.
        fetch: returns what is not reduced: vectors or columns.
        set_size: about how many units a row holds, where sets are covered.
        width: numbers in a vector, where there are vectors.
    """

    query_groups: tuple[QueryGroup, ...]
    scan: Scan
    fetch: Fetch
    set_size: int = 0
    width: int = 0


def comparison(
    snapshot: Snapshot,
    method: Method,
    feature: Feature | None,
    queries: Sequence[Queries],
    lengths: Mapping[str | None, np.ndarray],
) -> Comparison:
    """Return how a method compares rows, and with what.

    Args:
        snapshot: whose rows are compared.
        method: that compares them.
        feature: that it uses, None for none.
        queries: of the targets.
        lengths: to be matched, as `lengths_to_match` returns them.

    Raises:
        UsageError: the options asked for do not fit what is stored.
        MissingFeatureError: no row has the feature, and a statistic of the pool is needed.
    """
    dataset = snapshot.pool
    centre = centre_of(snapshot, method, feature)
    fetch = fetcher(dataset, feature)
    if centre:
        fetch, queries = centred_fetch(fetch, centre), centred_queries(queries, centre)
    if feature and method.uses_sets:
        return _by_sets(dataset, method, feature, queries, fetch)
    if feature and method.uses_words:
        return _by_words(dataset, feature, queries, fetch)
    if not method.compares_queries or feature is None:
        own = tuple(QueryGroup(target, 0, lengths=each) for target, each in lengths.items())
        return Comparison(
            own or (QueryGroup(None, 0),),
            lambda reducers, eligible, span=None: scan_ids(dataset, reducers, eligible, span),
            fetch,
            width=feature.width if feature else 0,
        )
    if feature.column:
        return _by_cosine(dataset, method, feature, queries, fetch, centre)
    return _by_scores(snapshot, method, feature, queries, fetch)


def _by_cosine(
    dataset: lance.LanceDataset,
    method: Method,
    feature: Feature,
    queries: Sequence[Queries],
    fetch: Fetch,
    centre: Artifact | None,
) -> Comparison:
    import torch

    column, squared = feature.column, method.ignores_sign
    mean = torch.from_numpy(centre.arrays[CENTRE]) if centre else None
    assert column is not None, "a comparison by cosine has vectors"
    queries = queries_compared(queries)
    matrix = matrix_of(queries)
    return Comparison(
        tuple(QueryGroup(query.target, len(query.ids), query.ids) for query in queries),
        lambda reducers, eligible, span=None: scan_vectors(
            dataset, column, matrix, reducers, eligible, span, squared=squared, centre=mean
        ),
        fetch,
        width=feature.width,
    )


def _by_sets(
    dataset: lance.LanceDataset,
    method: Method,
    feature: Feature,
    queries: Sequence[Queries],
    fetch: Fetch,
) -> Comparison:
    own = feature.representation.sets
    assert own is not None, "parse_method refuses other representations"
    column = feature.columns[own]
    query_groups = (QueryGroup(None, 0),)
    if method.needs_target:
        query_groups = tuple(QueryGroup(query.target, 0, units=query.units) for query in queries)
    return Comparison(
        query_groups,
        lambda reducers, eligible, span=None: scan_sets(dataset, column, reducers, eligible, span),
        fetch,
        size_of_sets(dataset, column),
    )


def _by_words(
    dataset: lance.LanceDataset, feature: Feature, queries: Sequence[Queries], fetch: Fetch
) -> Comparison:
    own = feature.representation.terms
    assert own is not None, "parse_method refuses other representations"
    column = feature.columns[own]
    return Comparison(
        tuple(
            QueryGroup(query.target, len(query.ids), query.ids, words=query.words or ())
            for query in queries
        ),
        lambda reducers, eligible, span=None: scan_words(dataset, column, reducers, eligible, span),
        fetch,
    )


def _by_scores(
    snapshot: Snapshot,
    method: Method,
    feature: Feature,
    queries: Sequence[Queries],
    fetch: Fetch,
) -> Comparison:
    dataset = snapshot.pool
    if method.needs_target:
        query_groups = tuple(QueryGroup(each.target, 1) for each in queries)
        scorers = [scorer_of(snapshot, feature, method, query) for query in queries]
    else:
        query_groups = (QueryGroup(None, 1),)
        scorers = [scorer_of(snapshot, feature, method)]
    columns = {own: feature.columns[own] for scorer in scorers for own in scorer.columns}
    return Comparison(
        query_groups,
        lambda reducers, eligible, span=None: scan_scores(
            dataset, columns, scorers, reducers, eligible, span
        ),
        fetch,
    )


def columns_for(scorer: Scorer, feature: Feature, rows: pa.Table) -> pa.RecordBatch:
    """Return the columns that a scorer reads of these rows, under its own names."""
    columns = {own: rows[feature.columns[own]].combine_chunks() for own in scorer.columns}
    return pa.RecordBatch.from_pydict(columns)


def scorer_of(
    snapshot: Snapshot, feature: Feature, method: Method, queries: Queries | None = None
) -> Scorer:
    """Return the scorer of a target, or that of a method without targets.

    Raises:
        UsageError: the options asked for do not fit what is stored.
    """
    recipe, representation = feature.recipe, feature.representation
    others = {}
    if representation.background_columns(method.asked):
        others[BACKGROUND] = background_of(snapshot, feature)
    scorer = representation.scorer(
        options_of(recipe),
        LazyArtifacts(snapshot.store, recipe.artifacts, others),
        queries.artifact if queries else None,
        method.asked,
    )
    if scorer is None:
        raise UsageError(f"{feature.name}, as made in this store, gives no way to compare rows")
    return scorer
