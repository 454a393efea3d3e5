"""The streaming scan for selectors that cover sets: a list column of the pool, block by block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ..selectors.keys import KeySet, keys_of
from ..selectors.needs import MAX_BLOCK_ROWS
from .reducers import Block, Reducer
from .scan import Scanned, read_ahead

if TYPE_CHECKING:
    import lance

_ROWS_LOOKED_AT = 1024


def scan_sets(
    dataset: lance.LanceDataset,
    column: str,
    reducers: Sequence[Reducer],
    eligible: KeySet | None = None,
) -> Scanned:
    """Feed the set of every (eligible) row that has one to the reducers; no torch is imported.

    Args:
        dataset: with an `id` column and `column`, lists of int32, at the version to read.
        eligible: rows that may be chosen; None for all.
    """
    seen = Scanned()
    scanner = dataset.scanner(columns=["id", column], batch_size=MAX_BLOCK_ROWS, scan_in_order=True)
    for batch in read_ahead(iter(scanner.to_batches())):
        keys = keys_of(batch.column("id"))
        allowed = np.ones(len(keys), bool) if eligible is None else eligible.contains(keys)
        present = np.asarray(batch.column(column).is_valid())
        use = allowed & present
        seen.rows += len(keys)
        seen.filtered += int((~allowed).sum())
        seen.missing += int((allowed & ~present).sum())
        seen.scored += int(use.sum())
        block = Block(keys[use], sets=batch.column(column).filter(pa.array(use)))
        for reducer in reducers:
            reducer.feed(block)
    return seen


def size_of_sets(dataset: lance.LanceDataset, column: str) -> int:
    """The largest of some rows' sets: in a dense model all rows hold as many units."""
    rows = dataset.to_table(
        columns=[column], filter=f"`{column}` IS NOT NULL", limit=_ROWS_LOOKED_AT
    )
    sizes = (chunk.value_lengths().to_numpy() for chunk in rows[column].chunks)
    return max((int(each.max(initial=0)) for each in sizes), default=0)
