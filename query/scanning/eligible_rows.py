"""Reading the eligible rows of a table, in table order, and little else.

Without a filter that is one scan. With one, the ids are read first (1 % of a wide vector's bytes),
stretch by stretch: a stretch without eligible rows costs nothing more; where they are few, or stand
side by side, exactly they are read; where they are many and scattered, the stretch is scanned
between the first and the last of them and the others are dropped. What comes out is the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ...selectors.keys import KeySet, keys_of

if TYPE_CHECKING:
    import lance

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

    `notes` are sentences on rows that have the feature and must not be chosen.
    """

    rows: int = 0
    filtered: int = 0
    missing: int = 0
    scored: int = 0
    notes: tuple[str, ...] = ()


def eligible_batches(
    dataset: lance.LanceDataset,
    columns: list[str],
    eligible: KeySet | None,
    seen: Scanned,
    *,
    batch_rows: int,
    row_bytes: int,
) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
    """Keys (n, 2) and columns of the eligible rows, at most `batch_rows` at once, in table order.

    Args:
        dataset: the table at the version to read.
        columns: to be read, "id" among them.
        eligible: rows that may be chosen; None for all.
        seen: where rows and rows left out are counted.
        batch_rows: rows that make about a block.
        row_bytes: about what a row of these columns holds.
    """
    if eligible is None:
        for batch in _scan(dataset, columns, batch_rows):
            seen.rows += batch.num_rows
            yield keys_of(batch.column("id")), batch
        return
    start = 0
    for batch in _scan(dataset, ["id"], STRETCH_ROWS):
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
