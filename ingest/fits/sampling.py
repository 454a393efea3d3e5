"""The random sample that fits learn from: the rows whose ids hash lowest.

A seeded hash of its id orders the rows. So the same seed draws the same rows from the same pool, in
whatever order and from whatever files they come, and every prefix of the sample is a random sample
too.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Generic, TypeVar

import xxhash

from ...schemas.conversations import conversation_columns, conversations_in
from ...schemas.errors import UsageError
from ...schemas.ids import GrowingIdSet
from ...schemas.instruction import Instruction, Record
from ...schemas.plain_text import count_of
from ...schemas.progress import Progress, Silence
from ...store.store import Store
from ..sources import Source
from .fit import Sample

Rows = Callable[[int], int]
"""From the size of a pool to the size of the sample."""

BLOCK_ROWS = 1024
SLACK = 4
SLACK_ROWS = 1024

T = TypeVar("T")


class Reservoir(Generic[T]):
    """Draws from a stream whose length is known only at its end; ids must be distinct.

    The size k(n) of the sample may grow with the length n. Of the first n rows it therefore holds
    the lowest 4 k(n) + 1,024, which lack a row of the final sample with a chance below e^-1000.
    """

    def __init__(self, seed: int, rows: Rows) -> None:
        self.total = 0
        self._seed, self._rows = seed, rows
        self._heap: list[tuple[int, str, T]] = []  # the last of the draw on top

    def offer(self, row_id: str, item: T) -> None:
        """Offer one row of the stream."""
        self.total += 1
        entry = (-_hash(row_id, self._seed), row_id, item)
        room = SLACK * self._rows(self.total) + SLACK_ROWS
        if len(self._heap) < room:
            heapq.heappush(self._heap, entry)
        elif entry[0] > self._heap[0][0]:
            heapq.heapreplace(self._heap, entry)

    def drawn(self) -> list[tuple[str, T]]:
        """Return ids and items of the sample, in the order of the draw."""
        size = min(self._rows(self.total), self.total)
        first = sorted(self._heap, key=lambda entry: (-entry[0], entry[1]))[:size]
        return [(row_id, item) for _, row_id, item in first]


def sample_of_sources(
    sources: Iterable[Source],
    seed: int,
    rows: Rows,
    limit: int | None = None,
    bytes_total: int | None = None,
    progress: Progress | None = None,
    without: GrowingIdSet | None = None,
) -> Sample:
    """Draw a sample of the records of files, reading them to the end; equal content counts once.

    Args:
        without: ids of content that does not count, such as that of removed rows.
        limit: read no more than this many records, rejected ones included.

    Raises:
        UsageError: not one record can be used.
    """
    progress = progress or Silence()
    reservoir: Reservoir[Instruction] = Reservoir(seed, rows)
    seen = GrowingIdSet() if without is None else without
    read, before = 0, 0
    reasons: Counter[str] = Counter()
    for source in sources:
        items = islice(source, None if limit is None else limit - read)
        while block := list(islice(items, BLOCK_ROWS)):
            read += len(block)
            by_id: dict[str, Instruction] = {}
            for item in block:
                if isinstance(item, Record):
                    by_id.setdefault(item.instruction.id, item.instruction)
                else:
                    reasons[item.reason] += 1
            ids = list(by_id)
            new = [row_id for row_id, old in zip(ids, seen.contains(ids), strict=True) if not old]
            if new:
                seen.add(new)
            for row_id in new:
                reservoir.offer(row_id, by_id[row_id])
            progress.advance(
                rows=read,
                tokens=0,
                bytes_read=before + source.bytes_read,
                bytes_total=bytes_total,
            )
        source.finish()
        before += source.size or 0
        if limit is not None and read >= limit:
            break
    if not reservoir.total:
        why = f"; most often: {reasons.most_common(1)[0][0]}" if reasons else ""
        raise UsageError(
            f"nothing can be fitted: of {count_of(read, 'record')} read, none can be used{why}"
        )
    return _sample(reservoir.drawn(), reservoir.total)


def sample_of_pool(store: Store, seed: int, rows: Rows) -> Sample:
    """Draw a sample of the rows of a store.

    Raises:
        UsageError: it holds none.
    """
    pool = store.dataset("pool")
    reservoir: Reservoir[None] = Reservoir(seed, rows)
    for batch in pool.to_batches(columns=["id"]):
        for row_id in batch["id"].to_pylist():
            reservoir.offer(row_id, None)
    if not reservoir.total:
        raise UsageError(
            f"{store.uri}: nothing can be fitted, because the pool is empty. "
            f"Ingest first: coresetdb ingest {store.typed} FILE..."
        )
    ids = [row_id for row_id, _ in reservoir.drawn()]
    texts = store.take(ids, conversation_columns(pool.schema), version=pool.version)
    return _sample(list(zip(ids, conversations_in(texts), strict=True)), reservoir.total)


def _sample(drawn: Sequence[tuple[str, Instruction]], total: int) -> Sample:
    return Sample([row_id for row_id, _ in drawn], [row for _, row in drawn], total)


def _hash(row_id: str, seed: int) -> int:
    return xxhash.xxh3_64_intdigest(row_id.encode(), seed=seed & 0xFFFF_FFFF_FFFF_FFFF)
