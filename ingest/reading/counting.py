"""How many rows files hold, counted or told from a part of each, and a few of them drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from ...schemas.instruction import Record
from ...store.known_ids import KnownIds
from ..fits.sampling import BLOCK_ROWS, Reservoir
from .looking import Looked

COUNTED_RECORDS = 50_000
"""Records read at the most, shared by the files: some seconds."""
LEAST_PER_FILE = 5_000
SEED = 0


@dataclass(frozen=True)
class Counted:
    """What a look into some files told.

    Attributes:
        records: of all files; exact when all were read to their end.
        new: distinct ones the pool does not have yet.
        read: how many records were really read.
        exact: whether the files were read to their end.
        drawn: some of the new ones, at random among those read.
    """

    records: int
    new: int
    read: int
    exact: bool
    drawn: Sequence[Record]


def count(looked: Looked, known: KnownIds, rows: int) -> Counted:
    """Count the records of files, and draw `rows` of those the pool lacks.

    A file of more than its share of 50,000 records is read so far and no further; what it holds is
    told from its bytes. Sources without a size (standard input) are read to their end.
    """
    share = max(LEAST_PER_FILE, COUNTED_RECORDS // len(looked.paths))
    drawing: Reservoir[Record] = Reservoir(SEED, lambda total: rows)
    met = KnownIds()
    read, records = 0, 0.0
    exact = True
    for source in looked.sources():
        items = islice(source, None if source.size is None else share)
        own = 0
        while block := list(islice(items, BLOCK_ROWS)):
            own += len(block)
            found = {each.instruction.id: each for each in block if isinstance(each, Record)}
            ids = list(found)
            old = known.contains(ids) | met.contains(ids)
            new = [row_id for row_id, there in zip(ids, old, strict=True) if not there]
            if new:
                met.add(new)
            for row_id in new:
                drawing.offer(row_id, found[row_id])
        read += own
        if source.size is None or own < share:
            records += own
        else:
            exact = False
            records += own * max(1.0, source.size / max(1, source.bytes_read))
        source.finish()
    total = round(records)
    new_rows = drawing.total if exact else round(drawing.total * records / max(1, read))
    return Counted(total, new_rows, read, exact, [record for _, record in drawing.drawn()])
