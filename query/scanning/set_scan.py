"""The streaming scan for selectors that cover sets: a list column of the pool, block by block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...selectors.keys import KeySet
from .ahead import read_ahead
from .blocks import batches_having
from .eligible_rows import Scanned
from .reducers import Block, Reducer

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
    for keys, batch in read_ahead(batches_having(dataset, column, eligible, seen)):
        seen.scored += len(keys)
        block = Block(keys, sets=batch.column(column))
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
