"""Progress of long work: what it reports while it runs. The command line and notebooks show it.

`Progress` is what a caller hands in, `Silence` stands for nobody, and `BatchProgress` counts rows
and tokens while several passes go over the same rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Progress(Protocol):
    """Receives reports from an ingestion, a fit, or a feature that is being filled in.

    The bodies are what `Silence` does with them: nothing.
    """

    def say(self, sentence: str) -> None:
        """Something worth a line: a decision, a commit, a fault."""
        return

    def advance(self, *, rows: int, tokens: int, bytes_read: int, bytes_total: int | None) -> None:
        """Totals of an ingestion: records read, tokens featurized, bytes read of those to read."""
        return

    def learn(self, *, name: str, share: float, said: str) -> None:
        """How far a fit is (0 to 1), and a few words about it, such as its loss."""
        return

    def fill(self, *, rows: int, rows_total: int, tokens: int) -> None:
        """Totals of a late feature: rows filled of those that wait, tokens featurized."""
        return


class Silence(Progress):
    """Drops every report; a subclass listens to some of them."""


class BatchProgress:
    """Turns the tokens that passes have seen into rows and tokens done, each counted once.

    Args:
        report: is given the rows and tokens done since it was last called; None where nobody
            listens.
        rows, tokens: of the shard.
        work: tokens that its passes see, all together.
    """

    def __init__(
        self, report: Callable[[int, int], None] | None, rows: int, tokens: int, work: int
    ) -> None:
        self._report, self._rows, self._tokens, self._work = report, rows, tokens, work
        self._seen = 0
        self._reported = (0, 0)

    def saw(self, tokens: int) -> None:
        """Count tokens that a pass has seen."""
        self._seen += tokens
        self._report_up_to(
            self._rows * self._seen // self._work, self._tokens * self._seen // self._work
        )

    def done(self) -> None:
        """Report whatever is left: everything is made, with passes or without."""
        self._report_up_to(self._rows, self._tokens)

    def _report_up_to(self, rows: int, tokens: int) -> None:
        before = self._reported
        if self._report and (rows, tokens) != before:
            self._reported = (rows, tokens)
            self._report(rows - before[0], tokens - before[1])
