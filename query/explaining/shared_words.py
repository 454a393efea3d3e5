"""The words that a row of the pool shares with examples of a target, the rarest first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...ingest.representations.lexical import ids_of_words, spelled
from ...schemas.instruction import Instruction
from ...selectors.bm25 import Asked
from ...selectors.needs import WordTotals
from ..features import Feature
from ..names import quoted
from ..scanning.term_reducers import word_reducer
from ..scanning.term_scan import scan_words

if TYPE_CHECKING:
    import polars as pl

    from ...store.store import Store


def shared_words(
    store: Store,
    feature: Feature,
    row: str,
    examples: Sequence[tuple[str, str]],
    version: int,
    targets_version: int,
) -> pl.DataFrame:
    """What `bm25` and `dsir` may have seen in a row: words, told by their spelling.

    One pass over the column of words says how rare each is.

    Args:
        feature: the words that are counted.
        row: id of a row of the pool.
        examples: target and id of each example.
        version, targets_version: of the two tables.

    Returns:
        A row for each word in both: `word`, `in_row` and `in_examples` (how often), `rows` (of the
        pool at that version that hold it), the rarest first, then in the order of the alphabet.
    """
    import polars as pl

    assert feature.representation.terms is not None
    own = _counted(store.take([row], ["messages"], version)["messages"].to_pylist())
    ids = ", ".join(dict.fromkeys(quoted(example) for _, example in examples))
    there = store.dataset("targets", targets_version).to_table(
        columns=["target", "id", "messages"], filter=f"id IN ({ids})"
    )
    asked = _counted(
        each["messages"]
        for each in there.to_pylist()
        if (each["target"], each["id"]) in set(examples)
    )
    words = sorted(own.keys() & asked.keys())
    frame = pl.DataFrame(
        {
            "word": pl.Series(words, dtype=pl.String),
            "in_row": pl.Series([own[word] for word in words], dtype=pl.Int64),
            "in_examples": pl.Series([asked[word] for word in words], dtype=pl.Int64),
            "rows": _rows_with(store, feature, words, version),
        }
    )
    return frame.sort(["rows", "word"])


def _counted(conversations: Iterable[list[dict]]) -> Counter[str]:
    counts = Counter[str]()
    for messages in conversations:
        counts.update(spelled(Instruction.from_row(messages, None)))
    return counts


def _rows_with(store: Store, feature: Feature, words: Sequence[str], version: int) -> np.ndarray:
    """How many rows of the pool hold each word, (n,) int64."""
    if not words:
        return np.empty(0, np.int64)
    own = feature.representation.terms
    assert own is not None
    ids = ids_of_words(words)
    asked = Asked([ids])
    counting = word_reducer(WordTotals(asked.totals), 1)
    scan_words(store.dataset("pool", version), feature.columns[own], [counting])
    totals = counting.result()
    assert isinstance(totals, np.ndarray)
    return totals[2:][np.searchsorted(asked.words, ids)]
