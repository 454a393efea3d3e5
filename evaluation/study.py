"""A study: which choices of rows are compared with which controls, at which budgets and seeds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..query.names import LONGEST
from ..schemas.canonical import canonical_json, digest_of
from ..schemas.errors import UsageError
from ..store.evaluation_results import ArmKey
from .training import TrainingRecipe

Match = Literal["rows", "tokens"]

ZERO_SHOT, RANDOM, LENGTH_MATCHED = "zero-shot", "random", "length_matched"
SOURCE_BALANCED, FULL, ORACLE, WORST = "source_balanced", "full", "oracle", "worst"

CONTROLS = (ZERO_SHOT, RANDOM, LENGTH_MATCHED, SOURCE_BALANCED, FULL, ORACLE, WORST)
"""What methods are compared with: the model as it is; rows drawn at random; at random with answers
as long as a method's; the same from every corpus; the whole pool; at random of the rows that are
known to be relevant; the last rows of the first method's ranking."""

DEFAULT_CONTROLS = (ZERO_SHOT, RANDOM, LENGTH_MATCHED)

GROWING = ("methods", "budgets", "controls", "seeds")
"""Settings that say which arms there are, not what an arm is: a study may be given more of them."""

DIGEST_DIGITS = 8


@dataclass(frozen=True)
class Study:
    """What a study compares.

    Attributes:
        target: that rows are chosen for.
        methods: as `select` takes them, in full.
        budgets: rows, as numbers.
        match: whether arms of a budget have equal rows, or equal tokens (those of so many average
            rows of the pool).
        controls: some of `CONTROLS`.
        seeds: trainings of every arm.
        metrics: that are measured.
        items: digest of the evaluation's examples.
        where: SQL condition on the pool, None for all of it.
        relevant: SQL condition: rows known to be relevant, for the arm `oracle`.
        tasks: of lm-evaluation-harness, beside the items.
        bins: how many bins of a ranking are compared in place of methods (`quantiles`); 0 for none.
    """

    target: str
    methods: tuple[str, ...]
    budgets: tuple[int, ...]
    match: Match
    controls: tuple[str, ...]
    seeds: int
    metrics: tuple[str, ...]
    items: str
    recipe: TrainingRecipe
    where: str | None = None
    relevant: str | None = None
    tasks: tuple[str, ...] = ()
    bins: int = 0

    def __post_init__(self) -> None:
        for control in self.controls:
            if control not in CONTROLS:
                raise UsageError(f"control {control!r}: choose from {', '.join(CONTROLS)}")
        if self.match not in ("rows", "tokens"):
            raise UsageError(f"match {self.match!r}: choose rows or tokens")
        if ORACLE in self.controls and self.relevant is None:
            raise UsageError(
                "the control oracle draws from the rows that are known to be relevant: say which "
                "with --relevant SQL, or leave it out"
            )
        if self.seeds < 1:
            raise UsageError(f"seeds {self.seeds}: give at least 1")
        if self.bins < 0 or self.bins == 1:
            raise UsageError(f"bins {self.bins}: give at least 2")
        for budget in self.budgets:
            if budget < 1:
                raise UsageError(f"budget {budget}: give at least 1 row")

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            **{name: getattr(self, name) for name in self.__dataclass_fields__ if name != "recipe"},
            "recipe": self.recipe.as_dict(),
        }

    @property
    def text(self) -> str:
        """Canonical JSON of all settings."""
        return canonical_json(self.as_dict())

    @property
    def name(self) -> str:
        """The target and a digest of all settings, so that the same command is the same study."""
        digest = digest_of(self.as_dict())[:DIGEST_DIGITS]
        return f"{self.target[: LONGEST - 30]}-{digest}"

    def changes_since(self, before: Mapping[str, Any]) -> list[str]:
        """Return what of earlier settings differs so that arms cannot be compared, in words.

        Args:
            before: JSON values, as `as_dict`.
        """
        now = json.loads(self.text)
        fixed = [name for name in now if name not in (*GROWING, "recipe")]
        pairs = [(name, before[name], now[name]) for name in fixed]
        pairs += [(name, before["recipe"][name], now["recipe"][name]) for name in now["recipe"]]
        if self.bins:
            pairs.append(("method", before["methods"], now["methods"]))
        elif WORST in before["controls"] and WORST in self.controls:
            name = "the first method, whose last rows are the worst"
            pairs.append((name, before["methods"][:1], now["methods"][:1]))
        return [
            f"{name} {_said(then)}, now {_said(value)}"
            for name, then, value in pairs
            if then != value
        ]

    def arms(self) -> Iterator[Arm]:
        """Yield the arms, controls first, in the order in which they are trained: seed by seed, so
        that a study that is stopped early has something to compare."""
        if ZERO_SHOT in self.controls:
            yield Arm(ArmKey(ZERO_SHOT, None, None))
        for seed in range(self.seeds):
            if FULL in self.controls:
                yield Arm(ArmKey(FULL, None, seed))
            for budget in self.budgets:
                yield from self._of_budget(budget, seed)

    def _of_budget(self, budget: int, seed: int) -> Iterator[Arm]:
        amount = f"{budget} {self.match}" if self.match == "tokens" else str(budget)
        for control in (RANDOM, SOURCE_BALANCED, ORACLE, WORST):
            if control in self.controls:
                yield Arm(ArmKey(control, amount, seed), budget)
        for place in range(self.bins):
            yield Arm(ArmKey(bin_name(place, self.bins), amount, seed), budget, bin=place)
        for method in self.methods if not self.bins else ():
            yield Arm(ArmKey(method, amount, seed), budget)
            if LENGTH_MATCHED in self.controls:
                name = f"{LENGTH_MATCHED} to {method}"
                yield Arm(ArmKey(name, amount, seed), budget, like=method)


@dataclass(frozen=True)
class Arm:
    """A model to be trained and measured.

    Attributes:
        rows: the budget, None where there is none.
        like: the method whose answers its own are as long as.
        bin: of a ranking, from 0.
    """

    key: ArmKey
    rows: int | None = None
    like: str | None = None
    bin: int | None = field(default=None)

    def __str__(self) -> str:
        parts = [self.key.arm]
        if self.key.budget is not None:
            parts.append(f"budget {self.key.budget}")
        if self.key.seed is not None:
            parts.append(f"seed {self.key.seed}")
        return ", ".join(parts)


def _said(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def merged(settings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the settings of a study that was given more arms: every method, budget and control in
    the order in which they came, and the most seeds."""
    whole = dict(settings[-1])
    for name in ("methods", "budgets", "controls"):
        whole[name] = list(dict.fromkeys(each for one in settings for each in one[name]))
    whole["seeds"] = max(one["seeds"] for one in settings)
    return whole


def bin_name(place: int, bins: int) -> str:
    """Return the name of a bin's arm: `bin 01 of 10` has the nearest rows."""
    return f"bin {place + 1:0{len(str(bins))}} of {bins}"


def split_budgets(text: str | int | Sequence[int]) -> tuple[int, ...]:
    """Return budgets in rows: `250,1000`, a number, or several.

    Raises:
        UsageError: one is no whole number.
    """
    given = text.split(",") if isinstance(text, str) else [text] if isinstance(text, int) else text
    try:
        return tuple(dict.fromkeys(int(each) for each in given))
    except ValueError:
        raise UsageError(f"budgets {text!r}: give numbers of rows, such as 250,1000") from None
