from __future__ import annotations

import duckdb
import pytest

from coresetdb.schemas.errors import QueryError
from coresetdb.store.sql.child import filter_select, sole_select


@pytest.fixture(scope="module")
def connection() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(":memory:", config={"enable_external_access": "false"})


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1",
        "select 1;",
        "-- why\nSELECT 1 -- because",
        "SELECT 'a;b; COPY x TO y'",
        "SELECT 'INSERT_QUERY_NODE' AS type",
        "WITH a AS (SELECT 1) FROM a",
        "WITH RECURSIVE t AS (SELECT 1 a UNION ALL SELECT a + 1 FROM t WHERE a < 5) FROM t",
        "FROM pool",
        "TABLE pool",
        "VALUES (1), (2)",
        "SELECT 1 UNION SELECT 2",
        "DESCRIBE pool",
        "SUMMARIZE pool",
        "SHOW TABLES",
        "PIVOT (SELECT 1 a, 2 b) ON a IN (1, 2) USING sum(b)",
    ],
)
def test_one_reading_statement_passes(connection: duckdb.DuckDBPyConnection, text: str) -> None:
    assert sole_select(connection, text).strip().rstrip(";").strip() in text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        (" ; ", "empty"),
        ("-- only a comment", "empty"),
        ("SELECT 1; SELECT 2", "2 statements"),
        ("SELECT 1; DROP VIEW pool", "2 statements"),
        ("COPY (SELECT 1) TO 'x'", "COPY"),
        ("CREATE TABLE t AS SELECT 1", "CREATE"),
        ("CREATE MACRO f() AS 1", "CREATE"),
        ("DROP VIEW pool", "DROP"),
        ("INSERT INTO pool VALUES (1)", "INSERT"),
        ("UPDATE pool SET id = 1", "UPDATE"),
        ("DELETE FROM pool", "DELETE"),
        ("ATTACH 'x.db'", "ATTACH"),
        ("DETACH x", "DETACH"),
        ("EXPORT DATABASE 'x'", "EXPORT"),
        ("INSTALL httpfs", "LOAD"),
        ("LOAD httpfs", "LOAD"),
        ("SET threads = 1", "SET"),
        ("RESET threads", "SET"),
        ("USE memory", "SET"),
        ("PRAGMA database_list", "PRAGMA"),
        ("CALL pragma_version()", "CALL"),
        ("CHECKPOINT", "CALL"),
        ("BEGIN", "TRANSACTION"),
        ("VACUUM", "VACUUM"),
        ("PREPARE p AS SELECT 1", "PREPARE"),
        ("EXECUTE p", "EXECUTE"),
        ("EXPLAIN SELECT 1", "EXPLAIN"),
        ("EXPLAIN ANALYZE SELECT 1", "EXPLAIN"),
        ("PIVOT pool ON corpus USING count(*)", "has to name its values"),
        ("WITH x AS (COPY (SELECT 1) TO 'x') SELECT 1", "COPY_QUERY_NODE"),
        ("WITH x AS (INSERT INTO t VALUES (1) RETURNING *) FROM x", "INSERT_QUERY_NODE"),
        ("SELECT * FROM (WITH x AS (DELETE FROM t RETURNING *) FROM x)", "DELETE_QUERY_NODE"),
        ("SELECT (WITH x AS (UPDATE t SET a = 1 RETURNING a) FROM x)", "UPDATE_QUERY_NODE"),
        ("SELECT 1 INTO x", "syntax error"),
        ("SELEC 1", "syntax error"),
    ],
)
def test_anything_else_is_refused(
    connection: duckdb.DuckDBPyConnection, text: str, why: str
) -> None:
    with pytest.raises(QueryError, match=why):
        sole_select(connection, text)


@pytest.mark.parametrize(
    "where",
    [
        "tokens < 5",
        "id IN (SELECT id FROM scores WHERE score > 0.5)",
        "EXISTS (WITH t AS (SELECT 1) FROM t)",
        "source_id = 'a;b'",
        "tokens < 5 -- and a comment",
        "metadata->>'$.x' = 'y'",
        "list_filter([1, 2], lambda x: x > 1)[1] = 2",
    ],
)
def test_a_filter_is_one_expression(connection: duckdb.DuckDBPyConnection, where: str) -> None:
    assert where in filter_select(connection, where)


@pytest.mark.parametrize(
    "where",
    [
        "",
        "true; SELECT 1",
        "true); SELECT (1",
        "true) UNION SELECT id FROM sources WHERE (true",
        "true) ORDER BY (id",
        "true) GROUP BY (id",
        "true) OFFSET (2",
        "true) QUALIFY (true",
        "true) USING SAMPLE (3",
        "true /*",
        "tokens <",
        "EXISTS (WITH x AS (COPY (SELECT 1) TO 'x') SELECT 1)",
    ],
)
def test_a_filter_that_is_more_or_less_is_refused(
    connection: duckdb.DuckDBPyConnection, where: str
) -> None:
    with pytest.raises(QueryError):
        filter_select(connection, where)
