"""The rules a person may set around a ranking, as one value: part of a request, recorded whole.

The rules of a selection from what a person writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any

from ...schemas.errors import UsageError
from .examples import (
    Evaluation,
    Excluded,
    excluded,
    keep_evaluation,
    keep_excluded,
    kept_evaluation,
    kept_excluded,
    read_evaluation,
)
from .quotas import Share, shares

if TYPE_CHECKING:
    from ...store.store import Store


LEAKAGE = ("ranked", "full", "off")


@dataclass(frozen=True)
class Rules:
    """What shapes a selection beside its method.

    Attributes:
        leakage: "ranked" looks for leaks among the rows that come up, "full" in every eligible
            row before anything is ranked, "off" allows them.
        evaluations: benchmarks guarded as the targets' examples are.
        excluded: earlier coresets whose rows are not eligible.
        quotas: what must come from a corpus, each with a ranking of its own.
        caps: what may come from a corpus at most; one without corpus means every other one.
        distinct: the cosine from which on a row is too close to an earlier pick.
        distinct_by: the feature whose vectors tell; the method's own where it is None.

    Raises:
        UsageError: rules that contradict each other.
    """

    leakage: str = "ranked"
    evaluations: tuple[Evaluation, ...] = ()
    excluded: tuple[Excluded, ...] = ()
    quotas: tuple[Share, ...] = ()
    caps: tuple[Share, ...] = ()
    distinct: float | None = None
    distinct_by: str | None = None

    def __post_init__(self) -> None:
        if self.leakage not in LEAKAGE:
            raise UsageError(f"leakage {self.leakage!r}: choose from {', '.join(LEAKAGE)}")
        if self.evaluations and self.leakage == "off":
            raise UsageError(
                "an evaluation file is there to keep its examples out, and leakage is allowed: "
                "leave out one of the two"
            )
        if self.distinct is not None and not 0 < self.distinct <= 1:
            raise UsageError(f"distinct {self.distinct:g}: a cosine above 0 and up to 1, like 0.95")
        if self.distinct_by is not None and self.distinct is None:
            raise UsageError(f"distinct-by {self.distinct_by}: say how close: --distinct 0.95")
        both = {quota.corpus for quota in self.quotas} & {cap.corpus for cap in self.caps}
        for corpus in both:
            raise UsageError(f"corpus {corpus} has a quota and a cap: a quota is exact, keep one")


NONE = Rules(leakage="off")
"""No rule at all."""


def as_recorded(rules: Rules) -> dict[str, Any]:
    """What `recalled` needs, as JSON values."""
    return {
        "leakage": rules.leakage,
        "evaluations": [
            {
                "name": evaluation.name,
                "examples": len(evaluation.instructions),
                "artifact": evaluation.digest,
            }
            for evaluation in rules.evaluations
        ],
        "exclude": [
            {"coreset": each.coreset, "rows": len(each), "artifact": each.digest}
            for each in rules.excluded
        ],
        "quota": [str(quota) for quota in rules.quotas],
        "cap": [str(cap) for cap in rules.caps],
        "distinct": rules.distinct,
        "distinct_by": rules.distinct_by,
    }


def keep(store: Store, rules: Rules) -> None:
    """Keep in the store what `recalled` needs beside the record."""
    for evaluation in rules.evaluations:
        keep_evaluation(store, evaluation)
    for rows in rules.excluded:
        keep_excluded(store, rows)


def recalled(store: Store, parameters: Mapping[str, Any]) -> Rules:
    """The rules of a recorded coreset; those made before there were rules had none.

    Raises:
        UsageError: the store lost what they were about.
    """
    asked = parameters.get("rules", {}).get("asked")
    if asked is None:
        return NONE
    return Rules(
        leakage=asked["leakage"],
        evaluations=tuple(
            kept_evaluation(store, each["name"], each["artifact"]) for each in asked["evaluations"]
        ),
        excluded=tuple(
            kept_excluded(store, each["coreset"], each["artifact"]) for each in asked["exclude"]
        ),
        quotas=shares("quota", asked["quota"]),
        caps=shares("cap", asked["cap"], every=True),
        distinct=asked["distinct"],
        distinct_by=asked["distinct_by"],
    )


def rules_for(
    store: Store,
    *,
    leakage: str = "ranked",
    evaluation: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    quota: str | Sequence[str] | Mapping[str, str | int] = (),
    cap: str | int | Sequence[str] | Mapping[str, str | int] = (),
    distinct: float | None = None,
    distinct_by: str | None = None,
) -> Rules:
    """What shapes a selection beside its method; by default the leakage guard alone.

    Args:
        store: an open store.
        leakage: `ranked` (rows that come up), `full` (every eligible row) or `off`.
        evaluation: files of benchmarks whose examples are kept out as well.
        exclude: names of coresets whose rows are not to be chosen again.
        quota: rows or per cent of the budget that come from a corpus: "dolly=100", "dolly=10%", a
            list of these, or {"dolly": "10%"}.
        cap: the most that may come from a corpus, as `quota`; an amount alone is for every other
            corpus.
        distinct: the cosine from which on a row is too close to an earlier pick.
        distinct_by: the feature whose vectors tell; the method's own otherwise.

    Raises:
        UsageError: values that cannot be, that contradict each other, or an unknown coreset.
        InputError: an evaluation file cannot be read.
    """
    return Rules(
        leakage=leakage,
        evaluations=tuple(read_evaluation(each) for each in _all(evaluation)),
        excluded=tuple(excluded(store, fromkey) for fromkey in dict.fromkeys(_all(exclude))),
        quotas=shares("quota", quota),
        caps=shares("cap", cap, every=True),
        distinct=distinct,
        distinct_by=distinct_by,
    )


def _all(names: str | Sequence[str]) -> Sequence[str]:
    return [names] if isinstance(names, str) else names


RULES = frozenset(signature(rules_for).parameters) - {"store"}
"""What a selection can be asked for beside its method."""
