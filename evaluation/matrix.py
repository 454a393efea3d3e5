"""A matrix of numbers as a picture, in one HTML file that needs no network."""

from __future__ import annotations

import os
from html import escape
from typing import TYPE_CHECKING

from ..query.export import write_text
from ..schemas.errors import UsageError

if TYPE_CHECKING:
    import polars as pl

CELL, LABEL = 72, 160


def write_matrix(matrix: pl.DataFrame, title: str, out: str | os.PathLike[str]) -> None:
    """Write a matrix as a heat map.

    Args:
        matrix: the first column names the rows, the others are numbers or null.
        title: above it.
        out: a file named .html.

    Raises:
        UsageError: another suffix.
        OutputError: the file cannot be written.
    """
    if not str(out).endswith((".html", ".htm")):
        raise UsageError(f"{out}: name the file with the suffix .html")
    write_text(str(out), matrix_page(matrix, title))


def matrix_page(matrix: pl.DataFrame, title: str) -> str:
    """Return a matrix as the text of an HTML page; colours go by column, as scores of different
    columns are not on one scale."""
    labels, columns = matrix.to_series(0).to_list(), matrix.columns[1:]
    width, height = LABEL + CELL * len(columns), LABEL // 2 + CELL * len(labels)
    parts = []
    for place, name in enumerate(columns):
        values = matrix[name].to_list()
        present = [value for value in values if value is not None]
        low, high = min(present, default=0.0), max(present, default=1.0)
        x = LABEL + CELL * place
        parts.append(_text(x + CELL / 2, LABEL / 2 - 8, name, "middle"))
        for row, value in enumerate(values):
            y = LABEL // 2 + CELL * row
            shade = 0.5 if value is None or high == low else (value - low) / (high - low)
            fill = "#eee" if value is None else f"hsl(212, 60%, {95 - 55 * shade:.0f}%)"
            parts.append(
                f'<rect x="{x}" y="{y}" width="{CELL - 2}" height="{CELL - 2}" fill="{fill}"/>'
            )
            if value is not None:
                ink = "#fff" if shade > 0.6 else "#222"
                parts.append(_text(x + CELL / 2, y + CELL / 2, f"{value:.3g}", "middle", ink))
    for row, label in enumerate(labels):
        parts.append(_text(LABEL - 8, LABEL // 2 + CELL * (row + 0.5), str(label), "end"))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}'
        "</title><style>body { font: 15px system-ui, sans-serif; margin: 2rem; }</style></head>"
        f'<body><h1>{escape(title)}</h1>\n<svg viewBox="0 0 {width} {height}" width="{width}" '
        f'role="img" aria-label="{escape(title)}">{"".join(parts)}</svg></body></html>\n'
    )


def _text(x: float, y: float, text: str, anchor: str, ink: str = "#222") -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="{ink}" font-size="13">'
        f"{escape(text)}</text>"
    )
