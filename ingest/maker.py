"""Rows of the store back through the backbone, for features they lack."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..schemas.instruction import Instruction
from ..schemas.recipe import Recipe

if TYPE_CHECKING:
    from .featurizer import Featurizer

NEITHER = "the representation gave neither a value nor a reason"


class Maker:
    """The one place that runs the backbone: conversations to the columns of some recipes."""

    def __init__(self, load: Callable[[], Featurizer]) -> None:
        self._load = load
        self._loaded: Featurizer | None = None
        self._made: dict[tuple[str, ...], Featurizer] = {}

    @property
    def loaded(self) -> bool:
        """Whether the backbone is in memory."""
        return self._loaded is not None

    def columns(
        self,
        recipes: Sequence[Recipe],
        instructions: Sequence[Instruction],
        on_batch: Callable[[int, int], None] | None = None,
    ) -> pa.Table:
        """Each recipe's columns, one row per instruction; no row without value and reason."""
        from .featurizer import Featurizer

        if self._loaded is None:
            self._loaded = self._load()
        key = tuple(recipe.fingerprint for recipe in recipes)
        if key not in self._made:
            self._made[key] = Featurizer(self._loaded.backbone, recipes)
        table = self._made[key].featurize(instructions, on_batch)
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
