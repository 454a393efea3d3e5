"""A study as an HTML page, and as a section of other reports."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..evaluation.metrics import is_lower_better
from ..evaluation.results import ArmSummary, StudyResult, study_result
from ..evaluation.study import LENGTH_MATCHED, RANDOM, ZERO_SHOT
from ..schemas.plain_text import count_of
from .page import check_out, render, write_page

if TYPE_CHECKING:
    from ..store.store import Store

STUDIES_SHOWN = 5

PLOT_WIDTH, ROW_HEIGHT, LABEL_WIDTH = 860, 22, 330


COMPARED = {RANDOM: "random rows", ZERO_SHOT: "the untrained model"}
"""Control -> its words, of a plot's differences; the first that a study has."""


@dataclass(frozen=True)
class Mark:
    """An arm in a plot of differences: its place and its interval, in pixels."""

    label: str
    text: str
    kind: str
    y: float
    x: float
    low: float
    high: float


@dataclass(frozen=True)
class Plot:
    """Differences from a control at one budget."""

    title: str
    control: str
    marks: list[Mark]
    zero: float
    height: float
    ends: tuple[str, str]


@dataclass(frozen=True)
class MetricView:
    """A metric of a study, as its section shows it: sentences, plots, arms."""

    name: str
    better: str
    warnings: list[str]
    remarks: list[str]
    plots: list[Plot]
    arms: list[ArmSummary]


@dataclass(frozen=True)
class StudyView:
    """A study as the macro `study` of templates/parts.html.jinja shows it."""

    result: StudyResult
    metrics: list[MetricView]
    settings: list[tuple[str, object]]
    controls: tuple[str, ...] = (RANDOM, LENGTH_MATCHED, ZERO_SHOT)
    width: int = PLOT_WIDTH


def write_study(result: StudyResult, out: str | os.PathLike[str]) -> None:
    """Write a study as HTML.

    Raises:
        UsageError: the name does not end in .html.
        OutputError: the file cannot be written.
    """
    check_out(str(out), overwrite=True)
    write_page(str(out), study_page(result))


def study_page(result: StudyResult) -> str:
    """Return a study as the text of an HTML page."""
    return render("study", view=study_view(result))


def study_view(result: StudyResult) -> StudyView:
    """Return what a page shows of a study."""
    recipe = result.settings.get("recipe", {})
    settings = [(name, value) for name, value in result.settings.items() if name != "recipe"]
    return StudyView(
        result, [_metric(result, name) for name in result.metrics], [*settings, *recipe.items()]
    )


def newest_studies(
    store: Store, names: Sequence[str], about: Collection[str]
) -> tuple[list[StudyView], str]:
    """Return the newest of some studies, the newest first, and a sentence on those left out.

    Args:
        store: an open store.
        names: of all its studies, the newest last.
        about: names of those that are wanted.
    """
    wanted = [name for name in reversed(names) if name in about]
    views = [study_view(study_result(store, name)) for name in wanted[:STUDIES_SHOWN]]
    rest = len(wanted) - len(views)
    says = f"{count_of(rest, 'older study is', 'older studies are')} left out." if rest > 0 else ""
    return views, says


def _metric(result: StudyResult, metric: str) -> MetricView:
    warnings = []
    if end := result.at_an_end(metric):
        warnings.append(f"Every arm is at the {end} of {metric}, so it cannot tell arms apart.")
    warnings += [
        f"Budget {budget}: blind. Rows known to be relevant train no better model than random ones "
        "here, so nothing can be said about methods."
        for budget, sees in result.sees(metric).items()
        if not sees
    ]
    remarks = [
        f"Budget {budget}: Spearman of bin and {metric} {correlation:+.2f}"
        for budget, correlation in result.bins(metric).items()
    ]
    better = "lower" if is_lower_better(metric) else "higher"
    plots, arms = plots_of(result, metric), result.of(metric)
    return MetricView(metric, better, warnings, remarks, plots, arms)


def plots_of(result: StudyResult, metric: str) -> list[Plot]:
    """Return a plot for each budget, of the differences from random rows; from the untrained model
    where a study has no random rows, as with the bins of a ranking."""
    control = next((name for name in COMPARED if any(name in arm.gains for arm in result.arms)), "")
    budgets: dict[str, list[ArmSummary]] = {}
    for arm in result.of(metric):
        if control in arm.gains:
            budgets.setdefault(arm.budget or "no budget", []).append(arm)
    return [_plot(budget, control, arms) for budget, arms in budgets.items()]


def _plot(budget: str, control: str, arms: list[ArmSummary]) -> Plot:
    gains = [arm.gains[control] for arm in arms]
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
    height = ROW_HEIGHT * (len(marks) + 1)
    return Plot(f"budget {budget}", COMPARED[control], marks, zero, height, ends)
