"""What a method sees inside a row: TRIM's tokens, NAIT's layers, neurons covered, words shared.

Everything is computed from the store; no model runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ...ingest.representations.lexical import ids_of_words, words_of
from ...ingest.representations.representation import Scorer
from ...schemas.errors import BackboneError, MissingFeatureError, UsageError
from ...schemas.ids import IdSet, keys_of
from ...schemas.instruction import Instruction
from ...schemas.tables import literal
from ...selectors.bm25 import QueryWords
from ...selectors.coverage import gain_tables
from ...selectors.reductions import WordTotals
from ..comparison import columns_for, resolve_method, scorer_of
from ..features import Feature, comparison_of
from ..methods import Method
from ..queries import load_queries
from ..scanning.columns import scan_sets, scan_words
from ..scanning.reducers import Block, word_reducer
from ..snapshot import Snapshot

if TYPE_CHECKING:
    import polars as pl

    from ...ingest.representations.mads_profile import ProfileScorer
    from ...ingest.representations.nait_scores import DirectionScorer
    from ...ingest.representations.trim_scores import TokenScorer
    from ...store.store import Store


def token_scores(store: Store, target: str, row: str, method: str = "trim") -> pl.DataFrame:
    """What every token of a row of the pool scores for a target under TRIM (docs/methods.md).

    Args:
        store: an open store.
        target: its name.
        row: id of a row of the pool.
        method: `trim`, or with options of the comparison such as `trim(scope=response)`.

    Returns:
        A row for each stored token, in order: `token` (vocabulary id), `text` (null where the
        backbone's tokenizer is missing by now), `class` (the vocabulary id it was compared
        with), `seen` (whether that is its own), `counts` (whether the scope takes it), `score`.
        The row's score is the mean of the mean and the greatest `score` of tokens that count.

    Raises:
        UsageError: no such target or row, or a method without token scores.
        MissingFeatureError: the row, or the target, has no such feature.
        FingerprintError: the target's features were made otherwise.
    """
    from ...ingest.representations.trim_scores import TokenScorer

    scorer, rows = scorer_and_row(Snapshot(store), target, row, method)
    if not isinstance(scorer, TokenScorer):
        raise UsageError(f"{method} does not score tokens; trim does")
    return token_frame(store, scorer, rows)


def token_frame(store: Store, scorer: TokenScorer, rows: pa.RecordBatch) -> pl.DataFrame:
    """The frame of `token_scores`, for a row that was read already."""
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
    """What every layer adds to a row's score for a target under NAIT (docs/methods.md).

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
    from ...ingest.representations.nait_scores import DirectionScorer

    scorer, rows = scorer_and_row(Snapshot(store), target, row, method)
    if not isinstance(scorer, DirectionScorer):
        raise UsageError(f"{method} does not add up layers; nait does")
    return layer_frame(scorer, rows)


def layer_frame(scorer: DirectionScorer, rows: pa.RecordBatch) -> pl.DataFrame:
    """The frame of `layer_contributions`, for a row that was read already."""
    import polars as pl

    contributions = scorer.contributions(rows)[0]
    return pl.DataFrame({"layer": np.arange(len(contributions)), "contribution": contributions})


