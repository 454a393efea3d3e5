"""Read the eligible rows of a table, in table order, and little else; ahead, in other threads.

Without a filter that is one scan. With one, the ids are read first (1 % of a wide vector's bytes),
stretch by stretch: a stretch without eligible rows costs nothing more; where they are few, or side
by side, only they are read; where they are many and scattered, the stretch is scanned between the
first and the last of them and the others are dropped. The result is the same.

Batches and blocks have a size in bytes, not in rows.
"""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...schemas.ids import IdSet, keys_of
from ...selectors.reductions import MAX_BLOCK_ROWS

if TYPE_CHECKING:
    import lance


Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_WORKERS = 8
"""Each has a block of its own in work; where torch may use more threads, they share them."""

_READ_AHEAD = 3


def read_ahead(batches: Iterator[Any], depth: int = _READ_AHEAD) -> Generator[Any, None, None]:
    """The same batches in the same order, up to `depth` of them read before they are asked for."""
    with ThreadPoolExecutor(1, "coresetdb-scan") as reader:
        waiting = deque(reader.submit(next, batches, None) for _ in range(depth))
        while (batch := waiting.popleft().result()) is not None:
            waiting.append(reader.submit(next, batches, None))
            yield batch


def mapped_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], most: int = MOST_WORKERS
) -> Iterator[Result]:
    """What `function` makes of each item, in their order.

    Several threads call it, each with an item of its own; torch's threads are divided among them,
    and the caller has one of them until the end. Up to two items more than there are threads are
    in work or done before the first of them is asked for.

    Args:
        function: called in threads of its own.
        items: taken in the caller's thread.
        most: threads; fewer where torch may use fewer.
    """
    import torch

    with _TORCH_THREADS.shared() as threads:
        workers = min(threads, most)
        begin = functools.partial(torch.set_num_threads, threads // workers)
        with ThreadPoolExecutor(workers, "coresetdb-scan", initializer=begin) as pool:
            waiting = deque()
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > workers + 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()


class _TorchThreads:
    """How many threads torch may use, where scans share them out.

    `torch.set_num_threads` speaks of the thread that calls it, and of those that begin later. So a
    scan that begins in a fresh thread beside another must not believe what it finds there.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._scans, self._before = 0, 1

    @contextmanager
    def shared(self) -> Iterator[int]:
        """Leave the caller one thread until the end; the number there are to share."""
        import torch

        with self._lock:
            if not self._scans:
                self._before = torch.get_num_threads()
            self._scans += 1
            threads = self._before
        try:
            torch.set_num_threads(1)
            yield threads
        finally:
            with self._lock:
                self._scans -= 1
                torch.set_num_threads(threads)


_TORCH_THREADS = _TorchThreads()


MOST_SECTIONS = 128
"""Parts of equal size that a table is cut into: sums are made of each, and workers share them."""


def sections_of(rows: int, span: range | None = None) -> list[range]:
    """Return the parts of a table that begin within a span (all by default), in table order.

    They hold a multiple of `MAX_BLOCK_ROWS` rows each, the last what is left. How they are cut
    depends on the number of rows in the table and on nothing else.
    """
    size = MAX_BLOCK_ROWS * max(1, -(-rows // (MOST_SECTIONS * MAX_BLOCK_ROWS)))
    sections = [range(start, min(start + size, rows)) for start in range(0, rows, size)]
    return [each for each in sections if span is None or each.start in span]


STRETCH_ROWS = 1 << 16
SEEK_BYTES = 8 << 10
"""What it costs to read one more run of rows, in bytes that could be scanned instead (measured on
rows of 2 kB in the page cache: 5 microseconds)..."""
REMOTE_SEEK_BYTES = 1 << 20
"""... and where every run is a request to an object store."""
_IO_BUFFER_BYTES = 64 << 20


@dataclass
class Scanned:
    """What a scan saw: rows read, rows the filter left out, rows without the feature.

    `refused` rows have the feature and must not be chosen, for the reason `refusal`; `remarks` are
    sentences for the user.
    """

    rows: int = 0
    filtered: int = 0
    missing: int = 0
    scored: int = 0
    refused: int = 0
    refusal: str = ""
    remarks: tuple[str, ...] = ()

    def add(self, other: Scanned) -> None:
        """Count the rows of another part of the table as well."""
        self.rows += other.rows
        self.filtered += other.filtered
        self.missing += other.missing
        self.scored += other.scored
        self.refused += other.refused
        self.refusal = self.refusal or other.refusal
        self.remarks = tuple(dict.fromkeys((*self.remarks, *other.remarks)))

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the user."""
        if not self.refused:
            return self.remarks
        return (*self.remarks, f"{self.refused:,} eligible rows were left out: {self.refusal}")


def eligible_batches(
    dataset: lance.LanceDataset,
    columns: list[str],
    eligible: IdSet | None,
    seen: Scanned,
    *,
    batch_rows: int,
    row_bytes: int,
    span: range | None = None,
) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
    """Keys (n, 2) and columns of the eligible rows, at most `batch_rows` at once, in table order.

    Args:
        dataset: the table at the version to read.
        columns: to be read, "id" among them.
        eligible: rows that may be chosen; None for all.
        seen: where rows and rows left out are counted.
        batch_rows: rows that make about a block.
        row_bytes: about what a row of these columns holds.
        span: places of the rows to read, in table order; None for all.
    """
    within: dict[str, Any] = {} if span is None else {"offset": span.start, "limit": len(span)}
    if eligible is None:
        for batch in _scan(dataset, columns, batch_rows, **within):
            seen.rows += batch.num_rows
            yield keys_of(batch.column("id")), batch
        return
    start = 0 if span is None else span.start
    for batch in _scan(dataset, ["id"], STRETCH_ROWS, **within):
        allowed = eligible.contains(keys_of(batch.column("id")))
        seen.rows += len(allowed)
        seen.filtered += int((~allowed).sum())
        for part in _allowed(dataset, columns, start, allowed, batch_rows, row_bytes):
            yield keys_of(part.column("id")), part
        start += len(allowed)


def _scan(dataset: lance.LanceDataset, columns: list[str], batch_rows: int, **part: Any):
    return dataset.scanner(
        columns=columns,
        batch_size=batch_rows,
        scan_in_order=True,
        io_buffer_size=_IO_BUFFER_BYTES,
        **part,
    ).to_batches()


def _allowed(
    dataset: lance.LanceDataset,
    columns: list[str],
    start: int,
    allowed: np.ndarray,
    batch_rows: int,
    row_bytes: int,
) -> Iterator[pa.RecordBatch]:
    """The allowed rows of the stretch that begins at row `start`."""
    places = np.flatnonzero(allowed)
    if not len(places):
        return
    first, last = int(places[0]), int(places[-1])
    runs = 1 + int((np.diff(places) > 1).sum())
    seek = SEEK_BYTES if "://" not in dataset.uri else REMOTE_SEEK_BYTES
    if len(places) * row_bytes + runs * seek <= (last + 1 - first) * row_bytes:
        for at in range(0, len(places), batch_rows):
            rows = (start + places[at : at + batch_rows]).tolist()
            yield from dataset.take(rows, columns=columns).combine_chunks().to_batches()
        return
    at = first
    for batch in _scan(dataset, columns, batch_rows, offset=start + first, limit=last + 1 - first):
        here = allowed[at : at + batch.num_rows]
        at += batch.num_rows
        yield batch if here.all() else batch.filter(pa.array(here))


BLOCK_BYTES = 4 << 20


_ROWS_WEIGHED = 64


def batches_having(
    dataset: lance.LanceDataset,
    column: str,
    eligible: IdSet | None,
    seen: Scanned,
    span: range | None = None,
) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
    """Keys (n, 2) and `id` and `column` of the eligible rows that have a value there.

    Rows read, left out and missing are counted.
    """
    for keys, batch in batches_by_bytes(dataset, ["id", column], eligible, seen, span):
        present = np.asarray(batch.column(column).is_valid())
        seen.missing += int((~present).sum())
        yield keys[present], batch.filter(pa.array(present))


def batches_by_bytes(
    dataset: lance.LanceDataset,
    columns: list[str],
    eligible: IdSet | None,
    seen: Scanned,
    span: range | None = None,
) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
    """Keys (n, 2) and columns of the eligible rows, in batches of about `BLOCK_BYTES`."""
    rows = rows_per_batch(dataset, columns)
    return eligible_batches(
        dataset, columns, eligible, seen, batch_rows=rows, row_bytes=BLOCK_BYTES // rows, span=span
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
    total = sum(int(size.sum()) for size in sizes)
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
