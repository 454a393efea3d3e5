"""Row ids as two 64-bit words, so that millions of them are compared, sorted and searched fast.

A key is (high, low): the two halves of the 32 hexadecimal digits, biased so that the order of
signed integers is the order of the text. NumPy and torch both sort signed 64-bit integers.

The ids a table holds, in memory: 16 bytes each, asked for thousands at a time.

Ids are kept as two 64-bit halves in sorted runs whose sizes at least halve from one to the next,
so adding a batch costs a small merge now and then and asking costs a few binary searches.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

ID_DIGITS = 32
_BIAS = np.uint64(1 << 63)


def keys_of(ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """The keys of an Arrow string array of ids, (n, 2) int64.

    Raises:
        ValueError: an id is null or is not 32 hexadecimal digits.
    """
    column = pa.chunked_array([ids]) if isinstance(ids, pa.Array) else ids
    parts = [_keys_of_chunk(chunk) for chunk in column.cast(pa.string()).chunks]
    return np.concatenate(parts) if parts else np.empty((0, 2), np.int64)


def _keys_of_chunk(ids: pa.Array) -> np.ndarray:
    count = len(ids)
    if not count:
        return np.empty((0, 2), np.int64)
    _, offsets, text = ids.buffers()
    ends = np.frombuffer(offsets, np.int32, count + 1, ids.offset * 4)
    if ids.null_count or not (np.diff(ends) == ID_DIGITS).all():
        raise ValueError(f"a row id is not {ID_DIGITS} hexadecimal digits")
    digits = memoryview(text)[int(ends[0]) : int(ends[-1])]
    words = np.frombuffer(binascii.unhexlify(digits), ">u8").astype(np.uint64)
    return (words ^ _BIAS).view(np.int64).reshape(count, 2)


def ids_of(keys: np.ndarray) -> list[str]:
    """The ids behind keys of shape (n, 2), in the same order."""
    text = words_of(keys).astype(">u8").tobytes().hex()
    return [text[at : at + ID_DIGITS] for at in range(0, len(text), ID_DIGITS)]


def words_of(keys: np.ndarray) -> np.ndarray:
    """Keys as the plain unsigned words of the ids, same shape, uint64."""
    return np.ascontiguousarray(keys).view(np.uint64) ^ _BIAS


def id_order(keys: np.ndarray) -> np.ndarray:
    """The order of the ids, (n,) int64, for keys (n, 2); equal keys in any order."""
    order = np.argsort(keys[:, 0])  # much faster than by two words, which are hardly ever needed
    high, low = keys[order, 0], keys[order, 1]
    if ((high[1:] == high[:-1]) & (low[1:] != low[:-1])).any():
        order = np.lexsort((keys[:, 1], keys[:, 0]))
    return order


def codes_of(keys: np.ndarray) -> tuple[np.ndarray, int]:
    """Small integers that are equal exactly where keys are, and how many distinct keys there are.

    Codes ascend with the id. Keys of shape (..., 2) give codes of shape (...,), int64.
    """
    flat = keys.reshape(-1, 2)
    order = id_order(flat)
    ordered = flat[order]
    fresh = np.ones(len(flat), bool)
    fresh[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    codes = np.empty(len(flat), np.int64)
    codes[order] = np.cumsum(fresh) - 1
    return codes.reshape(keys.shape[:-1]), int(fresh.sum())


class KeySet:
    """A fixed set of row keys with a fast membership test; 16 bytes a row."""

    def __init__(self, keys: np.ndarray) -> None:
        order = id_order(keys)
        self._high, self._low = keys[order, 0], keys[order, 1]
        # Ids whose upper halves agree stand side by side; in practice every run has length one.
        starts = np.flatnonzero(self._high[1:] != self._high[:-1]) + 1
        self._longest_run = int(np.diff(starts, prepend=0, append=len(keys)).max())

    def __len__(self) -> int:
        return len(self._high)

    def keys(self) -> np.ndarray:
        """All of them in the order of the ids, (n, 2) int64."""
        return np.stack([self._high, self._low], axis=1)

    def within(self, others: KeySet) -> KeySet:
        """Those that are in another set too."""
        keys = self.keys()
        return KeySet(keys[others.contains(keys)])

    def without(self, others: KeySet) -> KeySet:
        """Those that are not in another set."""
        keys = self.keys()
        return KeySet(keys[~others.contains(keys)])

    def contains(self, keys: np.ndarray) -> np.ndarray:
        """Which of the keys (n, 2) are in the set, (n,) bool."""
        found = np.zeros(len(keys), bool)
        order = np.argsort(keys[:, 0])  # neighbours are looked up in neighbouring memory
        first = np.empty(len(keys), np.int64)
        first[order] = np.searchsorted(self._high, keys[order, 0])
        for step in range(self._longest_run):
            at = np.minimum(first + step, len(self._high) - 1)
            found |= (self._high[at] == keys[:, 0]) & (self._low[at] == keys[:, 1])
        return found


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


def _in_run(run: Halves, halves: Halves) -> np.ndarray:
    high, low = run
    found = np.zeros(len(halves[0]), dtype=bool)
    if not len(high):
        return found
    at = np.searchsorted(high, halves[0], side="left")
    while True:  # ids that share their first half stand side by side: nearly always one round
        inside = np.minimum(at, len(high) - 1)
        same = (at < len(high)) & (high[inside] == halves[0])
        found |= same & (low[inside] == halves[1])
        if not (same & ~found).any():
            return found
        at = at + 1
