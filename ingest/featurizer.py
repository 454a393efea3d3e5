"""From conversations to feature columns: encode, batch, one forward for all recipes, reduce.

A second forward, over the answers alone, runs only for recipes that need it (IFD).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..schemas.errors import FingerprintError
from ..schemas.instruction import Instruction
from ..schemas.recipe import Recipe
from .batching import Side, plan_batches
from .chat_template import RowRefusedError
from .encoding import Encoded, response_alone
from .representations import registry
from .representations.registry import View

if TYPE_CHECKING:
    from .backbone import Backbone

TOKENS_PER_BATCH_CPU = 2048
"""Fits the caches: on two Zen 4 cores 8192 tokens are a quarter slower, half of it padding."""
TOKENS_PER_BATCH_ACCELERATOR = 16384
FULL_LOGIT_ELEMENTS = 1 << 28
"""Logits of a batch (1 GB in float32) where the model's head cannot be applied to slices."""

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


class Featurizer:
    """Makes the columns of some recipes with one backbone.

    Args:
        tokens_per_batch: padded tokens of a forward; by default what suits the device.
        side: where batches are padded (features agree but for rounding).

    Raises:
        FingerprintError: a recipe was made for another backbone.
    """

    def __init__(
        self,
        backbone: Backbone,
        recipes: Sequence[Recipe],
        tokens_per_batch: int | None = None,
        side: Side = "right",
    ) -> None:
        for recipe in recipes:
            _require_backbone(recipe, backbone)
        self.backbone, self.recipes = backbone, list(recipes)
        self.side: Side = side
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
    ) -> pa.Table:
        """Token counts and feature columns, one row per instruction, in the same order.

        Columns: tokens, prompt_tokens, response_tokens, truncated (null where the template
        refuses the conversation), then each recipe's. `on_batch(rows, tokens)` is called after
        each batch of whole rows.
        """
        features = self.compute(instructions, on_batch)
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
        fields = [field for recipe in self.recipes for field in self._fields(recipe)]
        arrays = [pa.array(each, field.type) for each, field in zip(counts, COUNTS, strict=True)]
        arrays += [to_arrow(features.columns[field.name], field.type) for field in fields]
        return pa.Table.from_arrays(arrays, schema=pa.schema([*COUNTS, *fields]))

    def compute(
        self,
        instructions: Sequence[Instruction],
        on_batch: Callable[[int, int], None] | None = None,
    ) -> Features:
        """The same as arrays before storage precision."""
        encoded = self.backbone.encode_all(instructions)
        usable = [index for index, each in enumerate(encoded) if isinstance(each, Encoded)]
        rows = [row for row in encoded if isinstance(row, Encoded)]
        columns: dict[str, np.ndarray] = {}
        features = self._features_of(rows, on_batch) if rows else self._no_features()
        for recipe, made in zip(self.recipes, features, strict=True):
            renamed = registry.columns_of(recipe)
            for name, values in made.items():
                columns[renamed[name]] = _spread(values, usable, len(encoded))
            reason = columns[renamed[f"{recipe.representation}_reason"]]
            for index, each in enumerate(encoded):
                if isinstance(each, RowRefusedError):
                    reason[index] = str(each)
        return Features(encoded, columns)

    def _features_of(
        self, rows: Sequence[Encoded], on_batch: Callable[[int, int], None] | None
    ) -> list[dict[str, np.ndarray]]:
        passed: list[dict[View, dict[str, np.ndarray]]] = [{} for _ in self.recipes]
        alone = [response_alone(row) if row.response_tokens else row for row in rows]
        shown: list[tuple[View, Sequence[Encoded]]] = [("row", rows), ("alone", alone)]
        for view, seen in shown:
            report = on_batch if view == "row" else None
            for place, columns in self._run_view(view, seen, report).items():
                passed[place][view] = columns
        return [
            registry.get(recipe.representation).finish(rows, views, recipe.options)
            for recipe, views in zip(self.recipes, passed, strict=True)
        ]

    def _no_features(self) -> list[dict[str, np.ndarray]]:
        """The columns of each recipe over no row at all."""
        return [
            {
                name: _no_rows(field.type)
                for name, field in zip(
                    registry.columns_of(recipe), self._fields(recipe), strict=True
                )
            }
            for recipe in self.recipes
        ]

    def _fields(self, recipe: Recipe) -> list[pa.Field]:
        return registry.fields_of(recipe, self.backbone.info)

    def _run_view(
        self, view: View, rows: Sequence[Encoded], on_batch: Callable[[int, int], None] | None
    ) -> dict[int, dict[str, np.ndarray]]:
        """Recipe's place -> its reducers' columns over `rows`, for recipes that need this view."""
        from .batch import make_batch
        from .forward import run_pass

        asked = {
            place: (representation, needs[view], recipe.options)
            for place, recipe in enumerate(self.recipes)
            for representation in [registry.get(recipe.representation)]
            for needs in [representation.passes(recipe.options)]
            if view in needs
        }
        if not asked:
            return {}
        order: list[int] = []
        parts: dict[int, list[Mapping[str, np.ndarray]]] = {place: [] for place in asked}
        for members in plan_batches([len(row) for row in rows], self.tokens_per_batch):
            batch = make_batch(
                [rows[index] for index in members],
                self.backbone.padding_token,
                self.backbone.device,
                self.side,
            )
            readers = {
                place: (needs, representation.reducer(view, batch, options))
                for place, (representation, needs, options) in asked.items()
            }
            run_pass(self.backbone, batch, list(readers.values()))
            for place, (_, reducer) in readers.items():
                parts[place].append(reducer.columns())
            order += members
            if on_batch:
                on_batch(len(members), sum(len(row) for row in batch.rows))
        back = np.argsort(np.asarray(order, dtype=np.int64))
        return {place: _joined(columns, back) for place, columns in parts.items()}


