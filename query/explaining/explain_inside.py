"""What a method saw inside a row: numbers it keeps, tokens, layers, neurons."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ...schemas.errors import MissingFeatureError
from ..answer import Asked, Request
from ..coresets import Coreset
from ..features import Feature, comparison_of
from .explanation import Explanation
from .explanations import layer_frame, scorer_and_row, token_frame
from .neuron_gains import neuron_gains
from .shared_words import shared_words

if TYPE_CHECKING:
    import polars as pl

    from ...store.store import Store

_CLOSE = 1e-5
"""How far the parts of a gain may add up beside the recorded score, of the score."""


def inside(
    store: Store, coreset: Coreset, found: Explanation, request: Request, asked: Asked
) -> Explanation:
    """Add what the method looks at in the row itself."""
    feature, method = asked.feature, asked.method
    if feature is None or not method.looks:
        return found
    found = replace(found, values=_numbers(store, feature, found.id, coreset.pool_version))
    if method.covers:
        return _neurons(store, coreset, found, request, asked, feature)
    if method.counts:
        return _words(store, coreset, found, request, asked, feature)
    if comparison_of(feature.representation) == "target_scorer" and found.target:
        return _pieces(store, found, request)
    return found


def _numbers(store: Store, feature: Feature, row: str, version: int) -> dict[str, float | None]:
    """The plain numbers among the feature's columns."""
    schema = store.dataset("pool", version).schema
    plain = [
        column
        for column in feature.recipe.columns
        if pa.types.is_floating(schema.field(column).type)
        or pa.types.is_integer(schema.field(column).type)
    ]
    return store.take([row], plain, version).to_pylist()[0] if plain else {}


def _pieces(store: Store, found: Explanation, request: Request) -> Explanation:
    """Tokens or layers, whichever the scorer of the row's target looks at."""
    from ...ingest.representations.nait_directions import Along
    from ...ingest.trim.token_scores import TokenScorer

    assert found.target is not None
    try:
        scorer, rows = scorer_and_row(
            store,
            found.target,
            found.id,
            found.method,
            request.pool_version,
            request.targets_version,
        )
    except MissingFeatureError as error:
        return replace(found, cannot=(*found.cannot, f"Its score piece by piece: {error}"))
    if isinstance(scorer, TokenScorer):
        return replace(found, tokens=token_frame(store, scorer, rows))
    if isinstance(scorer, Along):
        return replace(found, layers=layer_frame(scorer, rows))
    return found


def _words(
    store: Store,
    coreset: Coreset,
    found: Explanation,
    request: Request,
    asked: Asked,
    feature: Feature,
) -> Explanation:
    """Words shared with the example that pulled the row, or with all of its target."""
    query = coreset.members["query"][found.rank - 1].as_py()
    examples = [
        (each.target, example)
        for each in asked.queries
        for example in each.ids
        if found.target == each.target and query in (None, example)
    ]
    words = shared_words(
        store, feature, found.id, examples, request.pool_version, request.targets_version
    )
    return replace(found, words=words)


def _neurons(
    store: Store,
    coreset: Coreset,
    found: Explanation,
    request: Request,
    asked: Asked,
    feature: Feature,
) -> Explanation:
    method = asked.method
    before = coreset.members.slice(0, found.rank - 1)
    units = None
    if method.needs_target:
        # Every target has a ranking of its own.
        mine = np.array([each == found.target for each in before["target"].to_pylist()], bool)
        before = before.filter(pa.array(mine))
        units = next(each.units for each in asked.queries if each.target == found.target)
    frame = neuron_gains(
        store,
        feature,
        method,
        found.id,
        before["id"].to_pylist(),
        version=request.pool_version,
        where=request.where,
        target_units=units,
    )
    if not _adds_up(frame, found.score):
        why = (
            "Its gain neuron by neuron: rows that the coreset does not show (of another target, "
            "or left out by a rule) were counted as well when it was taken"
        )
        return replace(found, cannot=(*found.cannot, why))
    return replace(found, neurons=frame)


def _adds_up(frame: pl.DataFrame, score: float | None) -> bool:
    return score is not None and abs(float(frame["gain"].sum()) - score) <= _CLOSE * max(1.0, score)
