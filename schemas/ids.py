"""Row ids as two 64-bit words, so that millions of them are compared, sorted and searched fast.

A key is (high, low): the two halves of the 32 hexadecimal digits, biased so that the order of
signed integers is the order of the text. NumPy and torch both sort signed 64-bit integers. A set
of ids takes 16 bytes each: `IdSet` is fixed, `GrowingIdSet` takes more in.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

ID_DIGITS = 32
_BIAS = np.uint64(1 << 63)
_FIRST_ROOM = 1 << 16


Ids = list[str] | pa.Array | pa.ChunkedArray


def keys_of(ids: Ids) -> np.ndarray:
    """The keys of ids (texts, or an Arrow array of strings), (n, 2) int64.

    Raises:
        ValueError: an id is null or is not 32 hexadecimal digits.
    """
    column: Any = pa.array(ids, pa.string()) if isinstance(ids, list) else ids
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts = [_keys_of_chunk(chunk.cast(pa.string())) for chunk in chunks]
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
    text = unsigned_halves(keys).astype(">u8").tobytes().hex()
    return [text[at : at + ID_DIGITS] for at in range(0, len(text), ID_DIGITS)]


def unsigned_halves(keys: np.ndarray) -> np.ndarray:
    """Keys as the unsigned halves of the ids, same shape, uint64."""
    return np.ascontiguousarray(keys).view(np.uint64) ^ _BIAS


def id_order(keys: np.ndarray) -> np.ndarray:
    """The order of the ids, (n,) int64, for keys (n, 2); equal keys in any order."""
    order = np.argsort(keys[:, 0])  # much faster than by two words, which are hardly ever needed
    high = keys[order, 0]
    equal = np.flatnonzero(high[1:] == high[:-1])
    if (keys[order[equal], 1] != keys[order[equal + 1], 1]).any():
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


class IdSet:
    """A fixed set of row keys with a fast membership test."""

    def __init__(self, keys: np.ndarray) -> None:
        order = id_order(keys)
        self._high, self._low = keys[order, 0], keys[order, 1]
        # Ids whose upper halves agree stand side by side; in practice every run has length one.
        equal = np.flatnonzero(self._high[1:] == self._high[:-1])
        ends = np.flatnonzero(np.diff(equal, append=-1) != 1)
        self._longest_run = min(len(keys), 1) + int(np.diff(ends, prepend=-1).max(initial=0))

    def __len__(self) -> int:
        return len(self._high)

    def keys(self) -> np.ndarray:
        """All of them in the order of the ids, (n, 2) int64."""
        return np.stack([self._high, self._low], axis=1)

    def within(self, others: IdSet) -> IdSet:
        """Those that are in another set too."""
        keys = self.keys()
        return IdSet(keys[others.contains(keys)])

    def without(self, others: IdSet) -> IdSet:
        """Those that are not in another set."""
        keys = self.keys()
        return IdSet(keys[~others.contains(keys)])

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


class GrowingIdSet:
    """A set of ids that takes more in, a batch at a time.

    It is a list of fixed sets, each at most half as large as the one before: adding a batch costs a
    small merge now and then, and a membership test a few binary searches.
    """

    def __init__(self) -> None:
        self._parts: list[IdSet] = []

    def add(self, ids: Ids) -> None:
        """Take ids in."""
        self._add(keys_of(ids))

    def _add(self, keys: np.ndarray) -> None:
        while self._parts and len(self._parts[-1]) < 2 * len(keys):
            keys = np.concatenate([self._parts.pop().keys(), keys])
        self._parts.append(IdSet(keys))

    def copy(self) -> GrowingIdSet:
        """A set of the same ids, which takes no memory of its own until either takes more in."""
        other = GrowingIdSet()
        other._parts = list(self._parts)
        return other

    def add_all(self, parts: Iterable[pa.Array]) -> None:
        """Take in ids that come in parts, such as the batches of a table: sorted once."""
        keys, filled = np.empty((_FIRST_ROOM, 2), np.int64), 0  # what is not filled takes no memory
        for part in parts:
            own = keys_of(part)
            end = filled + len(own)
            if end > len(keys):
                more = np.empty((2 * end, 2), np.int64)
                more[:filled], keys = keys[:filled], more
            keys[filled:end] = own
            filled = end
        self._add(keys[:filled])

    def contains(self, ids: Ids) -> np.ndarray:
        """Which ids are in the set: (len(ids),) bool."""
        keys = keys_of(ids)
        found = np.zeros(len(keys), bool)
        for part in self._parts:
            found |= part.contains(keys)
        return found

    def __len__(self) -> int:
        """How many ids were added (one that was added twice counts twice)."""
        return sum(map(len, self._parts))
