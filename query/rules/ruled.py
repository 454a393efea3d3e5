"""A request's rules at work around its ranking, and the account of what they did."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...selectors.keys import KeySet, keys_of
from ..ranking import Picks
from .asked import as_recorded
from .examples import Example, examples_of
from .leakage import Leakage
from .rounds import RankRows, Rounds

if TYPE_CHECKING:
    import lance

    from ...store.store import Store
    from ..answer import Request


class Ruled:
    """The best rows that no rule objects to.

    Args:
        store: an open store.
        dataset: the pool at the version asked.
        request: whose rules they are.
        eligible: the rows that may be chosen; None for all.
        rank: the plain ranking.
    """

    def __init__(
        self,
        store: Store,
        dataset: lance.LanceDataset,
        request: Request,
        eligible: KeySet | None,
        rank: RankRows,
    ) -> None:
        self._asked = request.rules
        examples = guarded_by(store, request)
        self._leakage = Leakage(store, dataset, examples) if examples else None
        rules = [self._leakage] if self._leakage else []
        rows = dataset.count_rows() if eligible is None else len(eligible)

        def everyone() -> np.ndarray:
            return keys_of(dataset.to_table(columns=["id"])["id"])

        self._rounds = Rounds(rank, everyone, eligible, rows, rules)
        if self._leakage and self._asked.leakage == "full":
            self._rounds.leave(self._leakage.everywhere(eligible))

    @property
    def missing(self) -> int:
        """Eligible rows that could not be ranked for want of the feature."""
        return self._rounds.missing or 0

    def first(self, k: int) -> Picks:
        """The best `k` rows; fewer when they run out."""
        return self._rounds.first(k)

    def account(self) -> dict[str, Any]:
        """What was asked and what it left out, as JSON values."""
        account: dict[str, Any] = {"asked": as_recorded(self._asked)}
        if self._leakage:
            account["leakage"] = self._leakage.account()
        return account


def guarded_by(store: Store, request: Request) -> list[Example]:
    """The examples that a request's rows may not give away; none where leakage is allowed."""
    rules = request.rules
    if rules.leakage == "off":
        return []
    return examples_of(store, request.targets, request.targets_version, rules.evaluations)
