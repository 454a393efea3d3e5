"""The relations of a store on a DuckDB connection: tables, features, views and macros by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from .place import Place
from .sql_macros import COSINE, members_macro
from .sql_names import FEATURES_OF, POOL_TABLE, RELATIONS, literal, quoted
from .sql_nearest import create_nearest
from .sql_relation import FeatureRelation, Relation, open_relation
from .sql_scores import scores_views, scorings

if TYPE_CHECKING:
    import duckdb


def register(
    connection: duckdb.DuckDBPyConnection, place: Place, at: int | str | None = None
) -> None:
    """Give a DuckDB connection every relation of a store; `at` is a version or tag of the pool.

    The view `pool` carries the metadata fields of all corpora as VARCHAR columns after the stored
    ones. Of the pool are `pool` and `features`; the other relations are always the newest.

    Raises:
        QueryError: the pool has no version `at`.
        DamagedStoreError: a table cannot be opened.
    """

    def opened(table: str) -> Relation:
        return open_relation(place, table, at if table == "pool" else None)

    with ThreadPoolExecutor(len(RELATIONS)) as threads:  # an object store takes its time for each
        relations = dict(zip(RELATIONS, threads.map(opened, RELATIONS), strict=True))
    for table, relation in relations.items():
        connection.register(POOL_TABLE if table == "pool" else table, relation)
    features = {
        name: FeatureRelation(
            place.table_uri(table), relations[table].version, storage_options=place.options
        )
        for name, table in FEATURES_OF.items()
    }
    for name, relation in features.items():
        connection.register(name, relation)
    stored, keys = relations["pool"].schema.names, _metadata_keys(relations["runs"])
    connection.execute(pool_view(stored, keys))
    for name, query in scores_views(scorings(relations["scores"])).items():
        connection.execute(f"CREATE VIEW {quoted(name)} AS {query}")
    connection.execute(COSINE)
    connection.execute(members_macro([*stored, *metadata_columns(keys, stored).values()]))
    create_nearest(connection, features["features"], features["target_features"])


def _metadata_keys(runs: Relation) -> list[str]:
    """All keys, those of the first ingestion first: a later corpus renames no column."""
    table = runs.to_table(columns=["metadata_keys", "started_at", "run"])
    by_age = table.sort_by([("started_at", "ascending"), ("run", "ascending")])
    keys = (key for of_run in by_age["metadata_keys"].to_pylist() for key in of_run or ())
    return list(dict.fromkeys(keys))


def metadata_columns(keys: Iterable[str], taken: Sequence[str]) -> dict[str, str]:
    """The column under which each (distinct) metadata key is reached, in the order of the keys.

    SQL knows no upper and lower case in names, so a key that differs from a pool column (or from
    an earlier key) in nothing else is named `meta_<key>`, and `meta_<key>_2` and so on if that is
    taken too. A key that holds a NUL character has no column: SQL text ends there.
    """
    used = {name.casefold() for name in taken}
    columns: dict[str, str] = {}
    for key in keys:
        if "\0" in key:
            continue
        name = key or "meta_"  # a column needs a name, a JSON key does not
        number = 1
        while name.casefold() in used:
            name = f"meta_{key}" if number == 1 else f"meta_{key}_{number}"
            number += 1
        used.add(name.casefold())
        columns[key] = name
    return columns


def pool_view(stored: Sequence[str], keys: Iterable[str]) -> str:
    """The statement that makes `pool`: the stored columns, then one per metadata key."""
    fields = [quoted(name) for name in stored]
    fields += [
        f"json_extract_string(metadata, {literal(_pointer(key))}) AS {quoted(name)}"
        for key, name in metadata_columns(keys, stored).items()
    ]
    return f"CREATE VIEW pool AS SELECT {', '.join(fields)} FROM {POOL_TABLE}"


def _pointer(key: str) -> str:
    # A JSON pointer takes any key; a path ($.key) has no form for some quotes and stars.
    return "/" + key.replace("~", "~0").replace("/", "~1")
