"""The charts of reports, drawn by Altair: each with what it says in words, and its numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from ..query.closeness import CoveredExample, Prefix
from ..query.compare import Overlap
from ..query.distributions import Distribution
from ..query.origins import Origin
from ..schemas.errors import UsageError
from .page import TEMPLATES, cut, number

if TYPE_CHECKING:
    import altair

CORESET, POOL, RANDOM = "coreset", "pool", "random rows"
SERIES = (CORESET, POOL, RANDOM)
"""What is drawn; each has its colour in all charts."""

ROWS_DRAWN = 25
"""Values of a field that a chart of origins has."""

EXAMPLES_DRAWN = 48

_BAR = 24  # pixels, of a value's bars


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        title: above it.
        says: what it shows, for those who do not see it, and what to make of it.
        spec: of Vega-Lite, as JSON that can stand in a page.
        names, rows: its numbers as a table.
    """

    title: str
    says: str
    spec: str
    names: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@cache
def chart_scripts() -> tuple[str, str]:
    """The scripts that draw charts: Vega, Vega-Lite and Vega-Embed, 0.9 MB, and what calls them.

    Raises:
        UsageError: the extra `report` is not installed.
    """
    _altair()
    import vl_convert

    library = vl_convert.javascript_bundle()  # pyright: ignore[reportCallIssue]
    return library, (TEMPLATES / "charts.js").read_text(encoding="utf-8")


def _altair() -> Any:
    try:
        import altair
        import vl_convert  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"a report needs the package {error.name}: pip install 'coresetdb[report]'"
        ) from error
    return altair


def require_charts() -> None:
    """Refuse to go on without the libraries that draw charts.

    Raises:
        UsageError: the extra `report` is not installed.
    """
    _altair()


def origins_chart(field: str, origins: Sequence[Origin], picked: bool = True) -> Chart:
    """Where rows come from: the share of each value among the picks and in the pool."""
    totals = {CORESET: sum(each.picked for each in origins), POOL: sum(e.pool for e in origins)}
    shown = origins[:ROWS_DRAWN]
    names = _distinct([_name(origin.value) for origin in shown])
    values = [
        {
            "name": name,
            "of": of,
            "share": count / max(totals[of], 1),
            "rows": count,
        }
        for name, origin in zip(names, shown, strict=True)
        for of, count in ((CORESET, origin.picked), (POOL, origin.pool))
        if picked or of == POOL
    ]
    alt = _altair()
    chart = _bars(alt, values, names, field, "share of the rows", grouped=picked)
    top = max(shown, key=lambda origin: origin.picked if picked else origin.pool)
    of_top = f"{_name(top.value)}: {top.pool / max(totals[POOL], 1):.1%} of the pool"
    if picked:
        of_top += f", {top.picked / max(totals[CORESET], 1):.1%} of the picks"
    rest = len(origins) - len(shown)
    more = f" The {rest:,} rarest values are left out here." if rest > 0 else ""
    heads = (field, *(("picked", "of the picks") if picked else ()), "in the pool", "of the pool")
    rows = []
    for name, origin in zip(names, shown, strict=True):
        mine = (f"{origin.picked:,}", f"{origin.picked / max(totals[CORESET], 1):.1%}")
        theirs = (f"{origin.pool:,}", f"{origin.pool / max(totals[POOL], 1):.1%}")
        rows.append((name, *(mine if picked else ()), *theirs))
    return _chart(chart, f"Rows by {field}", f"{of_top}.{more}", heads, rows)


def distribution_chart(of: Distribution, title: str = "", what: str = "", says: str = "") -> Chart:
    """How a number is distributed in the pool and among the picks, as shares of each."""
    counts = {POOL: of.pool} | ({CORESET: of.picked} if of.picked is not None else {})
    values, rows = [], []
    for series, of_series in counts.items():
        total = max(sum(of_series), 1)
        shares = [count / total for count in of_series]
        values += [
            {"from": low, "to": high, "share": share, "of": series}
            for low, high, share in zip(of.edges[:-1], of.edges[1:], shares, strict=True)
        ]
        values.append({"from": of.edges[-1], "to": of.edges[-1], "share": 0, "of": series})
    for place, (low, high) in enumerate(zip(of.edges[:-1], of.edges[1:], strict=True)):
        cells = [f"{count[place]:,}" for count in counts.values()]
        steps = f"{number(low, 4)} to {number(high, 4)}"
        if place == 0:
            steps = f"up to {number(high, 4)}"
        elif high == of.edges[-1]:
            steps = f"from {number(low, 4)}"
        rows.append((steps, *cells))
    alt = _altair()
    scale = alt.Scale(zero=False, nice=False)
    axis = alt.Undefined
    if of.logarithmic:
        scale, axis = alt.Scale(type="log", nice=False), alt.Axis(format=",~g", tickCount=6)
    base = alt.Chart(alt.Data(values=values)).encode(
        x=alt.X("from:Q", title=what or of.what, scale=scale, axis=axis),
        y=alt.Y("share:Q", title="share of the rows", axis=alt.Axis(format="%"), stack=None),
        color=_colour(alt, list(counts)),
        tooltip=[
            alt.Tooltip("of:N", title="rows of"),
            alt.Tooltip("from:Q", title="from", format=".4~g"),
            alt.Tooltip("to:Q", title="to", format=".4~g"),
            alt.Tooltip("share:Q", title="share", format=".1%"),
        ],
    )
    chart = base.mark_area(interpolate="step-after", opacity=0.3, line={"strokeWidth": 2})
    sentences = [f"Median {number(of.of_pool.quantiles[1])} in the pool"]
    if of.of_picked is not None and of.of_picked.rows > of.of_picked.missing:
        sentences[0] += f", {number(of.of_picked.quantiles[1])} among the picks"
    if of.of_pool.missing:
        sentences.append(f"{of.of_pool.missing:,} rows of the pool have no value")
    if of.logarithmic:
        sentences.append("The scale is logarithmic")
    text = ". ".join([*([says] if says else []), *sentences]) + "."
    title = title or of.what
    return _chart(chart.properties(height=170), title, text, (title, *counts), rows)


