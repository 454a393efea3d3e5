"""How a long ingestion tells what it is doing; the command line and notebooks show it their way.

How far a shard is, told while passes go over its rows: each sees all of them, or some.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Progress(Protocol):
    """Receives news from an ingestion."""

    def say(self, sentence: str) -> None:
        """Something worth a line: a decision, a commit, a fault."""
        ...

    def advance(self, *, rows: int, tokens: int, bytes_read: int, bytes_total: int | None) -> None:
        """Totals so far: records read, tokens featurized, bytes read of those to read."""
        ...


class FitProgress(Progress, Protocol):
    """Receives news from fits as well."""

    def learn(self, *, name: str, share: float, said: str) -> None:
        """How far a fit is (0 to 1), and what it says of itself, such as its loss."""
        ...


class FillProgress(FitProgress, Protocol):
    """Receives news while features are added to rows that are there already."""

    def fill(self, *, rows: int, rows_total: int, tokens: int) -> None:
        """Totals so far: rows made of those that wait, tokens featurized."""
        ...


class Silence:
    """A progress that nobody watches."""

    def fill(self, *, rows: int, rows_total: int, tokens: int) -> None:
        """Dropped."""

    def say(self, sentence: str) -> None:
        """Dropped."""

    def advance(self, *, rows: int, tokens: int, bytes_read: int, bytes_total: int | None) -> None:
        """Dropped."""

    def learn(self, *, name: str, share: float, said: str) -> None:
        """Dropped."""


class BatchProgress:
    """Turns what passes have seen into rows and tokens done, each counted once.

    Args:
        tell: is given the rows and tokens done since it was last called; None where nobody listens.
        rows, tokens: of the shard.
        work: tokens that its passes see, all together.
    """

    def __init__(
        self, tell: Callable[[int, int], None] | None, rows: int, tokens: int, work: int
    ) -> None:
        self._tell, self._rows, self._tokens, self._work = tell, rows, tokens, work
        self._seen = 0
        self._told = (0, 0)

    def saw(self, tokens: int) -> None:
        """A pass has seen so many tokens more."""
        self._seen += tokens
        self._tell_up_to(
            self._rows * self._seen // self._work, self._tokens * self._seen // self._work
        )

    def done(self) -> None:
        """Everything is made, with passes or without."""
        self._tell_up_to(self._rows, self._tokens)

    def _tell_up_to(self, rows: int, tokens: int) -> None:
        before = self._told
        if self._tell and (rows, tokens) != before:
            self._told = (rows, tokens)
            self._tell(rows - before[0], tokens - before[1])
