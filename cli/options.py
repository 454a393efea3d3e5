"""What the commands share: opening a store, options that repeat, and talk on stderr.

Shows an ingestion's progress on stderr: a bar on a terminal, a line now and then elsewhere.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..database import Database


store_argument = click.argument("store", metavar="STORE")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Replace a file even if coresetdb did not write it."
)


def reading_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say how a file is read; see docs/importers.md."""
    options = [
        click.option("--format", "format_", default="auto", help="Shape of the records."),
        click.option(
            "--map",
            "mapping",
            default="",
            metavar="ROLE=COLUMN,...",
            help="Which column holds what, such as user=question,assistant=answer.",
        ),
        click.option("--encoding", help="Text encoding, where it is not UTF-8 (or BOM-marked)."),
        click.option(
            "--explanation", is_flag=True, help="Put a record's explanation before its answer."
        ),
        click.option("--unescape", is_flag=True, help="Read a literal \\n as a line break."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def read_options(
    format_: str, mapping: str, encoding: str | None, explanation: bool, unescape: bool
) -> dict[str, Any]:
    """The values of `reading_options` as the Python face takes them."""
    from ..ingest.readers.options import ReadOptions

    return {
        "format": format_,
        "mapping": ReadOptions.parse_mapping(mapping),
        "encoding": encoding,
        "explanation": explanation,
        "unescape": unescape,
    }


def open_database(uri: str) -> Database:
    """The store named on the command line."""
    from .. import connect

    return connect(uri)


def talk(text: str) -> None:
    """A line for the person at the terminal."""
    click.echo(text, err=True)


def print_json(value: Any) -> None:
    """A result for a program."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2, default=str))


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as aligned columns, numbers to the right; nothing is shortened."""
    from io import StringIO

    from rich import box
    from rich.console import Console
    from rich.table import Table

    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name, value in (rows[0] if rows else {}).items():
        number = isinstance(value, int | float)
        grid.add_column(name, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        grid.add_row(*(_cell(value) for value in row.values()))
    console = Console(file=StringIO(), width=100_000, markup=False, highlight=False)
    console.print(grid)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines())


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


LINE_SECONDS = 10.0


class ShownProgress:
    """Implements schemas.progress.Progress; a context manager, so that the bar ends cleanly."""

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
        """Move the bar, or print a line when some time has passed."""
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
