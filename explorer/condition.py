"""Filters and a lasso as one DuckDB expression, as `--where` of the command line takes it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..schemas.errors import UsageError
from ..schemas.tables import literal
from ..store.sql.names import quoted

DIGITS = 6
"""Significant digits of a corner of the lasso."""


@dataclass(frozen=True)
class Filters:
    """What rows have to be like; everything that is given holds at once.

    Attributes:
        corpora: one of these; any for none.
        contains: text that one of its turns holds, in upper or lower case.
        column: of numbers, whose value is between `least` and `most`; either may be None.
        expression: a condition of the user's own.
    """

    corpora: tuple[str, ...] = ()
    contains: str = ""
    column: str | None = None
    least: float | None = None
    most: float | None = None
    expression: str = ""

    def conditions(self) -> list[str]:
        """The conditions, each an expression of its own."""
        found = []
        if self.corpora:
            listed = ", ".join(literal(each) for each in self.corpora)
            found.append(f"corpus IN ({listed})")
        if self.contains:
            found.append(
                "len(list_filter(messages, lambda turn: contains(lower(turn.content), "
                f"lower({literal(self.contains)})))) > 0"
            )
        if self.column is not None:
            name = quoted(self.column)
            found += [f"{name} >= {self.least!r}"] if self.least is not None else []
            found += [f"{name} <= {self.most!r}"] if self.most is not None else []
        if self.expression.strip():
            # A line of its own: it may end in --
            found.append(f"(\n{self.expression.strip()}\n)")
        return found


def number_or_none(text: str, what: str) -> float | None:
    """Return what was typed as a number, None for nothing.

    Raises:
        UsageError: it is no finite number.
    """
    if not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"{what}: {text!r} is no number")
    return value


def within_lasso(columns: tuple[str, str], polygon: Sequence[Sequence[float]]) -> str:
    """The condition that a row's place is within a polygon.

    Args:
        columns: of the pool, that have its place.
        polygon: its corners, (x, y) in the units of the columns.
    """
    corners = ", ".join(f"[{x:.{DIGITS}g}, {y:.{DIGITS}g}]" for x, y in polygon)
    x, y = map(quoted, columns)
    return f"inside({x}, {y}, [{corners}])"


def among(ids: Sequence[str]) -> str:
    """The condition that a row is one of these, where there is at least one."""
    return f"id IN ({', '.join(literal(each) for each in ids)})" if len(ids) else "false"


def joined(conditions: Sequence[str]) -> str:
    """All conditions as one, "" for none."""
    return " AND ".join(conditions)
