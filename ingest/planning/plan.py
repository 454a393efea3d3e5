"""What making features will cost, before anything runs: bytes, passes, fits, and an estimated time.

Widths are known from the columns' types; what differs from row to row, and every time, is measured
on a few dozen rows of the source. What is not fitted yet is fitted on those rows, in memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ...schemas.errors import UsageError
from ...schemas.instruction import Record
from ...schemas.recipe import Recipe
from ...schemas.tables import POOL
from ...store.status import type_words
from ...store.store import Store
from ..create import artifacts_of, pending, recipes_of
from ..fits.fit import Sample
from ..fits.fitting import Job, jobs_for, learned, run
from ..fits.shelf import MemoryShelf, StoreShelf
from ..jobs.progress import FitProgress, Silence
from ..models.describe import BackboneConfig, BackboneInfo, describe
from ..reading.counting import Counted, count
from ..reading.looking import Looked
from ..representations.registry import Wanted, get, parse_wanted, recipe_for, written
from .planned import Plan, PlannedColumn, PlannedFit, PlannedPass, seconds_on

if TYPE_CHECKING:
    from ..featurizer import Featurizer
    from ..fits.artifacts import Artifact
    from ..models.backbone import Backbone

TRIAL_ROWS = 64
TRIAL_SECONDS = 10.0
FIT_SECONDS = 30.0
LEAST_ROWS = 16
FORWARDS_OF_FEATURES = 4
FORWARDS_OF_FITS = 16
"""How much more than a bare forward is expected; only to choose how many rows a trial takes."""

KEYS = {"id": 32, "corpus": 8, "added_at": 8, "run": 32}
"""Bytes of the columns of `pool` that are no text of the row; corpus and run are repeated."""


def plan(
    store: Store,
    looked: Looked,
    backbone: Callable[[], Backbone],
    features: str | None = None,
    progress: FitProgress | None = None,
) -> Plan:
    """Tell what ingesting files would cost; the store stays as it is.

    Args:
        features: others than the store's own, as `init` takes them.

    Raises:
        UsageError: an unknown feature, or no record of the files can be used.
    """
    said = progress or Silence()
    info = describe(BackboneConfig(**store.config["backbone"]))
    counted = count(looked, store.known_ids(), TRIAL_ROWS)
    notes: list[str] = []
    if not counted.drawn:
        raise UsageError(
            f"nothing to plan: none of the {counted.read:,} records read is new to the pool"
        )
    loaded = backbone()
    said.say(f"{counted.records:,} records; trying {len(counted.drawn)} rows")
    per_row = _bare_forward(loaded, counted.drawn)
    wanted = parse_wanted(features) if features else pending(store)
    mine = [] if features else recipes_of(store)
    artifacts = {
        content: artifact
        for recipe in mine
        for name, artifact in artifacts_of(store, recipe).items()
        for content in [recipe.artifacts[name]]
    }
    fits, recipes = _fitted(store, wanted, info, counted, loaded, per_row, said, artifacts, notes)
    rows = _rows_within(TRIAL_SECONDS, FORWARDS_OF_FEATURES * per_row, counted.drawn)
    tried = _try([*mine, *recipes], loaded, artifacts, rows, counted.new)
    return Plan(
        features=[*(each.feature for each in mine), *map(written, wanted)],
        records=counted.records,
        rows=counted.new,
        read=counted.read,
        exact=counted.exact,
        trial_rows=len(rows),
        tokens_per_row=tried.tokens_per_row,
        columns=[*_texts(counted.drawn), *tried.columns],
        passes=tried.passes,
        fits=fits,
        notes=notes,
    )


def _bare_forward(backbone: Backbone, drawn: Sequence[Record]) -> float:
    """Seconds of a row in a plain forward, from as many rows as take a second."""
    from ..featurizer import Featurizer
    from ..representations.registry import parse_features

    bare = Featurizer(backbone, parse_features("rds", backbone.info))
    bare.featurize([each.instruction for each in drawn[:2]])  # what is slow only once
    for rows in (LEAST_ROWS, TRIAL_ROWS):
        begun = time.perf_counter()
        part = drawn[:rows]
        bare.featurize([each.instruction for each in part])
        seconds = time.perf_counter() - begun
        if seconds > 1.0:
            break
    return seconds / len(part)


def _rows_within(seconds: float, per_row: float, drawn: Sequence[Record]) -> Sequence[Record]:
    return drawn[: max(LEAST_ROWS, int(seconds / per_row))]


def _fitted(
    store: Store,
    wanted: Sequence[Wanted],
    info: BackboneInfo,
    counted: Counted,
    backbone: Backbone,
    per_row: float,
    progress: FitProgress,
    artifacts: dict[str, Artifact],
    notes: list[str],
) -> tuple[list[PlannedFit], list[Recipe]]:
    """Fits run in memory, and the recipes that come of them; `artifacts` and `notes` grow."""
    shelf = MemoryShelf(StoreShelf(store))
    rows = _rows_within(FIT_SECONDS, FORWARDS_OF_FITS * per_row, counted.drawn)
    sample, half = _sample(rows), _sample(rows[: len(rows) // 2])
    planned: list[PlannedFit] = []
    recipes: list[Recipe] = []
    jobs: dict[str, Job] = {}
    for each in wanted:
        own = jobs_for(info, each)
        jobs |= {job.asked: job for job in own}
        try:
            for job in own:
                if not job.done(shelf):
                    _on_fewer(job, jobs, half, backbone, shelf)  # what is slow only once
                    fewer = _on_fewer(job, jobs, half, backbone, shelf)
                    seconds = run(job, jobs, sample, backbone, shelf, progress)
                    planned.append(_planned(job, sample, seconds, half, fewer, counted.new, shelf))
        except UsageError as error:
            notes.append(f"{written(each)} is left out: {error} (on {len(sample)} rows)")
            continue
        found = learned(own, shelf)
        artifacts |= {found.digests[name]: found.artifacts[name] for name in found.digests}
        present = [*recipes_of(store), *recipes]
        recipes.append(recipe_for(each, info, found.artifacts, found.digests, present))
    if planned:
        notes.append(
            f"fits were tried on {len(sample)} rows and on half of them: their time on more is "
            "told from the line through both, and a width that a fit chooses by itself may come "
            "out otherwise on its whole sample"
        )
    return planned, recipes


def _sample(rows: Sequence[Record]) -> Sample:
    instructions = [each.instruction for each in rows]
    return Sample([each.id for each in instructions], instructions, len(rows))


def _on_fewer(
    job: Job, jobs: Mapping[str, Job], sample: Sample, backbone: Backbone, shelf: MemoryShelf
) -> float | None:
    """Seconds of a fit on a smaller sample; what it learns is thrown away. None: too few rows."""
    try:
        return run(job, jobs, sample, backbone, MemoryShelf(shelf), Silence())
    except UsageError:
        return None


def _planned(
    job: Job,
    sample: Sample,
    seconds: float,
    half: Sample,
    fewer: float | None,
    total: int,
    shelf: MemoryShelf,
) -> PlannedFit:
    def rows(of: int) -> int:
        return min(job.fit.sample_rows(of), of)

    found = [shelf.load(content, name) for name, content in job.outputs(shelf).items()]
    size = sum(len(each.pack()) for each in found)
    small = None if fewer is None else (rows(len(half)), fewer)
    took = seconds_on(rows(total), (rows(len(sample)), seconds), small)
    return PlannedFit(job.fit.name, rows(total), list(job.fit.outputs()), size, took)


@dataclass(frozen=True)
class _Tried:
    tokens_per_row: float
    columns: list[PlannedColumn]
    passes: list[PlannedPass]


def _try(
    recipes: Sequence[Recipe],
    backbone: Backbone,
    artifacts: dict[str, Artifact],
    drawn: Sequence[Record],
    total: int,
) -> _Tried:
    """Featurize the trial's rows, twice: the first time warms up."""
    from ..featurizer import Featurizer

    instructions = [each.instruction for each in drawn]
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
            featurizer.seconds.get(key, 0.0),  # none where no row has a form in the template
        )
        for key, sharing in featurizer.passes().items()
    ]
    for recipe in recipes:
        if not get(recipe.representation).passes(featurizer.setup(recipe)):
            spent = featurizer.seconds.get(recipe.fingerprint, 0.0)
            passes.append(planned("a model of its own", [recipe.feature], spent))
    spent = sum(each.seconds for each in passes) * rows / total
    passes.append(planned("everything else: tokens, columns", [], max(seconds - spent, 0.0)))
    columns = [
        _column(table[name], name, recipe.representation, rows)
        for recipe in recipes
        for name in recipe.columns
    ]
    tokens = sum(each or 0 for each in table["tokens"].to_pylist())
    return _Tried(tokens / rows, columns, passes)


