"""One loop for all rules: rank, leave out what a rule objects to, rank again until none does.

So a selection is exactly the plain selection from the pool less the rows left out: round-robin
gives every example its equal share, greedy stays greedy. Rules that judge a row by itself or by
those before it look at spare rows beyond the budget as well, more of them the more was left out,
so that few rounds are needed; every round takes at least one row away, so it ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from ...selectors.keys import KeySet
from ..ranking import Picks
from ..scan import Scanned

_SPARE = 16
_SPARE_SHARE = 8  # one spare row for so many chosen ones

RankRows = Callable[[int, int, int, KeySet | None], tuple[Picks, Scanned]]
"""rank(k, spare, rows, eligible): k rows and up to `spare` more, of the `rows` eligible ones."""


class Rule(Protocol):
    """Looks at ranked rows (with `judges_spares` also beyond the budget): which must leave?"""

    judges_spares: bool

    def leaving(self, ids: Sequence[str], chosen: int) -> np.ndarray:
        """Keys (n, 2) int64 of rows that must leave before the first `chosen` ids are right."""
        ...


class Rounds:
    """A ranking under rules; what left for one length stays out for the next.

    Args:
        rank: the plain ranking.
        everyone: keys of all rows of the pool, (N, 2) int64; called once a row must leave.
        eligible: the rows that may be chosen; None for all.
        rows: how many these are.
        rules: in the order in which they are heard; the next one only if the one before is silent.
    """

    def __init__(
        self,
        rank: RankRows,
        everyone: Callable[[], np.ndarray],
        eligible: KeySet | None,
        rows: int,
        rules: Sequence[Rule],
    ) -> None:
        self._rank, self._everyone, self._rules = rank, everyone, rules
        self._eligible, self._rows = eligible, rows
        self._left = 0
        self.missing: int | None = None

    def leave(self, keys: np.ndarray) -> None:
        """Take rows out of the eligible ones."""
        if len(keys):
            among = KeySet(self._everyone()) if self._eligible is None else self._eligible
            self._eligible = among.without(KeySet(keys))
            self._rows = len(self._eligible)

    def first(self, k: int) -> Picks:
        """The best `k` rows that no rule objects to; fewer when they run out."""
        spares = any(rule.judges_spares for rule in self._rules)
        while True:
            wanted = min(k, self._rows)
            spare = max(_SPARE, wanted // _SPARE_SHARE, 2 * self._left) if spares else 0
            picks, seen = self._rank(
                wanted, min(spare, self._rows - wanted), self._rows, self._eligible
            )
            if self.missing is None:
                self.missing = seen.missing
            leaving = np.empty((0, 2), np.int64)
            for rule in self._rules:
                leaving = rule.leaving(picks.ids, min(wanted, len(picks.ids)))
                if len(leaving):
                    self._left += len(leaving) if rule.judges_spares else 0
                    break
            if not len(leaving):
                return picks.first(wanted)
            self.leave(leaving)
