"""Reports: a coreset, two of them side by side, or a pool alone, as one HTML page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..query.compare import compare
from ..query.coresets import Coreset, load_coreset
from ..query.ranking import MEMORY_LIMIT
from ..schemas.errors import UsageError
from ..schemas.plain_text import LinesResult
from .charts import chart_scripts, require_charts
from .coreset import coreset_view, pair_view
from .page import check_out, render, write_page
from .pool import pool_view

if TYPE_CHECKING:
    from ..store.store import Store

MOST_CORESETS = 2


@dataclass(frozen=True, repr=False)
class WrittenReport(LinesResult):
    """A report that was written.

    Attributes:
        out: its file.
        coresets: names of those it is about; none for a pool alone.
        charts: how many it shows.
        bytes: of the file.
    """

    out: str
    coresets: tuple[str, ...]
    charts: int
    bytes: int

    def lines(self) -> list[str]:
        """Where it is, and how large."""
        about = " and ".join(self.coresets) or "the pool"
        return [f"{self.out}: a report on {about}, {self.bytes / 1e6:.1f} MB; open it in a browser"]


def write_report(
    store: Store,
    coresets: Sequence[str | Coreset],
    out: str,
    *,
    memory_limit: int = MEMORY_LIMIT,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda sentence: None,
) -> WrittenReport:
    """Write a report as one HTML file that requests nothing.

    Args:
        store: an open store.
        coresets: one or two, or their names; none for the pool alone.
        out: a file named .html.
        memory_limit: bytes that the selections it repeats may plan for.
        overwrite: replace a file even if coresetdb did not write it.
        say: receives a sentence on each step.

    Raises:
        UsageError: an unknown coreset, more than two, a file that coresetdb did not write, or the
            extra `report` is not installed.
        QueryError: DuckDB meets a limit.
        OutputError: the file cannot be written.
    """
    if len(coresets) > MOST_CORESETS:
        raise UsageError(
            f"a report is about a pool, a coreset, or two side by side; {len(coresets)} were named"
        )
    check_out(out, overwrite)
    require_charts()
    chosen = [each if isinstance(each, Coreset) else load_coreset(store, each) for each in coresets]
    if len(chosen) == MOST_CORESETS and chosen[0].name == chosen[1].name:
        raise UsageError(f"{chosen[0].name} was named twice; a comparison needs two coresets")
    if not chosen:
        view = pool_view(store, say)
        charts = view.charts
        text = render("pool", chart_scripts(), view=view)
    else:
        views = [
            coreset_view(store, each, f"c{at}", memory_limit, say)
            for at, each in enumerate(chosen, start=1)
        ]
        pair = None
        if len(chosen) == MOST_CORESETS:
            say("both side by side")
            pair = pair_view(chosen[0], chosen[1], compare(store, chosen[0].name, chosen[1].name))
        charts = [chart for view in views for chart in view.charts]
        charts += pair.charts if pair else []
        text = render("coreset", chart_scripts(), views=views, pair=pair)
    write_page(out, text)
    names = tuple(each.name for each in chosen)
    return WrittenReport(out, names, len(charts), Path(out).stat().st_size)
