"""A ranking under rules, and the account of what the rules did.

One loop for all rules: rank, leave out the rows that a rule rejects, and rank again until none is.

So a selection is exactly the selection without rules from the pool less the rows left out:
round-robin gives every example its equal share, greedy stays greedy. Rules that judge a row by
itself or by those before it look at spare rows beyond the budget as well, at more of them the more
rows were rejected, so that few rounds are needed; every round rejects at least one row, so it ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ...schemas.errors import UsageError
from ...schemas.ids import IdSet
from ...store.rows import row_keys
from ..features import Feature
from ..ranking import Picks
from .distinct import Distinct
from .examples import GuardedExample, examples_of
from .leakage import Leakage
from .quotas import (
    Caps,
    RankRows,
    Stratum,
    check_column,
    check_known,
    interleaved,
    keys_in,
)
from .rules import Rules, rules_to_json

if TYPE_CHECKING:
    import lance

    from ..snapshot import Snapshot


_SPARE = 16
_SPARE_SHARE = 8  # one spare row for so many chosen ones


class Rule(Protocol):
    """Rejects ranked rows; with `judges_spares` also those beyond the budget."""

    judges_spares: bool

    def rejected(self, ids: Sequence[str], chosen: int) -> np.ndarray:
        """Return keys (n, 2) int64 of rejected rows; none if the first `chosen` ids are right."""
        ...

    def account(self, ids: Sequence[str]) -> dict[str, Any]:
        """Return what the rule did, for these rows chosen in the end, as JSON values."""
        ...


class RuleLoop:
    """Ranks until no rule rejects a row; rows rejected for one length stay out for the next.

    Args:
        strata: that are ranked.
        everyone: returns keys of all rows of the pool, (N, 2) int64; called once a row is rejected.
        rules: in order; a rule is applied only if those before it reject nothing.
    """

    def __init__(
        self, strata: Sequence[Stratum], everyone: Callable[[], np.ndarray], rules: Sequence[Rule]
    ) -> None:
        self._strata, self._everyone, self._rules = strata, everyone, rules
        self._rejected = 0

    def leave(self, keys: np.ndarray) -> None:
        """Take rows out of the eligible ones."""
        if len(keys):
            for stratum in self._strata:
                stratum.leave(keys, self._everyone)

    def first(self, k: int) -> Picks:
        """Return the best `k` rows that no rule rejects; fewer when they run out."""
        spares = any(rule.judges_spares for rule in self._rules)
        while True:
            spare = max(_SPARE, k // _SPARE_SHARE, 2 * self._rejected) if spares else 0
            picks, chosen = interleaved([stratum.ranked(k, spare) for stratum in self._strata])
            for rule in self._rules:
                rejected = rule.rejected(picks.ids, chosen)
                if len(rejected):
                    self._rejected += len(rejected) if rule.judges_spares else 0
                    self.leave(rejected)
                    break
            else:
                return picks.first(chosen)


class ConstrainedRanking:
    """The best rows that no rule rejects.

    Args:
        snapshot: whose pool is ranked.
        rules: to be kept.
        targets: whose examples must not leak.
        k: rows of the budget; None for a budget in tokens.
        eligible: the rows that may be chosen; None for all.
        rank: the ranking without rules.
        feature: that the method uses; None for none.
        memory_limit: bytes that the selection may plan for.

    Raises:
        UsageError: rules that this pool, budget or method cannot keep.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        rules: Rules,
        targets: Sequence[str],
        k: int | None,
        eligible: IdSet | None,
        rank: RankRows,
        feature: Feature | None,
        memory_limit: int,
    ) -> None:
        pool = snapshot.pool
        by = rules.quota_by
        check_column(pool, by)
        check_known("quota", rules.quotas, pool, by)
        check_known("cap", rules.caps, pool, by)
        self._recorded = rules_to_json(rules)
        self._quotas = _quotas(rules, k)
        self._applied: dict[str, Rule] = {}
        examples = guarded_by(snapshot, rules, targets)
        guard = Leakage(snapshot, examples, rules.guard) if examples else None
        if guard:
            self._applied["leakage"] = guard
        if rules.distinct is not None:
            compared = _compared_by(snapshot, rules, feature)
            self._applied["distinct"] = Distinct(snapshot, compared, rules.distinct, memory_limit)
        if rules.caps:
            limits = {cap.corpus: cap.rows(k) for cap in rules.caps}
            every = limits.pop(None, None)
            named = {corpus: most for corpus, most in limits.items() if corpus is not None}
            self._applied["cap"] = Caps(snapshot, named, every, list(self._quotas), by)
        self._strata = _strata(pool, eligible, rank, self._quotas, by)

        def everyone() -> np.ndarray:
            return row_keys(pool)

        self._loop = RuleLoop(list(self._strata.values()), everyone, list(self._applied.values()))
        if guard and rules.leakage == "full":
            self._loop.leave(guard.all_leaking_keys(eligible))

    @property
    def missing(self) -> int:
        """How many eligible rows could not be ranked because they lack the feature."""
        return sum(stratum.missing or 0 for stratum in self._strata.values())

    def first(self, k: int) -> Picks:
        """Return the best `k` rows; fewer when they run out."""
        return self._loop.first(k)

    def account(self, ids: Sequence[str]) -> dict[str, Any]:
        """Return the rules and what they did, for these rows chosen in the end, as JSON values."""
        account: dict[str, Any] = {"asked": self._recorded}
        account |= {name: rule.account(ids) for name, rule in self._applied.items()}
        if self._quotas:
            account["quota"] = {
                corpus: {"rows": rows, "chosen": self._strata[corpus].chosen}
                for corpus, rows in self._quotas.items()
            }
        return account


