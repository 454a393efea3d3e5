"""The rows of a query as a table, written as they arrive: whole in a pipe, fitted to a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

import click
import pyarrow as pa

from ..store.sql import QueryResult
from .sql_cells import cell, fit, padded, python_values, width

ROWS_FOR_WIDTHS = 1000  # rows looked at before the first line is written
ROWS_ON_TERMINAL = 500
NARROWEST = 6  # columns a value gets at least; a table with no room for it is written as records
GAP = "  "


def rows_of(result: QueryResult) -> Iterator[tuple[Any, ...]]:
    """The rows as Python values."""
    for batch in result:
        yield from zip(*map(python_values, batch.columns), strict=True)


def write_table(result: QueryResult) -> None:
    """Write a table in which nothing is shortened.

    Columns are as wide as the first thousand rows ask for; a later, wider value stands out.
    """
    names = result.schema.names
    rows = _cells(result)
    head = list(islice(rows, ROWS_FOR_WIDTHS))
    widths = _natural(names, head)
    _write_lines(result.schema, widths, chain(head, rows))


def write_to_terminal(result: QueryResult, columns: int) -> None:
    """Write at most 500 rows so that they fit `columns`, and say on stderr what was left out."""
    names = result.schema.names
    rows = list(islice(_cells(result), ROWS_ON_TERMINAL + 1))
    result.close()
    more = len(rows) > ROWS_ON_TERMINAL
    rows = rows[:ROWS_ON_TERMINAL]
    natural = _natural(names, rows)
    widths = fitted(natural, columns - len(GAP) * (len(names) - 1))
    if widths is None:
        shortened = _write_records(names, rows, columns)
    else:
        cut = [[fit(text, size) for text, size in zip(row, widths, strict=True)] for row in rows]
        _write_lines(result.schema, widths, cut)
        shortened = cut != rows
    counted = f"the first {ROWS_ON_TERMINAL} rows" if more else f"{len(rows)} rows"
    counted = "1 row" if len(rows) == 1 else counted
    note = "; wide text is shortened" if shortened else ""
    whole = " (--csv, --json, --parquet or a pipe give all of it)" if more or shortened else ""
    click.echo(f"{counted}{note}{whole}", err=True)


def fitted(natural: list[int], room: int) -> list[int] | None:
    """Widths of columns that share `room`: the widest give way first; None if there is no room.

    Every column keeps its natural width or at least NARROWEST.
    """
    if sum(min(size, NARROWEST) for size in natural) > room:
        return None
    limit = max(natural)
    while sum(min(size, limit) for size in natural) > room:
        limit -= 1
    return [min(size, limit) for size in natural]


def _cells(result: QueryResult) -> Iterator[list[str]]:
    types = result.schema.types
    for row in rows_of(result):
        yield [cell(value, type_) for value, type_ in zip(row, types, strict=True)]


def _natural(names: list[str], rows: list[list[str]]) -> list[int]:
    return [max(map(width, column)) for column in zip(names, *rows, strict=True)]


def _write_lines(schema: pa.Schema, widths: list[int], rows: Any) -> None:
    flush = [_is_number(type_) for type_ in schema.types]
    names = [fit(name, size) for name, size in zip(schema.names, widths, strict=True)]
    for row in chain([names, ["-" * size for size in widths]], rows):
        line = GAP.join(
            padded(text, size, right=right)
            for text, size, right in zip(row, widths, flush, strict=True)
        )
        click.echo(line.rstrip())


def _write_records(names: list[str], rows: list[list[str]], columns: int) -> bool:
    """A block per row, a line per column; whether anything was shortened."""
    label = max(map(width, names))
    shortened = False
    for number, row in enumerate(rows, 1):
        click.echo(f"-- row {number}")
        for name, text in zip(names, row, strict=True):
            shown = fit(text, max(columns - label - len(GAP), NARROWEST))
            shortened = shortened or shown != text
            click.echo(f"{padded(name, label, right=False)}{GAP}{shown}")
    return shortened


def _is_number(type_: pa.DataType) -> bool:
    return pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_decimal(type_)
