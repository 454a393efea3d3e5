"""From conversations to feature columns: encode, batch, one pass for all recipes, reduce.

Recipes that ask for the same pass (what the model is shown, and the adapter it wears) share it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from .models.backbone import give_back_freed
from .models.batches import TOKENS_PER_BATCH_ACCELERATOR, TOKENS_PER_BATCH_CPU
from .models.batches import Side as Padding
from .passes.reducer import Pass, PassInputs, Side
from .representations import registry
from .representations.representation import Representation, Setup

if TYPE_CHECKING:
    from .models.backbone import Backbone


"""Fits the caches: on two Zen 4 cores 8192 tokens are a quarter slower, half of it padding."""
FULL_LOGIT_ELEMENTS = 1 << 28
"""Logits of a batch (1 GB in float32) where the model's head cannot be applied to slices."""
GIVE_BACK_SECONDS = 60.0
"""About a commit. Giving back half a GB takes 0.02 s, touching it again 0.2 s."""

PassKey = tuple[str, str]
"""A run of the model: what it is shown, and the digest of the adapter it wears ("" for none)."""

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
class _Work:
    """A recipe to be made, with what its representation works with."""

    recipe: Recipe
    representation: Representation
    setup: Setup

    def passes(self) -> dict[PassKey, tuple[Pass, PassInputs]]:
        """What it needs, by the view and the digest of the adapter worn: what can be shared."""
        return {
            (each.view, self.recipe.artifacts.get(each.adapter, "")): (each, needs)
            for each, needs in self.representation.passes(self.setup).items()
        }


_Asked = tuple[_Work, Pass, PassInputs]
"""Who asks for a pass, under which name, and what of it."""


@dataclass(frozen=True)
class _Run:
    """A run of the model.

    Attributes:
        asked: work's place -> who asks for it.
        rows: as it shows them.
        chosen: numbers of those that it is made over.
    """

    key: PassKey
    asked: Mapping[int, _Asked]
    rows: Sequence[Encoded]
    chosen: np.ndarray

    def tokens(self) -> int:
        """That it sees."""
        return sum(len(self.rows[index]) for index in self.chosen)


