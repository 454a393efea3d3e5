"""The streaming scan: one vector column of a table at a fixed version, block by block.

A thread reads ahead, others cast and multiply blocks (see `products.py`), and the caller's reduces
them in table order. Rows outside the filter are hardly read (see `eligible_rows.py`) and rows
without the feature are dropped first; the rest are packed in table order into blocks of one fixed
shape. Which rows share a block, and the shape of every product, depend neither on timing nor on
how the table is cut into fragments.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ...selectors.keys import KeySet, keys_of
from ...selectors.needs import MAX_BLOCK_ROWS
from .ahead import read_ahead
from .eligible_rows import Scanned, eligible_batches
from .products import Part, multiplied
from .reducers import Block, Reducer

if TYPE_CHECKING:
    import lance
    import torch

BLOCK_BYTES = 4 << 20
"""Of float16 vectors per block: within the 2-8 MB that scans are fastest with."""

MIN_BLOCK_ROWS = 256
_IDS_PER_BATCH = 1 << 16


def block_rows(width: int) -> int:
    """Rows per block for vectors of `width` float16 numbers: a power of two near 4 MB."""
    rows = 1 << max(0, (BLOCK_BYTES // (2 * width)).bit_length() - 1)
    return min(MAX_BLOCK_ROWS, max(MIN_BLOCK_ROWS, rows))


def scan_ids(
    dataset: lance.LanceDataset, reducers: Sequence[Reducer], eligible: KeySet | None = None
) -> Scanned:
    """Feed every (eligible) row id to the reducers; no vector is read and no torch imported."""
    seen = Scanned()
    scanner = dataset.scanner(columns=["id"], batch_size=_IDS_PER_BATCH, scan_in_order=True)
    for batch in read_ahead(iter(scanner.to_batches())):
        keys = keys_of(batch.column("id"))
        seen.rows += len(keys)
        if eligible is not None:
            keys = keys[eligible.contains(keys)]
        seen.scored += len(keys)
        for start in range(0, len(keys), MAX_BLOCK_ROWS):
            for reducer in reducers:
                reducer.feed(Block(keys[start : start + MAX_BLOCK_ROWS], None))
    seen.filtered = seen.rows - seen.scored
    return seen


def scan_vectors(
    dataset: lance.LanceDataset,
    column: str,
    queries: torch.Tensor,
    reducers: Sequence[Reducer],
    eligible: KeySet | None = None,
) -> Scanned:
    """Feed the similarities of every (eligible) row that has the feature to the reducers.

    Args:
        dataset: with an `id` column and `column`, a fixed-size list of float16 (d), both at the
            version to read.
        queries: (M, d) float32 unit vectors; similarity is the product with a row's vector.
        eligible: rows that may be chosen; None for all.
    """
    seen = Scanned()
    width = queries.shape[1]
    rows = block_rows(width)
    batches = eligible_batches(
        dataset, ["id", column], eligible, seen, batch_rows=rows, row_bytes=2 * width
    )
    present = (_present(keys, batch.column(column), width) for keys, batch in batches)

    def parts() -> Generator[Part, None, None]:
        for keys, vectors, missing in read_ahead(present):
            seen.missing += missing
            seen.scored += len(keys)
            yield keys, vectors

    with closing(parts()) as read:
        _feed(read, queries, rows, reducers)
    return seen


def feed_vectors(
    keys: np.ndarray, vectors: np.ndarray, queries: torch.Tensor, reducers: Sequence[Reducer]
) -> None:
    """Feed the similarities of some rows, with the bits that `scan_vectors` gives them.

    Args:
        keys: of the rows, (n, 2) int64.
        vectors: theirs, (n, d) float16.
        queries: as for `scan_vectors`.
        reducers: likewise.
    """
    import torch

    parts = [(keys, torch.from_numpy(vectors))]
    _feed(parts, queries, block_rows(queries.shape[1]), reducers)


def _feed(
    parts: Iterable[Part], queries: torch.Tensor, rows: int, reducers: Sequence[Reducer]
) -> None:
    for block in multiplied(parts, queries, rows):
        for reducer in reducers:
            reducer.feed(block)


def _present(
    keys: np.ndarray, feature: pa.FixedSizeListArray, width: int
) -> tuple[np.ndarray, torch.Tensor, int]:
    """Keys (n, 2) and vectors (n, width) of the rows that have one, and how many have none."""
    import torch

    # `flatten` leaves out the space of null rows; the exchange by DLPack copies nothing.
    vectors = torch.from_dlpack(feature.flatten()).view(-1, width)
    if feature.null_count:
        keys = keys[np.asarray(feature.is_valid())]
    return keys, vectors, feature.null_count
