"""Estimate what making features will cost: bytes, passes, fits and time.

Most widths follow from the columns' types. Values of unequal length and the time of every pass are
measured on a few dozen rows of the source. A missing fit is tried in memory on a few of those rows,
because widths may depend on its result; its time is not extrapolated from the trial, but computed
as the forwards it needs on its whole sample times the measured time of a forward (for training
steps: times the time of a step in the trial). Fits that share a pass pay for it once.

What the presets that need no training would take beside it is measured on a few rows of average
length, so that a plan tells the choice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..schemas.conversations import TURN_MARKS, as_columns
from ..schemas.errors import CoresetDBError, UsageError
from ..schemas.ids import GrowingIdSet
from ..schemas.instruction import Record
from ..schemas.plain_text import LinesResult, count_of, text_table
from ..schemas.progress import Progress, Silence
from ..schemas.recipe import Recipe
from ..schemas.tables import POOL
from ..store.catalog import artifacts_of
from ..store.removal import present_ids
from ..store.status import type_words
from ..store.store import Store
from ..workers.opening import described
from ..workers.options import WorkerOptions
from .create import backbone_config, describe_backbone, pending, recipes_of
from .fits.fit import PassFit, Sample
from .fits.sampling import BLOCK_ROWS, Reservoir
from .jobs.fitting import Job, MemoryCache, StoreCache, fitted, jobs_for, run
from .jobs.model_worker import placement
from .models.describe import BackboneInfo
from .representations.registry import FeatureSpec, get, parse_specs, recipe_for
from .sources import SourceList

if TYPE_CHECKING:
    from ..store.catalog import Artifact
    from .featurizer import Featurizer
    from .models.backbone import Backbone


@dataclass(frozen=True)
class PlannedColumn:
    """A column of the pool; `bytes_per_row` is `measured`, or follows from the type."""

    column: str
    feature: str
    type: str
    bytes_per_row: float
    measured: bool


@dataclass(frozen=True)
class PlannedPass:
    """The time of one run of the model, or of what a representation computes by itself."""

    what: str
    features: list[str]
    seconds_per_1000_rows: float
    seconds: float


@dataclass(frozen=True)
class PlannedFit:
    """A fit that runs first, on a sample of `rows` rows; `bytes` of its artifacts."""

    fit: str
    rows: int
    artifacts: list[str]
    bytes: int
    seconds: float


@dataclass(frozen=True)
class Plan(LinesResult):
    """The cost of some features over some files.

    Attributes:
        records: in the files; counted if `exact`, else extrapolated from the first `read`.
        presets: preset -> bytes per row of its features, without the texts.
        unsized: preset -> why that could not be measured.
        rows: records that the pool lacks: those that are featurized and stored.
        tokens_per_row, trial_rows: of the trial.
        threads: of the CPU that the trial had.
        workers: what `--workers auto` would choose, in words.
        notes: what the figures leave out.
    """

    features: list[str]
    records: int
    rows: int
    read: int
    exact: bool
    trial_rows: int
    tokens_per_row: float
    columns: list[PlannedColumn]
    passes: list[PlannedPass]
    fits: list[PlannedFit]
    notes: list[str] = field(default_factory=list)
    presets: dict[str, float] = field(default_factory=dict)
    unsized: dict[str, str] = field(default_factory=dict)
    threads: int = 1
    workers: str = ""

    @property
    def bytes_of_features(self) -> dict[str, float]:
        """Feature -> bytes of a row, all its columns together, as in memory."""
        totals: dict[str, float] = {}
        for column in self.columns:
            if column.feature:
                totals[column.feature] = totals.get(column.feature, 0) + column.bytes_per_row
        return totals

    @property
    def bytes_per_row(self) -> float:
        """Bytes of all columns together, as in memory."""
        return sum(column.bytes_per_row for column in self.columns)

    @property
    def gigabytes(self) -> float:
        """What rows and artifacts add to the store, before the encodings of Lance."""
        return (self.bytes_per_row * self.rows + sum(fit.bytes for fit in self.fits)) / 1e9

    @property
    def seconds(self) -> float:
        """Time of fits and passes on this machine."""
        return sum(each.seconds for each in (*self.fits, *self.passes))

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        totals = ("bytes_per_row", "bytes_of_features", "gigabytes", "seconds")
        return {**asdict(self), **{name: getattr(self, name) for name in totals}}

    def lines(self) -> list[str]:
        """Return rows, columns, features, fits, passes, totals and the choice as text."""
        counted = "counted" if self.exact else f"extrapolated from the first {self.read:,}"
        columns = [
            {
                "column": column.column,
                "of": column.feature,
                "type": column.type,
                "bytes per row": max(1, round(column.bytes_per_row)),
                "known from": "trial" if column.measured else "type",
            }
            for column in self.columns
        ]
        of_features = self.bytes_of_features
        features = [
            {
                "feature": feature,
                "bytes per row": round(size),
                "GB per million rows": size / 1e3,
            }
            for feature, size in {**of_features, "all features": sum(of_features.values())}.items()
        ]
        choices = [
            f"{name} would take {size:,.0f} bytes ({size / 1e3:,.1f} GB per million rows)"
            for name, size in self.presets.items()
        ]
        fits = [
            {
                "fitted first": fit.fit,
                "on rows": fit.rows,
                "MB": fit.bytes / 1e6,
                "time": duration(fit.seconds),
            }
            for fit in self.fits
        ]
        passes = [
            {
                "pass": model_pass.what,
                "shared by": ", ".join(model_pass.features),
                "s per 1,000 rows": model_pass.seconds_per_1000_rows,
                "time": duration(model_pass.seconds),
            }
            for model_pass in self.passes
        ]
        return [
            f"{count_of(self.records, 'record')} ({counted}), {self.rows:,} new to the pool, "
            f"{self.tokens_per_row:,.0f} tokens per row on average",
            *(f"\n{text_table(rows)}" for rows in (columns, features, fits, passes) if rows),
            f"\n{self.bytes_per_row:,.0f} bytes per row, {self.gigabytes:,.2f} GB; about "
            f"{duration(self.seconds)} on this machine "
            f"(measured on {count_of(self.trial_rows, 'row')}, by one process of "
            f"{count_of(self.threads, 'thread')})",
            f"--workers auto: {self.workers}",
            *([f"Features of the preset {'; of '.join(choices)}"] if choices else []),
            *(
                f"What the preset {name} takes is not known: {w}"
                for name, w in self.unsized.items()
            ),
        ]


def duration(seconds: float) -> str:
    """A span of time in the unit that a person would use."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:,.1f} s"


