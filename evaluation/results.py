"""What a study found: means of every arm, differences with intervals, verdicts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..schemas.errors import UsageError, suggest
from ..schemas.notebook import html_table, html_text
from ..schemas.plain_text import LinesResult, count_of, text_table
from ..store.evaluation_results import measurements
from .metrics import is_lower_better, sorted_by_verdict
from .statistics import Difference, holm, paired_bootstrap, spearman
from .study import CONTROLS, LENGTH_MATCHED, ORACLE, RANDOM, WORST, ZERO_SHOT, merged

if TYPE_CHECKING:
    from ..store.store import Store

BETTER, WORSE, NOT_SHOWN = "better", "worse", "not shown"
FLOOR = 0.02
LEVEL = 0.05


@dataclass(frozen=True)
class ArmSummary:
    """An arm by one metric.

    Attributes:
        mean: over items and seeds.
        spread: standard deviation of the seeds' means, None for one seed.
        seeds, items: how many there are.
        training_rows, training_tokens, seconds: means over seeds.
        gains: control -> by how much it is better than that, signed so that more is better.
        verdict: against random rows at the same budget: "better" or "worse" where the interval,
            adjusted for the number of methods, leaves zero out; else "not shown". None for
            controls.
    """

    arm: str
    budget: str | None
    metric: str
    mean: float
    spread: float | None
    seeds: int
    items: int
    training_rows: float
    training_tokens: float
    seconds: float
    gains: Mapping[str, Difference]
    verdict: str | None


@dataclass(frozen=True, repr=False)
class StudyResult(LinesResult):
    """A study as far as it was measured.

    Attributes:
        name, target, model: of the study.
        settings: JSON values, as `Study.as_dict`.
        arms: by metric, what the study is judged by first, then budget.
        notes: sentences for the user.
    """

    name: str
    target: str
    model: str
    settings: dict[str, Any]
    arms: tuple[ArmSummary, ...]
    notes: tuple[str, ...] = ()

    @property
    def metrics(self) -> list[str]:
        """What was measured, what the study is judged by first."""
        return sorted_by_verdict(list(dict.fromkeys(arm.metric for arm in self.arms)))

    def of(self, metric: str) -> list[ArmSummary]:
        """Return the arms by one metric."""
        return [arm for arm in self.arms if arm.metric == metric]

    def sees(self, metric: str) -> dict[str, bool]:
        """Return budget -> whether the study can see an effect there.

        It can where rows that are known to be relevant train a better model than random ones, and
        the worst-ranked rows no better one. Budgets without an oracle are left out.
        """
        seen: dict[str, bool] = {}
        by_name = {(arm.arm, arm.budget): arm for arm in self.of(metric)}
        for (name, budget), arm in by_name.items():
            if name != ORACLE or budget is None or RANDOM not in arm.gains:
                continue
            worst = by_name.get((WORST, budget))
            no_better = worst is None or RANDOM not in worst.gains or worst.gains[RANDOM].low <= 0
            seen[budget] = arm.gains[RANDOM].low > 0 and no_better
        return seen

    def at_an_end(self, metric: str) -> str | None:
        """Return whether every arm is at the "floor" or the "ceiling" of a metric of rights and
        wrongs: below 2 % or above 98 %; None for neither, and for losses."""
        means = [arm.mean for arm in self.of(metric)]
        if is_lower_better(metric) or not means:
            return None
        if max(means) <= FLOOR:
            return "floor"
        return "ceiling" if min(means) >= 1 - FLOOR else None

    def bins(self, metric: str) -> dict[str, float]:
        """Return budget -> Spearman's correlation of the bin of a ranking with a metric."""
        found: dict[str, list[float]] = {}
        for arm in sorted(self.of(metric), key=lambda arm: arm.arm):
            if arm.arm.startswith("bin "):
                found.setdefault(arm.budget or "", []).append(arm.mean)
        return {budget: spearman(list(range(len(means))), means) for budget, means in found.items()}

    def lines(self) -> list[str]:
        """The study, in words and tables."""
        recipe = self.settings["recipe"]
        how = f"LoRA of rank {recipe['lora']}" if recipe["lora"] else "all weights"
        lines = [
            f"{self.name}: {self.target}, {self.model}, {how}, "
            f"{count_of(recipe['epochs'], 'epoch')}, "
            f"{count_of(self.settings['seeds'], 'seed')}"
        ]
        for metric in self.metrics:
            better = "lower" if is_lower_better(metric) else "higher"
            lines += ["", f"{metric} ({better} is better)"]
            lines += text_table([_row(arm) for arm in self.of(metric)]).splitlines()
            lines += self._remarks(metric)
        return lines + [f"  {note}" for note in self.notes]

    def _repr_html_(self) -> str:
        shown = [html_text(self.lines()[0])]
        for metric in self.metrics:
            better = "lower" if is_lower_better(metric) else "higher"
            rows = [_row(arm) for arm in self.of(metric)]
            shown.append(html_table(rows, f"{metric} ({better} is better)", most=len(rows)))
            shown += map(html_text, self._remarks(metric))
        return "".join([*shown, *map(html_text, self.notes)])

    def _remarks(self, metric: str) -> Iterator[str]:
        if end := self.at_an_end(metric):
            yield f"  every arm is at the {end} of {metric}, so it cannot tell arms apart"
        verdicts = Counter(arm.verdict for arm in self.of(metric) if arm.verdict)
        if verdicts:
            counted = ", ".join(
                f"{verdicts[verdict]} {verdict}" for verdict in (BETTER, WORSE, NOT_SHOWN)
            )
            yield f"  against random rows: {counted}"
        for budget, sees in self.sees(metric).items():
            if not sees:
                yield (
                    f"  budget {budget}: blind. Rows known to be relevant train no better model "
                    "than random ones here, so nothing can be said about methods"
                )
        for budget, correlation in self.bins(metric).items():
            yield f"  budget {budget}: Spearman of bin and {metric} {correlation:+.2f}"

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)


