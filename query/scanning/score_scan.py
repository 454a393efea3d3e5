"""The streaming scan for scorers: the columns they read, block by block, each row scored once.

A thread reads ahead, others score blocks, and the caller's reduces them in table order. Rows
outside the filter are hardly read; the rest are packed in table order into blocks that end where
the next row would make them too large. So memory depends neither on the pool nor on how long its
rows are, and which rows share a block depends neither on timing nor on how the table is cut into
fragments.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ...ingest.representations.representation import Scorer
from ...selectors.keys import KeySet, keys_of
from ...selectors.needs import MAX_BLOCK_ROWS
from .ahead import mapped_ahead, read_ahead
from .blocks import packed, weighed_batches
from .eligible_rows import Scanned
from .reducers import Block, Reducer
from .scan import BLOCK_BYTES

if TYPE_CHECKING:
    import lance


def scan_scores(
    dataset: lance.LanceDataset,
    columns: Mapping[str, str],
    scorers: Sequence[Scorer],
    reducers: Sequence[Reducer],
    eligible: KeySet | None = None,
) -> Scanned:
    """Feed the scores of every (eligible) row that has the feature to the reducers.

    Args:
        dataset: the table at the version to read.
        columns: the scorers' name of each column they read -> the table's.
        scorers: one for each target; together they give similarities (targets, n) float32. A row
            that one of them has no score for counts as missing; one that any of them gives minus
            infinity is left out and told in `notes`.
        eligible: rows that may be chosen; None for all.
    """
    import torch

    def scored(block: tuple[np.ndarray, pa.RecordBatch]) -> tuple[np.ndarray, np.ndarray]:
        keys, rows = block
        return keys, np.stack([scorer.scores(rows) for scorer in scorers]).astype(np.float32)

    seen, refused = Scanned(), 0
    with closing(read_ahead(_blocks(dataset, columns, eligible, seen))) as blocks:
        for keys, scores in mapped_ahead(scored, blocks):
            present = ~np.isnan(scores).any(axis=0)
            seen.missing += int((~present).sum())
            allowed = present & ~np.isneginf(scores).any(axis=0)
            refused += int(present.sum() - allowed.sum())
            seen.scored += int(allowed.sum())
            block = Block(keys[allowed], torch.from_numpy(scores[:, allowed]))
            for reducer in reducers:
                reducer.feed(block)
    if refused:
        reasons = "; ".join(dict.fromkeys(scorer.refuses for scorer in scorers))
        seen.notes = (f"{refused:,} eligible rows were left out: {reasons}",)
    return seen


def _blocks(
    dataset: lance.LanceDataset, columns: Mapping[str, str], eligible: KeySet | None, seen: Scanned
) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
    """Keys (n, 2) and columns of the rows to score; rows read and left out are counted."""
    read = list(dict.fromkeys(["id", *columns.values()]))
    batches = weighed_batches(dataset, read, eligible, seen)
    for block in packed((batch for _, batch in batches), MAX_BLOCK_ROWS, BLOCK_BYTES):
        renamed = {own: block.column(stored) for own, stored in columns.items()}
        yield keys_of(block.column("id")), pa.RecordBatch.from_pydict(renamed)
