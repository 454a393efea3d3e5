"""What workers with a backbone are given, as facts and bytes: rows, recipes and artifacts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from ...schemas.conversations import TURN_MARKS, as_columns
from ...schemas.instruction import Instruction
from ...schemas.recipe import Recipe
from ...schemas.tables import POOL
from ...store.catalog import Artifact
from ...workers.task import Equipment, to_bytes

FEATURES, FIT = "features", "fit"
"""Kinds of tasks."""


def conversations(
    instructions: Sequence[Instruction], ids: Sequence[str] | None = None
) -> pa.Buffer:
    """The rows of a task, with their ids where it needs them."""
    own = {field.name: field for field in [*POOL, TURN_MARKS]}
    columns: dict[str, Any] = {**as_columns(instructions), **({"id": ids} if ids else {})}
    return to_bytes(pa.table({name: pa.array(columns[name], own[name].type) for name in columns}))


def equipment(recipes: Sequence[Recipe], artifacts: Mapping[str, Artifact]) -> Equipment:
    """Recipes, and by their digests the artifacts that these need."""
    needed = sorted({digest for recipe in recipes for digest in recipe.artifacts.values()})
    return Equipment(
        {"recipes": [asdict(recipe) for recipe in recipes], "artifacts": needed},
        [artifacts[digest].pack() for digest in needed],
    )


def recipe_of(facts: dict[str, Any]) -> Recipe:
    """The recipe that `equipment` wrote down."""
    return Recipe(**{**facts, "columns": tuple(facts["columns"])})
