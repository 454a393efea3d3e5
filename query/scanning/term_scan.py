"""The streaming scan for selectors that count words: a column of word ids, block by block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...selectors.keys import KeySet, keys_of
from ...selectors.needs import MAX_BLOCK_ROWS, RowWords
from .ahead import read_ahead
from .blocks import batches_having, packed
from .eligible_rows import Scanned
from .reducers import Block, Reducer
from .scan import BLOCK_BYTES

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
    batches = batches_having(dataset, column, eligible, seen)
    blocks = packed((batch for _, batch in batches), MAX_BLOCK_ROWS, BLOCK_BYTES)
    for block in read_ahead(blocks):
        lists, keys = block.column(column), keys_of(block.column("id"))
        starts = lists.offsets.to_numpy().astype(np.int64)
        words = RowWords(keys, starts - starts[0], lists.flatten().to_numpy())
        seen.scored += len(keys)
        for reducer in reducers:
            reducer.feed(Block(keys, words=words))
    return seen
