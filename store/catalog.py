"""Recipes and artifacts: what the features of a store are made by and depend on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..schemas.canonical import canonical_json
from ..schemas.recipe import Recipe
from ..schemas.tables import ARTIFACTS, RECIPES
from ..schemas.version import VERSION
from .commits import committed
from .keys import key_of
from .layout import RECIPE_PREFIX

if TYPE_CHECKING:
    from .store import Store


def recipes(store: Store) -> dict[str, Recipe]:
    """Pool column -> the recipe that fills it."""
    kept = [as_recipe(row) for row in store.dataset("recipes").to_table().to_pylist()]
    return {column: recipe for recipe in kept for column in recipe.columns}


def recipe_of(store: Store, fingerprint: str) -> Recipe | None:
    """The recipe of that fingerprint, or None where the store has none."""
    rows = store.dataset("recipes").to_table().to_pylist()
    return next((as_recipe(row) for row in rows if row["fingerprint"] == fingerprint), None)


def put_recipe(store: Store, recipe: Recipe) -> None:
    """Keep a recipe in its table and, for repair, in the pool's schema metadata."""
    row = _row(recipe)
    store.upsert("recipes", pa.Table.from_pylist([row], schema=RECIPES))
    name = RECIPE_PREFIX + recipe.fingerprint
    row["created_at"] = row["created_at"].isoformat()
    text = canonical_json(row)

    def remember() -> None:
        pool = store.dataset("pool")
        if (pool.schema.metadata or {}).get(name.encode()) is None:
            before = pool.version
            pool.update_schema_metadata({name: text})
            store.note("pool", before)

    with store.lock(shared=True, wait=600.0):
        committed("noting a recipe", remember)


def recipes_in(metadata: Mapping[bytes, bytes]) -> list[dict[str, Any]]:
    """Rows of the table `recipes` as their copies in the pool's schema metadata have them."""
    found = []
    for key, value in metadata.items():
        if key.decode().startswith(RECIPE_PREFIX):
            row = json.loads(value)
            row["created_at"] = datetime.fromisoformat(row["created_at"])
            found.append(row)
    return found


def put_artifact(store: Store, fingerprint: str, name: str, data: bytes) -> bytes:
    """Keep a blob; whoever committed first wins, and everybody gets that one back."""
    row = {
        "key": key_of(fingerprint, name),
        "fingerprint": fingerprint,
        "name": name,
        "bytes": data,
    }
    store.insert("artifacts", pa.Table.from_pylist([row], schema=ARTIFACTS))
    kept = artifact(store, fingerprint, name)
    return data if kept is None else kept


def artifact(store: Store, fingerprint: str, name: str) -> bytes | None:
    """The blob kept under (fingerprint, name), or None."""
    rows = store.dataset("artifacts").to_table(
        columns=["bytes"], filter=f"key = '{key_of(fingerprint, name)}'"
    )
    return rows["bytes"][0].as_py() if rows.num_rows else None


def _row(recipe: Recipe) -> dict[str, Any]:
    return {
        "fingerprint": recipe.fingerprint,
        "representation": recipe.representation,
        "version": recipe.version,
        "options": canonical_json(recipe.options),
        "backbone": canonical_json(recipe.backbone),
        "columns": list(recipe.columns),
        "stored_dtype": recipe.stored_dtype,
        "artifacts": canonical_json(recipe.artifacts),
        "code_version": VERSION,
        "created_at": datetime.now(UTC),
    }


def as_recipe(row: dict[str, Any]) -> Recipe:
    """A row of the table `recipes` as what it stands for."""
    return Recipe(
        representation=row["representation"],
        version=row["version"],
        options=json.loads(row["options"]),
        backbone=json.loads(row["backbone"]),
        columns=tuple(row["columns"]),
        stored_dtype=row["stored_dtype"],
        artifacts=json.loads(row["artifacts"]),
    )
