"""The relations of a store on a DuckDB connection: tables, features, views and macros by name.

The views `scores_<target>` have a row per instruction and two columns per method: its score, under
the method's name, and `<method>_rank`, both of the newest version of the pool that
`coresetdb score` scored for the target. Rows that a method did not score are NULL.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

from ...schemas.tables import NEWER_TABLES, TABLES, literal
from ..layout import has_table
from ..place import Place
from .lance_relation import FeatureRelation, Relation, open_relation
from .names import (
    COSINE,
    FEATURES_OF,
    GRADIENT_DROP,
    INSIDE,
    POOL_TABLE,
    RELATIONS,
    REMOVED_TABLES,
    SCORES_OF,
    members_macro,
    quoted,
)
from .nearest import create_nearest

if TYPE_CHECKING:
    import duckdb


class Scoring(NamedTuple):
    """One run of `coresetdb score` for one target and one method."""

    pool_version: int
    target: str
    method: str
    fingerprint: str


def scorings(scores: Relation) -> list[Scoring]:
    """What has been scored, oldest first.

    Every scoring has a row of rank 1, so a pass over the ranks alone finds them all.
    """
    found = scores.scanner(list(Scoring._fields), "rank = 1", late_materialization=True).to_table()
    return sorted({Scoring(**row) for row in found.to_pylist()})


def score_view_queries(scored: Sequence[Scoring]) -> dict[str, str]:
    """The name of each target's view -> the SELECT that it stands for.

    Args:
        scored: oldest first. Of targets whose names differ in upper and lower case alone, which
            SQL cannot tell apart, the later ones get a number behind them (`scores_gsm8k_2`).
    """
    newest: dict[str, dict[str, Scoring]] = defaultdict(dict)
    for scoring in scored:
        newest[scoring.target][scoring.method] = scoring
    views: dict[str, str] = {}
    taken: set[str] = set()
    for target, methods in newest.items():
        name, number = SCORES_OF + target, 1
        while name.casefold() in taken:
            number += 1
            name = f"{SCORES_OF}{target}_{number}"
        taken.add(name.casefold())
        views[name] = _view(target, [methods[method] for method in sorted(methods)])
    return views


def _view(target: str, scorings: Sequence[Scoring]) -> str:
    columns = [
        f"max({column}) FILTER (method = {literal(scoring.method)}) "
        f"AS {quoted(scoring.method + suffix)}"
        for scoring in scorings
        for column, suffix in (("score", ""), ("rank", "_rank"))
    ]
    wanted = " OR ".join(
        f"(method = {literal(each.method)} AND pool_version = {each.pool_version} "
        f"AND fingerprint = {literal(each.fingerprint)})"
        for each in scorings
    )
    return (
        f"SELECT id, {', '.join(columns)} FROM scores "
        f"WHERE target = {literal(target)} AND ({wanted}) GROUP BY id"
    )


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

    def opened(table: str) -> Any:
        if table in NEWER_TABLES and not has_table(place, table):
            return TABLES[table].empty_table()
        return open_relation(place, table, at if table == "pool" else None)

    tables = list({**RELATIONS, **REMOVED_TABLES})
    with ThreadPoolExecutor(len(tables)) as threads:  # an object store takes its time for each
        relations = dict(zip(tables, threads.map(opened, tables), strict=True))
    stored_as = {"pool": POOL_TABLE, **REMOVED_TABLES}
    for table, relation in relations.items():
        connection.register(stored_as.get(table, table), relation)
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
    connection.execute(removed_view(relations["removed_rows"].schema.names, keys))
    for name, query in score_view_queries(scorings(relations["scores"])).items():
        connection.execute(f"CREATE VIEW {quoted(name)} AS {query}")
    connection.execute(COSINE)
    connection.execute(GRADIENT_DROP)
    connection.execute(INSIDE)
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


def removed_view(stored: Sequence[str], keys: Iterable[str]) -> str:
    """The statement that makes `removed`: the tombstone, the row as `pool` showed it."""
    own = TABLES["removed"].names
    kept = [name for name in stored if name not in own]
    fields = [f"stone.{quoted(name)}" for name in own] + [f"kept.{quoted(name)}" for name in kept]
    fields += [
        f"json_extract_string(kept.metadata, {literal(_pointer(key))}) AS {quoted(name)}"
        for key, name in metadata_columns(keys, [*own, *kept]).items()
    ]
    return (
        f"CREATE VIEW removed AS SELECT {', '.join(fields)} FROM {REMOVED_TABLES['removed']} stone "
        f"LEFT JOIN {REMOVED_TABLES['removed_rows']} kept USING (id)"
    )


def _pointer(key: str) -> str:
    # A JSON pointer takes any key; a path ($.key) has no form for some quotes and stars.
    return "/" + key.replace("~", "~0").replace("/", "~1")
