"""Run a study: choose every arm's rows, say what can be found and how long it takes, then train and
measure arm by arm.

Every arm is kept as soon as it was measured. The same call goes on where a killed one stopped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ingest.conversations.tokenization import Encoded
from ..ingest.create import backbone_config
from ..ingest.models.describe import BackboneConfig, describe
from ..query.comparison import resolve_method
from ..query.names import check_name, unknown_target
from ..query.rules.examples import Evaluation
from ..query.rules.rules import Rules
from ..query.snapshot import Snapshot
from ..schemas.canonical import digest_of
from ..schemas.errors import UsageError
from ..schemas.plain_text import LinesResult, count_of
from ..schemas.progress import Progress, Silence
from ..schemas.tables import literal
from ..store.evaluation_results import ArmResult, arms_in, measurements, put_arm
from ..store.locks import RunLock, run_state
from .arm_rows import ArmChooser, ArmRows, conversations_of
from .harness import measure_tasks, require_harness
from .items import Item, ids_of_items, read_items
from .metrics import measure, metrics_for, sorted_by_verdict
from .results import StudyResult, study_result
from .statistics import detectable_difference
from .study import (
    DEFAULT_CONTROLS,
    ORACLE,
    WORST,
    ZERO_SHOT,
    Arm,
    Match,
    Study,
)
from .training import TrainingRecipe, require_trainer, trained

if TYPE_CHECKING:
    from ..ingest.models.backbone import Backbone
    from ..ingest.readers.options import ReadOptions
    from ..ingest.sources import SourceData
    from ..store.store import Store

STEPS_TIMED = 2
ITEMS_TIMED = 16
NAME_LONGEST = 44


@dataclass(frozen=True)
class Forecast(LinesResult):
    """What a study will take, and what it can find, said before the first training.

    Attributes:
        name: of the study.
        arms: still to be trained.
        done: arms that were measured before.
        items: examples that models are measured on.
        tokens: to train on, every epoch counted.
        tokens_per_second: of training, measured on two steps; None where nothing is trained.
        seconds_to_measure: of an arm, measured.
        detectable: metric -> the smallest difference found in four of five cases, and the spread of
            its values over items.
        notes: sentences for the user.
    """

    name: str
    arms: int
    done: int
    items: int
    tokens: int
    tokens_per_second: float | None
    seconds_to_measure: float
    detectable: Mapping[str, tuple[float, float]]
    notes: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """What all arms will take."""
        training = self.tokens / self.tokens_per_second if self.tokens_per_second else 0.0
        return training + self.arms * self.seconds_to_measure

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {**asdict(self), "seconds": self.seconds}

    def lines(self) -> list[str]:
        """The forecast, in words."""
        lines = [f"study {self.name}"]
        lines += [f"  {note}" for note in self.notes]
        if self.done:
            lines.append(f"  {count_of(self.done, 'arm was', 'arms were')} measured before")
        if self.tokens_per_second:
            lines.append(
                f"  {count_of(self.arms, 'arm')} to train, {self.tokens:,} tokens at "
                f"{self.tokens_per_second:,.0f} a second, {self.seconds_to_measure:.0f} s to "
                f"measure each: about {timedelta(seconds=round(self.seconds))}"
            )
        for metric, (smallest, spread) in self.detectable.items():
            if not spread:
                lines.append(
                    f"  {metric}: the untrained model has the same value for every example, so "
                    "what can be found is unknown; such a metric is often at its floor"
                )
                continue
            lines.append(
                f"  {metric}: a difference of {smallest:.3f} or more between two arms can be found "
                f"(80 % power; {count_of(self.items, 'example')}, standard deviation {spread:.3f}, "
                "0.5 correlation between arms; variation between trainings comes on top)"
            )
        return lines


def evaluate(
    store: Store,
    target: str,
    sources: SourceData,
    reading: ReadOptions,
    *,
    methods: Sequence[str],
    budgets: Sequence[int],
    match: Match = "rows",
    controls: Sequence[str] = (),
    seeds: int = 3,
    metrics: Sequence[str] = (),
    where: str | None = None,
    relevant: str | None = None,
    limit: int | None = None,
    tasks: Sequence[str] = (),
    task_folder: str | None = None,
    bins: int = 0,
    recipe: TrainingRecipe,
    name: str | None = None,
    memory_limit: int,
    forecast_only: bool = False,
    progress: Progress | None = None,
) -> StudyResult | Forecast:
    """Train a model on every arm's rows and measure it on examples that no arm saw.

    Args:
        store: with pool and target.
        sources, reading: the examples that models are measured on.
        controls: by default `DEFAULT_CONTROLS`, with `oracle` and `worst` where `relevant` is
            given.
        forecast_only: stop before the first training, and return what it would take.
        The others are those of `Study` and of `Database.evaluate`.

    Raises:
        UsageError: unknown names, nothing to measure on, a library that is not installed, another
            process that works on the study.
        InputError: an evaluation file cannot be read.
        BackboneError: the model cannot be loaded, or a loss is not finite.
        MissingFeatureError, FingerprintError, QueryError: as for `select`.
    """
    require_trainer()
    if tasks:
        require_harness()
    progress = progress or Silence()
    snapshot = Snapshot(store)
    read = read_items(sources, reading, _own_examples(snapshot, target), limit)
    study = Study(
        target=target,
        methods=tuple(dict.fromkeys(str(resolve_method(snapshot, each)[0]) for each in methods)),
        budgets=tuple(budgets),
        match=match,
        controls=tuple(controls) or _default_controls(relevant, bins),
        seeds=seeds,
        metrics=metrics_for(read.items, metrics),
        items=digest_of(ids_of_items(read.items)),
        recipe=_settled(recipe),
        where=where,
        relevant=relevant,
        tasks=tuple(tasks),
        bins=bins,
    )
    name = check_name("study", name or study.name)
    if len(name) > NAME_LONGEST:
        raise UsageError(f"study name {name!r}: at most {NAME_LONGEST} characters")
    with _alone(store, name):
        _require_same(store, name, study)
        run = _Run(store, study, name, read.items, task_folder, memory_limit, progress)
        forecast = run.forecast(read.notes)
        if forecast_only:
            return forecast
        for line in forecast.lines():
            progress.say(line)
        run.finish()
    return study_result(store, name, tuple(run.notes))


@contextmanager
def _alone(store: Store, name: str) -> Iterator[None]:
    """Keep other processes out of a study inside the block: they would train the same arms.

    Raises:
        UsageError: another one works on it.
    """
    lock = f"study-{name}"
    state = run_state(store.place, lock)
    if state.state == "running":
        raise UsageError(
            f"study {name!r} is under way: {state.because}. Wait until it ends, or give another "
            "name"
        )
    with RunLock(store.place, lock) as held:
        held.end_is_recorded()  # what was measured is in the store already
        yield


def _default_controls(relevant: str | None, bins: int) -> tuple[str, ...]:
    if bins:
        return (ZERO_SHOT,)
    return DEFAULT_CONTROLS if relevant is None else (*DEFAULT_CONTROLS, ORACLE, WORST)


def _settled(recipe: TrainingRecipe) -> TrainingRecipe:
    """Return a recipe with device and dtype resolved, and the length that the model allows."""
    from ..ingest.models.backbone import resolve

    config = resolve(BackboneConfig(recipe.model, recipe.device, recipe.dtype))
    positions = describe(config).positions
    longest = min(recipe.max_length, positions or recipe.max_length)
    return replace(
        recipe, model=config.name, device=config.device, dtype=config.dtype, max_length=longest
    )


def store_model(store: Store) -> str:
    """Return the name of the model that makes a store's features."""
    return backbone_config(store).name


