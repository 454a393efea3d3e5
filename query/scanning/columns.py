"""Streaming scans of columns other than one vector: for scorers, for sets and for words.

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
from ...schemas.ids import IdSet, keys_of
from ...selectors.reductions import MAX_BLOCK_ROWS, RowWords
from .reducers import Block, BlockConsumer, adds_blocks_up
from .rows import (
    BLOCK_BYTES,
    Scanned,
    batches_by_bytes,
    batches_having,
    mapped_ahead,
    packed,
    read_ahead,
    sections_of,
)

if TYPE_CHECKING:
    import lance


_ROWS_LOOKED_AT = 1024


def scan_sets(
    dataset: lance.LanceDataset,
    column: str,
    reducers: Sequence[BlockConsumer],
    eligible: IdSet | None = None,
    span: range | None = None,
) -> Scanned:
    """Feed the set of every (eligible) row that has one to the reducers; no torch is imported.

    Args:
        dataset: with an `id` column and `column`, lists of int32, at the version to read.
        eligible: rows that may be chosen; None for all.
        span: places of the rows to read, in table order; None for all.
    """
    seen = Scanned()
    for keys, batch in read_ahead(batches_having(dataset, column, eligible, seen, span)):
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
    return max((int(size.max(initial=0)) for size in sizes), default=0)


def scan_overlap(
    dataset: lance.LanceDataset,
    column: str,
    units: np.ndarray,
    reducers: Sequence[BlockConsumer],
    eligible: IdSet | None = None,
    span: range | None = None,
) -> Scanned:
    """Feed the overlap of every (eligible) row that has a set to the reducers.

    Args:
        dataset: with an `id` column and `column`, lists of int32, at the version to read.
        column: whose sets are held against the units.
        units: of the target's examples, (n,) int64, distinct.
        reducers: they get similarities (1, n) float32, whole numbers.
        eligible: rows that may be chosen; None for all.
        span: places of the rows to read, in table order; None for all.
    """
    return scan_sets(dataset, column, [_Overlap(units, reducers)], eligible, span)


class _Overlap:
    """Turns blocks of sets into blocks of similarities and hands them on."""

    def __init__(self, units: np.ndarray, inner: Sequence[BlockConsumer]) -> None:
        self._inner = inner
        self._wanted = np.zeros(int(units.max(initial=-1)) + 2, bool)
        self._wanted[units] = True

    def feed(self, block: Block) -> None:
        import torch

        assert block.sets is not None
        units = block.sets.flatten().to_numpy()
        hits = self._wanted[np.minimum(units, len(self._wanted) - 1)]  # the last one is nobody's
        ends = np.cumsum(block.sets.value_lengths().to_numpy())
        until = np.concatenate([[0], np.cumsum(hits)])[ends]
        overlap = np.diff(until, prepend=0).astype(np.float32)
        for reducer in self._inner:
            reducer.feed(Block(block.keys, torch.from_numpy(overlap)[None]))


def scan_scores(
    dataset: lance.LanceDataset,
    columns: Mapping[str, str],
    scorers: Sequence[Scorer],
    reducers: Sequence[BlockConsumer],
    eligible: IdSet | None = None,
    span: range | None = None,
) -> Scanned:
    """Feed the scores of every (eligible) row that has the feature to the reducers.

    Args:
        dataset: the table at the version to read.
        columns: the scorers' name of each column they read -> the table's.
        scorers: one for each target; together they give similarities (targets, n) float32. A row
            that one of them has no score for counts as missing; one that any of them gives minus
            infinity is left out and counted as refused.
        eligible: rows that may be chosen; None for all.
        span: places of the rows to read, in table order; None for all.
    """
    import torch

    def scored(block: tuple[np.ndarray, pa.RecordBatch]) -> tuple[np.ndarray, np.ndarray]:
        keys, rows = block
        return keys, np.stack([scorer.scores(rows) for scorer in scorers]).astype(np.float32)

    seen = Scanned()
    cut = any(map(adds_blocks_up, reducers))
    spans = sections_of(dataset.count_rows(), span) if cut else [span]
    found = (block for own in spans for block in _blocks(dataset, columns, eligible, seen, own))
    with closing(read_ahead(found)) as blocks:
        for keys, scores in mapped_ahead(scored, blocks):
            present = ~np.isnan(scores).any(axis=0)
            seen.missing += int((~present).sum())
            allowed = present & ~np.isneginf(scores).any(axis=0)
            seen.refused += int(present.sum() - allowed.sum())
            seen.scored += int(allowed.sum())
            block = Block(keys[allowed], torch.from_numpy(scores[:, allowed]))
            for reducer in reducers:
                reducer.feed(block)
    seen.refusal = "; ".join(dict.fromkeys(scorer.refuses for scorer in scorers))
    return seen


def _blocks(
    dataset: lance.LanceDataset,
    columns: Mapping[str, str],
    eligible: IdSet | None,
    seen: Scanned,
    span: range | None,
) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
    """Keys (n, 2) and columns of the rows to score; rows read and left out are counted."""
    read = list(dict.fromkeys(["id", *columns.values()]))
    batches = batches_by_bytes(dataset, read, eligible, seen, span)
    for block in packed((batch for _, batch in batches), MAX_BLOCK_ROWS, BLOCK_BYTES):
        renamed = {own: block.column(stored) for own, stored in columns.items()}
        yield keys_of(block.column("id")), pa.RecordBatch.from_pydict(renamed)


def scan_words(
    dataset: lance.LanceDataset,
    column: str,
    reducers: Sequence[BlockConsumer],
    eligible: IdSet | None = None,
    span: range | None = None,
) -> Scanned:
    """Feed the words of every (eligible) row that has some to the reducers.

    Args:
        dataset: with an `id` column and `column`, lists of int32, at the version to read.
        eligible: rows that may be chosen; None for all.
        span: places of the rows to read, in table order; None for all.
    """
    seen = Scanned()
    batches = batches_having(dataset, column, eligible, seen, span)
    blocks = packed((batch for _, batch in batches), MAX_BLOCK_ROWS, BLOCK_BYTES)
    for block in read_ahead(blocks):
        lists, keys = block.column(column), keys_of(block.column("id"))
        starts = lists.offsets.to_numpy().astype(np.int64)
        words = RowWords(keys, starts - starts[0], lists.flatten().to_numpy())
        seen.scored += len(keys)
        for reducer in reducers:
            reducer.feed(Block(keys, words=words))
    return seen
