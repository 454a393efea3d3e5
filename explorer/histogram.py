"""Histograms as SVG: a selection in front of the pool, without a script."""

from __future__ import annotations

from html import escape

from ..query.distributions import Distribution
from ..reports.page import cut, number

WIDTH, HEIGHT = 340, 110
"""Of the bars, in pixels."""


def histogram_svg(distribution: Distribution) -> str:
    """Return a histogram whose bars are shares of the pool's and of the selection's values.

    A label says where the outermost bar also holds what is beyond it, and the title whether the
    bars are of equal ratio.
    """
    pool = _shares(distribution.pool)
    picked = _shares(distribution.picked or ())
    top = max((*pool, *picked), default=0.0) or 1.0
    width = WIDTH / max(len(pool), 1)
    bars = "".join(
        _bar(place * width, width, share / top, style)
        for style, shares in (("pool", pool), ("picked", picked))
        for place, share in enumerate(shares)
    )
    name = escape(cut(distribution.what))
    name += " (logarithmic)" if distribution.logarithmic else ""
    first, last = distribution.edges[0], distribution.edges[-1]
    low = "≤ " * (distribution.lowest < first) + escape(number(first))
    high = "≥ " * (distribution.highest > last) + escape(number(last))
    return (
        f'<figure class="histogram"><figcaption>{name}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT + 16}" width="{WIDTH}" role="img" aria-label="{name}, '
        f'from {low} to {high}">{bars}<text x="0" y="{HEIGHT + 13}">{low}</text>'
        f'<text x="{WIDTH}" y="{HEIGHT + 13}" text-anchor="end">{high}</text></svg>'
        f"<p>{_medians(distribution)}</p></figure>"
    )


def _shares(counts: tuple[int, ...]) -> list[float]:
    total = sum(counts) or 1
    return [count / total for count in counts]


def _bar(left: float, width: float, part: float, style: str) -> str:
    tall = part * HEIGHT
    return (
        f'<rect class="{style}" x="{left:.1f}" y="{HEIGHT - tall:.1f}" width="{width * 0.9:.1f}" '
        f'height="{tall:.1f}"/>'
    )


def _medians(distribution: Distribution) -> str:
    of_pool, of_picked = distribution.of_pool, distribution.of_picked
    text = f"median {number(of_pool.quantiles[1])} of the pool"
    if of_picked is not None and of_picked.rows > of_picked.missing:
        text = f"median {number(of_picked.quantiles[1])} of the selection, {text[7:]}"
    return escape(text)
