"""Shows an ingestion's progress on stderr: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from types import TracebackType

from .frame import talk

LINE_SECONDS = 10.0


class ShownProgress:
    """Implements ingest.jobs.progress.Progress; a context manager, so that the bar ends cleanly."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.started = self.told = time.monotonic()
        self.terminal = sys.stderr.isatty()
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not self.terminal,
            transient=True,
        )
        self.task = self.bar.add_task("reading", total=None)

    def __enter__(self) -> ShownProgress:
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def say(self, sentence: str) -> None:
        """A line of its own, above the bar."""
        if self.terminal:
            self.bar.console.print(sentence, markup=False, highlight=False, soft_wrap=True)
        else:
            talk(sentence)

    def advance(self, *, rows: int, tokens: int, bytes_read: int, bytes_total: int | None) -> None:
        """Move the bar, or print a line when some time has passed."""
        now = time.monotonic()
        words = f"{rows:,} rows, {tokens / max(now - self.started, 1e-9):,.0f} tokens/s"
        self.bar.update(self.task, description=words, completed=bytes_read, total=bytes_total)
        if not self.terminal and now - self.told >= LINE_SECONDS:
            self.told = now
            share = f", {bytes_read / bytes_total:.0%} of the bytes" if bytes_total else ""
            talk(words + share)

    def learn(self, *, name: str, share: float, said: str) -> None:
        """Show how far a fit is, or print a line when some time has passed."""
        now = time.monotonic()
        self.bar.update(self.task, description=f"{name}: {said}", completed=share, total=1.0)
        if not self.terminal and now - self.told >= LINE_SECONDS:
            self.told = now
            talk(f"{name}: {share:.0%}, {said}")

    def fill(self, *, rows: int, rows_total: int, tokens: int) -> None:
        """Implements ingest.jobs.progress.FillProgress."""
        now = time.monotonic()
        spent = max(now - self.started, 1e-9)
        words = f"{rows:,} of {rows_total:,} rows, {tokens / spent:,.0f} tokens/s"
        self.bar.update(self.task, description=words, completed=rows, total=rows_total)
        if not self.terminal and now - self.told >= LINE_SECONDS:
            self.told = now
            if rows:  # none yet while examples of targets are made
                left = timedelta(seconds=round(spent / rows * max(0, rows_total - rows)))
                words += f", {left} left"
            talk(words)
