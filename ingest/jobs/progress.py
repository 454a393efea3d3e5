"""How a long ingestion tells what it is doing; the command line and notebooks show it their way."""

from __future__ import annotations

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