COUNTED_RECORDS = 50_000
"""The most records read, divided among the files: some seconds."""
LEAST_PER_FILE = 5_000
SEED = 0


@dataclass(frozen=True)
class RecordCounts:
    """How many records some files hold, and the rows drawn from them.

    Attributes:
        records: of all files.
        new: distinct ones that the pool lacks.
        read: how many records were read.
        exact: whether all files were read to their end; otherwise the counts are estimates.
        drawn: some of the new ones, at random among those read.
    """

    records: int
    new: int
    read: int
    exact: bool
    drawn: Sequence[Record]


def count_records(source_list: SourceList, known: GrowingIdSet, rows: int) -> RecordCounts:
    """How many records some files hold, and rows drawn from those the pool lacks.

    Of each file its share of 50,000 records is read; the rest is estimated from its bytes. Sources
    without a size (standard input) are read to their end.
    """
    share = max(LEAST_PER_FILE, COUNTED_RECORDS // max(1, len(source_list.entries)))
    drawing: Reservoir[Record] = Reservoir(SEED, lambda total: rows)
    seen = GrowingIdSet()
    read, records = 0, 0.0
    exact = True
    for source in source_list.sources():
        items = islice(source, None if source.size is None else share)
        own = 0
        while block := list(islice(items, BLOCK_ROWS)):
            own += len(block)
            by_id = {item.instruction.id: item for item in block if isinstance(item, Record)}
            ids = list(by_id)
            old = known.contains(ids) | seen.contains(ids)
            new = [row_id for row_id, is_old in zip(ids, old, strict=True) if not is_old]
            if new:
                seen.add(new)
            for row_id in new:
                drawing.offer(row_id, by_id[row_id])
        read += own
        if source.size is None or own < share:
            records += own
        else:
            exact = False
            records += own * max(1.0, source.size / max(1, source.bytes_read))
        source.finish()
    total = round(records)
    new_rows = drawing.total if exact else round(drawing.total * records / max(1, read))
    return RecordCounts(total, new_rows, read, exact, [record for _, record in drawing.drawn()])


TRIAL_ROWS = 64
TRIAL_SECONDS = 10.0
FIT_SECONDS = 10.0
LEAST_ROWS = 16
PRESET_ROWS = 4
SIZED_PRESETS = ("lean", "fast")
"""Those whose fits need a pass or two, no training."""

FORWARDS_OF_FEATURES = 4
FORWARDS_OF_FITS = 16
"""Expected cost in bare forwards; only decides how many rows a trial takes."""

KEYS = {"id": 32, "corpus": 8, "added_at": 8, "run": 32}
"""Bytes of the columns of `pool` that are no text of the row; corpus and run repeat."""


def plan(
    store: Store,
    source_list: SourceList,
    backbone: Callable[[], Backbone],
    features: str | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Estimate what ingesting files would cost; the store is not changed.

    Args:
        features: to plan instead of the store's own, as `init` takes them.

    Raises:
        UsageError: an unknown feature, or no record of the files can be used.
    """
    import torch

    progress = progress or Silence()
    info = describe_backbone(store.uri, backbone_config(store))
    counted = count_records(source_list, present_ids(store), TRIAL_ROWS)
    notes: list[str] = []
    if not counted.drawn:
        raise UsageError(
            f"nothing to plan: none of the {counted.read:,} records read is new to the pool"
        )
    loaded = backbone()
    progress.say(
        f"{count_of(counted.records, 'record')}; measuring on {count_of(len(counted.drawn), 'row')}"
    )
    per_row = _bare_forward(loaded, counted.drawn)
    specs = parse_specs(features) if features else pending(store)
    present = [] if features else recipes_of(store)
    artifacts = {
        recipe.artifacts[name]: artifact
        for recipe in present
        for name, artifact in artifacts_of(store, recipe).items()
    }
    cache = MemoryCache(StoreCache(store))
    fits, recipes = _try_fits(
        store, specs, info, counted, loaded, per_row, progress, cache, artifacts, notes
    )
    rows = _rows_within(TRIAL_SECONDS, FORWARDS_OF_FEATURES * per_row, counted.drawn)
    trial = _try_features([*present, *recipes], loaded, artifacts, rows, counted.new)
    sample = _fit_sample(per_row, counted)
    presets, unsized = _try_presets(
        trial, [*present, *recipes], info, loaded, rows, sample, cache, artifacts
    )
    return Plan(
        features=[*(recipe.feature for recipe in present), *map(str, specs)],
        records=counted.records,
        rows=counted.new,
        read=counted.read,
        exact=counted.exact,
        trial_rows=len(rows),
        tokens_per_row=trial.tokens_per_row,
        columns=[*_texts(counted.drawn), *trial.columns],
        passes=trial.passes,
        fits=fits,
        notes=notes,
        presets=presets,
        unsized=unsized,
        threads=torch.get_num_threads(),
        workers=described(placement(store, WorkerOptions("auto"))),
    )


def _bare_forward(backbone: Backbone, drawn: Sequence[Record]) -> float:
    """Return the seconds of a row in a plain forward, from as many rows as take a second."""
    from .featurizer import Featurizer
    from .representations.registry import parse_features

    bare = Featurizer(backbone, parse_features("rds", backbone.info))
    bare.featurize([record.instruction for record in drawn[:2]])  # warms up
    for rows in (LEAST_ROWS, TRIAL_ROWS):
        begun = time.perf_counter()
        part = drawn[:rows]
        bare.featurize([record.instruction for record in part])
        seconds = time.perf_counter() - begun
        if seconds > 1.0:
            break
    return seconds / len(part)


def _rows_within(seconds: float, per_row: float, drawn: Sequence[Record]) -> Sequence[Record]:
    return drawn[: max(LEAST_ROWS, int(seconds / per_row))]


def _fit_sample(per_row: float, counted: RecordCounts) -> Sample:
    rows = _rows_within(FIT_SECONDS, FORWARDS_OF_FITS * per_row, counted.drawn)
    instructions = [row.instruction for row in rows]
    return Sample([own.id for own in instructions], instructions, len(instructions))


def _try_fits(
    store: Store,
    specs: Sequence[FeatureSpec],
    info: BackboneInfo,
    counted: RecordCounts,
    backbone: Backbone,
    per_row: float,
    progress: Progress,
    cache: MemoryCache,
    artifacts: dict[str, Artifact],
    notes: list[str],
) -> tuple[list[PlannedFit], list[Recipe]]:
    """Run missing fits in memory; return their plans and the recipes they lead to.

    Adds to `cache`, `artifacts` and `notes`.
    """
    sample = _fit_sample(per_row, counted)
    tried: list[tuple[Job, float]] = []
    recipes: list[Recipe] = []
    jobs: dict[str, Job] = {}
    for spec in specs:
        own = jobs_for(info, spec)
        jobs |= {job.digest: job for job in own}
        try:
            for job in own:
                if not job.done(cache):
                    begun = time.perf_counter()
                    run([job], jobs, sample, backbone, cache, progress)
                    tried.append((job, time.perf_counter() - begun))
        except UsageError as error:
            notes.append(f"{spec} is left out: {error} (tried on {count_of(len(sample), 'row')})")
            continue
        fits = fitted(own, cache)
        artifacts |= {fits.digests[name]: fits.artifacts[name] for name in fits.digests}
        present = [*recipes_of(store), *recipes]
        recipes.append(recipe_for(spec, info, fits.artifacts, fits.digests, present))
    if tried:
        notes.append(
            f"fits were tried on {count_of(len(sample), 'row')}: a width that a fit chooses may "
            "differ on the whole sample"
        )
    return _planned(tried, len(sample), counted.new, per_row, cache), recipes


def _planned(
    tried: Sequence[tuple[Job, float]],
    tried_rows: int,
    total: int,
    per_row: float,
    cache: MemoryCache,
) -> list[PlannedFit]:
    """Estimate fits over a pool of `total` new rows; see the head of this file.

    Args:
        tried: fits and the seconds they took on `tried_rows` rows.
        per_row: seconds of a row in a bare forward.
    """
    planned: list[PlannedFit] = []
    passes: dict[Any, int] = {}
    for job, seconds in tried:
        rows = min(job.fit.sample_rows(total), total)
        work = job.fit.work(rows)
        trial = job.fit.work(min(job.fit.sample_rows(tried_rows), tried_rows))
        if isinstance(job.fit, PassFit):
            key = (job.fit.sample_seed, job.checkpoint)
            already = min(rows, passes.get(key, 0))
            passes[key] = max(rows, already)
            work = replace(work, forwards=work.forwards - already)
        estimate = work.forwards * per_row
        if trial.steps:
            estimate += work.steps * seconds / trial.steps
        outputs = job.outputs(cache).items()
        size = sum(len(cache.load(content, name).pack()) for name, content in outputs)
        planned.append(PlannedFit(job.fit.name, rows, list(job.fit.outputs()), size, estimate))
    return planned


@dataclass(frozen=True)
class _Trial:
    tokens_per_row: float
    columns: list[PlannedColumn]
    passes: list[PlannedPass]
    tokens: list[int]


def _try_features(
    recipes: Sequence[Recipe],
    backbone: Backbone,
    artifacts: dict[str, Artifact],
    drawn: Sequence[Record],
    total: int,
) -> _Trial:
    """Featurize the trial's rows after a warm-up on a few; extrapolate to `total` rows."""
    from .featurizer import Featurizer

    instructions = [record.instruction for record in drawn]
    Featurizer(backbone, recipes, artifacts=artifacts).featurize(instructions[:LEAST_ROWS])
    featurizer = Featurizer(backbone, recipes, artifacts=artifacts)
    begun = time.perf_counter()
    table = featurizer.featurize(instructions)
    seconds = time.perf_counter() - begun
    rows = len(drawn)

    def planned(what: str, features: Sequence[str], spent: float) -> PlannedPass:
        return PlannedPass(what, list(features), 1000 * spent / rows, total * spent / rows)

    passes = [
        planned(
            _words(featurizer, key),
            [recipe.feature for recipe, _ in sharing],
            featurizer.seconds.get(key, 0.0),  # missing where the template refused all rows
        )
        for key, sharing in featurizer.passes().items()
    ]
    for recipe in recipes:
        if not get(recipe.representation).passes(featurizer.setup(recipe)):
            spent = featurizer.seconds.get(recipe.fingerprint, 0.0)
            passes.append(planned("a model of its own", [recipe.feature], spent))
    spent = sum(model_pass.seconds for model_pass in passes) * rows / total
    passes.append(planned("everything else: tokens, columns", [], max(seconds - spent, 0.0)))
    columns = [
        _column(table[name], name, recipe.feature, rows)
        for recipe in recipes
        for name in recipe.columns
    ]
    tokens = [count or 0 for count in table["tokens"].to_pylist()]
    return _Trial(sum(tokens) / rows, columns, passes, tokens)


def _try_presets(
    trial: _Trial,
    planned: Sequence[Recipe],
    info: BackboneInfo,
    backbone: Backbone,
    drawn: Sequence[Record],
    sample: Sample,
    cache: MemoryCache,
    artifacts: dict[str, Artifact],
) -> tuple[dict[str, float], dict[str, str]]:
    """Return preset -> bytes per row of its features, and why where one cannot be made.

    Features that were in the trial are not tried again; the others are, on rows of average length.
    """
    from .featurizer import Featurizer

    of_trial = {column.column: column.bytes_per_row for column in trial.columns}
    typical = sorted(range(len(drawn)), key=lambda at: abs(trial.tokens[at] - trial.tokens_per_row))
    instructions = [drawn[at].instruction for at in typical[:PRESET_ROWS]]
    sizes: dict[str, float] = {}
    unsized: dict[str, str] = {}
    for preset in SIZED_PRESETS:
        total, others = 0.0, []
        known = dict(artifacts)
        try:
            for spec in parse_specs(preset):
                there = [recipe for recipe in planned if spec.matches(recipe)]
                if there:
                    total += sum(of_trial[column] for column in there[0].columns)
                    continue
                jobs = jobs_for(info, spec)
                for job in jobs:
                    if not job.done(cache):
                        by_digest = {each.digest: each for each in jobs}
                        run([job], by_digest, sample, backbone, cache, Silence())
                fits = fitted(jobs, cache)
                known |= {fits.digests[name]: fits.artifacts[name] for name in fits.digests}
                others.append(recipe_for(spec, info, fits.artifacts, fits.digests, others))
            table = Featurizer(backbone, others, artifacts=known).featurize(instructions)
        except CoresetDBError as error:
            unsized[preset] = str(error)
            continue
        for recipe in others:
            columns = (_column(table[name], name, "", len(instructions)) for name in recipe.columns)
            total += sum(column.bytes_per_row for column in columns)
        sizes[preset] = total
    return sizes, unsized


def _words(featurizer: Featurizer, key: tuple[str, str]) -> str:
    """Describe a run of the model in words."""
    sharing = featurizer.passes()[key]
    names = {
        name
        for recipe, _ in sharing
        for name, content in recipe.artifacts.items()
        if content == key[1]
    }
    backward = any(needs.gradients for _, needs in sharing)
    return "".join(
        (
            "forward and backward, " if backward else "forward, ",
            "whole rows" if key[0] == "row" else "answers alone",
            f", with the adapter {min(names)}" if names else "",
        )
    )


def _column(values: pa.ChunkedArray, name: str, feature: str, rows: int) -> PlannedColumn:
    kind = values.type
    measured = pa.types.is_list(kind) or pa.types.is_string(kind)
    if measured:
        width = values.nbytes / rows
    elif pa.types.is_fixed_size_list(kind):
        width = kind.list_size * kind.value_type.bit_width / 8
    else:
        width = kind.bit_width / 8
    return PlannedColumn(name, feature, type_words(kind), width, measured)


def _texts(drawn: Sequence[Record]) -> list[PlannedColumn]:
    """Return the columns of the pool that hold no feature."""
    texts: dict[str, list[Any]] = {
        **as_columns([record.instruction for record in drawn]),
        "metadata": [record.metadata for record in drawn],
        "source_id": [record.source_id for record in drawn],
    }
    types = {field.name: field.type for field in [*POOL, TURN_MARKS]}
    measured = [
        _column(pa.chunked_array([pa.array(values, types[name])]), name, "", len(drawn))
        for name, values in texts.items()
    ]
    fixed = [
        PlannedColumn(
            own.name, "", str(own.type), KEYS.get(own.name) or own.type.bit_width / 8, False
        )
        for own in POOL
        if own.name not in texts
    ]
    return [*measured, *fixed]
