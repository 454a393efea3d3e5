"""What SQL from outside may be: exactly one SELECT that reads, and nothing that writes.

DuckDB's own parser decides, not a pattern: `extract_statements` counts and types the statements,
`json_serialize_sql` gives the syntax tree. The tree is needed because DuckDB types
`WITH x AS (COPY ... TO ...) SELECT` as a SELECT.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import duckdb

from ..schemas.errors import QueryError

READING = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"}
"""The nodes of a syntax tree that read; INSERT_QUERY_NODE, COPY_QUERY_NODE and so on do not."""

REFUSED = {
    "query": "runs a text as SQL",
    "json_execute_serialized_sql": "runs a text as SQL",
    "create_external_resource": "changes the session",
    "register_external_resource": "changes the session",
    "register_external_resource_type": "changes the session",
    "deregister_external_resource": "changes the session",
    "destroy_external_resource": "runs a function by its name",
    "enable_logging": "changes the session",
    "disable_logging": "changes the session",
    "truncate_duckdb_logs": "changes the session",
    "write_log": "changes the session",
    "enable_profiling": "changes the session",
    "disable_profiling": "changes the session",
    "checkpoint": "changes the session",
    "force_checkpoint": "changes the session",
}
"""Functions that do more than read. Where they run the lock holds all the same: none of them got at
a file or a setting when tried, but what their text says is beyond the check of the syntax tree."""

_PIVOT = "; a PIVOT has to name its values, as in PIVOT pool ON corpus IN ('a', 'b') USING count(*)"


def sole_select(connection: duckdb.DuckDBPyConnection, text: str) -> str:
    """The one SELECT in `text` (DESCRIBE, SUMMARIZE, SHOW TABLES, FROM and VALUES are forms of it).

    Raises:
        QueryError: there is none, there are several statements, or it is of another kind.
    """
    statements = _parsed(connection, text)
    if not statements:
        raise QueryError("the query is empty: write one SELECT")
    if len(statements) > 1:
        raise QueryError(f"one SELECT at a time: the text holds {len(statements)} statements")
    statement = statements[0]
    kind = _kind(statement)
    if kind != "SELECT":
        raise QueryError(
            f"only SELECT is allowed here, and this is {kind}{_PIVOT if kind == 'MULTI' else ''}"
        )
    branches = list(_branches(_tree(connection, statement.query)))
    types = {each["type"] for each in branches if isinstance(each.get("type"), str)}
    writing = sorted(name for name in types - READING if name.endswith("_NODE"))
    if writing:
        raise QueryError(f"only SELECT is allowed here, and this holds {', '.join(writing)}")
    for branch in branches:
        name = str(branch.get("function_name", "")).casefold()
        if name in REFUSED:
            raise QueryError(f"{name}() is not allowed here: it {REFUSED[name]}")
    return statement.query


def filtered_ids(connection: duckdb.DuckDBPyConnection, where: str) -> str:
    """The SELECT of the ids of the pool's rows for which the expression `where` is true.

    Raises:
        QueryError: `where` is not one expression (it closes the parenthesis it stands in, say).
    """
    if not where.strip():
        raise QueryError("the filter is empty: write an expression, such as tokens < 512")
    text = _wrapped(where)
    statements = _parsed(connection, text)
    if len(statements) != 1 or _kind(statements[0]) != "SELECT":
        raise QueryError(f"a filter is one expression, such as tokens < 512: {where!r} is not")
    query = sole_select(connection, text)
    if _around(_tree(connection, query)) != _around(_tree(connection, _wrapped("true"))):
        raise QueryError(f"a filter is one expression, such as tokens < 512: {where!r} is more")
    return query


def _wrapped(where: str) -> str:
    return f"SELECT id FROM pool WHERE (\n{where}\n)"  # on a line of its own: it may end in --


def _parsed(connection: duckdb.DuckDBPyConnection, text: str) -> list[duckdb.Statement]:
    try:
        return connection.extract_statements(text)
    except duckdb.Error as error:
        raise QueryError(str(error)) from error


def _tree(connection: duckdb.DuckDBPyConnection, query: str) -> dict[str, Any]:
    [row] = connection.execute("SELECT json_serialize_sql(?)", [query]).fetchall()
    tree = json.loads(row[0])
    if tree["error"]:
        raise QueryError(f"this query cannot be checked, so it is refused: {tree['error_message']}")
    return tree


def _kind(statement: duckdb.Statement) -> str:
    try:
        return statement.type.name
    except ValueError:  # kinds that DuckDB's Python face has no name for, such as UPDATE EXTENSIONS
        return "another kind of statement"


def _branches(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, list):
        for branch in tree:
            yield from _branches(branch)
    elif isinstance(tree, dict):
        yield tree
        yield from _branches(list(tree.values()))


def _around(tree: dict[str, Any]) -> dict[str, Any]:
    """A tree without its outermost WHERE: what a filter must leave as it is."""
    node = {**tree["statements"][0]["node"], "where_clause": None}
    return {**tree, "statements": [{**tree["statements"][0], "node": node}]}
