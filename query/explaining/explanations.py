"""Why a row scores as it does for a target: TRIM's tokens, NAIT's layers; from the store alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ...ingest.representations.representation import Scorer
from ...schemas.errors import BackboneError, MissingFeatureError, UsageError
from ..comparison import columns_for, scorer_of, understood
from ..features import comparison_of
from ..names import quoted
from ..queries import load_queries

if TYPE_CHECKING:
    import polars as pl

    from ...ingest.representations.nait_directions import Along
    from ...ingest.trim.token_scores import TokenScorer
    from ...store.store import Store


def token_scores(store: Store, target: str, row: str, method: str = "trim") -> pl.DataFrame:
    """What every token of a row of the pool scores for a target under TRIM (METHODS 1).

    Args:
        store: an open store.
        target: its name.
        row: id of a row of the pool.
        method: `trim`, or with options of the comparison such as `trim(scope=response)`.

    Returns:
        A row for each stored token, in order: `token` (vocabulary id), `text` (null where the
        backbone's tokenizer is not there any more), `class` (the vocabulary id it was compared
        with), `seen` (whether that is its own), `counts` (whether the scope takes it), `score`.
        The row's score is the mean of the mean and the greatest `score` of tokens that count.

    Raises:
        UsageError: no such target or row, or a method without token scores.
        MissingFeatureError: the row, or the target, has no such feature.
        FingerprintError: the target's features were made otherwise.
    """
    from ...ingest.trim.token_scores import TokenScorer

    scorer, rows = scorer_and_row(store, target, row, method)
    if not isinstance(scorer, TokenScorer):
        raise UsageError(f"{method} does not score tokens; trim does")
    return token_frame(store, scorer, rows)


def token_frame(store: Store, scorer: TokenScorer, rows: pa.RecordBatch) -> pl.DataFrame:
    """What `token_scores` gives, of a row at hand."""
    import polars as pl

    found = scorer.tokens(rows)
    return pl.DataFrame(
        {
            "token": found.tokens,
            "text": pl.Series(_texts(store, found.tokens), dtype=pl.String),
            "class": found.classes,
            "seen": found.seen,
            "counts": scorer.counted(rows),
            "score": found.scores,
        }
    )


def layer_contributions(store: Store, target: str, row: str, method: str = "nait") -> pl.DataFrame:
    """What every layer adds to a row's score for a target under NAIT (METHODS 4).

    Args:
        store: an open store.
        target: its name.
        row: id of a row of the pool.
        method: `nait`, or with options of the comparison such as `nait(score=cosine)`.

    Returns:
        `layer` (from 0) and `contribution`, float32; they add up to the row's score.

    Raises:
        UsageError: no such target or row, or a method without contributions of layers.
        MissingFeatureError: the row, or the target, has no such feature.
        FingerprintError: the target's features were made otherwise.
    """
    from ...ingest.representations.nait_directions import Along

    scorer, rows = scorer_and_row(store, target, row, method)
    if not isinstance(scorer, Along):
        raise UsageError(f"{method} does not add up layers; nait does")
    return layer_frame(scorer, rows)


def layer_frame(scorer: Along, rows: pa.RecordBatch) -> pl.DataFrame:
    """What `layer_contributions` gives, of a row at hand."""
    import polars as pl

    contributions = scorer.contributions(rows)[0]
    return pl.DataFrame({"layer": np.arange(len(contributions)), "contribution": contributions})


def scorer_and_row(
    store: Store,
    target: str,
    row: str,
    method: str,
    version: int | None = None,
    targets_version: int | None = None,
) -> tuple[Scorer, pa.RecordBatch]:
    """A target's scorer, and what it reads of a row; at the newest versions or those given.

    Raises:
        UsageError: no such target or row, or a method that scores rows otherwise.
        MissingFeatureError: the row, or the target, has no such feature.
        FingerprintError: the target's features were made otherwise.
    """
    asked, feature = understood(store, method, version)
    if feature is None or comparison_of(feature.representation) != "target_scorer":
        raise UsageError(f"{asked} does not score rows piece by piece; trim and nait do")
    queries = load_queries(store, target, feature, targets_version)
    scorer = scorer_of(store, feature, asked, queries)
    found = store.dataset("pool", version).to_table(
        columns=list(feature.recipe.columns),
        filter=f"id = {quoted(row)}",
    )
    if not found.num_rows:
        raise UsageError(f"no row {row!r} in the pool of {store.uri}")
    if not found[feature.first].is_valid()[0].as_py():
        why = found[feature.reason][0].as_py() or "it was not made yet"
        raise MissingFeatureError(f"row {row} has no {feature.name}: {why}")
    return scorer, columns_for(scorer, feature, found)


def _texts(store: Store, tokens: np.ndarray) -> list[str | None]:
    """Each token by itself as text, if the tokenizer is still there."""
    from ...ingest.models.model_folder import model_folder

    try:
        file = model_folder(str(store.config["backbone"]["name"])) / "tokenizer.json"
    except BackboneError:
        return [None] * len(tokens)
    if not file.is_file():
        return [None] * len(tokens)
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    return [tokenizer.decode([int(token)], skip_special_tokens=False) for token in tokens]
