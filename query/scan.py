"""The streaming scan: one vector column of a table at a fixed version, block by block.

A thread reads ahead while blocks are scored. Rows without the feature and rows outside the filter
are dropped first; the rest are packed in table order into blocks of one fixed shape (the last one
is multiplied full as well), cast from float16 to float32 and multiplied with the queries. Which
rows share a block, and the shape of every product, depend neither on timing nor on how the table
is cut into fragments. The rows stand on the left, where the BLAS divides work among threads, and
queries are padded to whole tiles of its kernels: measured with MKL, no bit of a similarity then
depends on the number of threads or on the row's place in its block. Another BLAS or processor may
round the last bit differently, which can only swap rows whose scores agree to about 1e-7.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..selectors.keys import KeySet, keys_of
from ..selectors.needs import MAX_BLOCK_ROWS
from .reducers import Block, Reducer

if TYPE_CHECKING:
    import lance
    import torch

BLOCK_BYTES = 4 << 20
"""Of float16 vectors per block: within the 2-8 MB that SUBSTRATE 2 found fastest."""

MIN_BLOCK_ROWS = 256
QUERY_TILE = 32
_IDS_PER_BATCH = 1 << 16
_READ_AHEAD = 3


@dataclass
class Scanned:
    """What a scan saw: rows read, rows the filter left out, rows without the feature.

    `notes` are sentences on rows that have the feature and must not be chosen.
    """

    rows: int = 0
    filtered: int = 0
    missing: int = 0
    scored: int = 0
    notes: tuple[str, ...] = ()


def block_rows(width: int) -> int:
    """Rows per block for vectors of `width` float16 numbers: a power of two near 4 MB."""
    rows = 1 << max(0, (BLOCK_BYTES // (2 * width)).bit_length() - 1)
    return min(MAX_BLOCK_ROWS, max(MIN_BLOCK_ROWS, rows))


def read_ahead(batches: Iterator[Any], depth: int = _READ_AHEAD) -> Iterator[Any]:
    """The same batches in the same order, up to `depth` of them read before they are asked for."""
    with ThreadPoolExecutor(1, "coresetdb-scan") as reader:
        waiting = deque(reader.submit(next, batches, None) for _ in range(depth))
        while (batch := waiting.popleft().result()) is not None:
            waiting.append(reader.submit(next, batches, None))
            yield batch


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
    packer = _Packer(queries, block_rows(width), lambda block: [r.feed(block) for r in reducers])
    scanner = dataset.scanner(
        columns=["id", column],
        batch_size=block_rows(width),
        scan_in_order=True,
        io_buffer_size=64 << 20,
    )
    for keys, vectors, counts in read_ahead(
        _usable(batch, column, width, eligible) for batch in scanner.to_batches()
    ):
        seen.rows += counts[0]
        seen.filtered += counts[1]
        seen.missing += counts[2]
        seen.scored += len(keys)
        packer.add(keys, vectors)
    packer.flush()
    return seen


def _usable(
    batch: pa.RecordBatch, column: str, width: int, eligible: KeySet | None
) -> tuple[np.ndarray, torch.Tensor, tuple[int, int, int]]:
    """Keys (n, 2) and vectors (n, width) of the rows to score; rows read, filtered, missing."""
    import torch

    keys = keys_of(batch.column("id"))
    feature = batch.column(column)
    allowed = np.ones(len(keys), bool) if eligible is None else eligible.contains(keys)
    present = np.asarray(feature.is_valid())
    # `flatten` leaves out the space of null rows; the exchange by DLPack copies nothing.
    vectors = torch.from_dlpack(feature.flatten()).view(-1, width)
    counts = (len(keys), int((~allowed).sum()), int((allowed & ~present).sum()))
    use = allowed & present
    if use.all():
        return keys, vectors, counts
    return keys[use], vectors[torch.from_numpy(allowed[present])], counts


class _Packer:
    """Packs rows into one block of fixed shape and multiplies it whenever it is full."""

    def __init__(self, queries: torch.Tensor, rows: int, feed: Callable[[Block], Any]) -> None:
        import torch

        self._count, width = queries.shape
        self._queries = torch.zeros(-(-self._count // QUERY_TILE) * QUERY_TILE, width)
        self._queries[: self._count] = queries
        self._rows, self._feed = rows, feed
        self._vectors = torch.zeros(rows, width)
        self._keys = np.empty((rows, 2), np.int64)
        self._filled = 0

    def add(self, keys: np.ndarray, vectors: torch.Tensor) -> None:
        at = 0
        while at < len(keys):
            count = min(self._rows - self._filled, len(keys) - at)
            here, there = slice(self._filled, self._filled + count), slice(at, at + count)
            self._vectors[here].copy_(vectors[there])
            self._keys[here] = keys[there]
            self._filled += count
            at += count
            if self._filled == self._rows:
                self.flush()

    def flush(self) -> None:
        if self._filled:
            similarity = (self._vectors @ self._queries.T)[:, : self._count].T.contiguous()
            self._feed(Block(self._keys[: self._filled].copy(), similarity[:, : self._filled]))
            self._filled = 0
