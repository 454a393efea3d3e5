"""The rules of a selection from what a person writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import TYPE_CHECKING

from .asked import Rules
from .corpora import shares
from .examples import read_evaluation
from .excluded import excluded

if TYPE_CHECKING:
    from ...store.store import Store


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
        excluded=tuple(excluded(store, each) for each in dict.fromkeys(_all(exclude))),
        quotas=shares("quota", quota),
        caps=shares("cap", cap, every=True),
        distinct=distinct,
        distinct_by=distinct_by,
    )


def _all(names: str | Sequence[str]) -> Sequence[str]:
    return [names] if isinstance(names, str) else names


RULES = frozenset(signature(rules_for).parameters) - {"store"}
"""What a selection can be asked for beside its method."""
