"""The features of a store as facts: which there are, declaring one more, dropping one.

A column exists before its recipe does, and goes after it: whoever reads the recipes finds columns
for all of them. A kill in between leaves columns without a recipe, which the same command, run
again, takes up.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..schemas.conversations import TURN_MARKS
from ..schemas.errors import UsageError
from ..schemas.plain_text import count_of
from ..schemas.recipe import ANNOTATION, FINGERPRINT_KEY, VECTORS, Recipe
from ..schemas.tables import POOL, TARGETS
from . import catalog, shards
from .fill import count_unfilled
from .layout import RECIPE_PREFIX

if TYPE_CHECKING:
    import lance

    from .store import Store

TABLES = ("targets", "pool")
MAINTENANCE_WAIT_SECONDS = 3.0

_FIXED = {name.casefold() for name in (*POOL.names, TURN_MARKS.name, *TARGETS.names)}


def features_of(store: Store) -> dict[str, Recipe]:
    """Name -> recipe of every feature, in the order they were added."""
    rows = store.dataset("recipes").to_table().sort_by("created_at").to_pylist()
    found = [catalog.as_recipe(row) for row in rows]
    return {recipe.feature: recipe for recipe in found}


def annotations_of(store: Store) -> list[dict[str, Any]]:
    """The annotations of a store as plain rows.

    Keys: annotation, columns, fingerprint, rows (with a value in any column), rows without (those
    with a reason in its place), not yet annotated (rows with neither).
    """
    pool = store.dataset("pool")
    total = pool.count_rows()
    rows = []
    for name, recipe in features_of(store).items():
        if recipe.representation == ANNOTATION and set(recipe.columns) <= set(pool.schema.names):
            without = pool.count_rows(filter=f"`{recipe.reason}` IS NOT NULL")
            waiting = count_unfilled(pool, recipe)
            rows.append(
                {
                    "annotation": name,
                    "columns": [column for column in recipe.columns if column != recipe.reason],
                    "fingerprint": recipe.fingerprint,
                    "rows": total - without - waiting,
                    "rows without": without,
                    "not yet annotated": waiting,
                }
            )
    return rows


def droppable(store: Store) -> dict[str, Recipe]:
    """The same, and those of which a drop that was killed left columns or shards."""
    known = features_of(store)
    for row in catalog.recipes_in(store.dataset("pool").schema.metadata or {}):
        known.setdefault(catalog.as_recipe(row).feature, catalog.as_recipe(row))
    return known


def left_over(store: Store, table: str = "pool") -> list[str]:
    """Columns of a table without a recipe: of a declaration or a removal that was killed."""
    owned = catalog.recipes(store)
    return [
        field.name
        for field in store.dataset(table).schema
        if FINGERPRINT_KEY in (field.metadata or {}) and field.name not in owned
    ]


def completion(store: Store, recipe: Recipe) -> str:
    """The command that gives a feature or an annotation to rows that wait for it."""
    name = recipe.feature
    if recipe.made_by:
        return f"coresetdb {recipe.made_by} {store.typed} {recipe.options['arguments']}"
    if recipe.representation == ANNOTATION:
        key = recipe.options["key"]
        return f"coresetdb annotate {store.typed} FILE --key {key} --name {name}"
    if recipe.representation == VECTORS:
        return f"coresetdb vectors add {store.typed} {name} FILE"
    return f"coresetdb featurize {store.typed} {name}"


def declare(
    store: Store, recipe: Recipe, fields: Sequence[pa.Field], tables: Sequence[str] = TABLES
) -> None:
    """Give pool and targets (or `tables`) the columns of a recipe, all null, and keep the recipe.

    Raises:
        UsageError: a table or Lance has a column of that name, in any case of its letters.
        StoreError: a column of that name has another type.
    """
    owned = catalog.recipes(store)
    for field in fields:
        owner = owned.get(field.name)
        if owner is not None and owner.fingerprint != recipe.fingerprint:
            raise UsageError(
                f"{store.uri}: {recipe.feature} needs a column {field.name!r}, and "
                f"{owner.feature} has it already. Remove that first, or choose other names"
            )
        if owner is None and (field.name.startswith("_") or field.name.casefold() in _FIXED):
            raise UsageError(
                f"{store.uri}: {recipe.feature} needs a column {field.name!r}, and the store or "
                "Lance keeps that name for itself. Choose one that begins with a letter"
            )
    left = {table: _in_the_way(store, recipe, fields, table) for table in tables}
    for table, columns in left.items():
        if columns:
            _drop_columns(store, table, columns)
        store.add_columns(table, fields)
    if recipe.fingerprint not in {each.fingerprint for each in catalog.recipes(store).values()}:
        catalog.put_recipe(store, recipe)


def _in_the_way(store: Store, recipe: Recipe, fields: Sequence[pa.Field], table: str) -> list[str]:
    """Columns of a declaration or a drop that was killed, where those of a recipe are to be.

    Raises:
        UsageError: a column in use has the name of one of them, in whatever case of its letters.
    """
    owned = catalog.recipes(store)
    wanted = {field.name.casefold(): field for field in fields}
    found = []
    for present in store.dataset(table).schema:
        field = wanted.get(present.name.casefold())
        if field is None or (present.name == field.name and present.name in owned):
            continue
        if present.name in owned or _recipe(present) is None:
            raise UsageError(
                f"{store.uri}: {recipe.feature} needs a column {field.name!r}, and the table "
                f"{table} has {present.name!r}. Choose another name"
            )
        ours = _recipe(present) == recipe.fingerprint.encode()
        if present.name != field.name or not ours or present.type != field.type:
            found.append(present.name)
    return found


def drop(
    store: Store, name: str, force: bool = False, wait: float = MAINTENANCE_WAIT_SECONDS
) -> Recipe:
    """Remove a feature: its columns from pool and targets, its recipe, its unfinished shards.

    Versions of the pool that coresets tagged keep the columns, and so do all others until they
    are cleaned away.

    Raises:
        UsageError: there is no such feature, or coresets were made with it (and not `force`).
        StoreBusyError: somebody is writing.
    """
    with store.lock(wait=wait):
        known = droppable(store)
        if name not in known:
            raise UsageError(
                f"{store.uri} has no feature {name!r}; it has {', '.join(known) or 'none'}"
            )
        recipe = known[name]
        made = coresets_with(store, recipe)
        kind = "annotation" if recipe.representation == ANNOTATION else "feature"
        if made and not force:
            raise UsageError(
                f"{name} was used for {count_of(len(made), 'coreset')} ({', '.join(made)}). They "
                f"keep their rows, but replaying them needs old versions of pool and targets. To "
                f"remove it anyway: coresetdb {kind} remove {store.typed} {name} --force"
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


def drop_annotation(store: Store, name: str, force: bool = False) -> Recipe:
    """Remove an annotation, as `drop` removes a feature.

    Raises:
        UsageError: there is no such annotation, or coresets were made with it (and not `force`).
        StoreBusyError: somebody is writing.
    """
    known = {
        other: recipe
        for other, recipe in droppable(store).items()
        if recipe.representation == ANNOTATION
    }
    if name not in known:
        raise UsageError(
            f"{store.uri} has no annotation {name!r}; it has {', '.join(known) or 'none'}"
        )
    return drop(store, name, force)


def annotations_used(store: Store, columns: Collection[str], where: str | None) -> dict[str, str]:
    """Annotation -> fingerprint, of those with one of the columns, or with one in a filter."""
    return {
        name: recipe.fingerprint
        for name, recipe in features_of(store).items()
        if recipe.representation == ANNOTATION
        and (set(recipe.columns) & set(columns) or _named_in(where, recipe))
    }


def _named_in(where: str | None, recipe: Recipe) -> bool:
    """Whether a filter names a column of a recipe."""
    word = r"\b(" + "|".join(map(re.escape, recipe.columns)) + r")\b"
    return re.search(word, where or "", re.IGNORECASE) is not None


def coresets_with(store: Store, recipe: Recipe) -> list[str]:
    """Names of the coresets a feature was compared or filtered for."""
    columns = ["name", "fingerprint", "filter", "parameters"]
    return [
        row["name"]
        for row in store.dataset("coresets").to_table(columns=columns).to_pylist()
        if row["fingerprint"] == recipe.fingerprint
        or _columns_named(row["parameters"]) & set(recipe.columns)
        or _named_in(row["filter"], recipe)
    ]


def _columns_named(parameters: str | None) -> set[str]:
    """The columns that a coreset's parameters name: the one compared, and one ranked by."""
    known = json.loads(parameters or "{}")
    rules = known.get("rules", {}).get("asked") or {}
    score = known.get("options", {}).get("score")
    return {known.get("column"), score, rules.get("quota_by")} - {None}


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
