"""A request's rules at work around its ranking, and the account of what they did.

One loop for all rules: rank, leave out what a rule objects to, rank again until none does.

So a selection is exactly the plain selection from the pool less the rows left out: round-robin
gives every example its equal share, greedy stays greedy. Rules that judge a row by itself or by
those before it look at spare rows beyond the budget as well, more of them the more was left out,
so that few rounds are needed; every round takes at least one row away, so it ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ...schemas.errors import UsageError
from ...schemas.ids import IdSet, keys_of
from ..features import Feature, feature_named, features_of
from ..ranking import Picks
from .distinct import Distinct
from .examples import Example, examples_of
from .leakage import Leakage
from .quotas import Caps, RankRows, Stratum, check_known, interleaved, keys_in
from .rules import Rules, as_recorded

if TYPE_CHECKING:
    import lance

    from ...store.store import Store
    from ..request import Request


_SPARE = 16
_SPARE_SHARE = 8  # one spare row for so many chosen ones


class Rule(Protocol):
    """Looks at ranked rows (with `judges_spares` also beyond the budget): which must leave?"""

    judges_spares: bool

    def rejected(self, ids: Sequence[str], chosen: int) -> np.ndarray:
        """Keys (n, 2) int64 of rows that must leave before the first `chosen` ids are right."""
        ...


class RuleLoop:
    """A ranking under rules; what left for one length stays out for the next.

    Args:
        parts: see there.
        everyone: keys of all rows of the pool, (N, 2) int64; called once a row must leave.
        rules: in the order in which they are heard; the next one only if the one before is silent.
    """

    def __init__(
        self, parts: Sequence[Stratum], everyone: Callable[[], np.ndarray], rules: Sequence[Rule]
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
                rejected = rule.rejected(picks.ids, chosen)
                if len(rejected):
                    self._left += len(rejected) if rule.judges_spares else 0
                    self.leave(rejected)
                    break
            else:
                return picks.first(chosen)


class ConstrainedRanking:
    """The best rows that no rule objects to.

    Args:
        store: an open store.
        request: whose rules they are.
        k: rows of the budget; None for a budget in tokens.
        eligible: the rows that may be chosen; None for all.
        rank: the plain ranking.
        feature: what the method compares rows by; None for nothing.
        memory_limit: bytes the selection may plan for.

    Raises:
        UsageError: rules that this pool, budget or method cannot keep.
    """

    def __init__(
        self,
        store: Store,
        request: Request,
        k: int | None,
        eligible: IdSet | None,
        rank: RankRows,
        feature: Feature | None,
        memory_limit: int,
    ) -> None:
        asked, dataset = request.rules, store.dataset("pool", request.pool_version)
        check_known("quota", asked.quotas, dataset)
        check_known("cap", asked.caps, dataset)
        self._asked = asked
        self._quotas = _quotas(asked, k)
        self._heard: dict[str, Leakage | Distinct | Caps] = {}
        examples = guarded_by(store, request)
        if examples:
            self._heard["leakage"] = Leakage(store, dataset, examples)
        if asked.distinct is not None:
            by = _vectors(store, request, feature)
            self._heard["distinct"] = Distinct(store, dataset, by, asked.distinct, memory_limit)
        if asked.caps:
            limits = {cap.corpus: cap.rows(k) for cap in asked.caps}
            every = limits.pop(None, None)
            named = {corpus: most for corpus, most in limits.items() if corpus is not None}
            self._heard["cap"] = Caps(store, dataset, named, every, list(self._quotas))
        self._parts = _parts(dataset, eligible, rank, self._quotas)

        def everyone() -> np.ndarray:
            return keys_of(dataset.to_table(columns=["id"])["id"])

        rules: list[Rule] = list(self._heard.values())
        self._rounds = RuleLoop(list(self._parts.values()), everyone, rules)
        if examples and asked.leakage == "full":
            guard = self._heard["leakage"]
            assert isinstance(guard, Leakage)
            self._rounds.leave(guard.everywhere(eligible))

    @property
    def missing(self) -> int:
        """Eligible rows that could not be ranked for want of the feature."""
        return sum(part.missing or 0 for part in self._parts.values())

    def first(self, k: int) -> Picks:
        """The best `k` rows; fewer when they run out."""
        return self._rounds.first(k)

    def account(self, ids: Sequence[str]) -> dict[str, Any]:
        """What was asked and what it came to for the rows chosen in the end, as JSON values."""
        account: dict[str, Any] = {"asked": as_recorded(self._asked)}
        account |= {name: rule.account(ids) for name, rule in self._heard.items()}
        if self._quotas:
            account["quota"] = {
                corpus: {"rows": wanted, "chosen": self._parts[corpus].chosen}
                for corpus, wanted in self._quotas.items()
            }
        return account


def guarded_by(store: Store, request: Request) -> list[Example]:
    """The examples that a request's rows may not give away; none where leakage is allowed."""
    rules = request.rules
    if rules.leakage == "off":
        return []
    return examples_of(store, request.targets, request.targets_version, rules.evaluations)


def _quotas(rules: Rules, k: int | None) -> dict[str, int]:
    """Rows wanted of each corpus with a quota."""
    if not rules.quotas:
        return {}
    if k is None:
        raise UsageError("a quota is of rows: give the budget in rows or per cent")
    wanted = {quota.corpus: quota.rows(k) for quota in rules.quotas if quota.corpus is not None}
    if sum(wanted.values()) > k:
        listed = ", ".join(map(str, rules.quotas))
        raise UsageError(
            f"quotas {listed} come to {sum(wanted.values()):,} rows, and the budget is {k:,}"
        )
    return wanted


def _parts(
    dataset: lance.LanceDataset,
    eligible: IdSet | None,
    rank: RankRows,
    quotas: dict[str, int],
) -> dict[str | None, Stratum]:
    """A part for every corpus with a quota and, under None, one for all other corpora."""
    if not quotas:
        rows = dataset.count_rows() if eligible is None else len(eligible)
        return {None: Stratum(rank, eligible, rows, lambda k: k)}
    own = {corpus: IdSet(keys_in(dataset, [corpus])) for corpus in quotas}
    everyone = eligible
    if everyone is None:
        everyone = IdSet(keys_of(dataset.to_table(columns=["id"])["id"]))
    others = everyone.without(IdSet(np.concatenate([each.keys() for each in own.values()])))
    found: dict[str | None, Stratum] = {
        corpus: Stratum(rank, both, len(both), partial(_exactly, quotas[corpus]))
        for corpus, keys in own.items()
        for both in [everyone.within(keys)]
    }
    rest = sum(quotas.values())
    found[None] = Stratum(rank, others, len(others), lambda k: k - rest)
    return found


def _exactly(rows: int, k: int) -> int:
    return rows


def _vectors(store: Store, request: Request, feature: Feature | None) -> Feature:
    """The feature whose vectors tell near-duplicates."""
    by, version = request.rules.distinct_by, request.pool_version
    chosen = feature_named(store, by, version) if by is not None else feature
    if chosen is None or chosen.column is None:
        there = [name for name, each in features_of(store, version).items() if each.column]
        what = "a method that compares nothing" if chosen is None else chosen.name
        raise UsageError(
            f"distinct needs vectors, and {what} has none: --distinct-by one of "
            f"{', '.join(there) or 'none that this store has'}"
        )
    return chosen