def _words(featurizer: Featurizer, key: tuple[str, str]) -> str:
    """A run of the model in words."""
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
            f", wearing {min(names)}" if names else "",
        )
    )


def _column(values: pa.ChunkedArray, name: str, feature: str, rows: int) -> PlannedColumn:
    kind = values.type
    if pa.types.is_fixed_size_list(kind):
        width: float | None = kind.list_size * kind.value_type.bit_width / 8
    elif pa.types.is_list(kind) or pa.types.is_string(kind):
        width = None
    else:
        width = kind.bit_width / 8
    measured = width is None
    return PlannedColumn(
        name, feature, type_words(kind), values.nbytes / rows if width is None else width, measured
    )


def _texts(drawn: Sequence[Record]) -> list[PlannedColumn]:
    """The columns every row has."""
    given: dict[str, list[Any]] = {
        "messages": [[m.as_dict() for m in each.instruction.messages] for each in drawn],
        "tools": [each.instruction.tools for each in drawn],
        "metadata": [each.metadata for each in drawn],
        "source_id": [each.source_id for each in drawn],
    }
    found = [
        _column(pa.chunked_array([pa.array(values, POOL.field(name).type)]), name, "", len(drawn))
        for name, values in given.items()
    ]
    fixed = [
        PlannedColumn(
            each.name, "", str(each.type), KEYS.get(each.name) or each.type.bit_width / 8, False
        )
        for each in POOL
        if each.name not in given
    ]
    return [*found, *fixed]
