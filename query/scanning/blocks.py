"""Batches and blocks of rows that are not all of one size: by bytes, not by rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...selectors.keys import KeySet
from ...selectors.needs import MAX_BLOCK_ROWS
from .eligible_rows import Scanned, eligible_batches
from .scan import BLOCK_BYTES

if TYPE_CHECKING:
    import lance

_ROWS_WEIGHED = 64


def batches_having(
    dataset: lance.LanceDataset, column: str, eligible: KeySet | None, seen: Scanned
) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
    """Keys (n, 2) and `id` and `column` of the eligible rows that have a value there.

    Rows read, left out and missing are counted.
    """
    for keys, batch in weighed_batches(dataset, ["id", column], eligible, seen):
        present = np.asarray(batch.column(column).is_valid())
        seen.missing += int((~present).sum())
        yield keys[present], batch.filter(pa.array(present))


def weighed_batches(
    dataset: lance.LanceDataset, columns: list[str], eligible: KeySet | None, seen: Scanned
) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
    """Keys (n, 2) and columns of the eligible rows, in batches of about `BLOCK_BYTES`."""
    rows = rows_per_batch(dataset, columns)
    return eligible_batches(
        dataset, columns, eligible, seen, batch_rows=rows, row_bytes=BLOCK_BYTES // rows
    )


def rows_per_batch(dataset: lance.LanceDataset, columns: list[str]) -> int:
    """Rows that make about a block, by the size of some rows from all over the table.

    Measured on rows of 16 kB: Lance's own limit in bytes doubles the work of reading lists.
    """
    rows = dataset.count_rows()
    if not rows:
        return MAX_BLOCK_ROWS
    places = np.unique(np.linspace(0, rows - 1, _ROWS_WEIGHED).round().astype(int))
    weighed = dataset.take(places.tolist(), columns=columns)
    sizes = [row_bytes(batch) for batch in weighed.to_batches()]
    total = sum(int(each.sum()) for each in sizes)
    return min(max(BLOCK_BYTES * weighed.num_rows // max(total, 1), 1), MAX_BLOCK_ROWS)


def packed(
    batches: Iterator[pa.RecordBatch], most_rows: int, most_bytes: int
) -> Iterator[pa.RecordBatch]:
    """The same rows in the same order, in blocks that do not depend on how the batches were cut.

    A block ends before the row that would be one too many or take it above `most_bytes`; a row
    that is larger than that has a block of its own. Blocks are copies that start at offset 0.
    """
    parts: list[pa.RecordBatch] = []
    rows, size = 0, 0
    for batch in batches:
        ends = np.cumsum(row_bytes(batch))
        start = 0
        while start < batch.num_rows:
            before = int(ends[start - 1]) if start else 0
            room = max(most_bytes - size, 0)
            fitting = int(np.searchsorted(ends, before + room, "right")) - start
            count = min(fitting if rows else max(fitting, 1), most_rows - rows)
            if count:
                parts.append(batch.slice(start, count))
                start += count
                rows += count
                size += int(ends[start - 1]) - before
            else:
                yield pa.concat_batches(parts)
                parts, rows, size = [], 0, 0
    if parts:
        yield pa.concat_batches(parts)


def row_bytes(batch: pa.RecordBatch) -> np.ndarray:
    """Bytes of every row, (n,) int64: lists, texts and vectors with all they hold."""
    total = np.zeros(batch.num_rows, np.int64)
    for column in batch.columns:
        total += _bytes_of(column)
    return total


def _bytes_of(column: pa.Array) -> np.ndarray | int:
    kind = column.type
    if pa.types.is_fixed_size_list(kind):
        return _bits(kind) // 8
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        width, measure = _bits(kind.value_type), "list_value_length"
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        width, measure = 8, "binary_length"
    else:
        return -(-kind.bit_width // 8)
    lengths = pc.call_function(measure, [column]).fill_null(0)
    return lengths.to_numpy(zero_copy_only=False).astype(np.int64) * width // 8


def _bits(kind: pa.DataType) -> int:
    """Of one number, or of a vector of them."""
    if pa.types.is_fixed_size_list(kind):
        return kind.list_size * _bits(kind.value_type)
    return kind.bit_width