def guarded_by(snapshot: Snapshot, rules: Rules, targets: Sequence[str]) -> list[GuardedExample]:
    """Return the examples that must not leak; none where leakage is allowed."""
    if rules.leakage == "off":
        return []
    return examples_of(snapshot, targets, rules.evaluations)


def _quotas(rules: Rules, k: int | None) -> dict[str, int]:
    """Return how many rows each corpus with a quota has."""
    if not rules.quotas:
        return {}
    if k is None:
        raise UsageError("quotas are in rows: give the budget in rows or per cent")
    rows = {quota.corpus: quota.rows(k) for quota in rules.quotas if quota.corpus is not None}
    if sum(rows.values()) > k:
        listed = ", ".join(map(str, rules.quotas))
        raise UsageError(
            f"quotas {listed} add up to {sum(rows.values()):,} rows, and the budget is {k:,}"
        )
    return rows


def _strata(
    dataset: lance.LanceDataset,
    eligible: IdSet | None,
    rank: RankRows,
    quotas: dict[str, int],
    by: str,
) -> dict[str | None, Stratum]:
    """Return a stratum for every corpus with a quota and, under None, one for all others."""
    if not quotas:
        rows = dataset.count_rows() if eligible is None else len(eligible)
        return {None: Stratum(rank, eligible, rows, lambda k: k)}
    own = {corpus: IdSet(keys_in(dataset, [corpus], by)) for corpus in quotas}
    everyone = eligible
    if everyone is None:
        everyone = IdSet(row_keys(dataset))
    others = everyone.without(IdSet(np.concatenate([keys.keys() for keys in own.values()])))
    strata: dict[str | None, Stratum] = {
        corpus: Stratum(rank, both, len(both), partial(_exactly, quotas[corpus]))
        for corpus, keys in own.items()
        for both in [everyone.within(keys)]
    }
    rest = sum(quotas.values())
    strata[None] = Stratum(rank, others, len(others), lambda k: k - rest)
    return strata


def _exactly(rows: int, k: int) -> int:
    return rows


def _compared_by(snapshot: Snapshot, rules: Rules, feature: Feature | None) -> Feature:
    """Return the feature whose vectors say which rows are near-duplicates."""
    chosen = feature if rules.distinct_by is None else snapshot.feature(rules.distinct_by)
    if chosen is None or chosen.column is None:
        names = [name for name, feature in snapshot.features.items() if feature.column]
        what = "a method without a feature" if chosen is None else chosen.name
        raise UsageError(
            f"--distinct needs a feature with vectors, and {what} has none"
            + (
                f"; choose one with --distinct-by: {', '.join(names)}"
                if names
                else "; nor has this store"
            )
        )
    return chosen
