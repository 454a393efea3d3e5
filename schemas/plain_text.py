"""Plain text for people: rows as a table, a number with its noun, an error's first line."""

from __future__ import annotations

import os
import re
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

TABLE_GAP = "   "
"""Between the columns of a table that has all the room it needs."""


def terminal_columns() -> int | None:
    """Columns that lines of stdout may have; None where nothing limits them.

    Those of the terminal; in a file or a pipe those of the variable COLUMNS where it is set.
    """
    try:
        on_terminal = sys.stdout is not None and sys.stdout.isatty()
    except ValueError:  # it was closed
        return None
    columns = os.environ.get("COLUMNS", "")
    if not on_terminal and not (columns.isdecimal() and int(columns)):
        return None
    return shutil.get_terminal_size().columns


def text_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Align rows in columns, numbers to the right; nothing is shortened, nothing obeyed.

    Where `terminal_columns` limits it, the table fits: long cells go on below (`fitted_table`).
    """
    from rich.cells import cell_len

    names = list(rows[0]) if rows else []
    right = [any(_is_number(row.get(name)) for row in rows) for name in names]
    cells = [[cell_text(value) for value in row.values()] for row in rows]
    names_shown = [safe(name) for name in names]
    table = _grid(names_shown, cells, right)
    columns = terminal_columns()
    if columns is None or all(cell_len(line) <= columns for line in table.splitlines()):
        return table
    from .fitted_table import fitted_table

    one_line = [[" ".join(cell.split()) for cell in row] for row in cells]
    return "\n".join(fitted_table(names_shown, one_line, right, columns))


def _grid(names: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool]) -> str:
    """A table in which every cell has a line of its own."""
    from io import StringIO

    from rich import box
    from rich.console import Console
    from rich.table import Table

    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name, flush in zip(names, right, strict=True):
        grid.add_column(name, justify="right" if flush else "left", no_wrap=True)
    for row in rows:
        grid.add_row(*row)
    file = StringIO()
    console = Console(
        file=file,
        width=100_000,
        markup=False,
        highlight=False,
        color_system=None,
        force_terminal=False,
        force_jupyter=False,  # else a notebook shows the table, and the text is empty
    )
    console.print(grid)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def count_of(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun, such as "1 example" or "2,000 examples"."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def first_line(error: BaseException) -> str:
    """Return the first 300 characters of an error's first line; its type where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


_PLACE_IN_LANCE = re.compile(r"\.rs:\d+:\d+")


def said_by_lance(error: BaseException) -> bool:
    """Whether an error comes out of Lance, which names a line of its source in most of them."""
    if type(error).__name__ == "PanicException":
        return True
    return isinstance(error, OSError | ValueError | RuntimeError) and bool(
        _PLACE_IN_LANCE.search(str(error))
    )


def safe(text: str) -> str:
    """A text whose control characters, line breaks and tabs apart, are written as escapes."""
    return "".join(
        character
        if character.isprintable() or character in "\n\t"
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


class PrintedResult:
    """A result that a notebook shows as `print` does."""

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


class LinesResult(PrintedResult, ABC):
    """A result that is shown by its lines."""

    @abstractmethod
    def lines(self) -> list[str]:
        """Return the result as text, one fact a line."""

    def __str__(self) -> str:
        return safe("\n".join(self.lines()))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def cell_text(value: Any) -> str:
    """A value as tables show it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3f}" if isinstance(value, float) else safe(str(value))
