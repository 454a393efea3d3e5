"""The leakage guard as a rule: rows that give an example away leave, each with the reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ...selectors.keys import KeySet, keys_of
from .examples import Example, digest_of_examples
from .guard import LEAST, NGRAM, Guard, Leak
from .wording import counts_of, messages_of, wording_above

if TYPE_CHECKING:
    import lance

    from ...store.store import Store

MOST_LISTED = 1000
"""Rows left out that are listed one by one in what a coreset records; the rest is counted."""

_ROWS_PER_TAKE = 1 << 13


class Leakage:
    """Looks at the text of rows that come up, each once.

    Args:
        store: an open store.
        dataset: the pool at the version asked.
        examples: those guarded.
    """

    judges_spares = True

    def __init__(
        self, store: Store, dataset: lance.LanceDataset, examples: Sequence[Example]
    ) -> None:
        self._store, self._dataset = store, dataset
        self._examples = examples
        self._guard = Guard(examples)
        self._known: dict[str, Leak | None] = {}
        self._common: dict[str, bool] = {}  # run of words -> whether it is task wording
        self._most = wording_above(dataset.count_rows())
        self.left: dict[str, Leak] = {}

    def leaving(self, ids: Sequence[str], chosen: int) -> np.ndarray:
        """Keys of the rows that leak, (n, 2) int64; none as long as the chosen ones are clean."""
        fresh = [each for each in ids if each not in self._known]
        self._judge(self._texts(fresh))
        if not any(self._known[each] for each in ids[:chosen]):
            return np.empty((0, 2), np.int64)
        return self._leave({each: leak for each in ids if (leak := self._known[each])})

    def everywhere(self, eligible: KeySet | None) -> np.ndarray:
        """Keys of all eligible rows of the pool that leak, (n, 2) int64; reads all of its text."""
        rows = (row for batch in messages_of(self._dataset) for row in _allowed(batch, eligible))
        self._judge(rows, keep_clean=False)
        return self._leave({id: leak for id, leak in self._known.items() if leak})

    def account(self, ids: Sequence[str]) -> dict[str, Any]:
        """What was found, whichever rows were chosen, as JSON values."""
        return {
            "ngram": NGRAM,
            "least": LEAST,
            "examples": len(self._examples),
            "digest": digest_of_examples(self._examples),
            "left_out": len(self.left),
            "how": dict(Counter(leak.how for leak in self.left.values())),
            "rows": [vars(leak) for leak in list(self.left.values())[:MOST_LISTED]],
        }

    def _leave(self, leaks: dict[str, Leak]) -> np.ndarray:
        self.left |= leaks
        return keys_of(pa.array(list(leaks), pa.string()))

    def _texts(self, ids: Sequence[str]) -> Iterator[tuple[str, Sequence[Mapping[str, Any]]]]:
        version = self._dataset.version
        for start in range(0, len(ids), _ROWS_PER_TAKE):
            part = ids[start : start + _ROWS_PER_TAKE]
            table = self._store.take(part, ["messages"], version)
            yield from zip(part, table["messages"].to_pylist(), strict=True)

    def _judge(
        self, rows: Iterator[tuple[str, Sequence[Mapping[str, Any]]]], keep_clean: bool = True
    ) -> None:
        shared: dict[str, list[str]] = {}
        for id, messages in rows:
            found = self._guard.look(id, messages)
            if isinstance(found, list):
                shared[id] = found
            elif found or keep_clean:
                self._known[id] = found
        # One rare run convicts a row, and the longest is likely to be rare.
        self._count({max(grams, key=len) for grams in shared.values()})
        self._count({gram for grams in shared.values() if not self._rare(grams) for gram in grams})
        for id, grams in shared.items():
            rare = self._rare(grams)
            self._known[id] = self._guard.shares(id, rare) if rare else None

    def _rare(self, grams: Sequence[str]) -> str | None:
        return next((gram for gram in grams if self._common.get(gram) is False), None)

    def _count(self, grams: set[str]) -> None:
        unknown = grams - self._common.keys()
        if unknown:
            counts = counts_of(self._dataset, unknown, NGRAM)
            self._common |= {gram: count > self._most for gram, count in counts.items()}


def _allowed(
    batch: pa.RecordBatch, eligible: KeySet | None
) -> Iterator[tuple[str, Sequence[Mapping[str, Any]]]]:
    if eligible is not None:
        batch = batch.filter(pa.array(eligible.contains(keys_of(batch.column("id")))))
    return zip(batch.column("id").to_pylist(), batch.column("messages").to_pylist(), strict=True)