def _row(arm: ArmSummary) -> dict[str, Any]:
    random = arm.gains.get(RANDOM)
    matched = arm.gains.get(LENGTH_MATCHED)
    return {
        "arm": arm.arm,
        "budget": arm.budget,
        "mean": f"{arm.mean:.3f}" + (f" ± {arm.spread:.3f}" if arm.spread is not None else ""),
        "over random": _interval(random),
        "over length-matched": _interval(matched),
        "verdict": arm.verdict or "",
        "tokens": round(arm.training_tokens),
    }


def _interval(gain: Difference | None) -> str:
    return "" if gain is None else f"{gain.estimate:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"


def list_studies(store: Store) -> list[dict[str, Any]]:
    """Return the studies of a store: name, target, model, arms measured and planned, the newest
    last."""
    rows = measurements(
        store, columns=["study", "target", "model", "arm", "budget", "seed", "created_at"]
    )
    groups = rows.group_by(["study", "target", "model", "arm", "budget", "seed"]).aggregate(
        [("created_at", "max")]
    )
    studies: dict[str, dict[str, Any]] = {}
    for row in sorted(groups.to_pylist(), key=lambda row: row["created_at_max"]):
        study = studies.setdefault(
            row["study"],
            {"study": row["study"], "target": row["target"], "model": row["model"], "arms": 0},
        )
        study["arms"] += 1
        study["last"] = row["created_at_max"]
    return sorted(studies.values(), key=lambda study: study["last"])


def require_study(store: Store, name: str) -> None:
    """Refuse an unknown study.

    Raises:
        UsageError: there is none of that name; names those most like it.
    """
    known = [study["study"] for study in list_studies(store)]
    if name not in known:
        named = suggest(name, known, f"coresetdb evaluate list {store.typed}")
        raise UsageError(f"no study {name!r} in {store.uri}; studies: {named}")


def study_result(store: Store, name: str, notes: Sequence[str] = ()) -> StudyResult:
    """Return what a study found so far.

    Raises:
        UsageError: there is none of that name.
    """
    require_study(store, name)
    rows = measurements(store, name)
    texts = rows.sort_by("created_at")["recipe"].unique().to_pylist()
    settings = merged([json.loads(text) for text in texts])
    arms: list[ArmSummary] = []
    metrics = sorted_by_verdict(rows["metric"].unique().to_pylist())
    order = {name: place for place, name in enumerate(_order(settings))}
    for metric in metrics:
        arms += sorted(
            _summaries(rows, metric),
            key=lambda arm: (_number(arm.budget), order.get(arm.arm, len(order)), arm.arm),
        )
    return StudyResult(
        name,
        rows["target"][0].as_py(),
        rows["model"][0].as_py(),
        settings,
        tuple(arms),
        tuple(notes),
    )


