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

from ..ranking import Picks
from .parts import Part, interleaved

_SPARE = 16
_SPARE_SHARE = 8  # one spare row for so many chosen ones


class Rule(Protocol):
    """Looks at ranked rows (with `judges_spares` also beyond the budget): which must leave?"""

    judges_spares: bool

    def leaving(self, ids: Sequence[str], chosen: int) -> np.ndarray:
        """Keys (n, 2) int64 of rows that must leave before the first `chosen` ids are right."""
        ...


class Rounds:
    """A ranking under rules; what left for one length stays out for the next.

    Args:
        parts: see there.
        everyone: keys of all rows of the pool, (N, 2) int64; called once a row must leave.
        rules: in the order in which they are heard; the next one only if the one before is silent.
    """

    def __init__(
        self, parts: Sequence[Part], everyone: Callable[[], np.ndarray], rules: Sequence[Rule]
    ) -> None:
        self._parts, self._everyone, self._rules = parts, everyone, rules
        self._left = 0

    def leave(self, keys: np.ndarray) -> None:
        """Take rows out of the eligible ones."""
        if len(keys):
            for part in self._parts:
                part.leave(keys, self._everyone)

    def first(self, k: int) -> Picks:
        """The best `k` rows that no rule objects to; fewer when they run out."""
        spares = any(rule.judges_spares for rule in self._rules)
        while True:
            spare = max(_SPARE, k // _SPARE_SHARE, 2 * self._left) if spares else 0
            picks, chosen = interleaved([part.ranked(k, spare) for part in self._parts])
            for rule in self._rules:
                leaving = rule.leaving(picks.ids, chosen)
                if len(leaving):
                    self._left += len(leaving) if rule.judges_spares else 0
                    self.leave(leaving)
                    break
            else:
                return picks.first(chosen)
