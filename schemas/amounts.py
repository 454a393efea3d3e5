"""Sizes as people write them: the budget of a coreset (rows, a share, tokens) and memory."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from .errors import UsageError

_BUDGET = re.compile(
    r"(?P<number>\d+(?:\.\d+)?)(?P<scale>[kKmMbB]?)(?P<unit>%|-tokens|-total-tokens)?"
)
FORMS = "rows (1000), per cent (5%), 200k-tokens of answers or 50M-total-tokens"
_SCALE = {"": 1, "k": 1_000, "m": 1_000_000, "b": 1_000_000_000}
_UNITS = {None: "rows", "%": "percent", "-tokens": "tokens", "-total-tokens": "total-tokens"}
_COUNTED = {"tokens": "response_tokens", "total-tokens": "tokens"}


@dataclass(frozen=True)
class Budget:
    """`amount` is of what `unit` says: rows, per cent of the eligible rows, or tokens.

    "tokens" are those of the answers, "total-tokens" those of whole rows as the backbone read them.
    """

    amount: float
    unit: Literal["rows", "percent", "tokens", "total-tokens"]

    @property
    def token_column(self) -> str | None:
        """The pool's column whose tokens the budget counts; None for rows and per cent."""
        return _COUNTED.get(self.unit)

    @property
    def noun(self) -> str:
        """What the budget is spent on, in the singular."""
        return {"tokens": "response token", "total-tokens": "token"}.get(self.unit, "row")

    def rows(self, eligible: int) -> int:
        """The largest number of rows this budget can take from `eligible` rows."""
        if self.unit == "percent":
            return min(eligible, round(eligible * self.amount / 100))
        return eligible if self.token_column else int(self.amount)

    def __str__(self) -> str:
        # In full, for a coreset is replayed by it.
        number = f"{Decimal(repr(self.amount)).normalize():f}"
        return number + {"rows": "", "percent": "%"}.get(self.unit, f"-{self.unit}")


def parse_budget(text: str, what: str = "budget", forms: str = FORMS) -> Budget:
    """Read `1000`, `10k`, `5%`, `200k-tokens` or `50M-total-tokens`.

    Args:
        what: is asked for, and in which `forms`, for errors.

    Raises:
        UsageError: the text has another form, is zero, or asks for more than 100 %.
    """
    match = _BUDGET.fullmatch(text.strip())
    if not match:
        raise UsageError(f"{what} {text!r}: write {forms}")
    amount = float(Decimal(match["number"]) * _SCALE[match["scale"].lower()])
    unit = _UNITS[match["unit"]]
    if unit == "percent" and (amount > 100 or match["scale"]):
        raise UsageError(f"{what} {text!r}: a share lies between 0% and 100%")
    if unit != "percent" and amount != int(amount):
        raise UsageError(f"{what} {text!r}: {unit.split('-')[-1]} come in whole numbers")
    if amount <= 0:
        raise UsageError(f"{what} {text!r}: it must be above zero")
    return Budget(amount, unit)  # type: ignore[arg-type]


_MEMORY_SIZE = re.compile(r"(\d+(?:\.\d+)?) *([KMGT]?)(i?)B?", re.IGNORECASE)


def memory_bytes(size: str | int) -> int:
    """The bytes of `2GB`, `512MiB`, `1.5g` or a plain number.

    Raises:
        UsageError: the text has another form.
    """
    match = _MEMORY_SIZE.fullmatch(str(size).strip())
    if not match:
        raise UsageError(f"memory limit {size!r}: write a size such as 2GB or 512MiB")
    number, scale, binary = match.groups()
    power = "KMGT".index(scale.upper()) + 1 if scale else 0
    return int(float(number) * (1024 if binary else 1000) ** power)
