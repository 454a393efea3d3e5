"""The streaming scan of one vector column of a table at a fixed version, block by block.

A thread reads ahead, others cast and multiply blocks, and the caller's reduces them in table order.
Rows outside the filter are hardly read (see `rows.py`) and rows without the feature are dropped
first; the rest are packed in table order into blocks of one fixed shape. Which rows share a block,
and the shape of every product, depend neither on timing nor on how the table is cut into fragments.
Where a reducer adds blocks up, they end with the sections of the table (`rows.py`), so that those
who share the sections add up the same numbers.

A block is cast from its stored type to float32 while it is gathered, and multiplied as a whole
(the last one of a scan is filled up). The rows are on the left and queries are padded to whole
tiles of the BLAS's kernels: measured with MKL, no bit of a similarity then depends on how many
threads work on a block or on the row's place in it. Another BLAS or processor may round the last
bit differently, which can only swap rows whose scores agree to about 1e-7.

One thread a block is faster than all threads on one, which wait for each other and keep those that
read and reduce from the cores (a pass over a million rows of 1,024 on two cores, 64 lists of
10,000: 1.55 instead of 2.26 s).

Where there is a GPU it casts and multiplies; similarities come back, and the reductions run on the
processor as they do without one. A first cut in bfloat16 does not pay: casting float16 to it takes
longer than the float32 product (measured: 28 against 16 ms for 16,384 rows of 1,024 on one core),
and where 64 queries ask for 1 % of the rows each, up to half of all rows would be multiplied again.

Codes are multiplied as they are, and the products divided by the lengths of the codes (measured for
int8: 0 to 7 % more than for float16, and half as much to read).
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ...schemas.ids import IdSet, keys_of
from ...schemas.stored_vectors import PER_BYTE, bytes_of_vector
from ...selectors.reductions import MAX_BLOCK_ROWS
from .reducers import Block, BlockConsumer, adds_blocks_up
from .rows import (
    BLOCK_BYTES,
    MOST_WORKERS,
    Scanned,
    eligible_batches,
    mapped_ahead,
    read_ahead,
    sections_of,
)

if TYPE_CHECKING:
    import lance
    import torch


QUERY_TILE = 32
WORK_BYTES = 256 << 20
"""Memory for the blocks computed at once and their similarities. A block above half of it is
computed alone, by all threads."""

_LEAST_LENGTH = 1e-12  # so that a row equal to the centre compares as 0

Part = tuple[np.ndarray, "torch.Tensor"]
"""Keys (n, 2) and vectors of some rows as they are stored: (n, d) float16 or int8, or (n, d / 4)
uint8 (schemas/stored_vectors.py)."""

_BLOCK_ENDS: Any = (np.empty((0, 2), np.int64), None)
"""Stands between the rows of two blocks."""


def device() -> str:
    """Where blocks are cast and multiplied: "cuda" or "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def similarity_blocks(
    parts: Iterable[Part],
    queries: torch.Tensor,
    rows: int,
    squared: bool = False,
    centre: torch.Tensor | None = None,
    stored: str = "float16",
) -> Iterator[Block]:
    """Blocks of `rows` rows (the last may have fewer) with their similarities, in order.

    Args:
        parts: taken in the caller's thread.
        queries: (M, d) float32.
        rows: of a block.
        squared: whether similarities are the squares of the products.
        centre: (d,) float32, subtracted from the rows, which are then divided by their lengths.
        stored: numpy's name of the type of what is stored.
    """
    products = _Products(queries, rows, squared, centre, stored)
    blocks = _cut(parts, rows)
    # Of each worker the product, and its transposed copy while it is made and while it waits.
    most = min(MOST_WORKERS, WORK_BYTES // products.bytes) if products.device == "cpu" else 1
    return mapped_ahead(products, blocks, most) if most > 1 else map(products, blocks)


def _cut(parts: Iterable[Part], rows: int) -> Iterator[list[Part]]:
    """The same rows, `rows` of them at a time."""
    held: list[Part] = []
    room = rows
    for part in parts:
        if part is _BLOCK_ENDS:
            if held:
                yield held
            held, room = [], rows
            continue
        keys, vectors = part
        at = 0
        while at < len(keys):
            there = slice(at, at + room)
            held.append((keys[there], vectors[there]))
            at += len(held[-1][0])
            room -= len(held[-1][0])
            if not room:
                yield held
                held, room = [], rows
    if held:
        yield held


class _Products:
    """Makes blocks; every thread that does has room of its own."""

    def __init__(
        self,
        queries: torch.Tensor,
        rows: int,
        squared: bool,
        centre: torch.Tensor | None,
        stored: str,
    ) -> None:
        import torch

        self.device, self._squared = device(), squared
        self._stored, self._coded = getattr(torch, stored), stored != "float16"
        self._centre = None if centre is None else centre.to(self.device)
        self._count, width = queries.shape
        padded = torch.zeros(-(-self._count // QUERY_TILE) * QUERY_TILE, width)
        padded[: self._count] = queries
        self._queries = padded.to(self.device)
        self._shape = (rows, width)
        self._own = threading.local()
        self.bytes = 4 * rows * (width + 3 * len(padded))

    def __call__(self, parts: Sequence[Part]) -> Block:
        there, filled = self._gathered(parts)
        if self._centre is not None:
            # Not by products with the mean: of close vectors, little but rounding would be left.
            if self._coded:
                there /= _lengths(there)
            there.sub_(self._centre)
        product = there @ self._queries.T
        if self._coded or self._centre is not None:
            product /= _lengths(there)
        similarity = product[:, : self._count].T.contiguous().cpu()
        if self._squared:
            similarity.square_()
        return Block(np.concatenate([keys for keys, _ in parts]), similarity[:, :filled])

    def _gathered(self, parts: Sequence[Part]) -> tuple[torch.Tensor, int]:
        """Return the parts' rows as float32, before zeros that fill them up, and their number.

        A processor casts while it gathers; to a GPU go the stored bytes, from pinned memory.
        """
        import torch

        packed, far = self._stored == torch.uint8, self.device != "cpu"
        if not hasattr(self._own, "room"):
            rows, width = self._shape
            shape = (rows, width // PER_BYTE if packed and far else width)
            kind = self._stored if far else torch.float32
            self._own.room = torch.zeros(shape, dtype=kind, pin_memory=far)
        room, filled = self._own.room, 0
        for _, vectors in parts:
            place = room[filled : filled + len(vectors)]
            if packed and not far:
                _unpack(vectors, place)
            else:
                place.copy_(vectors)
            filled += len(vectors)
        there = room.to(self._queries.device)
        if packed and far:
            wide = torch.empty(self._shape, device=there.device)
            _unpack(there, wide)
            return wide, filled
        return there.float(), filled


def _unpack(packed: torch.Tensor, out: torch.Tensor) -> None:
    """Write codes of 2 bits (n, B) uint8 into `out`, (n, 4 B) float32, as -3, -1, 1 and 3."""
    count = packed.shape[1]
    for place in range(PER_BYTE):
        out[:, place * count : (place + 1) * count].copy_(packed >> 2 * place & 3)
    out.mul_(2).sub_(3)


def _lengths(rows: torch.Tensor) -> torch.Tensor:
    """Return the lengths of rows (n, d), (n, 1) float32; the least one is above 0."""
    return rows.norm(dim=1, keepdim=True).clamp_min_(_LEAST_LENGTH)


MIN_BLOCK_ROWS = 256
_IDS_PER_BATCH = 1 << 16


def block_rows(width: int) -> int:
    """Rows per block for vectors of `width` numbers: a power of two near 4 MB in float16."""
    rows = 1 << max(0, (BLOCK_BYTES // (2 * width)).bit_length() - 1)
    return min(MAX_BLOCK_ROWS, max(MIN_BLOCK_ROWS, rows))


def scan_ids(
    dataset: lance.LanceDataset,
    reducers: Sequence[BlockConsumer],
    eligible: IdSet | None = None,
    span: range | None = None,
) -> Scanned:
    """Feed every (eligible) row id to the reducers; no vector is read and no torch imported.

    Args:
        span: places of the rows to read, in table order; None for all.
    """
    seen = Scanned()
    within: dict[str, Any] = {} if span is None else {"offset": span.start, "limit": len(span)}
    scanner = dataset.scanner(
        columns=["id"], batch_size=_IDS_PER_BATCH, scan_in_order=True, **within
    )
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
    reducers: Sequence[BlockConsumer],
    eligible: IdSet | None = None,
    span: range | None = None,
    *,
    squared: bool = False,
    centre: torch.Tensor | None = None,
) -> Scanned:
    """Feed the similarities of every (eligible) row that has the feature to the reducers.

    Args:
        dataset: with an `id` column and `column`, unit vectors of d numbers in any of their
            types, both at the version to read.
        queries: (M, d) float32 unit vectors; similarity is the product with a row's vector.
        eligible: rows that may be chosen; None for all.
        span: places of the rows to read, in table order; None for all.
        squared: whether similarity is the square of that product, in [0, 1].
        centre: (d,) float32, subtracted from the rows, which are then divided by their lengths.
    """
    seen = Scanned()
    width = queries.shape[1]
    rows = block_rows(width)
    kind = dataset.schema.field(column).type
    cut = any(map(adds_blocks_up, reducers))
    spans = sections_of(dataset.count_rows(), span) if cut else [span]

    def present() -> Iterator[tuple[np.ndarray, torch.Tensor, int] | tuple[()]]:
        for own in spans:
            for keys, batch in eligible_batches(
                dataset,
                ["id", column],
                eligible,
                seen,
                batch_rows=rows,
                row_bytes=bytes_of_vector(kind),
                span=own,
            ):
                yield _present(keys, batch.column(column))
            yield ()

    def parts() -> Generator[Part, None, None]:
        for part in read_ahead(present()):
            if not part:
                yield _BLOCK_ENDS
                continue
            keys, vectors, missing = part
            seen.missing += missing
            seen.scored += len(keys)
            yield keys, vectors

    with closing(parts()) as read:
        stored = kind.value_type.to_pandas_dtype().__name__
        _feed(read, queries, rows, reducers, squared, centre, stored)
    return seen


def feed_vectors(
    keys: np.ndarray, vectors: np.ndarray, queries: torch.Tensor, reducers: Sequence[BlockConsumer]
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
    parts: Iterable[Part],
    queries: torch.Tensor,
    rows: int,
    reducers: Sequence[BlockConsumer],
    squared: bool = False,
    centre: torch.Tensor | None = None,
    stored: str = "float16",
) -> None:
    for block in similarity_blocks(parts, queries, rows, squared, centre, stored):
        for reducer in reducers:
            reducer.feed(block)


def _present(
    keys: np.ndarray, feature: pa.FixedSizeListArray
) -> tuple[np.ndarray, torch.Tensor, int]:
    """Keys (n, 2) and vectors as stored of the rows that have one, and how many have none."""
    import torch

    # `flatten` leaves out the space of null rows; the exchange by DLPack copies nothing.
    vectors = torch.from_dlpack(feature.flatten()).view(-1, feature.type.list_size)
    if feature.null_count:
        keys = keys[np.asarray(feature.is_valid())]
    return keys, vectors, feature.null_count
