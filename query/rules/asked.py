"""The rules a person may set around a ranking, as one value: part of a request, recorded whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...schemas.errors import UsageError
from .examples import Evaluation, keep_evaluation, kept_evaluation

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
    """

    leakage: str = "ranked"
    evaluations: tuple[Evaluation, ...] = ()

    def __post_init__(self) -> None:
        if self.leakage not in LEAKAGE:
            raise UsageError(f"leakage {self.leakage!r}: choose from {', '.join(LEAKAGE)}")
        if self.evaluations and self.leakage == "off":
            raise UsageError(
                "an evaluation file is there to keep its examples out, and leakage is allowed: "
                "leave out one of the two"
            )


NONE = Rules(leakage="off")
"""No rule at all."""


def as_recorded(rules: Rules) -> dict[str, Any]:
    """What `recalled` needs, as JSON values."""
    return {
        "leakage": rules.leakage,
        "evaluations": [
            {"name": each.name, "examples": len(each.instructions), "artifact": each.digest}
            for each in rules.evaluations
        ],
    }


def keep(store: Store, rules: Rules) -> None:
    """Keep in the store what `recalled` needs beside the record."""
    for each in rules.evaluations:
        keep_evaluation(store, each)


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
    )