def budget_chart(prefixes: Sequence[Prefix], measure: str, title: str, says: str) -> Chart:
    """A distance of the first rows to the targets, over how many they are, beside random rows'."""
    values, rows = [], []
    for prefix in prefixes:
        own = getattr(prefix.picks, measure)
        drawn = [each for draw in prefix.random if (each := getattr(draw, measure)) is not None]
        if own is None:
            continue
        values.append({"rows": prefix.rows, "mean": own, "of": CORESET})
        cells = (f"{own:.4f}", "")
        if drawn:
            mean = sum(drawn) / len(drawn)
            values.append({"rows": prefix.rows, "mean": mean, "of": RANDOM})
            values[-1] |= {"low": min(drawn), "high": max(drawn)}
            cells = (f"{own:.4f}", f"{mean:.4f} ({min(drawn):.4f} to {max(drawn):.4f})")
        rows.append((f"{prefix.rows:,}", *cells))
    alt = _altair()
    x = alt.X("rows:Q", title="first rows of the coreset", scale=alt.Scale(type="log", nice=False))
    y = alt.Y("mean:Q", title="distance", scale=alt.Scale(zero=False))
    colour = _colour(alt, [CORESET, RANDOM])
    base = alt.Chart(alt.Data(values=values))
    tips = [
        alt.Tooltip("of:N", title="of"),
        alt.Tooltip("rows:Q", title="rows", format=",d"),
        alt.Tooltip("mean:Q", title="distance", format=".4f"),
    ]
    band = (
        base.transform_filter("isValid(datum.low)")
        .mark_area(opacity=0.2)
        .encode(x=x, y=alt.Y("low:Q", title="distance"), y2="high:Q", color=colour)
    )
    line = base.mark_line(point=True).encode(x=x, y=y, color=colour, tooltip=tips)
    return _chart(
        alt.layer(band, line).properties(height=200),
        title,
        says,
        ("rows", CORESET, f"{RANDOM}, mean and range of the draws"),
        rows,
    )


def coverage_chart(examples: Sequence[CoveredExample], names: Sequence[str]) -> Chart:
    """Each example's highest cosine to a pick, beside random rows' and what the pool allows."""
    shown = list(zip(examples, names, strict=True))
    shown = sorted(shown, key=lambda pair: pair[0].nearest)[:EXAMPLES_DRAWN]
    order = _distinct([name for _, name in shown])
    possible = "nearest in the pool"
    values, rows = [], []
    for name, (example, _) in zip(order, shown, strict=True):
        cells = {CORESET: example.nearest, possible: example.possible, RANDOM: example.random}
        values += [
            {"name": name, "cosine": value, "of": of}
            for of, value in cells.items()
            if value is not None
        ]
        rows.append((name, *(number(value) for value in cells.values())))
    alt = _altair()
    base = alt.Chart(alt.Data(values=values))
    y = alt.Y("name:N", sort=order, title=None, axis=alt.Axis(labelLimit=150))
    rule = base.mark_rule(opacity=0.5).encode(y=y, x="min(cosine):Q", x2="max(cosine):Q")
    series = alt.Scale(domain=[CORESET, possible, RANDOM])
    legend = alt.Legend(title=None, orient="top", columns=2)
    marks = {
        "y": y,
        "x": alt.X("cosine:Q", title="highest cosine", scale=alt.Scale(zero=False)),
        "color": alt.Color("of:N", scale=series, legend=legend),
        "shape": alt.Shape("of:N", scale=series, legend=legend),
        "tooltip": ["name:N", "of:N", alt.Tooltip("cosine:Q", format=".3f")],
    }
    reached = base.mark_point(filled=True, size=55, opacity=1).encode(**marks)
    # Around what was reached, as the two often coincide.
    reachable = base.mark_point(filled=False, size=150, strokeWidth=2, opacity=1).encode(**marks)
    reached = reached.transform_filter(alt.datum.of != possible)
    reachable = reachable.transform_filter(alt.datum.of == possible)
    rest = len(examples) - len(shown)
    says = "The examples covered least come first."
    if rest > 0:
        says += f" The {rest:,} that are covered best are left out here."
    return _chart(
        alt.layer(rule, reachable, reached).properties(height=18 * max(len(order), 3)),
        "How well each example is covered",
        says,
        ("example", CORESET, possible, f"{RANDOM} (mean of the draws)"),
        rows,
    )


