"""Results as HTML for notebooks: tables and bars without a script, short, everything escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from .plain_text import cell_text, count_of, safe

ROWS_SHOWN = 30
"""Rows of a table."""

TEXT_SHOWN = 200
"""Characters of a cell."""

_CELL = "max-width: 40em; text-align: left; vertical-align: top; white-space: pre-wrap"
_BAR = "display: inline-block; height: 0.7em; margin-right: 0.4em; background: "
_COLOURS = ("#0b6bcb", "#b35900")
"""Of the bars of two series: what was picked, and the pool."""


def html_text(text: str) -> str:
    """Return text as it is printed."""
    return f"<pre>{escape(safe(text))}</pre>"


def html_table(rows: Sequence[Mapping[str, Any]], title: str = "", most: int = ROWS_SHOWN) -> str:
    """Return plain rows as a table with a title; those above `most` are counted below it."""
    if not rows:
        return ""
    caption = f"<p>{escape(safe(title))}</p>" if title else ""
    lines = [_line("th", list(rows[0]))]
    lines += [_line("td", [cell_text(value) for value in row.values()]) for row in rows[:most]]
    more = len(rows) - most
    rest = f"<p>... and {count_of(more, 'more row')}</p>" if more > 0 else ""
    return f"{caption}<table>{''.join(lines)}</table>{rest}"


def html_cells(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of texts under names, which may be equal."""
    return f"<table>{_line('th', names)}{''.join(_line('td', row) for row in rows)}</table>"


def html_bars(title: str, names: Sequence[str], rows: Sequence[tuple[str, Sequence[float]]]) -> str:
    """Return a small chart: for each label a bar of every series.

    Args:
        title: above it.
        names: of the series, one or two.
        rows: a label and its shares (0 to 1) in each series.
    """
    drawn = []
    for label, shares in rows:
        bars = "".join(
            f'<div><span style="{_BAR}{colour}; width: {max(share, 0.0) * 20:.2f}em"></span>'
            f"{share:.1%} {escape(name)}</div>"
            for name, share, colour in zip(names, shares, _COLOURS, strict=False)
        )
        drawn.append(
            '<div style="display: flex; gap: 1em; margin: 0.2em 0">'
            f'<div style="width: 12em; overflow-wrap: anywhere">{escape(_cut(label))}</div>'
            f"<div>{bars}</div></div>"
        )
    return f"<p>{escape(title)}</p>{''.join(drawn)}" if drawn else ""


def _line(tag: str, values: Sequence[str]) -> str:
    cells = (f'<{tag} style="{_CELL}">{escape(_cut(str(value)))}</{tag}>' for value in values)
    return f"<tr>{''.join(cells)}</tr>"


def _cut(text: str) -> str:
    shown = text if len(text) <= TEXT_SHOWN else text[: TEXT_SHOWN - 1] + "…"
    return safe(shown)
