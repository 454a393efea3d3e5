"""The streaming scan for selectors that count words: a column of word ids, block by block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ...selectors.keys import KeySet, keys_of
from ...selectors.needs import MAX_BLOCK_ROWS, RowWords
from .eligible_rows import Scanned, eligible_batches
from .reducers import Block, Reducer
from .scan import BLOCK_BYTES, read_ahead
from .score_scan import packed, rows_per_batch

if TYPE_CHECKING:
    import lance


def scan_words(
    dataset: lance.LanceDataset,
    column: str,
    reducers: Sequence[Reducer],
    eligible: KeySet | None = None,
) -> Scanned:
    """Feed the words of every (eligible) row that has some to the reducers.

    Args:
        dataset: with an `id` column and `column`, lists of int32, at the version to read.
        eligible: rows that may be chosen; None for all.
    """
    seen = Scanned()
    blocks = packed(_usable(dataset, column, eligible, seen), MAX_BLOCK_ROWS, BLOCK_BYTES)
    for block in read_ahead(blocks):
        lists, keys = block.column(column), keys_of(block.column("id"))
        starts = lists.offsets.to_numpy().astype(np.int64)
        words = RowWords(keys, starts - starts[0], lists.flatten().to_numpy())
        seen.scored += len(keys)
        for reducer in reducers:
            reducer.feed(Block(keys, words=words))
    return seen


def _usable(
    dataset: lance.LanceDataset, column: str, eligible: KeySet | None, seen: Scanned
) -> Iterator[pa.RecordBatch]:
    """The rows to be fed; rows read, filtered and missing are counted."""
    read = ["id", column]
    rows = rows_per_batch(dataset, read)
    for _, batch in eligible_batches(
        dataset, read, eligible, seen, batch_rows=rows, row_bytes=BLOCK_BYTES // rows
    ):
        present = np.asarray(batch.column(column).is_valid())
        seen.missing += int((~present).sum())
        yield batch.filter(pa.array(present))