def to_arrow(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    """A column for storage: NaN (in a vector: any) becomes null, vectors fixed-size lists."""
    if values.dtype == object:
        return pa.array(values.tolist(), kind)
    missing: Any = np.isnan(values)
    if not pa.types.is_fixed_size_list(kind):
        return pa.array(values, kind, mask=missing)
    missing = missing.any(axis=1)
    stored = np.where(missing[:, np.newaxis], 0, values).astype(np.float16)
    flat = pa.array(stored.ravel(), pa.float16())
    return pa.FixedSizeListArray.from_arrays(flat, type=kind, mask=pa.array(missing))


def _require_backbone(recipe: Recipe, backbone: Backbone) -> None:
    if recipe.backbone != backbone.info.identity:
        parts = sorted(
            key
            for key in {*recipe.backbone, *backbone.info.identity}
            if recipe.backbone.get(key) != backbone.info.identity.get(key)
        )
        raise FingerprintError(
            f"the recipe of {recipe.representation} was made with another backbone than "
            f"{backbone.info.name} (different: {', '.join(parts)}). Load the store's own backbone"
        )


def _no_rows(kind: pa.DataType) -> np.ndarray:
    if pa.types.is_string(kind):
        return np.empty(0, dtype=object)
    width = (kind.list_size,) if pa.types.is_fixed_size_list(kind) else ()
    return np.empty((0, *width), dtype=np.float32)


def _joined(parts: Sequence[Mapping[str, np.ndarray]], order: np.ndarray) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]}


def _spread(values: np.ndarray, places: Sequence[int], total: int) -> np.ndarray:
    """`values` at `places` of an array of `total` rows; NaN (None for objects) elsewhere."""
    empty = None if values.dtype == object else np.nan
    spread = np.full((total, *values.shape[1:]), empty, dtype=values.dtype)
    spread[np.asarray(places, dtype=np.int64)] = values
    return spread
