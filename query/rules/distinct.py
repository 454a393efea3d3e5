"""Near-duplicate suppression as a rule: a row too close to one before it leaves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ...schemas.errors import UsageError
from ...schemas.ids import keys_of
from ..features import Feature

if TYPE_CHECKING:
    import lance

    from ...store.store import Store

_BLOCK_ROWS = 256
_KEPT_ROWS = 8192
_ROWS_PER_TAKE = 1 << 13
_ROUNDING = 1e-6  # so that a threshold of 1 finds equal vectors

MOST_LISTED = 1000
"""Rows left out that are listed one by one in what a coreset records; the rest is counted."""


class Distinct:
    """Walks the ranking and lets a row pass if no row that passed before is as close.

    Spare rows are held against chosen ones only: which spare rows will be chosen is not known yet.

    Args:
        store: an open store.
        dataset: the pool at the version asked.
        feature: whose vectors are compared.
        threshold: cosine from which on two rows are too close.
        memory_limit: bytes that the vectors of the ranking may take.
    """

    judges_spares = True

    def __init__(
        self,
        store: Store,
        dataset: lance.LanceDataset,
        feature: Feature,
        threshold: float,
        memory_limit: int,
    ) -> None:
        self._store, self._dataset = store, dataset
        self._feature, self._threshold = feature, threshold - _ROUNDING
        self._memory_limit = memory_limit
        self._vectors: dict[str, np.ndarray | None] = {}
        self._left: dict[str, tuple[str, float]] = {}

    def rejected(self, ids: Sequence[str], chosen: int) -> np.ndarray:
        """Keys of rows that are too close to a chosen one, (n, 2) int64."""
        self._fetch([each for each in ids if each not in self._vectors])
        seen = [each for each in ids if self._vectors[each] is not None]
        picked = set(ids[:chosen])
        within = sum(each in picked for each in seen)
        close = self._walk(seen, within)
        if not any(each in picked for each in close):
            return np.empty((0, 2), np.int64)
        self._left |= close
        return keys_of(pa.array(list(close), pa.string()))

    def account(self, ids: Sequence[str]) -> dict[str, Any]:
        """What was found, and which of the rows chosen in the end not, as JSON values."""
        listed = list(self._left.items())[:MOST_LISTED]
        return {
            "by": self._feature.name,
            "fingerprint": self._feature.recipe.fingerprint,
            "left_out": len(self._left),
            "not_compared": sum(self._vectors[each] is None for each in ids),
            "rows": [
                {"id": id, "like": like, "cosine": round(cosine, 6)}
                for id, (like, cosine) in listed
            ],
        }

    def _walk(self, ids: Sequence[str], chosen: int) -> dict[str, tuple[str, float]]:
        """Rows that are too close to an earlier one, with that one and the cosine."""
        kept = np.empty((chosen, self._feature.width), np.float32)
        names: list[str] = []
        close: dict[str, tuple[str, float]] = {}
        for start in range(0, len(ids), _BLOCK_ROWS):
            part = ids[start : start + _BLOCK_ROWS]
            block = np.stack([self._unit(each) for each in part])
            before = len(names)
            best, nearest = _nearest(block, kept[:before])
            suggest = block @ block.T
            fresh: list[int] = []
            for at, each in enumerate(part):
                cosine, like = best[at], nearest[at]
                if fresh and (own := suggest[at, fresh]).max() > cosine:
                    cosine, like = own.max(), before + int(own.argmax())
                if cosine >= self._threshold:
                    close[each] = names[like], float(cosine)
                elif start + at < chosen:
                    kept[len(names)] = block[at]
                    names.append(each)
                    fresh.append(at)
        return close

    def _unit(self, id: str) -> np.ndarray:
        vector = self._vectors[id]
        assert vector is not None, "rows without a vector are not walked over"
        # Stored as float16, a unit vector's length is off by up to a thousandth.
        wide = vector.astype(np.float32)
        return wide / np.linalg.norm(wide)

    def _fetch(self, ids: Sequence[str]) -> None:
        width, column = self._feature.width, self._feature.column
        assert column is not None, "refused otherwise"
        # Stored vectors are kept for later rounds, and those that pass as float32 beside them.
        if (len(self._vectors) + len(ids)) * width * 6 > self._memory_limit:
            raise UsageError(
                f"--distinct holds the vectors of {len(self._vectors) + len(ids):,} ranked rows, "
                "which is above the limit of memory. Ask for fewer rows, or raise the limit"
            )
        for start in range(0, len(ids), _ROWS_PER_TAKE):
            part = ids[start : start + _ROWS_PER_TAKE]
            found = self._store.take(part, [column], self._dataset.version)[column]
            vectors = found.combine_chunks()
            present = np.asarray(vectors.is_valid())
            rows = iter(np.array(vectors.flatten()).reshape(-1, width))
            self._vectors |= {
                each: next(rows) if there else None
                for each, there in zip(part, present, strict=True)
            }


def _nearest(block: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Highest cosine of each row to those kept, and which one that is; -1 where there are none."""
    best = np.full(len(block), -np.inf, np.float32)
    nearest = np.full(len(block), -1)
    for start in range(0, len(kept), _KEPT_ROWS):
        cosines = block @ kept[start : start + _KEPT_ROWS].T
        highest = cosines.max(axis=1)
        better = highest > best
        best[better] = highest[better]
        nearest[better] = start + cosines.argmax(axis=1)[better]
    return best, nearest