def _order(settings: Mapping[str, Any]) -> list[str]:
    methods = [
        name for method in settings["methods"] for name in (method, f"{LENGTH_MATCHED} to {method}")
    ]
    return [*CONTROLS, *methods]


def _number(budget: str | None) -> int:
    return int(budget.split()[0]) if budget else 0


@dataclass(frozen=True)
class _Measured:
    """Values of an arm: (S, N) float64, a row for each seed, a column for each item."""

    values: np.ndarray
    training_rows: float
    training_tokens: float
    seconds: float


def _summaries(rows: pa.Table, metric: str) -> Iterator[ArmSummary]:
    measured = _measured(rows, metric)
    sign = -1.0 if is_lower_better(metric) else 1.0
    gains = {key: _gains(key, measured, sign) for key in measured}
    verdicts = _verdicts(gains)
    for (name, budget), arm in measured.items():
        means = arm.values.mean(axis=1)
        yield ArmSummary(
            arm=name,
            budget=budget,
            metric=metric,
            mean=float(means.mean()),
            spread=float(means.std(ddof=1)) if len(means) > 1 else None,
            seeds=len(means),
            items=arm.values.shape[1],
            training_rows=arm.training_rows,
            training_tokens=arm.training_tokens,
            seconds=arm.seconds,
            gains=gains[name, budget],
            verdict=verdicts.get((name, budget)),
        )


_Arms = Mapping[tuple[str, str | None], _Measured]


def _measured(rows: pa.Table, metric: str) -> dict[tuple[str, str | None], _Measured]:
    import polars as pl

    frame = pl.DataFrame(pl.from_arrow(rows)).filter(pl.col("metric") == metric)
    found: dict[tuple[str, str | None], _Measured] = {}
    for (arm, budget), own in frame.group_by(["arm", "budget"], maintain_order=True):
        table = own.pivot("item", index="seed", values="value").sort("seed", nulls_last=False)
        items = sorted(name for name in table.columns if name != "seed")
        once = own.unique(["seed"])
        found[str(arm), None if budget is None else str(budget)] = _Measured(
            table.select(items).to_numpy(),
            float(np.mean(once["training_rows"].to_numpy())),
            float(np.mean(once["training_tokens"].to_numpy())),
            float(np.mean(once["seconds"].to_numpy())),
        )
    return found


def _gains(key: tuple[str, str | None], arms: _Arms, sign: float) -> dict[str, Difference]:
    """Return control -> by how much an arm is better."""
    name, budget = key
    controls = {
        RANDOM: (RANDOM, budget),
        LENGTH_MATCHED: (f"{LENGTH_MATCHED} to {name}", budget),
        ZERO_SHOT: (ZERO_SHOT, None),
    }
    return {
        control: paired_bootstrap(sign * arms[key].values, sign * arms[other].values)
        for control, other in controls.items()
        if other in arms and other != key
    }


def _verdicts(
    gains: Mapping[tuple[str, str | None], Mapping[str, Difference]],
) -> dict[tuple[str, str | None], str]:
    """Return the verdict of every method, p-values adjusted over the methods of a budget."""
    verdicts: dict[tuple[str, str | None], str] = {}
    for budget in {budget for _, budget in gains}:
        over_random = {
            name: own[RANDOM]
            for (name, its_budget), own in gains.items()
            if its_budget == budget and RANDOM in own and is_method(name)
        }
        adjusted = holm({name: gain.p for name, gain in over_random.items()})
        for name, gain in over_random.items():
            shown = adjusted[name] < LEVEL and gain.shown
            direction = BETTER if gain.estimate > 0 else WORSE
            verdicts[name, budget] = direction if shown else NOT_SHOWN
    return verdicts


def is_method(arm: str) -> bool:
    """Return whether an arm is a method's, neither a control nor a bin."""
    return not (
        arm in CONTROLS or arm.startswith(f"{LENGTH_MATCHED} to ") or arm.startswith("bin ")
    )
