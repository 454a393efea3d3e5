"""Which row of the pool a row of a file is about: by id, by the source's own id, or by content.

A key has 128 bits, as row ids have: an id itself, the id of a conversation, or a digest of a
source's own id, which the table `sources` turns into row ids.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa

from ...schemas.canonical import DIGEST_BYTES
from ...schemas.errors import UsageError, suggest
from ...schemas.ids import id_order, ids_of, keys_of
from ...schemas.plain_text import count_of
from ...schemas.tables import literal

if TYPE_CHECKING:
    from ...store.store import Store

KeyKind = Literal["id", "source_id", "messages"]
KINDS: tuple[KeyKind, ...] = ("id", "source_id", "messages")

Keys = np.ndarray
"""(n, 2) int64, see schemas/ids.py."""


def digests_of(source_ids: Iterable[str]) -> Keys:
    """The keys of sources' own ids."""
    texts = [hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES) for text in source_ids]
    return keys_of([digest.hexdigest() for digest in texts])


@dataclass(frozen=True)
class Entries:
    """Keys, each with the number of the file's row that it stands for: (n, 2) and (n,) int64."""

    keys: Keys
    rows: np.ndarray

    @classmethod
    def of(cls, keys: Sequence[Keys], rows: Sequence[np.ndarray]) -> Entries:
        """The entries of several parts, in the order of the keys."""
        every = np.concatenate([np.empty((0, 2), np.int64), *keys])
        numbers = np.concatenate([np.empty(0, np.int64), *rows])
        order = id_order(every)
        return cls(every[order], numbers[order])

    def __len__(self) -> int:
        return len(self.rows)

    def repeated(self) -> Iterator[np.ndarray]:
        """The rows of each key that several rows have."""
        starts, stops = _runs(self.keys)
        several = stops - starts > 1
        for start, stop in zip(starts[several].tolist(), stops[several].tolist(), strict=True):
            rows = np.unique(self.rows[start:stop])
            if len(rows) > 1:
                yield rows

    def first_of_each(self) -> Entries:
        """One entry for each key: that of the first row."""
        starts, _ = _runs(self.keys)
        if len(starts) == len(self.rows):
            return self
        return Entries(self.keys[starts], np.minimum.reduceat(self.rows, starts))

    def find(self, keys: Keys) -> np.ndarray:
        """Where each key stands among the entries (distinct keys), (len(keys),) int64; else -1."""
        if not len(self):
            return np.full(len(keys), -1, np.int64)
        at = np.searchsorted(self._halves, _halves(keys))
        at = np.minimum(at, len(self) - 1)
        return np.where((self.keys[at] == keys).all(axis=1), at, -1)

    @property
    def _halves(self) -> np.ndarray:
        return _halves(self.keys)


def _halves(keys: Keys) -> np.ndarray:
    """Keys as one sortable value each."""
    words = np.ascontiguousarray(keys)
    return words.view([("high", np.int64), ("low", np.int64)]).reshape(-1)


def _runs(keys: Keys) -> tuple[np.ndarray, np.ndarray]:
    """Where each run of equal keys begins and ends, (runs,) int64 each."""
    new = np.ones(len(keys), bool)
    new[1:] = (keys[1:] != keys[:-1]).any(axis=1)
    starts = np.flatnonzero(new)
    return starts, np.append(starts, len(keys))[1:]


def rows_with(store: Store, of_sources: Entries, corpus: str | None) -> Entries:
    """The row ids behind sources' own ids, each with the file's row; reads the table `sources`.

    Args:
        of_sources: entries by `digests_of`, one for each key.
        corpus: only ids of this corpus count; None for all.

    Raises:
        UsageError: there is no such corpus, or an id stands for rows of several records.
    """
    sources = store.dataset("sources")
    if corpus is not None:
        _check_corpus(store, corpus)
    scanner = sources.scanner(
        columns=["id", "corpus", "file", "line", "source_id"],
        filter="source_id IS NOT NULL" + (f" AND corpus = {literal(corpus)}" if corpus else ""),
    )
    entries, ids, places = [np.empty(0, np.int64)], [np.empty((0, 2), np.int64)], [np.empty(0, int)]
    for batch in scanner.to_batches():
        at = of_sources.find(digests_of(batch["source_id"].to_pylist()))
        here = batch.filter(pa.array(at >= 0))
        entries.append(at[at >= 0])
        ids.append(keys_of(here["id"]))
        records = zip(*(here[name].to_pylist() for name in ("corpus", "file", "line")), strict=True)
        places.append(np.fromiter(map(hash, records), np.int64))
    entry, keys, place = map(np.concatenate, (entries, ids, places))
    order = np.argsort(entry, kind="stable")
    entry, keys, place = entry[order], keys[order], place[order]
    _refuse_ambiguous(store, corpus, entry, keys, place)
    return Entries.of([keys], [of_sources.rows[entry]])


def _check_corpus(store: Store, corpus: str) -> None:
    sources = store.dataset("sources")
    if sources.count_rows(filter=f"corpus = {literal(corpus)}"):
        return
    known = sources.to_table(columns=["corpus"])["corpus"].unique().to_pylist()
    named = suggest(corpus, known, f"coresetdb status {store.typed}")
    raise UsageError(f"--corpus {corpus}: {store.uri} has no such corpus; corpora: {named}")


def _refuse_ambiguous(
    store: Store, corpus: str | None, entry: np.ndarray, keys: Keys, place: np.ndarray
) -> None:
    """Refuse ids of several rows, unless one record of a file held them all."""
    starts, stops = _runs(entry[:, None])
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        row_keys, records = keys[start:stop], place[start:stop]
        if len(row_keys) == 1 or (row_keys == row_keys[0]).all():
            continue
        largest = max(
            len(np.unique(row_keys[records == record], axis=0)) for record in set(records)
        )
        if largest < len(np.unique(row_keys, axis=0)):
            raise UsageError(_ambiguous(store, corpus, ids_of(np.unique(row_keys, axis=0))))


def _ambiguous(store: Store, corpus: str | None, ids: list[str]) -> str:
    some = ", ".join(map(literal, ids[:4]))
    seen = store.dataset("sources").to_table(
        columns=["corpus", "file", "line", "source_id"],
        filter=f"id IN ({some}) AND source_id IS NOT NULL"
        + (f" AND corpus = {literal(corpus)}" if corpus else ""),
    )
    rows = seen.to_pylist()
    counted = Counter(row["source_id"] for row in rows)
    common = counted.most_common(1)[0][0]
    rows = [row for row in rows if row["source_id"] == common]
    where = ", ".join(f"{row['file']}:{row['line']}" for row in rows[:3])
    corpora = sorted({row["corpus"] for row in rows})
    advice = "join by --key id or --key messages"
    if len(corpora) > 1:
        advice = f"name one of the corpora with --corpus ({', '.join(corpora[:5])})"
    return (
        f"the source's id {common!r} stands for {count_of(len(ids), 'row')} of the pool ({where}), "
        f"so it is not clear which is meant: {advice}"
    )
