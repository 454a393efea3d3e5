"""The parts of a selection: a corpus with a quota has its own ranking, and all others share one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain

import numpy as np

from ...selectors.keys import KeySet
from ..ranking import Picks
from ..scanning.scan import Scanned

RankRows = Callable[[int, int, int, KeySet | None], tuple[Picks, Scanned]]
"""rank(k, spare, rows, eligible): k rows and up to `spare` more, of the `rows` eligible ones."""


class Part:
    """Rows that are ranked among themselves, and how many of them are wanted.

    Args:
        rank: the plain ranking.
        eligible: the rows that may be chosen; None for the whole pool.
        rows: how many these are.
        share: rows wanted of it, by the rows wanted in all.
    """

    def __init__(
        self, rank: RankRows, eligible: KeySet | None, rows: int, share: Callable[[int], int]
    ) -> None:
        self._rank, self._eligible, self.rows, self.share = rank, eligible, rows, share
        self._ranked: tuple[int, int, Picks] | None = None
        self.missing: int | None = None
        self.chosen = 0

    def leave(self, keys: np.ndarray, everyone: Callable[[], np.ndarray]) -> None:
        """Take rows out; `everyone` gives the keys of all rows of the pool, (N, 2) int64."""
        among = KeySet(everyone()) if self._eligible is None else self._eligible
        left = among.without(KeySet(keys))
        if len(left) < self.rows:
            self._eligible, self.rows, self._ranked = left, len(left), None

    def ranked(self, k: int, spare: int) -> tuple[Picks, int]:
        """Its share of `k` rows, spare rows after them, and how many are the share.

        What was ranked before is used again as long as no row left.
        """
        wanted = min(self.share(k), self.rows)
        if not wanted:
            return Picks([], [], [], []), 0
        spare = min(spare, self.rows - wanted)
        if self._ranked is None or self._ranked[0] != wanted or self._ranked[1] < spare:
            picks, seen = self._rank(wanted, spare, self.rows, self._eligible)
            self._ranked = wanted, spare, picks
            if self.missing is None:
                self.missing = seen.missing
        picks = self._ranked[2]
        self.chosen = min(wanted, len(picks.ids))
        return picks, self.chosen


def interleaved(parts: Sequence[tuple[Picks, int]]) -> tuple[Picks, int]:
    """Parts as one ranking in which every beginning holds them in proportion, then their spares.

    Returns:
        All rows, and how many of them are shares.
    """
    if len(parts) == 1:
        return parts[0]
    # Row i of a share of n stands where (i + 1/2) / n of the whole is reached; ties by part.
    places = [
        (np.arange(len(picks.ids)) + 0.5) / count if count else np.full(len(picks.ids), np.inf)
        for picks, count in parts
    ]
    numbers = np.repeat(np.arange(len(parts)), [len(each) for each in places])
    order = np.lexsort((numbers, np.concatenate(places))).tolist()

    def merged(name: str) -> list:
        values = [*chain.from_iterable(getattr(picks, name) for picks, _ in parts)]
        return [values[at] for at in order]

    notes = dict.fromkeys(chain.from_iterable(picks.notes for picks, _ in parts))
    whole = Picks(
        merged("ids"), merged("scores"), merged("targets"), merged("queries"), tuple(notes)
    )
    return whole, sum(count for _, count in parts)
