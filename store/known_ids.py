"""The ids a table holds, in memory: 16 bytes each, asked for thousands at a time.

Ids are kept as two 64-bit halves in sorted runs whose sizes at least halve from one to the next,
so adding a batch costs a small merge now and then and asking costs a few binary searches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Halves = tuple[np.ndarray, np.ndarray]


class KnownIds:
    """A set of ids (32 hexadecimal digits). `refresh` brings in what others have committed.

    `open_newest` gives the newest dataset to read `column` from; without one the set starts empty
    and holds what `add` gives it.
    """

    def __init__(self, open_newest: Callable[[], Any] | None = None, column: str = "id") -> None:
        self._open, self._column = open_newest, column
        self._stored: list[Halves] = []
        self._added: list[Halves] = []
        self._fragments: dict[int, tuple[str, str | None]] = {}
        if open_newest:
            self.refresh()

    def add(self, ids: Sequence[str] | pa.Array | pa.ChunkedArray) -> None:
        """Remember ids that need not be in the table yet."""
        _push(self._added, _sorted(_halves(ids)))

    def contains(self, ids: Sequence[str] | pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Which ids are known: (len(ids),) bool."""
        wanted = _halves(ids)
        found = np.zeros(len(wanted[0]), dtype=bool)
        for run in (*self._stored, *self._added):
            found |= _in_run(run, wanted)
        return found

    def refresh(self, dataset: Any = None) -> None:
        """Read the ids of fragments that are new; all of them when rows went away or moved."""
        newest = dataset if dataset is not None else self._open() if self._open else None
        if newest is None:
            return
        fragments = {part.fragment_id: part for part in newest.get_fragments()}
        now = {
            number: (part.metadata.files[0].path, part.deletion_file())
            for number, part in fragments.items()
        }
        if any(now.get(number) != mark for number, mark in self._fragments.items()):
            self._stored, self._fragments = [], {}
        fresh = [part for number, part in fragments.items() if number not in self._fragments]
        if fresh:
            ids = newest.scanner(columns=[self._column], fragments=fresh).to_table()
            _push(self._stored, _sorted(_halves(ids[self._column])))
        self._fragments = now

    def __len__(self) -> int:
        """How many ids were stored and added (one that was added and then stored counts twice)."""
        return sum(len(high) for high, _ in (*self._stored, *self._added))


def _halves(ids: Sequence[str] | pa.Array | pa.ChunkedArray) -> Halves:
    if isinstance(ids, pa.Array | pa.ChunkedArray):
        text = b"".join(pc.cast(ids, pa.binary()).to_pylist()).decode("ascii")
    else:
        text = "".join(ids)
    pairs = np.frombuffer(bytes.fromhex(text), dtype=">u8").astype(np.uint64).reshape(-1, 2)
    return np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1])


def _sorted(run: Halves) -> Halves:
    high, low = run
    order = np.lexsort((low, high))
    return high[order], low[order]


def _push(runs: list[Halves], run: Halves) -> None:
    while runs and len(runs[-1][0]) < 2 * len(run[0]):
        high, low = runs.pop()
        run = _sorted((np.concatenate([high, run[0]]), np.concatenate([low, run[1]])))
    runs.append(run)


def _in_run(run: Halves, wanted: Halves) -> np.ndarray:
    high, low = run
    found = np.zeros(len(wanted[0]), dtype=bool)
    if not len(high):
        return found
    at = np.searchsorted(high, wanted[0], side="left")
    while True:  # ids that share their first half stand side by side: nearly always one round
        inside = np.minimum(at, len(high) - 1)
        same = (at < len(high)) & (high[inside] == wanted[0])
        found |= same & (low[inside] == wanted[1])
        if not (same & ~found).any():
            return found
        at = at + 1
