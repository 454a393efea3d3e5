"""What the commands share: opening a store, options that repeat, and talk on stderr."""

from __future__ import annotations

import json
from collections.abc import Callable
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
    from ..ingest.reading.read_options import ReadOptions

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
