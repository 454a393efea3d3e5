"""The features of a store as facts: which there are, declaring one more, dropping one.

A column exists before its recipe does, and goes after it: whoever reads the recipes finds columns
for all of them. A kill in between leaves columns without a recipe, which the same command, run
again, takes up.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from ..schemas.errors import UsageError
from ..schemas.plain_text import count_of
from ..schemas.recipe import FINGERPRINT_KEY, Recipe
from ..schemas.tables import POOL
from . import catalog, shards
from .layout import RECIPE_PREFIX

if TYPE_CHECKING:
    import lance

    from .store import Store

TABLES = ("targets", "pool")
MAINTENANCE_WAIT_SECONDS = 3.0


def features_of(store: Store) -> dict[str, Recipe]:
    """Name -> recipe of every feature, in the order they were added."""
    rows = store.dataset("recipes").to_table().sort_by("created_at").to_pylist()
    found = [catalog.as_recipe(row) for row in rows]
    return {recipe.feature: recipe for recipe in found}


def droppable(store: Store) -> dict[str, Recipe]:
    """The same, and those of which a drop that was killed left columns or shards."""
    known = features_of(store)
    for row in catalog.recipes_in(store.dataset("pool").schema.metadata or {}):
        known.setdefault(catalog.as_recipe(row).feature, catalog.as_recipe(row))
    return known


def declare(store: Store, recipe: Recipe, fields: Sequence[pa.Field]) -> None:
    """Give pool and targets the columns of a recipe, all null, and keep the recipe.

    Raises:
        StoreError: a column of that name has another type.
    """
    owned = set(catalog.recipes(store))
    for table in TABLES:
        schema = store.dataset(table).schema
        left = [
            field.name
            for field in fields
            if field.name in schema.names
            and field.name not in owned
            and (
                (schema.field(field.name).metadata or {}).get(FINGERPRINT_KEY)
                != recipe.fingerprint.encode()
                or schema.field(field.name).type != field.type
            )
        ]
        if left:  # of a declaration or a drop that was killed
            _drop_columns(store, table, left)
        store.add_columns(table, fields)
    if recipe.fingerprint not in {each.fingerprint for each in catalog.recipes(store).values()}:
        catalog.put_recipe(store, recipe)


def drop(store: Store, name: str, force: bool = False) -> Recipe:
    """Remove a feature: its columns from pool and targets, its recipe, its unfinished shards.

    Versions of the pool that coresets tagged keep the columns, and so do all others until they
    are cleaned away.

    Raises:
        UsageError: there is no such feature, or coresets were made with it (and not `force`).
        StoreBusyError: somebody is writing.
    """
    with store.lock(wait=MAINTENANCE_WAIT_SECONDS):
        known = droppable(store)
        if name not in known:
            raise UsageError(
                f"{store.uri} has no feature {name!r}; it has {', '.join(known) or 'none'}"
            )
        recipe = known[name]
        made = coresets_with(store, recipe)
        if made and not force:
            raise UsageError(
                f"{name} was used for {count_of(len(made), 'coreset')} ({', '.join(made)}). They "
                f"keep their rows, but replaying them needs old versions of pool and targets. To "
                f"remove it anyway: coresetdb feature remove {store.typed} {name} --force"
            )
        if any(each.fingerprint == recipe.fingerprint for each in catalog.recipes(store).values()):
            store.delete("recipes", f"fingerprint = '{recipe.fingerprint}'")
        for table in [*TABLES, *(name for name in ("removed_rows",) if name in store.tables())]:
            there = store.dataset(table).schema.names
            columns = [column for column in recipe.columns if column in there]
            if columns:
                _drop_columns(store, table, columns)
        _forget_copy(store, recipe)
        kept = [each.fingerprint for each in catalog.recipes(store).values()]
        shards.remove_foreign_shards(store.place, kept)
        store.sync()
    return recipe


def without_removed_columns(rows: pa.Table, table: pa.Schema) -> pa.Table:
    """`rows` without features that pool or targets no longer have, or now make by another recipe.

    Rows made by a run that began earlier, or taken out of the pool before, may have such columns.
    """
    columns = [
        field.name
        for field in rows.schema
        if field.name in POOL.names
        or (field.name in table.names and _recipe(field) == _recipe(table.field(field.name)))
    ]
    return rows.select(columns)


def _recipe(field: pa.Field) -> bytes | None:
    """The fingerprint of the recipe that makes a column."""
    return (field.metadata or {}).get(FINGERPRINT_KEY)


def coresets_with(store: Store, recipe: Recipe) -> list[str]:
    """Names of the coresets a feature was compared or filtered for."""
    columns = ["name", "fingerprint", "filter", "parameters"]
    word = re.compile(r"\b(" + "|".join(map(re.escape, recipe.columns)) + r")\b", re.IGNORECASE)
    return [
        row["name"]
        for row in store.dataset("coresets").to_table(columns=columns).to_pylist()
        if row["fingerprint"] == recipe.fingerprint
        or json.loads(row["parameters"] or "{}").get("column") in recipe.columns
        or word.search(row["filter"] or "")
    ]


def _drop_columns(store: Store, table: str, columns: Sequence[str]) -> None:
    store.change(
        table, f"dropping columns of {table}", lambda dataset: dataset.drop_columns(list(columns))
    )


def _forget_copy(store: Store, recipe: Recipe) -> None:
    name = RECIPE_PREFIX + recipe.fingerprint

    def forget(pool: lance.LanceDataset) -> None:
        if name.encode() in (pool.schema.metadata or {}):
            pool.update_schema_metadata({name: None})

    store.change("pool", "forgetting a recipe", forget)
