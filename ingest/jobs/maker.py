"""Rows of the store back through the backbone, for features they lack."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...schemas.instruction import Instruction
from ...schemas.recipe import Recipe
from ...store.store import Store
from ..create import featurizer_for, load_backbone

if TYPE_CHECKING:
    from ..featurizer import Featurizer
    from ..models.backbone import Backbone
    from ..representations.representation import Side

NEITHER = "the representation gave neither a value nor a reason"


class Maker:
    """The one place that runs the backbone: conversations to the columns of some recipes.

    Attributes:
        loaded: whether rows have gone through the backbone.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._made: dict[tuple[str, ...], Featurizer] = {}
        self.loaded = False

    @cached_property
    def backbone(self) -> Backbone:
        """The store's, loaded when it is first needed."""
        return load_backbone(self._store)

    def featurizer(self, recipes: Sequence[Recipe]) -> Featurizer:
        """One for just these recipes, with what was fitted for them."""
        key = tuple(recipe.fingerprint for recipe in recipes)
        if key not in self._made:
            self._made[key] = featurizer_for(self._store, self.backbone, recipes)
        return self._made[key]

    def columns(
        self,
        recipes: Sequence[Recipe],
        instructions: Sequence[Instruction],
        on_batch: Callable[[int, int], None] | None = None,
        of: Side = "pool",
    ) -> pa.Table:
        """Each recipe's columns, one row per instruction; no row without value and reason."""
        table = self.featurizer(recipes).featurize(instructions, on_batch, of)
        self.loaded = True
        for recipe in recipes:
            table = explained(table, recipe)
        return table.select([column for recipe in recipes for column in recipe.columns])


def explained(table: pa.Table, recipe: Recipe) -> pa.Table:
    """With a reason for rows that got nothing at all: they would be made for ever."""
    bare = np.ones(len(table), bool)
    for column in recipe.columns:
        bare &= table[column].is_null().to_numpy()
    if not bare.any():
        return table
    reason = pc.if_else(pa.array(bare), NEITHER, table[recipe.reason])  # pyright: ignore[reportAttributeAccessIssue]
    at = table.column_names.index(recipe.reason)
    return table.set_column(at, table.schema.field(at), reason)


def instructions_of(rows: pa.Table) -> list[Instruction]:
    """The conversations of rows with the columns `messages` and `tools`."""
    return [
        Instruction.from_row(messages, tools)
        for messages, tools in zip(
            rows["messages"].to_pylist(), rows["tools"].to_pylist(), strict=True
        )
    ]
