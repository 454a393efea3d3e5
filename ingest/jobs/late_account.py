"""What became of every row while features were added late."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class LateAccount:
    """One run of `featurize`.

    Attributes:
        features: names of the features that were asked for.
        made: those of them that a row or an example lacked.
        rows: rows of the pool made by this run.
        resumed: rows that an earlier run had made, but not brought into the pool.
        examples: examples of targets made by this run.
        tokens: of the rows and examples made.
        waiting: rows that still lack a feature: the run was interrupted.
        without_feature: "feature: reason" -> rows that got that reason.
    """

    run: str
    features: list[str]
    made: list[str] = field(default_factory=list)
    rows: int = 0
    resumed: int = 0
    examples: int = 0
    tokens: int = 0
    seconds: float = 0.0
    waiting: int = 0
    without_feature: Counter[str] = field(default_factory=Counter)

    def sentences(self) -> list[str]:
        """The closing account, in words."""
        whole = [name for name in self.features if name not in self.made]
        names = ", ".join(self.made or whole) or "nothing"
        speed = f", {self.tokens / self.seconds:,.0f} tokens/s" if self.tokens else ""
        lines = [
            f"{names}: featurized {self.rows:,} rows, {self.tokens:,} tokens in "
            f"{self.seconds:,.1f} s{speed}"
        ]
        if not (self.rows or self.resumed or self.examples or self.waiting):
            lines = [f"{names}: no row was waiting for it"]
        elif whole:
            lines.append(f"  {', '.join(whole)}: no row was waiting for it")
        if self.resumed:
            lines.append(f"  {self.resumed:,} rows had been made by an earlier run")
        if self.examples:
            lines.append(f"  {self.examples:,} examples of targets featurized")
        lines += [
            f"  without a feature, {reason}: {n:,}" for reason, n in self.without_feature.items()
        ]
        if self.waiting:
            lines.append(f"  {self.waiting:,} rows are not featurized yet")
        return lines

    def as_dict(self) -> dict[str, Any]:
        """The account as JSON values."""
        return {
            **vars(self),
            "seconds": round(self.seconds, 3),
            "without_feature": dict(self.without_feature),
        }
