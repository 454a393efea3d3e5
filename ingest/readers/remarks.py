"""What reading a source cost: values that have no form in JSON, and what was left aside.

A value that cannot be read becomes null and is counted here; its record goes on without it.
"""

from __future__ import annotations

from collections import Counter

from ...schemas.plain_text import count_of

NOT_FINITE = "NaN or infinite"
NO_UTF8 = "text that is not UTF-8"
OUT_OF_RANGE = "out of the range of a date or time"


class Remarks:
    """Counts of the values that were read as null, by reason and column."""

    def __init__(self) -> None:
        self._lost: Counter[tuple[str, str]] = Counter()

    def value_lost(self, reason: str, column: str = "", count: int = 1) -> None:
        """Count values that are read as null; `column` is "" where it is not known."""
        self._lost[reason, column] += count

    def sentences(self) -> list[str]:
        """One sentence for each reason and column, the most frequent first."""
        return [
            f"{count_of(count, 'value')}{f' of column {column!r}' if column else ''} "
            f"read as null: {reason}"
            for (reason, column), count in self._lost.most_common()
        ]
