"""How many of a target's units a row holds, as one more similarity that can be reduced.

That is what the row would add to an empty selection under `coverage(weights=target)`: every unit of
the target is worth 1 to the first row that holds it, and no other unit is worth anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...selectors.keys import KeySet
from ...selectors.needs import Lists
from .eligible_rows import Scanned
from .reducers import Block, Reducer
from .set_scan import scan_sets

if TYPE_CHECKING:
    import lance


def scan_overlap(
    dataset: lance.LanceDataset,
    column: str,
    units: np.ndarray,
    reducers: Sequence[Reducer],
    eligible: KeySet | None = None,
) -> Scanned:
    """Feed the overlap of every (eligible) row that has a set to the reducers.

    Args:
        dataset: with an `id` column and `column`, lists of int32, at the version to read.
        column: whose sets are held against the units.
        units: of the target's examples, (n,) int64, distinct.
        reducers: they get similarities (1, n) float32, whole numbers.
        eligible: rows that may be chosen; None for all.
    """
    return scan_sets(dataset, column, [_Overlap(units, reducers)], eligible)


class _Overlap:
    """Turns blocks of sets into blocks of similarities and hands them on."""

    def __init__(self, units: np.ndarray, inner: Sequence[Reducer]) -> None:
        self._inner = inner
        self._wanted = np.zeros(int(units.max(initial=-1)) + 2, bool)
        self._wanted[units] = True

    def feed(self, block: Block) -> None:
        import torch

        assert block.sets is not None
        units = block.sets.flatten().to_numpy()
        hits = self._wanted[np.minimum(units, len(self._wanted) - 1)]  # the last one is nobody's
        ends = np.cumsum(block.sets.value_lengths().to_numpy())
        until = np.concatenate([[0], np.cumsum(hits)])[ends]
        overlap = np.diff(until, prepend=0).astype(np.float32)
        for reducer in self._inner:
            reducer.feed(Block(block.keys, torch.from_numpy(overlap)[None]))

    def held_elements(self) -> int:
        return len(self._wanted)

    def result(self) -> Lists:
        """Nothing of its own."""
        return Lists(np.empty((0, 0, 2), np.int64))
