"""A table of texts that fits a number of columns: nothing is cut, long cells go on below.

Columns give way widest first. Cells break between words; where that is not enough, also after the
marks within methods, paths and lists; where not even that is, each row becomes a block of lines.
Numbers, ids and names are never broken.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import zip_longest

from rich.cells import cell_len, chop_cells, set_cell_size

GAP = "  "

_WORDS = re.compile(r"\S+\s*")
_PARTS = re.compile(r"[^\s/,(:=]*(?:[/,(:=]+|\s+|$)")
_PARTS_OF_NAME = re.compile(r"[^\s_]*(?:_+|\s+|$)")


def fitted_table(
    names: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool], columns: int
) -> list[str]:
    """Rows of cells as lines of at most `columns` cells of a terminal.

    Only a word that is longer than a line is broken, in a block; columns without a value in any
    row are left out.

    Args:
        names: of the columns.
        rows: texts of one line each, as many as there are names.
        right: whether a column is aligned to the right.
        columns: of the terminal.
    """
    kept = [at for at in range(len(names)) if not at or any(row[at] for row in rows)]
    names, right = [names[at] for at in kept], [right[at] for at in kept]
    rows = [[row[at] for at in kept] for row in rows]
    room = columns - len(GAP) * (len(names) - 1)
    for of_name, of_cell in ((_WORDS, _WORDS), (_PARTS_OF_NAME, _PARTS)):
        # The first column names the row: it stays in one piece, to be copied.
        least = [
            max(
                _longest(name, of_name),
                *(_longest(row[at], of_cell) if at else cell_len(row[at]) for row in rows),
            )
            for at, name in enumerate(names)
        ]
        if sum(least) <= room:
            natural = [max(map(cell_len, column)) for column in zip(names, *rows, strict=True)]
            widths = shared_widths(natural, least, room)
            head = list(_lines(names, widths, right, of_name))
            rule = "─" * (sum(widths) + len(GAP) * (len(widths) - 1))
            body = (line for row in rows for line in _lines(row, widths, right, of_cell))
            return [*head, rule, *body]
    return [line for row in rows for line in _block(names, row, columns)]


def shortened(text: str, columns: int) -> str:
    """The text cut to some columns of a terminal, with an ellipsis where something is missing."""
    return text if cell_len(text) <= columns else f"{set_cell_size(text, columns - 1).rstrip()}…"


def shared_widths(natural: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    """Widths that share `room`, none below its least: the widest give way first."""
    limit = max(natural)
    while True:
        widths = [min(size, max(limit, bound)) for size, bound in zip(natural, least, strict=True)]
        if sum(widths) <= room:
            return widths
        limit -= 1


def _lines(
    cells: Sequence[str], widths: Sequence[int], right: Sequence[bool], parts: re.Pattern[str]
) -> Iterator[str]:
    wrapped = [
        _wrapped(cell, width, parts) if at else [cell]
        for at, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    if cell_len(cells[0]) > widths[0]:  # a heading: the name of a row has its own width
        wrapped[0] = _wrapped(cells[0], widths[0], parts)
    for line in zip_longest(*wrapped, fillvalue=""):
        yield GAP.join(
            _padded(text, width, flush)
            for text, width, flush in zip(line, widths, right, strict=True)
        ).rstrip()


def _block(names: Sequence[str], row: Sequence[str], columns: int) -> Iterator[str]:
    """A row as its first cell and, indented below, the others that have a value."""
    facts = [f"{name} {cell}".strip() for name, cell in zip(names, row, strict=True) if cell]
    yield from _wrapped(facts[0], columns, _PARTS) if facts else [""]
    line = ""
    for fact in facts[1:]:
        longer = f"{line} · {fact}" if line else f"  {fact}"
        if line and cell_len(longer) > columns - 2:  # room for the mark that more follows
            yield f"{line} ·" if cell_len(line) <= columns - 2 else line
            longer = f"  {fact}"
        line = longer
        if cell_len(line) > columns - 2:
            *full, last = _wrapped(line.strip(), columns - 4, _PARTS)
            for number, part in enumerate(full):
                yield f"{'    ' if number else '  '}{part}"
            line = f"    {last}"
    if line:
        yield line


def _longest(text: str, parts: re.Pattern[str]) -> int:
    return max((cell_len(part.rstrip()) for part in parts.findall(text)), default=0)


def _wrapped(text: str, width: int, parts: re.Pattern[str]) -> list[str]:
    """The text in lines of at most `width`, broken between its parts (within one as a last way)."""
    lines: list[str] = []
    line = ""
    for part in parts.findall(text):
        if line and cell_len((line + part).rstrip()) > width:
            lines.append(line.rstrip())
            line = ""
        if cell_len(part.rstrip()) > width:
            *full, part = chop_cells(part.rstrip(), width)
            lines += full
        line += part
    return [*lines, line.rstrip()] if line.strip() or not lines else lines


def _padded(text: str, width: int, right: bool) -> str:
    space = " " * (width - cell_len(text))
    return space + text if right else text + space
