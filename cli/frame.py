"""What the commands share: opening a store, options that repeat, and talk on stderr."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from ..schemas.errors import UsageError

if TYPE_CHECKING:
    from ..database import Database

store_argument = click.argument("store", metavar="STORE")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")


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


def parse_mapping(text: str) -> dict[str, str]:
    """`user=question,assistant=answer` as a dictionary.

    Raises:
        UsageError: a part has no `=`.
    """
    mapping = {}
    for part in filter(None, text.split(",")):
        role, equals, column = part.partition("=")
        if not equals or not role or not column:
            raise UsageError(f"--map {text!r}: write ROLE=COLUMN pairs, separated by commas")
        mapping[role.strip()] = column.strip()
    return mapping


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
    """Rows as aligned columns: numbers to the right, an empty string where there is nothing."""
    if not rows:
        return ""
    cells = [[_cell(value) for value in row.values()] for row in rows]
    names = list(rows[0])
    widths = [max(len(name), *(len(row[i]) for row in cells)) for i, name in enumerate(names)]
    right = [isinstance(value, int | float) for value in rows[0].values()]
    lines = [names, ["-" * width for width in widths], *cells]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if flush else cell.ljust(width)
            for cell, width, flush in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    )


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
