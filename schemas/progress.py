"""Progress of long work: what it reports while it runs. The command line and notebooks show it.

`Progress` is what a caller hands in, `Silence` stands for nobody, `JoinedProgress` makes one of
several parts, and `BatchProgress` counts rows and tokens while several passes go over the same
rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol


class Progress(Protocol):
    """Receives reports from an ingestion, a fit, or a feature that is being filled in.

    The bodies are what `Silence` does with them: nothing.
    """

    def say(self, sentence: str) -> None:
        """Something worth a line: a decision, a commit, a fault."""
        return

    def advance(self, *, rows: int, tokens: int, bytes_read: int, bytes_total: int | None) -> None:
        """Totals of an ingestion: records done, tokens featurized, bytes done of those to read.

        A record is done once its features are made, or known to be there.
        """
        return

    def learn(self, *, name: str, share: float, said: str) -> None:
        """How far a fit is (0 to 1), and a few words about it, such as its loss."""
        return

    def fill(self, *, rows: int, rows_total: int, tokens: int) -> None:
        """Totals of a late feature: rows filled of those that wait, tokens featurized."""
        return


class Silence(Progress):
    """Drops every report; a subclass listens to some of them."""


class JoinedProgress(Progress):
    """Passes news on, and joins the shares of several parts into the share of them all.

    Args:
        progress: receives the news.
        total: how many parts there are.
        noun: what a part is, such as "fit".
    """

    def __init__(self, progress: Progress, total: int, noun: str) -> None:
        self._progress, self._total, self._noun = progress, total, noun
        self._done = 0
        self._running: dict[str, int] = {}
        self._shares: dict[str, float] = {}

    def begin(self, running: Mapping[str, int]) -> None:
        """Note what runs from now on: names, with how many parts each stands for.

        What ran before is done.
        """
        self._done += sum(self._running.values())
        self._running, self._shares = dict(running), {}

    def say(self, sentence: str) -> None:
        """Pass on a sentence."""
        self._progress.say(sentence)

    def learn(self, *, name: str, share: float, said: str) -> None:
        """Pass on how far all parts are together, and which one is said something about."""
        self._shares[name] = share
        running = sum(self._running.get(each, 1) * part for each, part in self._shares.items())
        if self._total > 1:
            first = self._done + 1
            last = self._done + self._running.get(name, 1)
            which = f"{first}" if len(self._running) > 1 or first >= last else f"{first} and {last}"
            of = f"{self._noun} {which} of {self._total}"
            said = f"{of}, {said}"
        whole = min(1.0, (self._done + running) / max(self._total, 1))
        self._progress.learn(name=name, share=whole, said=said)


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
