"""The streaming scan: one vector column of a table at a fixed version, block by block.

A thread reads ahead while blocks are scored. Rows outside the filter are hardly read (see
`eligible_rows.py`) and rows without the feature are dropped first; the rest are packed in table
order into blocks of one fixed shape (the last one is multiplied full as well), cast from float16 to
float32 and multiplied with the queries. Which rows share a block, and the shape of every product,
depend neither on timing nor on how the table is cut into fragments. The rows stand on the left,
where the BLAS divides work among threads, and queries are padded to whole tiles of its kernels:
measured with MKL, no bit of a similarity then depends on the number of threads or on the row's
place in its block. Another BLAS or processor may round the last bit differently, which can only
swap rows whose scores agree to about 1e-7.

Where there is a GPU it casts and multiplies; similarities come back, and the reductions run on the
processor as they do without one. A first cut in bfloat16 does not pay: casting float16 to it takes
longer than the float32 product (measured: 28 against 16 ms for 16,384 rows of 1,024 on one core),
and where 64 queries ask for 1 % of the rows each, up to half of all rows would be multiplied again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ...selectors.keys import KeySet, keys_of
from ...selectors.needs import MAX_BLOCK_ROWS
from .eligible_rows import Scanned, eligible_batches
from .reducers import Block, Reducer

if TYPE_CHECKING:
    import lance
    import torch

BLOCK_BYTES = 4 << 20
"""Of float16 vectors per block: within the 2-8 MB that scans are fastest with."""

MIN_BLOCK_ROWS = 256
QUERY_TILE = 32
_IDS_PER_BATCH = 1 << 16
_READ_AHEAD = 3


def block_rows(width: int) -> int:
    """Rows per block for vectors of `width` float16 numbers: a power of two near 4 MB."""
    rows = 1 << max(0, (BLOCK_BYTES // (2 * width)).bit_length() - 1)
    return min(MAX_BLOCK_ROWS, max(MIN_BLOCK_ROWS, rows))


def device() -> str:
    """Where blocks are cast and multiplied: "cuda" or "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


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
    rows = block_rows(width)
    packer = _Packer(queries, rows, lambda block: [r.feed(block) for r in reducers])
    batches = eligible_batches(
        dataset, ["id", column], eligible, seen, batch_rows=rows, row_bytes=2 * width
    )
    for keys, vectors, missing in read_ahead(
        _present(keys, batch.column(column), width) for keys, batch in batches
    ):
        seen.missing += missing
        seen.scored += len(keys)
        packer.add(keys, vectors)
    packer.flush()
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

    rows = block_rows(queries.shape[1])
    packer = _Packer(queries, rows, lambda block: [r.feed(block) for r in reducers])
    packer.add(keys, torch.from_numpy(vectors))
    packer.flush()


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


class _Packer:
    """Packs rows into one block of fixed shape and multiplies it whenever it is full."""

    def __init__(self, queries: torch.Tensor, rows: int, feed: Callable[[Block], Any]) -> None:
        import torch

        self._count, width = queries.shape
        padded = torch.zeros(-(-self._count // QUERY_TILE) * QUERY_TILE, width)
        padded[: self._count] = queries
        self._device = device()
        self._queries = padded.to(self._device)
        self._rows, self._feed = rows, feed
        # A processor casts while it gathers; to a GPU go half the bytes, from pinned memory.
        far = self._device != "cpu"
        self._vectors = torch.zeros(
            rows, width, dtype=torch.float16 if far else torch.float32, pin_memory=far
        )
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
            vectors = self._vectors.to(self._device).float()
            similarity = (vectors @ self._queries.T)[:, : self._count].T.contiguous().cpu()
            self._feed(Block(self._keys[: self._filled].copy(), similarity[:, : self._filled]))
            self._filled = 0
