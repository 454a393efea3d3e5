"""What the commands share: options that repeat, opening a store, output and progress."""

from __future__ import annotations

import functools
import json
import math
import shlex
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click

from ..schemas.plain_text import safe
from .store_argument import StoreArgument

if TYPE_CHECKING:
    from ..database import Database


store_argument = click.argument("store", cls=StoreArgument)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
limit_option = click.option(
    "--limit", type=click.IntRange(min=1), help="Read no more than this many records."
)
where_option = click.option(
    "--where", metavar="SQL", help="Only rows that meet this SQL condition."
)
overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Replace a file even if coresetdb did not write it."
)


force_option = click.option(
    "--force", is_flag=True, help="Remove it even if coresets were made with it."
)


def all_of(*options: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that adds several options, listed by `--help` in this order."""

    def decorated(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorated


def memory_option(what: str) -> Callable[..., Any]:
    """The option that bounds the memory of `what`."""
    return click.option(
        "--memory",
        default="4GiB",
        show_default=True,
        metavar="SIZE",
        help=f"Memory that {what} may use.",
    )


ENGINE_OPTION = click.option(
    "--engine",
    type=click.Choice(["processes", "ray"]),
    default="processes",
    show_default=True,
    help="Workers are processes of this machine, or actors of Ray.",
)
ADDRESS_OPTION = click.option(
    "--address", metavar="HOST:PORT", help="Ray cluster; by default one here."
)


def worker_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say who makes features (docs/planning.md).

    The command receives them as one dictionary `workers`, the keywords of the Python face.
    """
    options = [
        click.option(
            "--workers",
            metavar="N|auto",
            help="Make features in so many processes; auto suits them to model and machine.",
        ),
        click.option(
            "--gpus", metavar="N,...", help="GPUs that workers use, one each; by default all."
        ),
        ENGINE_OPTION,
        ADDRESS_OPTION,
    ]

    @functools.wraps(command)
    def with_workers(**values: Any) -> Any:
        keywords = {name: values.pop(name) for name in ("workers", "gpus", "engine", "address")}
        return command(**values, workers=keywords)

    return all_of(*options)(with_workers)


def scan_worker_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say who scans the pool, passed on as those of `worker_options`."""
    options = [
        click.option(
            "--workers",
            metavar="N|auto",
            help="Compare the rows in so many processes; auto is one for each processor.",
        ),
        ENGINE_OPTION,
        ADDRESS_OPTION,
    ]

    @functools.wraps(command)
    def with_workers(**values: Any) -> Any:
        keywords = {name: values.pop(name) for name in ("workers", "engine", "address")}
        return command(**values, workers=keywords)

    return all_of(*options)(with_workers)


def given(workers: dict[str, Any]) -> bool:
    """Whether any of the options of `worker_options` was given."""
    from ..workers.options import WorkerOptions

    return WorkerOptions.of(**workers).given


MAP_HELP = (
    "Which columns hold what, such as user=question,assistant=answer; a plus puts columns together."
)
MAP_OPTIONS = [
    click.option("--map", "mapping", default="", metavar="ROLE=COLUMN[+COLUMN],...", help=MAP_HELP),
    click.option(
        "--choices",
        type=click.Choice(["letters", "text"]),
        help="Answer questions with choices by letter, or by the choice itself.",
    ),
    click.option(
        "--first-choice",
        type=click.IntRange(0, 1),
        help="Number of the first choice, where answers are numbers and leave it open.",
    ),
    click.option(
        "--role",
        "roles",
        multiple=True,
        metavar="NAME=ROLE",
        help="Read turns of NAME as user, assistant, system or tool; may be repeated.",
    ),
    click.option(
        "--strip-end", metavar="TEXT", help="Take a marker such as </s> off the end of answers."
    ),
]
MAPPED = ("mapping", "choices", "first_choice", "roles", "strip_end")
"""The keywords of `MAP_OPTIONS` in the Python face."""


def reading_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how a file is read (docs/importers.md).

    The command receives them as one dictionary `reading`, the keywords of the Python face.
    """
    return _with_reading(
        command,
        ("format", *MAPPED, "encoding", "explanation", "unescape"),
        [
            click.option("--format", default="auto", help="Shape of the records."),
            *MAP_OPTIONS,
            click.option(
                "--encoding", help="Text encoding, if it is not UTF-8 (or marked by a BOM)."
            ),
            click.option(
                "--explanation", is_flag=True, help="Put a record's explanation before its answer."
            ),
            click.option("--unescape", is_flag=True, help="Read a literal \\n as a line break."),
        ],
    )


def evaluation_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how the files of `--eval` are read; as `reading_options`."""
    return _with_reading(
        command,
        ("eval_format", *MAPPED),
        [
            click.option(
                "--eval-format",
                "eval_format",
                default="auto",
                help="Shape of the records of --eval, which --map, --choices and so on are about.",
            ),
            *MAP_OPTIONS,
        ],
    )


def _with_reading(
    command: Callable[..., Any], keywords: Sequence[str], options: list[Callable[..., Any]]
) -> Callable[..., Any]:
    """Add options of reading, which the command receives as one dictionary `reading`."""

    @functools.wraps(command)
    def with_reading(**values: Any) -> Any:
        from ..ingest.readers.options import ReadOptions

        reading = {name: values.pop(name) for name in keywords}
        reading["mapping"] = ReadOptions.parse_mapping(reading["mapping"])
        reading["roles"] = ReadOptions.parse_roles(reading["roles"])
        return command(**values, reading=reading)

    return all_of(*options)(with_reading)


def open_database(uri: str) -> Database:
    """Open the store named on the command line; its runs are recorded with that command line."""
    from .. import connect

    database = connect(uri)
    database.command = shlex.join(["coresetdb", *sys.argv[1:]])
    return database


# Everything that the commands print goes through the next three functions. Names and texts of files
# are somebody else's: a terminal shows their control characters, and does not obey them.


def talk(text: str = "") -> None:
    """Print a line for the person at the terminal, on stderr."""
    click.echo(safe(text), err=True)


def print_text(text: str) -> None:
    """Print a result for a person, on stdout."""
    click.echo(safe(text))


def print_data(text: str) -> None:
    """Print a result for a program on stdout, as it is; on a terminal a person reads it."""
    click.echo(safe(text) if sys.stdout.isatty() else text)


def print_json(value: Any) -> None:
    """Print a result for a program, on stdout."""
    print_data(json.dumps(value, ensure_ascii=False, indent=2, default=str))


def print_result(result: Any, as_json: bool) -> None:
    """Print a result on stdout: its `as_dict` (or its fields) as JSON, or its text."""
    if as_json:
        print_json(result.as_dict() if hasattr(result, "as_dict") else asdict(result))
    else:
        print_text(str(result))


LINE_SECONDS = 10.0
"""Between two lines of progress where there is no terminal, at first; later lines are rarer."""

RATE_SECONDS = 60.0
"""Rates and the time left are those of the last so many seconds."""

PAUSE = 10.0
"""A wait so many times as long as any before it, and longer than `RATE_SECONDS`, was a pause."""

FULL = 0.99
"""The most a bar is filled while there is work: one that is full means done."""


class ShownProgress:
    """Progress on stderr: a bar on a terminal, a line now and then elsewhere.

    Implements `schemas.progress.Progress`; a context manager, so that the bar ends cleanly. Work
    comes in stages (a sample is read, then fits, then an ingestion); each fills the bar once, and
    its rates count from its own beginning.
    """

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        self.started = self.last_line = time.monotonic()
        self.terminal = sys.stderr.isatty()
        text = Column(ratio=1, no_wrap=True, overflow="ellipsis")
        console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("{task.description}", markup=False, table_column=text),
            BarColumn(bar_width=16 if console.width >= 100 else 8),  # the words matter more
            TextColumn("{task.fields[left]}", table_column=Column(no_wrap=True)),
            console=console,
            disable=not self.terminal,
            transient=True,
            expand=True,
        )
        self.task = self.bar.add_task("starting", total=None, left="")
        self.stage = _Stage("")

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
        """Print a line of its own, above the bar."""
        if self.terminal:
            self.bar.console.print(safe(sentence), markup=False, highlight=False, soft_wrap=True)
        else:
            talk(sentence)

    def advance(self, *, rows: int, tokens: int, bytes_read: int, bytes_total: int | None) -> None:
        """Show how far an ingestion is over all its files."""
        share = bytes_read / bytes_total if bytes_total else None
        self._show("ingestion", f"{rows:,} rows", share, tokens)

    def learn(self, *, name: str, share: float, said: str) -> None:
        """Show how far a fit is, or several together."""
        self._show("fit", f"{name}: {said}", share)

    def fill(self, *, rows: int, rows_total: int, tokens: int) -> None:
        """Show how far the featurization of rows is."""
        share = rows / rows_total if rows_total else None
        self._show("filling", f"{rows:,} of {rows_total:,} rows", share, tokens)

    def _show(self, kind: str, words: str, share: float | None, tokens: int = 0) -> None:
        """Move the bar, or print the line when some time has passed."""
        now = time.monotonic()
        if not self.stage.goes_on(kind, share):
            self.stage = _Stage(kind)
        self.stage.reached(now, share, tokens)
        if rate := self.stage.tokens_per_second():
            words += f", {rate:,.0f} tokens/s"
        facts = []
        if share is not None:
            facts.append(f"{math.floor(100 * min(self.stage.share, FULL))} %")
            facts.append(self.stage.left())
        left = ", ".join(filter(None, facts))
        self.bar.update(
            self.task,
            description=safe(words),
            completed=min(self.stage.share, FULL),
            total=None if share is None else 1.0,
            left=left,
        )
        wait = LINE_SECONDS * max(1.0, (now - self.started) / (20 * LINE_SECONDS or 1.0))
        if not self.terminal and now - self.last_line >= wait:
            self.last_line = now
            talk(", ".join(filter(None, [words, left])))


class _Stage:
    """How far one stage of work is, and how fast it was lately."""

    def __init__(self, kind: str) -> None:
        self.kind, self.share = kind, 0.0
        self._seen: deque[tuple[float, float, int]] = deque()  # time, share, tokens
        self._longest_wait = 0.0

    def goes_on(self, kind: str, share: float | None) -> bool:
        """Whether news is of this stage: of the same kind, and not back near the beginning."""
        return kind == self.kind and (share is None or share >= self.share / 2)

    def reached(self, now: float, share: float | None, tokens: int) -> None:
        """Take in news; estimates of the share may waver, and the bar never goes back."""
        self.share = max(self.share, share or 0.0)
        wait = now - self._seen[-1][0] if self._seen else 0.0
        if self._longest_wait and wait > max(RATE_SECONDS, PAUSE * self._longest_wait):
            self._seen.clear()  # Ctrl-Z, or a machine that slept: it says nothing of the speed
        else:
            self._longest_wait = max(self._longest_wait, wait)
        self._seen.append((now, self.share, tokens))
        while len(self._seen) > 2 and now - self._seen[1][0] > RATE_SECONDS:
            self._seen.popleft()

    def tokens_per_second(self) -> float:
        """The rate; 0 while it is not known."""
        (began, _, before), (now, _, tokens) = self._seen[0], self._seen[-1]
        return max(0.0, (tokens - before) / (now - began)) if now > began else 0.0

    def left(self) -> str:
        """The time left in words; "" while it is not known."""
        if self.share >= 1.0:
            return "finishing"
        (began, before, _), (now, share, _) = self._seen[0], self._seen[-1]
        if share <= before:
            return ""
        seconds = (now - began) * (1.0 - share) / (share - before)
        return f"{timedelta(seconds=round(seconds))} left"
