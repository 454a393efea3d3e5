"""From conversations to feature columns: encode, batch, one pass for all recipes, reduce.

Recipes that need the same pass (the same view of the rows and the same adapter) share it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ..schemas.errors import FingerprintError
from ..schemas.instruction import Instruction
from ..schemas.progress import BatchProgress
from ..schemas.recipe import Recipe, difference
from ..store.catalog import Artifact
from .columns import joined, no_rows, spread, to_arrow
from .conversations.chat_template import RowRefusedError
from .conversations.tokenization import Encoded, response_alone
from .models import batches
from .models.backbone import release_freed_memory
from .models.batches import Side as Padding
from .passes.reducer import Pass, PassInputs, Side
from .representations import registry
from .representations.representation import Representation, Setup

if TYPE_CHECKING:
    from .models.backbone import Backbone


FULL_LOGIT_ELEMENTS = 1 << 28
"""Logits of a batch (1 GB in float32) where the model's head cannot be applied to slices."""
RELEASE_SECONDS = 60.0
"""Between releases of freed memory; about the time of a commit. Releasing half a GB takes 0.02 s,
touching it again 0.2 s."""

PassKey = tuple[str, str]
"""A run of the model: its view of the rows, and the digest of its adapter ("" for none)."""

COUNTS = [
    pa.field("tokens", pa.int32()),
    pa.field("prompt_tokens", pa.int32()),
    pa.field("response_tokens", pa.int32()),
    pa.field("truncated", pa.bool_()),
]


@dataclass(frozen=True)
class Features:
    """Columns of N rows before storage precision: float32 (N,) or (N, d), NaN where missing.

    `encoded` holds a row's tokens, or why the template refused it.
    """

    encoded: list[Encoded | RowRefusedError]
    columns: dict[str, np.ndarray]


@dataclass(frozen=True)
class _Task:
    """A recipe whose columns are made, with its representation and what that needs."""

    recipe: Recipe
    representation: Representation
    setup: Setup

    def passes(self) -> dict[PassKey, tuple[Pass, PassInputs]]:
        """Return its passes by what must agree for a pass to be shared."""
        return {
            (model_pass.view, self.recipe.artifacts.get(model_pass.adapter, "")): (
                model_pass,
                inputs,
            )
            for model_pass, inputs in self.representation.passes(self.setup).items()
        }


@dataclass(frozen=True)
class _SharedPass:
    """A run of the model for all tasks that need it.

    Attributes:
        users: index of a task -> the task, the pass by its own name, and what the pass gives it.
        rows: the tokens that the model is shown of every row.
        chosen: (n,) int64, indices of the rows that any user reads.
    """

    key: PassKey
    users: Mapping[int, tuple[_Task, Pass, PassInputs]]
    rows: Sequence[Encoded]
    chosen: np.ndarray

    def tokens(self) -> int:
        """Return the number of tokens that the model is shown."""
        return sum(len(self.rows[index]) for index in self.chosen)


