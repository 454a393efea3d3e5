"""Near-duplicates: a row whose vector is too close to that of an earlier pick is rejected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ...schemas.errors import UsageError
from ...schemas.ids import keys_of
from ...schemas.stored_vectors import vectors_of
from ..features import Feature

if TYPE_CHECKING:
    from ..snapshot import Snapshot

_BLOCK_ROWS = 256
_KEPT_ROWS = 8192
_ROWS_PER_TAKE = 1 << 13
_ROUNDING = 1e-6  # so that a threshold of 1 finds equal vectors

MOST_LISTED = 1000
"""Rejected rows that a coreset records one by one; the others are only counted."""


class Distinct:
    """Rejects a row of the ranking if one that was kept before it is too close.

    Spare rows are compared with chosen ones only: which spare rows will be chosen is not known yet.

    Args:
        snapshot: whose pool has the rows.
        feature: whose vectors are compared.
        threshold: cosine from which on two rows are too close.
        memory_limit: bytes that the vectors of the ranking may take.
    """

    judges_spares = True

    def __init__(
        self,
        snapshot: Snapshot,
        feature: Feature,
        threshold: float,
        memory_limit: int,
    ) -> None:
        self._snapshot = snapshot
        self._feature, self._threshold = feature, threshold - _ROUNDING
        self._memory_limit = memory_limit
        self._vectors: dict[str, np.ndarray | None] = {}
        self._rejected: dict[str, tuple[str, float]] = {}

    def rejected(self, ids: Sequence[str], chosen: int) -> np.ndarray:
        """Return the keys of rows that are too close to a chosen one, (n, 2) int64."""
        self._fetch([id for id in ids if id not in self._vectors])
        comparable = [id for id in ids if self._vectors[id] is not None]
        picked = set(ids[:chosen])
        close = self._walk(comparable, sum(id in picked for id in comparable))
        if picked.isdisjoint(close):
            return np.empty((0, 2), np.int64)
        self._rejected |= close
        return keys_of(pa.array(list(close), pa.string()))

    def account(self, ids: Sequence[str]) -> dict[str, Any]:
        """Return the rejected rows, and how many of `ids` have no vector, as JSON values."""
        listed = list(self._rejected.items())[:MOST_LISTED]
        return {
            "by": self._feature.name,
            "fingerprint": self._feature.recipe.fingerprint,
            "left_out": len(self._rejected),
            "not_compared": sum(self._vectors[id] is None for id in ids),
            "rows": [
                {"id": id, "like": like, "cosine": round(cosine, 6)}
                for id, (like, cosine) in listed
            ],
        }

    def _walk(self, ids: Sequence[str], chosen: int) -> dict[str, tuple[str, float]]:
        """Return the rows that are too close to an earlier one, with that one and the cosine."""
        kept = np.empty((chosen, self._feature.width), np.float32)
        names: list[str] = []
        close: dict[str, tuple[str, float]] = {}
        for start in range(0, len(ids), _BLOCK_ROWS):
            part = ids[start : start + _BLOCK_ROWS]
            block = np.stack([self._unit(id) for id in part])
            before = len(names)
            best, nearest = _nearest(block, kept[:before])
            within = block @ block.T
            fresh: list[int] = []
            for at, id in enumerate(part):
                cosine, like = best[at], nearest[at]
                if fresh and (own := within[at, fresh]).max() > cosine:
                    cosine, like = own.max(), before + int(own.argmax())
                if cosine >= self._threshold:
                    close[id] = names[like], float(cosine)
                elif start + at < chosen:
                    kept[len(names)] = block[at]
                    names.append(id)
                    fresh.append(at)
        return close

    def _unit(self, id: str) -> np.ndarray:
        vector = self._vectors[id]
        assert vector is not None, "rows without a vector are not compared"
        # Stored as float16, a unit vector's length is off by up to a thousandth.
        wide = vector.astype(np.float32)
        return wide / np.linalg.norm(wide)

    def _fetch(self, ids: Sequence[str]) -> None:
        width, column = self._feature.width, self._feature.column
        assert column is not None, "ConstrainedRanking refuses features without vectors"
        # Stored vectors are kept for later rounds, and those that pass as float32 beside them.
        if (len(self._vectors) + len(ids)) * width * 6 > self._memory_limit:
            raise UsageError(
                f"--distinct needs the vectors of {len(self._vectors) + len(ids):,} ranked rows in "
                "memory, which is above the limit. Ask for fewer rows, or raise the limit: --memory"
            )
        for start in range(0, len(ids), _ROWS_PER_TAKE):
            part = ids[start : start + _ROWS_PER_TAKE]
            vectors = self._snapshot.take(part, [column])[column].combine_chunks()
            present = np.asarray(vectors.is_valid())
            rows = iter(vectors_of(vectors).astype(np.float16))
            self._vectors |= {
                id: next(rows) if has_vector else None
                for id, has_vector in zip(part, present, strict=True)
            }


def _nearest(block: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The highest cosine of each row to those kept, and the place of that one; -1 for none."""
    best = np.full(len(block), -np.inf, np.float32)
    nearest = np.full(len(block), -1)
    for start in range(0, len(kept), _KEPT_ROWS):
        cosines = block @ kept[start : start + _KEPT_ROWS].T
        highest = cosines.max(axis=1)
        better = highest > best
        best[better] = highest[better]
        nearest[better] = start + cosines.argmax(axis=1)[better]
    return best, nearest
