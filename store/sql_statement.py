"""What SQL from outside may be: exactly one SELECT that reads, and nothing that writes.

DuckDB's own parser decides, not a pattern: `extract_statements` counts and types the statements,
`json_serialize_sql` gives the syntax tree. The tree is needed because DuckDB types
`WITH x AS (COPY ... TO ...) SELECT` as a SELECT.
"""

from __future__ import annotations

import json
from typing import Any

import duckdb

from ..schemas.errors import QueryError

READING = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"}
"""The nodes of a syntax tree that read; INSERT_QUERY_NODE, COPY_QUERY_NODE and so on do not."""

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
    if statement.type != duckdb.StatementType.SELECT:
        kind = statement.type.name
        raise QueryError(
            f"only SELECT is allowed here, and this is {kind}{_PIVOT if kind == 'MULTI' else ''}"
        )
    writing = sorted(set(_nodes(_tree(connection, statement.query))) - READING)
    if writing:
        raise QueryError(f"only SELECT is allowed here, and this holds {', '.join(writing)}")
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
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
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


def _nodes(tree: Any) -> list[str]:
    if isinstance(tree, list):
        return [name for branch in tree for name in _nodes(branch)]
    if not isinstance(tree, dict):
        return []
    kind = tree.get("type")
    own = [kind] if isinstance(kind, str) and kind.endswith("_NODE") else []
    return own + [name for branch in tree.values() for name in _nodes(branch)]


def _around(tree: dict[str, Any]) -> dict[str, Any]:
    """A tree without its outermost WHERE: what a filter must leave as it is."""
    node = {**tree["statements"][0]["node"], "where_clause": None}
    return {**tree, "statements": [{**tree["statements"][0], "node": node}]}
