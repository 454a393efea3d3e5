"""A study as one HTML file that needs neither the store nor a network."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..query.export import write_text
from ..schemas.errors import UsageError
from ..schemas.version import VERSION
from .metrics import is_lower_better
from .results import ArmSummary, StudyResult
from .study import RANDOM

PLOT_WIDTH, ROW_HEIGHT, LABEL_WIDTH = 860, 22, 330


@dataclass(frozen=True)
class Mark:
    """An arm in a plot of differences from random rows: its place and its interval, in pixels."""

    label: str
    text: str
    kind: str
    y: float
    x: float
    low: float
    high: float


@dataclass(frozen=True)
class Plot:
    """Differences from random rows at one budget."""

    title: str
    marks: list[Mark]
    zero: float
    height: float
    ends: tuple[str, str]


def write_report(result: StudyResult, out: str | os.PathLike[str]) -> None:
    """Write a study as HTML.

    Raises:
        UsageError: the name does not end in .html.
        OutputError: the file cannot be written.
    """
    if not str(out).endswith((".html", ".htm")):
        raise UsageError(f"{out}: name the file with the suffix .html")
    write_text(str(out), report(result))


def report(result: StudyResult) -> str:
    """Return a study as the text of an HTML page."""
    from jinja2 import Environment

    folder = Path(__file__).parent
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((folder / "report.html.jinja").read_text(encoding="utf-8"))
    return template.render(
        result=result,
        version=VERSION,
        plots={metric: plots_of(result, metric) for metric in result.metrics},
        lower_is_better=is_lower_better,
        random=RANDOM,
        width=PLOT_WIDTH,
    )


def plots_of(result: StudyResult, metric: str) -> list[Plot]:
    """Return a plot of the differences from random rows for each budget."""
    budgets: dict[str, list[ArmSummary]] = {}
    for arm in result.of(metric):
        if RANDOM in arm.gains:
            budgets.setdefault(arm.budget or "no budget", []).append(arm)
    return [_plot(budget, arms) for budget, arms in budgets.items()]


def _plot(budget: str, arms: list[ArmSummary]) -> Plot:
    gains = [arm.gains[RANDOM] for arm in arms]
    reach = max([1e-9, *(abs(end) for gain in gains for end in (gain.low, gain.high))])
    room = (PLOT_WIDTH - LABEL_WIDTH) / 2 - 20
    zero = LABEL_WIDTH + room

    def place(value: float) -> float:
        return round(zero + room * value / reach, 1)

    marks = [
        Mark(
            label=arm.arm,
            text=f"{gain.estimate:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]",
            kind=(arm.verdict or "control").replace(" ", "-"),
            y=ROW_HEIGHT * (row + 0.5),
            x=place(gain.estimate),
            low=place(gain.low),
            high=place(gain.high),
        )
        for row, (arm, gain) in enumerate(zip(arms, gains, strict=True))
    ]
    ends = (f"{-reach:+.3f}", f"{reach:+.3f}")
    return Plot(f"budget {budget}", marks, zero, ROW_HEIGHT * (len(marks) + 1), ends)
