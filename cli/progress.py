"""Shows an ingestion's progress on stderr: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time

from .frame import talk

LINE_SECONDS = 10.0
BAR_SECONDS = 0.2


class ShownProgress:
    """Implements ingest.progress.Progress."""

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()
        self.started = time.monotonic()
        self.shown = self.started
        self.width = 0

    def say(self, sentence: str) -> None:
        """A line of its own, above the bar."""
        self.clear()
        talk(sentence)

    def advance(self, *, rows: int, tokens: int, bytes_read: int, bytes_total: int | None) -> None:
        """Redraw the bar, or print a line when some time has passed."""
        now = time.monotonic()
        if now - self.shown < (BAR_SECONDS if self.terminal else LINE_SECONDS):
            return
        self.shown = now
        text = progress_line(rows, tokens, bytes_read, bytes_total, now - self.started)
        if self.terminal:
            sys.stderr.write("\r" + text.ljust(self.width))
            sys.stderr.flush()
            self.width = len(text)
        else:
            talk(text)

    def clear(self) -> None:
        """Wipe the bar, so that what follows starts on an empty line."""
        if self.width:
            sys.stderr.write("\r" + " " * self.width + "\r")
            self.width = 0


def progress_line(
    rows: int, tokens: int, bytes_read: int, bytes_total: int | None, seconds: float
) -> str:
    """Rows, tokens per second, and the time left as far as the bytes tell."""
    parts = [f"{rows:,} rows", f"{tokens / max(seconds, 1e-9):,.0f} tokens/s"]
    if bytes_total and bytes_read:
        share = min(bytes_read / bytes_total, 1.0)
        left = seconds * (1 - share) / share
        parts.append(f"{share:.0%} of the bytes, about {_duration(left)} left")
    return "  ".join(parts)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