class Featurizer:
    """Makes the columns of some recipes with one backbone.

    Args:
        tokens_per_batch: padded tokens of a forward; by default what suits the device.
        side: where batches are padded (features agree but for rounding).
        artifacts: everything the recipes depend on, by digest.

    Attributes:
        seconds: wall time so far, by pass, and by a recipe's fingerprint for what its
            representation computes after the passes.

    Raises:
        FingerprintError: a recipe was made for another backbone, or by another version of its
            representation.
    """

    def __init__(
        self,
        backbone: Backbone,
        recipes: Sequence[Recipe],
        tokens_per_batch: int | None = None,
        side: Padding = "right",
        artifacts: Mapping[str, Artifact] | None = None,
    ) -> None:
        self.backbone, self.recipes = backbone, list(recipes)
        self.padding: Padding = side
        self.artifacts = dict(artifacts or {})
        self.seconds: dict[PassKey | str, float] = {}
        self._released_at = time.monotonic()
        self._tasks = [
            _Task(recipe, registry.get(recipe.representation), self.setup(recipe))
            for recipe in recipes
        ]
        for task in self._tasks:
            _require_version(task)
            _require_backbone(task, backbone)
        if tokens_per_batch is None:
            tokens_per_batch = batches.tokens_per_batch(backbone.device)
        if not backbone.plain_head:
            most = FULL_LOGIT_ELEMENTS // backbone.info.vocabulary
            tokens_per_batch = max(1, min(tokens_per_batch, most))
        self.tokens_per_batch = tokens_per_batch

    def featurize(
        self,
        instructions: Sequence[Instruction],
        on_batch: Callable[[int, int], None] | None = None,
        of: Side = "pool",
    ) -> pa.Table:
        """Return token counts and feature columns, one row per instruction, in the same order.

        Columns: tokens, prompt_tokens, response_tokens, truncated (null where the template
        refuses the conversation), then each recipe's.

        Args:
            on_batch: called after batches with the rows and tokens done since the last call; a
                pass of several counts as its share of every row.
            of: whether they are candidates or a target's examples.
        """
        table = self.table(self.compute(instructions, on_batch, of))
        if time.monotonic() - self._released_at >= RELEASE_SECONDS:
            release_freed_memory()
            self._released_at = time.monotonic()
        return table

    def table(self, features: Features) -> pa.Table:
        """Return computed features as they are stored."""
        rows = [row if isinstance(row, Encoded) else None for row in features.encoded]
        counts = [
            [None if row is None else value(row) for row in rows]
            for value in (
                len,
                lambda row: row.prompt_tokens,
                lambda row: row.response_tokens,
                lambda row: row.truncated,
            )
        ]
        fields = [field for recipe in self.recipes for field in self.fields(recipe)]
        arrays = [pa.array(count, field.type) for count, field in zip(counts, COUNTS, strict=True)]
        arrays += [to_arrow(features.columns[field.name], field.type) for field in fields]
        return pa.Table.from_arrays(arrays, schema=pa.schema([*COUNTS, *fields]))

    def compute(
        self,
        instructions: Sequence[Instruction],
        on_batch: Callable[[int, int], None] | None = None,
        of: Side = "pool",
    ) -> Features:
        """Return the same as arrays before storage precision."""
        return self.compute_encoded(
            self.backbone.encode_all(instructions), instructions, on_batch, of
        )

    def compute_encoded(
        self,
        encoded: list[Encoded | RowRefusedError],
        instructions: Sequence[Instruction],
        on_batch: Callable[[int, int], None] | None = None,
        of: Side = "pool",
    ) -> Features:
        """Return the same for rows whose tokens are known."""
        usable = {index: row for index, row in enumerate(encoded) if isinstance(row, Encoded)}
        rows, places = list(usable.values()), list(usable)
        encodable = [instructions[index] for index in places]
        device = str(self.backbone.device)
        tasks = [
            replace(task, setup=replace(task.setup, side=of, device=device)) for task in self._tasks
        ]
        columns: dict[str, np.ndarray] = {}
        features = (
            self._features_of(tasks, rows, encodable, on_batch) if rows else self._no_features()
        )
        for recipe, columns_of_recipe in zip(self.recipes, features, strict=True):
            renamed = registry.columns_of(recipe)
            for name, values in columns_of_recipe.items():
                columns[renamed[name]] = spread(values, places, len(encoded))
            reason = columns[renamed[f"{recipe.representation}_reason"]]
            for index, row in enumerate(encoded):
                if isinstance(row, RowRefusedError):
                    reason[index] = str(row)
        return Features(encoded, columns)

    def passes(self) -> dict[PassKey, list[tuple[Recipe, PassInputs]]]:
        """Return every run of the model over the pool, in order, with the recipes sharing it."""
        runs: dict[PassKey, list[tuple[Recipe, PassInputs]]] = {}
        for task in self._tasks:
            for key, (_, inputs) in task.passes().items():
                runs.setdefault(key, []).append((task.recipe, inputs))
        return runs

    def fields(self, recipe: Recipe) -> list[pa.Field]:
        """Return the stored fields of one of the recipes."""
        return registry.fields_of(recipe, self.backbone.info, self._artifacts_of(recipe))

    def setup(self, recipe: Recipe, of: Side = "pool") -> Setup:
        """Return what the representation of one of the recipes works with."""
        return registry.setup_of(recipe, self.backbone.info, self._artifacts_of(recipe), of)

    def _artifacts_of(self, recipe: Recipe) -> dict[str, Artifact]:
        return {name: self.artifacts[content] for name, content in recipe.artifacts.items()}

    def _features_of(
        self,
        tasks: Sequence[_Task],
        rows: Sequence[Encoded],
        instructions: Sequence[Instruction],
        on_batch: Callable[[int, int], None] | None,
    ) -> list[dict[str, np.ndarray]]:
        """Return each task's columns over rows with tokens."""
        of_passes: list[dict[Pass, dict[str, np.ndarray]]] = [{} for _ in tasks]
        runs = _shared_passes(tasks, rows)
        tokens = sum(run.tokens() for run in runs)
        progress = BatchProgress(on_batch, len(rows), sum(map(len, rows)), tokens)
        for run in runs:
            with self._timed(run.key):
                for index, columns in self._columns(run, progress).items():
                    of_passes[index][run.users[index][1]] = columns
        features: list[dict[str, np.ndarray]] = []
        for task, passed in zip(tasks, of_passes, strict=True):
            with self._timed(task.recipe.fingerprint):
                features.append(
                    task.representation.compute(instructions, task.setup)
                    or _on_own_backbone(task, instructions)
                    or task.representation.finish(rows, passed, task.setup)
                )
        progress.done()
        return features

    @contextmanager
    def _timed(self, what: PassKey | str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self.seconds[what] = self.seconds.get(what, 0.0) + time.perf_counter() - begun

    def _no_features(self) -> list[dict[str, np.ndarray]]:
        """Return the columns of each recipe over no rows."""
        return [
            {
                name: no_rows(field.type)
                for name, field in zip(
                    registry.columns_of(recipe), self.fields(recipe), strict=True
                )
            }
            for recipe in self.recipes
        ]

    def _columns(
        self, run: _SharedPass, progress: BatchProgress
    ) -> dict[int, dict[str, np.ndarray]]:
        """Run the model; return index of a user -> its reducers' columns over all rows."""
        from .passes.forward import run_pass

        adapter = self.artifacts[run.key[1]] if run.key[1] else None
        order: list[int] = []
        parts: dict[int, list[Mapping[str, np.ndarray]]] = {index: [] for index in run.users}
        chosen = [run.rows[index] for index in run.chosen]
        for members, batch in batches.batches_of(
            self.backbone, chosen, self.tokens_per_batch, self.padding
        ):
            reducers = {
                index: (inputs, task.representation.reducer(model_pass, batch, task.setup))
                for index, (task, model_pass, inputs) in run.users.items()
            }
            run_pass(self.backbone, batch, list(reducers.values()), adapter)
            for index, (_, reducer) in reducers.items():
                parts[index].append(reducer.columns())
            order += members
            progress.saw(sum(map(len, batch.rows)))
        places = run.chosen[order]
        return {index: joined(columns, places, len(run.rows)) for index, columns in parts.items()}


def _on_own_backbone(
    task: _Task, instructions: Sequence[Instruction]
) -> dict[str, np.ndarray] | None:
    """Return the columns of a representation with its own backbone, None for any other."""
    representation, setup = task.representation, task.setup
    backbone = representation.own_backbone(setup)
    if backbone is None:
        return None
    recipe = replace(
        task.recipe,
        backbone=backbone.info.identity,
        columns=tuple(field.name for field in representation.fields(setup)),
        artifacts={name: name for name in setup.artifacts},
    )
    featurizer = Featurizer(backbone, [recipe], artifacts=setup.artifacts)
    return featurizer.compute(instructions, of=setup.side).columns


def _shared_passes(tasks: Sequence[_Task], rows: Sequence[Encoded]) -> list[_SharedPass]:
    """Return every run of the model over these rows, in order."""
    alone = [response_alone(row) if row.response_tokens else row for row in rows]
    users: dict[PassKey, dict[int, tuple[_Task, Pass, PassInputs]]] = {}
    for index, task in enumerate(tasks):
        for key, (model_pass, inputs) in task.passes().items():
            users.setdefault(key, {})[index] = task, model_pass, inputs
    runs = []
    for key, sharing in users.items():
        shown = alone if key[0] == "alone" else rows
        read = np.zeros(len(rows), dtype=bool)
        for task, model_pass, _ in sharing.values():
            read |= task.representation.reads(model_pass, shown, task.setup)
        runs.append(_SharedPass(key, sharing, shown, np.flatnonzero(read)))
    return runs


def _require_version(task: _Task) -> None:
    recipe, version = task.recipe, task.representation.version
    if recipe.version != version:
        raise FingerprintError(
            f"{recipe.feature} was made by version {recipe.version} of {recipe.representation}, "
            f"and this coresetdb has version {version}, so new rows would not be comparable with "
            "old ones. Use the coresetdb that made it, or remove the feature and add it again"
        )


def _require_backbone(task: _Task, backbone: Backbone) -> None:
    recipe = task.recipe
    identity = task.representation.identity(backbone.info, task.setup.options)
    if recipe.backbone != identity:
        current = Recipe("", 0, {}, identity)
        raise FingerprintError(
            f"the recipe of {recipe.representation} was made with another backbone than "
            f"{backbone.info.name} (different: "
            f"{'; '.join(difference(current, Recipe('', 0, {}, recipe.backbone)))}). "
            "Load the store's own backbone"
        )
