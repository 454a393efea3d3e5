"""The streaming scan for selectors that count words: a column of word ids, block by block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ..selectors.keys import KeySet, keys_of
from ..selectors.needs import MAX_BLOCK_ROWS, RowWords
from .eligible_rows import Scanned
from .reducers import Block, Reducer
from .scan import BLOCK_BYTES, read_ahead
from .score_scan import packed

if TYPE_CHECKING:
    import lance

_ROWS_PER_BATCH = 1024


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
    scanner = dataset.scanner(
        columns=["id", column], batch_size=_ROWS_PER_BATCH, scan_in_order=True
    )
    for batch in scanner.to_batches():
        use = np.ones(batch.num_rows, bool)
        if eligible is not None:
            use = eligible.contains(keys_of(batch.column("id")))
        present = np.asarray(batch.column(column).is_valid())
        seen.rows += batch.num_rows
        seen.filtered += int((~use).sum())
        seen.missing += int((use & ~present).sum())
        yield batch.filter(pa.array(use & present))
