"""Weights: how much of a selection each of several targets gets.

Without weights targets take turns, row by row. With weights every turn goes to the target whose
next row lies lowest in its share: (what it has + half of that row) / weight. Rows count one each,
or their tokens where the budget is in tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import TypeAlias

from ..schemas.errors import UsageError, suggest
from .methods import Method

Weights: TypeAlias = Mapping[str, Decimal]
"""Target -> its weight, above zero; only their proportions count."""

WeightsLike: TypeAlias = "str | Mapping[str, str | float]"
"""`math=.6,code=.4`, or `{"math": 0.6, "code": 0.4}`."""

_LARGEST_EXPONENT = 9


def parse_weights(given: WeightsLike | None, targets: Sequence[str]) -> dict[str, Decimal] | None:
    """Read weights: `math=.6,code=.4`, `math=3,code=1` or `math=60%,code=40%`; None for none.

    Args:
        targets: of the selection; each must have a weight.

    Raises:
        UsageError: another form, a weight that is not above zero, a target without a weight, or a
            weight without a target.
    """
    if given is None:
        return None
    pairs = _pairs(given) if isinstance(given, str) else list(given.items())
    weights: dict[str, Decimal] = {}
    for target, text in pairs:
        if target in weights:
            raise UsageError(f"weights: target {target!r} is given twice")
        if target not in targets:
            named = suggest(target, targets, "name the targets of the selection")
            raise UsageError(
                f"weights: {target!r} is no target of this selection, which is for: {named}"
            )
        weights[target] = _weight(target, str(text))
    if missing := [target for target in targets if target not in weights]:
        raise UsageError(f"weights: give one for each target; there is none for {missing[0]!r}")
    return {target: weights[target] for target in targets}


def _pairs(text: str) -> list[tuple[str, str]]:
    pairs = []
    for part in filter(None, map(str.strip, text.split(","))):
        target, equals, weight = (piece.strip() for piece in part.rpartition("="))
        if not equals:
            raise UsageError(f"weights {text!r}: write TARGET=WEIGHT,..., as in math=.6,code=.4")
        pairs.append((target, weight))
    return pairs


def _weight(target: str, text: str) -> Decimal:
    number, per_cent = text.removesuffix("%"), text.endswith("%")
    try:
        weight = Decimal(number) / (100 if per_cent else 1)
    except InvalidOperation:
        raise UsageError(f"weight {target}={text}: it must be a number, such as 0.6") from None
    if not weight.is_finite() or weight <= 0:
        leave = "; leave the target out instead" if weight == 0 else ""
        raise UsageError(f"weight {target}={text}: it must be above zero{leave}")
    if abs(weight.adjusted()) > _LARGEST_EXPONENT:
        raise UsageError(f"weight {target}={text}: write it in proportion to the others, near 1")
    return weight.normalize()


def check_weights(weights: Weights | None, method: Method) -> None:
    """Refuse weights for a method whose ranking no target takes part in.

    Raises:
        UsageError: targets do not pull rows by this method.
    """
    if weights and not method.needs_target:
        raise UsageError(
            f"{method} ranks rows by themselves and no target pulls a row, so weights of targets "
            "mean nothing to it: leave them out"
        )


def whole_weights(weights: Weights) -> list[int]:
    """Return the weights as whole numbers in the same proportions."""
    ratios = [weight.as_integer_ratio() for weight in weights.values()]
    common = math.lcm(*(below for _, below in ratios))
    whole = [above * common // below for above, below in ratios]
    divisor = math.gcd(*whole)
    return [number // divisor for number in whole]


def recorded_weights(weights: Weights) -> dict[str, str]:
    """Return the weights as a coreset records them; `parse_weights` reads them again."""
    return {target: f"{weight:f}" for target, weight in weights.items()}
