"""Caps as a rule: once a corpus has its most rows, the rest of it leaves."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ...selectors.keys import KeySet, keys_of
from .corpora import keys_in

if TYPE_CHECKING:
    import lance

    from ...store.store import Store


class Caps:
    """Keeps, of a corpus that comes up too often, the rows that came first.

    All corpora that overflow in a ranking are closed at once, each with its first rows of that
    ranking: a pool of thousands of small corpora takes a few rounds, not thousands.

    Args:
        store: an open store.
        dataset: the pool at the version asked.
        limits: the most rows of each corpus.
        every: the most rows of every other corpus; None for no limit.
        free: corpora that `every` does not mean.
    """

    judges_spares = False

    def __init__(
        self,
        store: Store,
        dataset: lance.LanceDataset,
        limits: Mapping[str, int],
        every: int | None,
        free: Sequence[str],
    ) -> None:
        self._store, self._dataset = store, dataset
        self._limits, self._every, self._free = limits, every, free
        self._corpus_of: dict[str, str] = {}
        self._closed: dict[str, int] = {}

    def leaving(self, ids: Sequence[str], chosen: int) -> np.ndarray:
        """Keys of all rows of overflowing corpora except those kept, (n, 2) int64."""
        fresh = [each for each in ids[:chosen] if each not in self._corpus_of]
        corpora = self._store.take(fresh, ["corpus"], self._dataset.version)["corpus"].to_pylist()
        self._corpus_of |= zip(fresh, corpora, strict=True)
        found: dict[str, list[str]] = defaultdict(list)
        for each in ids[:chosen]:
            found[self._corpus_of[each]].append(each)
        closed = {
            corpus: limit
            for corpus, rows in found.items()
            if (limit := self._limit(corpus)) is not None and len(rows) > limit
        }
        if not closed:
            return np.empty((0, 2), np.int64)
        self._closed |= closed
        kept = [each for corpus, limit in closed.items() for each in found[corpus][:limit]]
        everything = keys_in(self._dataset, list(closed))
        return everything[~KeySet(keys_of(pa.array(kept, pa.string()))).contains(everything)]

    def account(self, ids: Sequence[str]) -> dict[str, Any]:
        """Which corpora met their cap with the rows chosen in the end, as JSON values.

        A budget in tokens ranks more rows than it takes: a corpus closed on the way may end below.
        """
        chosen = Counter(self._corpus_of[each] for each in ids)
        reached = {corpus: most for corpus, most in self._closed.items() if chosen[corpus] >= most}
        return {"reached": reached}

    def _limit(self, corpus: str) -> int | None:
        if corpus in self._limits:
            return self._limits[corpus]
        return None if corpus in self._free else self._every