def _own_examples(snapshot: Snapshot, target: str) -> set[str]:
    """Return the ids of a target's examples.

    Raises:
        UsageError: there is no such target.
    """
    rows = snapshot.targets.to_table(columns=["id"], filter=f"target = {literal(target)}")
    if not len(rows):
        known = snapshot.targets.to_table(columns=["target"])["target"].unique().to_pylist()
        raise UsageError(unknown_target(snapshot.store, target, known))
    return set(rows["id"].to_pylist())


def _require_same(store: Store, name: str, study: Study) -> None:
    """Refuse to go on with a study of the same name whose arms are others.

    Raises:
        UsageError: it has other settings than methods, budgets, controls and seeds.
    """
    for text in measurements(store, name, ["recipe"])["recipe"].unique().to_pylist():
        if changes := study.changes_since(json.loads(text)):
            raise UsageError(
                f"study {name!r} was made with other settings: {'; '.join(changes)}. Only methods, "
                "budgets, controls and seeds may be added to a study. Give another name, or remove "
                f"it: coresetdb evaluate remove {store.typed} {name}"
            )


class _Run:
    """A study on its way: arms to be measured, their rows, and the model once it is loaded."""

    def __init__(
        self,
        store: Store,
        study: Study,
        name: str,
        items: Sequence[Item],
        task_folder: str | None,
        memory_limit: int,
        progress: Progress,
    ) -> None:
        self._store, self._study, self._name = store, study, name
        self._items, self._task_folder, self._progress = items, task_folder, progress
        self.notes: list[str] = []
        done = arms_in(store, name)
        arms = list(study.arms())
        self._done = sum(arm.key in done for arm in arms)
        self._waiting = [arm for arm in arms if arm.key not in done]
        instructions = tuple(item.instruction for item in items)
        rules = Rules(evaluations=(Evaluation(f"{name}-items", instructions, ()),))
        chooser = ArmChooser(store, study, name, rules, memory_limit)
        self._rows: dict[Arm, ArmRows] = {
            arm: chooser.rows_of(arm) for arm in self._waiting if arm.key.arm != ZERO_SHOT
        }
        self.notes += chooser.notes
        self._backbone: Backbone | None = None

    @property
    def _model(self) -> Backbone:
        """The model of the recipe, loaded once."""
        if self._backbone is None:
            from ..ingest.models.backbone import Backbone

            recipe = self._study.recipe
            self._backbone = Backbone.load(
                BackboneConfig(recipe.model, recipe.device, recipe.dtype, recipe.max_length)
            )
        return self._backbone

    def forecast(self, notes: Sequence[str]) -> Forecast:
        """Measure the model as it is, and a few steps of training; say what the rest will take."""
        seconds, values = 0.0, {}
        if self._waiting:
            seconds, values = self._untrained()
        elif ZERO_SHOT in self._study.controls:
            values = self._kept_zero_shot()
        training = [arm for arm in self._waiting if arm.key.arm != ZERO_SHOT]
        return Forecast(
            name=self._name,
            arms=len(training),
            done=self._done,
            items=len(self._items),
            tokens=self._training_tokens(),
            tokens_per_second=self._timed_steps() if training else None,
            seconds_to_measure=seconds,
            detectable={
                metric: (
                    detectable_difference(spread := float(np.std(list(own.values()))), len(own), 1),
                    spread,
                )
                for metric in sorted_by_verdict(list(values))
                if (own := values[metric])
            },
            notes=tuple(notes),
        )

    def _untrained(self) -> tuple[float, dict[str, dict[str, float]]]:
        """Return the seconds that measuring takes, and values of the model as it is."""
        start = time.perf_counter()
        if self._waiting[0].key.arm == ZERO_SHOT:
            self._progress.say("measuring the model as it is")
            values = self._measured()
            took = time.perf_counter() - start
            self._keep(self._waiting.pop(0), ArmRows((), None), 0, took, values)
            return took, values
        if kept := self._kept_zero_shot():
            some = self._items[:ITEMS_TIMED]
            measure(self._model, some, self._study.metrics)
            return (time.perf_counter() - start) * len(self._items) / len(some), kept
        some = self._items[:ITEMS_TIMED]
        values = measure(self._model, some, self._study.metrics)
        return (time.perf_counter() - start) * len(self._items) / len(some), values

    def _kept_zero_shot(self) -> dict[str, dict[str, float]]:
        values: dict[str, dict[str, float]] = {}
        columns = ["arm", "metric", "item", "value"]
        for row in measurements(self._store, self._name, columns).to_pylist():
            if row["arm"] == ZERO_SHOT:
                values.setdefault(row["metric"], {})[row["item"]] = row["value"]
        return values

    def _timed_steps(self) -> float:
        """Return the tokens that training sees in a second, from a few steps."""
        recipe = self._study.recipe
        longest = max(self._rows.values(), key=lambda rows: len(rows.ids))
        encoded = self._encoded(longest.ids[: recipe.batch * STEPS_TIMED])
        with trained(self._model, encoded, replace(recipe, epochs=1), 0, steps=1):
            pass  # the first step of a process takes longer than the others
        start = time.perf_counter()
        with trained(self._model, encoded, replace(recipe, epochs=1), 0) as tokens:
            return tokens / (time.perf_counter() - start)

    def _training_tokens(self) -> int:
        recipe, total = self._study.recipe, 0
        wanted = sorted({each for rows in self._rows.values() for each in rows.ids})
        if not wanted:
            return 0
        known = self._store.take(wanted, ["id", "tokens"])
        tokens = dict(zip(known["id"].to_pylist(), known["tokens"].to_pylist(), strict=True))
        for rows in self._rows.values():
            total += sum(min(tokens[each] or 0, recipe.max_length) for each in rows.ids)
        return total * recipe.epochs

    def _encoded(self, ids: Sequence[str]) -> list[Encoded]:
        """Return rows as tokens, without those that have nothing to learn from."""
        encoded = self._model.encode_all(conversations_of(self._store, ids))
        usable = [row for row in encoded if isinstance(row, Encoded) and row.response[1:].any()]
        if not usable:
            raise UsageError("none of an arm's rows has an answer that this model can be taught")
        return usable

    def _measured(self) -> dict[str, dict[str, float]]:
        values = measure(self._model, self._items, self._study.metrics)
        if self._study.tasks:
            values |= measure_tasks(self._model, self._study.tasks, self._task_folder)
        return values

    def _keep(
        self,
        arm: Arm,
        rows: ArmRows,
        tokens: int,
        seconds: float,
        values: Mapping[str, Mapping[str, float]],
    ) -> None:
        epochs = self._study.recipe.epochs if rows.ids else 0
        put_arm(
            self._store,
            self._name,
            self._study.target,
            self._study.recipe.model,
            self._study.text,
            ArmResult(arm.key, rows.coreset, len(rows.ids) * epochs, tokens, seconds, values),
        )

    def finish(self) -> None:
        """Train and measure the arms that wait, each kept as soon as it is done."""
        total = self._done + len(self._waiting)
        waiting, self._waiting = self._waiting, []
        for place, arm in enumerate(waiting):
            start = time.perf_counter()
            rows = self._rows[arm]
            encoded = self._encoded(rows.ids)
            if len(encoded) < len(rows.ids):
                left = count_of(len(rows.ids) - len(encoded), "row")
                self.notes.append(f"{arm}: {left} with nothing to learn from left out")

            def report(share: float, said: str, place: int = place, arm: Arm = arm) -> None:
                done = (place + share) / len(waiting)
                self._progress.learn(name=self._name, share=done, said=f"{arm}: {said}")

            seed = arm.key.seed or 0
            with trained(self._model, encoded, self._study.recipe, seed, report) as tokens:
                report(1.0, "measuring")
                values = self._measured()
            took = time.perf_counter() - start
            self._keep(arm, rows, tokens, took, values)
            number = self._done + place + 1
            self._progress.say(f"{number} of {total}: {arm}: {_said(values)} ({took:.0f} s)")


def _said(values: Mapping[str, Mapping[str, float]]) -> str:
    return ", ".join(
        f"{metric} {np.mean(list(values[metric].values())):.3f}"
        for metric in sorted_by_verdict(list(values))
    )