class Featurizer:
    """Makes the columns of some recipes with one backbone.

    Args:
        tokens_per_batch: padded tokens of a forward; by default what suits the device.
        side: where batches are padded (features agree but for rounding).
        artifacts: everything the recipes depend on, by digest.

    Attributes:
        seconds: wall time so far, by run of the model, and by fingerprint for what a recipe's
            representation does by itself.

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
        self._gave_back = time.monotonic()
        self._works = [self._work(recipe) for recipe in recipes]
        for work in self._works:
            _require_version(work)
            _require_backbone(work, backbone)
        if tokens_per_batch is None:
            cpu = backbone.device.type == "cpu"
            tokens_per_batch = TOKENS_PER_BATCH_CPU if cpu else TOKENS_PER_BATCH_ACCELERATOR
        if not backbone.plain_head:
            fitting = FULL_LOGIT_ELEMENTS // backbone.info.vocabulary
            tokens_per_batch = max(1, min(tokens_per_batch, fitting))
        self.tokens_per_batch = tokens_per_batch

    def featurize(
        self,
        instructions: Sequence[Instruction],
        on_batch: Callable[[int, int], None] | None = None,
        of: Side = "pool",
    ) -> pa.Table:
        """Token counts and feature columns, one row per instruction, in the same order.

        Columns: tokens, prompt_tokens, response_tokens, truncated (null where the template
        refuses the conversation), then each recipe's. `on_batch(rows, tokens)` is called after
        batches with what is done since then: of a pass among several, its part of every row. `of`
        says whether they are candidates or a target's examples.
        """
        made = self.table(self.compute(instructions, on_batch, of))
        if time.monotonic() - self._gave_back >= GIVE_BACK_SECONDS:
            give_back_freed()
            self._gave_back = time.monotonic()
        return made

    def table(self, features: Features) -> pa.Table:
        """Computed features as they are stored."""
        rows = [None if isinstance(each, RowRefusedError) else each for each in features.encoded]
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
        arrays = [pa.array(each, field.type) for each, field in zip(counts, COUNTS, strict=True)]
        arrays += [to_arrow(features.columns[field.name], field.type) for field in fields]
        return pa.Table.from_arrays(arrays, schema=pa.schema([*COUNTS, *fields]))

    def compute(
        self,
        instructions: Sequence[Instruction],
        on_batch: Callable[[int, int], None] | None = None,
        of: Side = "pool",
    ) -> Features:
        """The same as arrays before storage precision."""
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
        """The same of rows whose tokens are known."""
        usable = [index for index, each in enumerate(encoded) if isinstance(each, Encoded)]
        rows = [row for row in encoded if isinstance(row, Encoded)]
        given = [instructions[index] for index in usable]
        device = str(self.backbone.device)
        works = [
            replace(work, setup=replace(work.setup, side=of, device=device)) for work in self._works
        ]
        columns: dict[str, np.ndarray] = {}
        features = self._features_of(works, rows, given, on_batch) if rows else self._no_features()
        for recipe, made in zip(self.recipes, features, strict=True):
            renamed = registry.columns_of(recipe)
            for name, values in made.items():
                columns[renamed[name]] = spread(values, usable, len(encoded))
            reason = columns[renamed[f"{recipe.representation}_reason"]]
            for index, each in enumerate(encoded):
                if isinstance(each, RowRefusedError):
                    reason[index] = str(each)
        return Features(encoded, columns)

    def passes(self) -> dict[PassKey, list[tuple[Recipe, PassInputs]]]:
        """Every run of the model over the pool, in order, with the recipes that share it."""
        found: dict[PassKey, list[tuple[Recipe, PassInputs]]] = {}
        for work in self._works:
            for key, (_, needs) in work.passes().items():
                found.setdefault(key, []).append((work.recipe, needs))
        return found

    def fields(self, recipe: Recipe) -> list[pa.Field]:
        """The stored fields of one of the recipes."""
        return registry.fields_of(recipe, self.backbone.info, self._artifacts_of(recipe))

    def setup(self, recipe: Recipe, of: Side = "pool") -> Setup:
        """What the representation of one of the recipes works with."""
        return registry.setup_of(recipe, self.backbone.info, self._artifacts_of(recipe), of)

    def _artifacts_of(self, recipe: Recipe) -> dict[str, Artifact]:
        return {name: self.artifacts[content] for name, content in recipe.artifacts.items()}

    def _work(self, recipe: Recipe) -> _Work:
        return _Work(recipe, registry.get(recipe.representation), self.setup(recipe))

    def _features_of(
        self,
        works: Sequence[_Work],
        rows: Sequence[Encoded],
        instructions: Sequence[Instruction],
        on_batch: Callable[[int, int], None] | None,
    ) -> list[dict[str, np.ndarray]]:
        passed: list[dict[Pass, dict[str, np.ndarray]]] = [{} for _ in works]
        runs = _runs(works, rows)
        work = sum(run.tokens() for run in runs)
        telling = BatchProgress(on_batch, len(rows), sum(map(len, rows)), work)
        for run in runs:
            with self._timed(run.key):
                for place, columns in self._columns(run, telling).items():
                    passed[place][run.asked[place][1]] = columns
        made: list[dict[str, np.ndarray]] = []
        for work, views in zip(works, passed, strict=True):
            with self._timed(work.recipe.fingerprint):
                made.append(
                    work.representation.compute(instructions, work.setup)
                    or _on_own_backbone(work, instructions)
                    or work.representation.finish(rows, views, work.setup)
                )
        telling.done()
        return made

    @contextmanager
    def _timed(self, what: PassKey | str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self.seconds[what] = self.seconds.get(what, 0.0) + time.perf_counter() - begun

    def _no_features(self) -> list[dict[str, np.ndarray]]:
        """The columns of each recipe over no row at all."""
        return [
            {
                name: no_rows(field.type)
                for name, field in zip(
                    registry.columns_of(recipe), self.fields(recipe), strict=True
                )
            }
            for recipe in self.recipes
        ]

    def _columns(self, run: _Run, telling: BatchProgress) -> dict[int, dict[str, np.ndarray]]:
        """Work's place -> its reducers' columns over all rows, from a pass over the chosen ones."""
        from .models.batches import batches_of
        from .passes.forward import run_pass

        adapter = self.artifacts[run.key[1]] if run.key[1] else None
        order: list[int] = []
        parts: dict[int, list[Mapping[str, np.ndarray]]] = {place: [] for place in run.asked}
        read = [run.rows[index] for index in run.chosen]
        for members, batch in batches_of(self.backbone, read, self.tokens_per_batch, self.padding):
            readers = {
                place: (needs, work.representation.reducer(each, batch, work.setup))
                for place, (work, each, needs) in run.asked.items()
            }
            run_pass(self.backbone, batch, list(readers.values()), adapter)
            for place, (_, reducer) in readers.items():
                parts[place].append(reducer.columns())
            order += members
            telling.saw(sum(map(len, batch.rows)))
        places = run.chosen[order]
        return {place: joined(each, places, len(run.rows)) for place, each in parts.items()}


def _on_own_backbone(
    work: _Work, instructions: Sequence[Instruction]
) -> dict[str, np.ndarray] | None:
    """The columns of a representation that brings a backbone, by a featurizer of that."""
    representation, setup = work.representation, work.setup
    backbone = representation.own_backbone(setup)
    if backbone is None:
        return None
    recipe = replace(
        work.recipe,
        backbone=backbone.info.identity,
        columns=tuple(field.name for field in representation.fields(setup)),
        artifacts={name: name for name in setup.artifacts},
    )
    featurizer = Featurizer(backbone, [recipe], artifacts=setup.artifacts)
    return featurizer.compute(instructions, of=setup.side).columns


def _runs(works: Sequence[_Work], rows: Sequence[Encoded]) -> list[_Run]:
    """Every run of the model over these rows, in order."""
    alone = [response_alone(row) if row.response_tokens else row for row in rows]
    runs = []
    for key in dict.fromkeys(key for work in works for key in work.passes()):
        asked, shown = _asked(key, works), alone if key[0] == "alone" else rows
        runs.append(_Run(key, asked, shown, _chosen(asked.values(), shown)))
    return runs


def _asked(key: PassKey, works: Sequence[_Work]) -> dict[int, _Asked]:
    """Work's place -> itself, the pass as it names it and its needs, for all that share a pass."""
    return {
        place: (work, *passes[key])
        for place, work in enumerate(works)
        for passes in [work.passes()]
        if key in passes
    }


