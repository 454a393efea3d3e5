"""Parts of the page that are text or plain HTML, everything from the store escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import marimo as mo

from ..query.maps import SAMPLE
from ..reports.page import visible
from ..schemas.notebook import html_cells, html_text
from ..schemas.plain_text import count_of
from ..store.sql.table import cells_of
from .histogram import histogram_svg

if TYPE_CHECKING:
    from .explorer import Explorer

# In a narrow window the button that opens the sidebar lies over the first line.
HEADING_STYLE = (
    "<style>.heading h1 { font-size: 1.4rem; font-weight: 600; overflow-wrap: anywhere } "
    "@media (max-width: 767px) { .heading h1 { padding: 0 3rem } }</style>"
)
HISTOGRAM_STYLE = (
    "<style>.histograms { display: flex; flex-wrap: wrap; gap: 1.5rem; font-size: 13px } "
    ".histograms text { font-size: 11px; fill: currentColor } .histograms .pool { fill: #b9c0c8 } "
    ".histograms .picked { fill: #0b6bcb; opacity: .65 }</style>"
)


def text(said: str) -> mo.Html:
    """A sentence."""
    return mo.Html(f"<p>{escape(visible(said))}</p>")


def failure(error: Exception) -> mo.Html:
    """What went wrong, as the command line says it."""
    return mo.Html(
        f'<div role="alert" style="border-left: 4px solid #b3261e; padding-left: .7rem">'
        f"{html_text(str(error))}</div>"
    )


def heading(explorer: Explorer) -> mo.Html:
    """The store's name, its rows, and how many of them are on the map."""
    placed = len(explorer.map.ids)
    said = f"{count_of(explorer.rows, 'row')}, placed by {explorer.map.feature}"
    if lacking := explorer.rows - placed:
        said += f"; {lacking:,} have no {explorer.map.feature} and are not on the map"
    if placed > SAMPLE:
        said += f"; drawn by a sample of {SAMPLE:,}, the others between their nearest"
    name = escape(visible("/".join(explorer.store.typed.rstrip("/").split("/")[-2:])))
    return mo.Html(
        f'{HEADING_STYLE}<div class="heading"><h1>{name}</h1><p>{escape(said)}</p></div>'
    )


def histograms(explorer: Explorer, ids: Sequence[str], columns: Sequence[str]) -> mo.Html:
    """How columns of numbers are distributed among some rows and in the pool."""
    chosen = [explorer.column(each) for each in columns]
    drawn = explorer.distributions(explorer.points_of(ids), chosen)
    figures = "".join(map(histogram_svg, drawn))
    return mo.Html(f'{HISTOGRAM_STYLE}<div class="histograms">{figures}</div>')


def query_result(explorer: Explorer, query: str) -> mo.Html:
    """The first rows of one SELECT as a table.

    Raises:
        QueryError: the text was refused or failed, or a limit was met.
    """
    table, more = explorer.sql(query)
    cells = [row for batch in table.to_batches() for row in cells_of(batch)]
    count = f"the first {len(cells):,} rows" if more else count_of(len(cells), "row")
    return mo.Html(
        f'<div style="overflow-x: auto">{html_cells(table.schema.names, cells)}</div>'
        + html_text(count)
    )