def overlap_chart(prefixes: Sequence[Overlap], first: str, second: str) -> Chart:
    """How many of the first rows of two coresets are in both."""
    values = [{"rows": each.ranks, "share": each.common / each.ranks} for each in prefixes]
    alt = _altair()
    chart = (
        alt.Chart(alt.Data(values=values))
        .mark_line(point=True)
        .encode(
            x=alt.X("rows:Q", title="first rows of both", scale=alt.Scale(type="log", nice=False)),
            y=alt.Y("share:Q", title="in both", axis=alt.Axis(format="%")),
            tooltip=[alt.Tooltip("rows:Q", format=",d"), alt.Tooltip("share:Q", format=".1%")],
        )
        .properties(height=160)
    )
    rows = [(f"{each.ranks:,}", f"{each.common:,}", f"{each.jaccard:.3f}") for each in prefixes]
    return _chart(
        chart,
        "Rows in both, over the ranks",
        f"Of the first rows of {first} and as many of {second}, the share that both have.",
        ("first rows", "in both", "Jaccard"),
        rows,
    )


def counts_chart(title: str, counts: Sequence[tuple[str, int]], says: str, what: str) -> Chart:
    """How many rows each of a few values has."""
    names = _distinct([_name(value) for value, _ in counts[:ROWS_DRAWN]])
    total = max(sum(rows for _, rows in counts), 1)
    values = [
        {"name": name, "of": POOL, "share": rows / total, "rows": rows}
        for name, (_, rows) in zip(names, counts, strict=False)
    ]
    chart = _bars(_altair(), values, names, what, "share", grouped=False)
    rows = [
        (name, f"{count:,}", f"{count / total:.1%}")
        for name, (_, count) in zip(names, counts, strict=False)
    ]
    return _chart(chart, title, says, (what, "rows", "share"), rows)


def _bars(
    alt: Any, values: list[dict], names: list[str], what: str, title: str, *, grouped: bool
) -> altair.Chart:
    series = [CORESET, POOL] if grouped else [POOL]
    chart = (
        alt.Chart(alt.Data(values=values))
        .mark_bar()
        .encode(
            y=alt.Y("name:N", sort=names, title=None, axis=alt.Axis(labelLimit=150)),
            x=alt.X("share:Q", title=title, axis=alt.Axis(format="%")),
            color=_colour(alt, series),
            tooltip=[
                alt.Tooltip("name:N", title=what),
                alt.Tooltip("of:N", title="rows of"),
                alt.Tooltip("rows:Q", title="rows", format=",d"),
                alt.Tooltip("share:Q", title="share", format=".1%"),
            ],
        )
    )
    if grouped:
        chart = chart.encode(yOffset=alt.YOffset("of:N", sort=series))
    return chart.properties(height=_BAR * max(len(names), 2))


def _colour(alt: Any, series: Sequence[str]) -> Any:
    """The colours of series, the same in every chart; the page's own set them (charts.js)."""
    shown = [name for name in SERIES if name in series]
    legend = (
        None
        if len(shown) < 2
        else alt.Legend(title=None, orient="top", values=shown, symbolOpacity=1)
    )
    return alt.Color("of:N", scale=alt.Scale(domain=list(SERIES)), legend=legend)


def _chart(
    chart: Any,
    title: str,
    says: str,
    names: Sequence[str],
    rows: Sequence[Sequence[str]],
) -> Chart:
    drawn = chart.properties(width="container", description=f"{title}. {says}")
    return Chart(
        title=title,
        says=says,
        spec=json_in_html(drawn.to_dict()),
        names=tuple(names),
        rows=tuple(tuple(row) for row in rows),
    )


def json_in_html(value: Mapping[str, Any]) -> str:
    """JSON that can stand in a script element, whatever its texts hold."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _name(value: str | None) -> str:
    return "(none)" if value is None else cut(value, 60) or "(empty)"


def _distinct(names: Sequence[str]) -> list[str]:
    """Names for an axis: equal ones, such as two that were cut, get a number."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return found