def _chosen(askeds: Iterable[_Asked], rows: Sequence[Encoded]) -> np.ndarray:
    """(n,) int64: the rows that anybody wants to see of a pass."""
    wanted = np.zeros(len(rows), dtype=bool)
    for work, each, _ in askeds:
        wanted |= work.representation.reads(each, rows, work.setup)
    return np.flatnonzero(wanted)


def _require_version(work: _Work) -> None:
    recipe, version = work.recipe, work.representation.version
    if recipe.version != version:
        raise FingerprintError(
            f"{recipe.feature} was made by version {recipe.version} of {recipe.representation}, "
            f"and this coresetdb has version {version}: new rows would not compare with old ones. "
            "Use the coresetdb that made it, or drop the feature and make it anew"
        )


def _require_backbone(work: _Work, backbone: Backbone) -> None:
    recipe = work.recipe
    identity = work.representation.identity(backbone.info, recipe.options)
    if recipe.backbone != identity:
        ours = Recipe("", 0, {}, identity)
        raise FingerprintError(
            f"the recipe of {recipe.representation} was made with another backbone than "
            f"{backbone.info.name} (different: "
            f"{'; '.join(difference(ours, Recipe('', 0, {}, recipe.backbone)))}). "
            "Load the store's own backbone"
        )
