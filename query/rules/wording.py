"""How common runs of words are in the pool: what every thousandth row says is task wording.

One pass over the text of the pool. Arrow throws out rows that cannot hold any of the runs; only
the rest is cut into words.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .words import ngrams, said_in

if TYPE_CHECKING:
    import lance

SHARE = 0.001
"""Of the pool's rows; a run of words in more of them is task wording (ARCHITECTURE, Query)."""

AT_LEAST = 10
"""Rows that may share a run of words whatever the size of the pool [ours]."""

_ROWS_PER_BATCH = 1 << 13


def wording_above(rows: int) -> int:
    """The number of rows that a run of words may be in before it counts as task wording."""
    return max(AT_LEAST, int(SHARE * rows))


def counts_of(dataset: lance.LanceDataset, grams: Collection[str], length: int) -> dict[str, int]:
    """In how many rows of a table each run of `length` words stands (see `words_of`)."""
    counts = dict.fromkeys(grams, 0)
    for batch in messages_of(dataset):
        for messages in _possible(batch.column("messages"), grams):
            for gram in {*ngrams(said_in(messages).everything, length)} & counts.keys():
                counts[gram] += 1
    return counts


def messages_of(dataset: lance.LanceDataset) -> Iterator[pa.RecordBatch]:
    """The ids and conversations of a table, in its order."""
    yield from dataset.scanner(
        columns=["id", "messages"], batch_size=_ROWS_PER_BATCH, scan_in_order=True
    ).to_batches()


def _possible(
    conversations: pa.ListArray, grams: Collection[str]
) -> Iterator[list[Mapping[str, Any]]]:
    """Conversations that may hold one of the runs of words: those with the anchor of one."""
    anchors = {_anchor(gram) for gram in grams}
    pattern = "|".join(sorted(re.escape(each) for each in anchors if each))
    turns = conversations.flatten()
    maybe = np.zeros(len(turns), bool)
    for text in (turns.field("content"), turns.field("tool_calls")):
        plain = _true(pc.call_function("string_is_ascii", [text]))
        if pattern:
            maybe[plain] |= _matches(text.filter(pa.array(plain)), pattern)
        if None in anchors:
            maybe |= ~plain
        elif not plain.all():
            others = text.filter(pa.array(~plain))
            folded = pc.call_function("utf8_normalize", [others], pc.Utf8NormalizeOptions("NFKC"))
            maybe[~plain] |= _matches(folded, pattern)
    lengths = conversations.value_lengths().to_numpy()
    row_of_turn = np.repeat(np.arange(len(lengths)), lengths)
    for row in np.unique(row_of_turn[maybe]).tolist():
        yield conversations[row].as_py()


def _matches(texts: pa.Array, pattern: str) -> np.ndarray:
    options = pc.MatchSubstringOptions(pattern, ignore_case=True)
    return _true(pc.call_function("match_substring_regex", [texts], options))


def _true(answers: pa.BooleanArray) -> np.ndarray:
    return answers.fill_null(False).to_numpy(zero_copy_only=False)


def _anchor(gram: str) -> str | None:
    """A rare word of the run that stands in the text letter by letter, but for case and NFKC.

    The longest plain one without "ss", the only letters that case folding makes of another one
    ("ß"); None where there is none.
    """
    words = [word for word in gram.split(" ") if word.isascii() and "ss" not in word]
    return max(words, key=len) if words else None