def scorer_and_row(
    snapshot: Snapshot, target: str, row: str, method: str
) -> tuple[Scorer, pa.RecordBatch]:
    """Return a target's scorer, and what it reads of a row.

    Raises:
        UsageError: no such target or row, or a method that scores rows otherwise.
        MissingFeatureError: the row, or the target, has no such feature.
        FingerprintError: the target's features were made otherwise.
    """
    store = snapshot.store
    parsed, feature = resolve_method(snapshot, method)
    if feature is None or comparison_of(feature.representation) != "target_scorer":
        raise UsageError(f"{parsed} does not score rows piece by piece; trim, nait and mads:top do")
    queries = load_queries(snapshot, target, feature)
    scorer = scorer_of(snapshot, feature, parsed, queries)
    found = snapshot.pool.to_table(
        columns=list(feature.recipe.columns),
        filter=f"id = {literal(row)}",
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


def profile_frame(snapshot: Snapshot, scorer: ProfileScorer, rows: pa.RecordBatch) -> pl.DataFrame:
    """Return what every neuron of a row adds to its overlap with a target, the greatest first.

    Args:
        rows: what the scorer reads of one row.

    Returns:
        `neuron`, `layer` and `unit` in it (null where the model's folder does not say them),
        `examples` (of the target, that hold it), `idf`, `overlap`; overlaps add up to the score.
    """
    import polars as pl

    units = rows.column(0).flatten()
    places = scorer.places(units)
    neurons = units.to_numpy(zero_copy_only=False)
    layer, unit = _places(snapshot.store, neurons)
    frame = pl.DataFrame(
        {
            "neuron": neurons,
            "layer": layer,
            "unit": unit,
            "examples": scorer.examples[places],
            "idf": scorer.idf[places],
            "overlap": scorer.weights[places],
        }
    )
    return frame.sort(["overlap", "neuron"], descending=[True, False])


VALUES = "mads_values"
"""MADS's own name of the column that holds the activations of the neurons in a row's set."""

_WIDTHS = ("intermediate_size", "n_inner", "ffn_dim")
"""Names in model configurations for the width of a layer's feed-forward network."""


def neuron_gains(
    snapshot: Snapshot,
    feature: Feature,
    method: Method,
    row: str,
    before: Sequence[str],
    *,
    where: str | None = None,
    target_units: np.ndarray | None = None,
) -> pl.DataFrame:
    """Return the parts of a row's gain, neuron by neuron, the greatest first.

    Args:
        feature: the sets that are covered.
        method: with the options of `coverage`.
        row: id of a row that has a set.
        before: ids of the rows that were taken before it, for the same target where one asks.
        where: the filter that said which rows count for `weights=idf`.
        target_units: neurons of the target's examples, for `weights=target`.

    Returns:
        A row for each neuron: `neuron`, `layer` and `unit` in it (null where the model's folder
        does not say them), `value` (its activation, null where none is kept), `held` (rows
        before that hold it), `weight`, `gain`; gains add up to the row's score.
    """
    import polars as pl

    assert feature.representation.sets is not None
    column = feature.columns[feature.representation.sets]
    value_column = feature.columns.get(VALUES)
    own = snapshot.take([row], [column, *([value_column] if value_column else [])])
    units = own[column].combine_chunks().flatten().to_numpy()
    held = _held(snapshot, column, units, before)
    weights = _weights(snapshot, column, method.options["weights"], units, where, target_units)
    gains = weights * gain_tables(method.options["g"], method.options["cap"])(held)
    layer, unit = _places(snapshot.store, units)
    values = own[value_column].to_pylist()[0] if value_column else [None] * len(units)
    frame = pl.DataFrame(
        {
            "neuron": units,
            "layer": layer,
            "unit": unit,
            "value": pl.Series(values, dtype=pl.Float32),
            "held": held,
            "weight": weights,
            "gain": gains,
        }
    )
    return frame.sort(["gain", "neuron"], descending=[True, False])


def _held(snapshot: Snapshot, column: str, units: np.ndarray, before: Sequence[str]) -> np.ndarray:
    """How many of the rows before hold each unit, (n,) int64."""
    order = np.argsort(units)
    counts = np.zeros(len(units), np.int64)
    for part in snapshot.stream(before, [column]):
        found = part[column].combine_chunks().flatten().to_numpy()
        places = np.searchsorted(units[order], found).clip(max=max(len(units) - 1, 0))
        hit = units[order][places] == found
        counts += np.bincount(places[hit], minlength=len(units))
    result = np.empty_like(counts)
    result[order] = counts
    return result


def _weights(
    snapshot: Snapshot,
    column: str,
    option: str,
    units: np.ndarray,
    where: str | None,
    target_units: np.ndarray | None,
) -> np.ndarray:
    """The weight of each unit, (n,) float64, as the selection had it."""
    if option == "target":
        assert target_units is not None
        return np.isin(units, target_units).astype(np.float64)
    if option == "one":
        return np.ones(len(units))
    counting = _Holding(units)
    eligible = None
    if where is not None:
        from ...store.sql.session import eligible_ids

        eligible = IdSet(keys_of(eligible_ids(snapshot.store, where, snapshot.pool_version)))
    seen = scan_sets(snapshot.pool, column, [counting], eligible)
    return np.log(max(seen.scored, 1) / np.maximum(counting.counts, 1))


class _Holding:
    """Counts the rows that hold each of some units."""

    def __init__(self, units: np.ndarray) -> None:
        self._units = units
        self.counts = np.zeros(len(units), np.int64)

    def feed(self, block: Block) -> None:
        assert block.sets is not None
        found = np.bincount(block.sets.flatten().to_numpy(), minlength=int(self._units.max()) + 1)
        self.counts += found[self._units]


def _places(store: Store, units: np.ndarray) -> tuple[list[int | None], list[int | None]]:
    """Layer and unit within it of each neuron, where the model's folder says how many there are."""
    width = _units_per_layer(store)
    if width is None:
        return [None] * len(units), [None] * len(units)
    return (units // width).tolist(), (units % width).tolist()


def _units_per_layer(store: Store) -> int | None:
    """Of a dense model whose configuration gives one number for all layers."""
    from ...ingest.models.model_folder import model_folder, read_settings

    try:
        folder = model_folder(str(store.config["backbone"]["name"]))
    except BackboneError:
        return None
    settings = read_settings(folder / "config.json")
    sizes = settings.get("text_config") or settings
    if any("expert" in name for name in sizes):
        return None
    width = next((sizes[name] for name in _WIDTHS if sizes.get(name)), None)
    return width if isinstance(width, int) else None


def shared_words(
    snapshot: Snapshot, feature: Feature, row: str, examples: Sequence[tuple[str, str]]
) -> pl.DataFrame:
    """Return the words that `bm25` and `dsir` count in a row and in the examples, as words_of.

    One pass over the column of words counts the rows that hold each.

    Args:
        feature: the words that are counted.
        row: id of a row of the pool.
        examples: target and id of each example.

    Returns:
        A row for each word in both: `word`, `in_row` and `in_examples` (how often), `rows` (of the
        pool at that version that hold it), the rarest first, then in the order of the alphabet.
    """
    import polars as pl

    assert feature.representation.terms is not None
    own = _counted(snapshot.take([row], ["messages"])["messages"].to_pylist())
    ids = ", ".join(dict.fromkeys(literal(example) for _, example in examples))
    rows = snapshot.targets.to_table(columns=["target", "id", "messages"], filter=f"id IN ({ids})")
    in_examples = _counted(
        example["messages"]
        for example in rows.to_pylist()
        if (example["target"], example["id"]) in set(examples)
    )
    words = sorted(own.keys() & in_examples.keys())
    frame = pl.DataFrame(
        {
            "word": pl.Series(words, dtype=pl.String),
            "in_row": pl.Series([own[word] for word in words], dtype=pl.Int64),
            "in_examples": pl.Series([in_examples[word] for word in words], dtype=pl.Int64),
            "rows": _rows_with(snapshot, feature, words),
        }
    )
    return frame.sort(["rows", "word"])


def _counted(conversations: Iterable[list[dict]]) -> Counter[str]:
    counts = Counter[str]()
    for messages in conversations:
        counts.update(words_of(Instruction.from_row(messages, None)))
    return counts


def _rows_with(snapshot: Snapshot, feature: Feature, words: Sequence[str]) -> np.ndarray:
    """How many rows of the pool hold each word, (n,) int64."""
    if not words:
        return np.empty(0, np.int64)
    own = feature.representation.terms
    assert own is not None
    ids = ids_of_words(words)
    query = QueryWords([ids])
    counting = word_reducer(WordTotals(query.totals), 1)
    scan_words(snapshot.pool, feature.columns[own], [counting])
    totals = counting.result()
    assert isinstance(totals, np.ndarray)
    return totals[2:][np.searchsorted(query.words, ids)]
