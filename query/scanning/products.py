"""Products of blocks of rows with the queries, several blocks at once.

A block is cast from float16 to float32 while it is gathered, and multiplied as a whole (the last
one of a scan is filled up). The rows stand on the left and queries are padded to whole tiles of the
BLAS's kernels: measured with MKL, no bit of a similarity then depends on how many threads work on
a block or on the row's place in it. Another BLAS or processor may round the last bit differently,
which can only swap rows whose scores agree to about 1e-7.

A thread a block is faster than all threads on one, which wait for each other and keep those that
read and reduce from the cores (a pass over a million rows of 1,024 on two cores, 64 lists of
10,000: 1.55 instead of 2.26 s).

Where there is a GPU it casts and multiplies; similarities come back, and the reductions run on the
processor as they do without one. A first cut in bfloat16 does not pay: casting float16 to it takes
longer than the float32 product (measured: 28 against 16 ms for 16,384 rows of 1,024 on one core),
and where 64 queries ask for 1 % of the rows each, up to half of all rows would be multiplied again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .ahead import MOST_WORKERS, mapped_ahead
from .reducers import Block

if TYPE_CHECKING:
    import torch

QUERY_TILE = 32
WORK_BYTES = 256 << 20
"""Of blocks in work at once, and of their similarities. One that is larger than half of it is made
by itself, with all threads."""

Part = tuple[np.ndarray, "torch.Tensor"]
"""Keys (n, 2) and vectors (n, d) float16 of some rows."""


def device() -> str:
    """Where blocks are cast and multiplied: "cuda" or "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def multiplied(parts: Iterable[Part], queries: torch.Tensor, rows: int) -> Iterator[Block]:
    """Blocks of `rows` rows (the last may have fewer) with their similarities, in order.

    Args:
        parts: taken in the caller's thread.
        queries: (M, d) float32.
        rows: of a block.
    """
    products = _Products(queries, rows)
    blocks = _cut(parts, rows)
    # Of each worker the product, and its transposed copy while it is made and while it waits.
    most = min(MOST_WORKERS, WORK_BYTES // products.bytes) if products.device == "cpu" else 1
    return mapped_ahead(products, blocks, most) if most > 1 else map(products, blocks)


def _cut(parts: Iterable[Part], rows: int) -> Iterator[list[Part]]:
    """The same rows, `rows` of them at a time."""
    held: list[Part] = []
    room = rows
    for keys, vectors in parts:
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

    def __init__(self, queries: torch.Tensor, rows: int) -> None:
        import torch

        self.device = device()
        self._count, width = queries.shape
        padded = torch.zeros(-(-self._count // QUERY_TILE) * QUERY_TILE, width)
        padded[: self._count] = queries
        self._queries = padded.to(self.device)
        self._shape = (rows, width)
        self._own = threading.local()
        self.bytes = 4 * rows * (width + 3 * len(padded))

    def __call__(self, parts: Sequence[Part]) -> Block:
        room = self._room()
        filled = 0
        for _, vectors in parts:
            room[filled : filled + len(vectors)].copy_(vectors)
            filled += len(vectors)
        product = room.to(self._queries.device).float() @ self._queries.T
        similarity = product[:, : self._count].T.contiguous().cpu()
        return Block(np.concatenate([keys for keys, _ in parts]), similarity[:, :filled])

    def _room(self) -> torch.Tensor:
        """A processor casts while it gathers; to a GPU go half the bytes, from pinned memory."""
        import torch

        if not hasattr(self._own, "room"):
            far = self.device != "cpu"
            kind = torch.float16 if far else torch.float32
            self._own.room = torch.zeros(self._shape, dtype=kind, pin_memory=far)
        return self._own.room
