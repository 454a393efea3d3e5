"""What SQL from outside must not do: leave the store, change anything, or run without end."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coresetdb.schemas.errors import QueryError
from coresetdb.store.sql.session import SqlSession
from coresetdb.store.store import Store


@pytest.fixture(scope="module")
def session(store: Store):
    with SqlSession(store.uri, time_limit=60, memory_limit="400MB") as session:
        yield session


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that a query must not read."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "secret.csv").write_text("a,b\n1,2\n")
    (folder / "secret.json").write_text('{"a": 1}\n')
    pq.write_table(pa.table({"a": [1]}), folder / "secret.parquet")
    with duckdb.connect(str(folder / "secret.db")) as database:
        database.execute("CREATE TABLE t AS SELECT 1 AS a")
    return folder


def rows(session: SqlSession, text: str) -> list[dict]:
    return session.run(text).read_all().to_pylist()


READING_FILES = [
    *(
        f"FROM {function}('{{csv}}')"
        for function in (
            "read_csv",
            "read_csv_auto",
            "read_single_csv_file",
            "sniff_csv",
            "read_text",
            "read_blob",
            "READ_TEXT",
            "query_table",
        )
    ),
    *(f"FROM read_{kind}('{{json}}')" for kind in ("json", "json_auto", "ndjson", "json_objects")),
    *(
        f"FROM {function}('{{parquet}}')"
        for function in (
            "read_parquet",
            "parquet_scan",
            "parquet_schema",
            "parquet_metadata",
            "parquet_file_metadata",
            "parquet_full_metadata",
            "parquet_kv_metadata",
        )
    ),
    "FROM parquet_bloom_probe('{parquet}', 'a', 1)",
    "FROM read_duckdb('{db}')",
    "FROM read_text(['{csv}'])",
    "FROM glob('/etc/*')",
    "FROM '{csv}'",
    'FROM "{csv}"',
    'FROM main."{csv}"',
    "FROM '{parquet}'",
    "FROM '{db}'",
    "DESCRIBE '{csv}'",
    "SELECT COLUMNS(*) FROM '{csv}'",
    "SELECT (SELECT max(a) FROM '{csv}')",
    "SELECT * FROM pool POSITIONAL JOIN read_text('{csv}')",
    "SELECT 1 FROM pool, LATERAL (SELECT * FROM read_text(pool.id))",
    "FROM read_text(getvariable('file'))",
    "FROM read_blob('/dev/fd/0')",
    "FROM read_text('/proc/self/environ')",
    "FROM 'https://example.com/x.csv'",
    "FROM 's3://bucket/x.parquet'",
    "FROM lance_scan('{store}/pool.lance')",
    "FROM '{store}/pool.lance'",
    "FROM sqlite_scan('{csv}', 't')",
    "FROM delta_scan('{store}')",
]

WRITING = [
    "COPY (SELECT 1) TO '{csv}.out'",
    "COPY pool FROM '{csv}'",
    "WITH x AS (COPY (SELECT 1) TO '{csv}.out') SELECT 1",
    "WITH x AS MATERIALIZED (COPY pool TO '{csv}.out') SELECT 1",
    "EXPLAIN COPY (SELECT 1) TO '{csv}.out'",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{csv}.out'",
    "EXPORT DATABASE '{csv}.out'",
    "IMPORT DATABASE '{store}'",
    "CREATE TABLE t AS SELECT 1",
    "CREATE VIEW v AS SELECT 1",
    "CREATE OR REPLACE TEMP VIEW pool AS SELECT 1",
    "WITH x AS (CREATE TABLE t AS SELECT 1) SELECT 1",
    "DROP VIEW pool",
    "ALTER VIEW pool RENAME TO x",
    "COMMENT ON VIEW pool IS 'x'",
    "INSERT INTO pool (id) VALUES ('x')",
    "WITH x AS (INSERT INTO pool VALUES (1) RETURNING *) FROM x",
    "UPDATE pool SET id = 'x'",
    "DELETE FROM pool",
    "TRUNCATE pool",
    "MERGE INTO pool USING sources ON true WHEN MATCHED THEN DELETE",
    "SELECT 1 INTO x",
    "SELECT 1; SELECT 2",
    "SELECT 1; COPY (SELECT 1) TO '{csv}.out'",
]

OTHER_DATABASES_AND_EXTENSIONS = [
    "ATTACH '{db}'",
    "ATTACH ':memory:' AS other",
    "DETACH memory",
    "USE memory",
    "INSTALL httpfs",
    "FORCE INSTALL httpfs FROM community",
    "LOAD httpfs",
    "LOAD '{csv}'",
    "UPDATE EXTENSIONS",
    "FROM duckdb_extensions()",
    "FROM duckdb_extension_repositories()",
    "CREATE SECRET (TYPE s3, KEY_ID 'a', SECRET 'b')",
    "DROP SECRET x",
    "FROM duckdb_secrets()",
    "FROM which_secret('s3://x', 's3')",
    "CALL pragma_version()",
    "FROM copy_database('memory', 'other')",
    "FROM import_database('{store}')",
    "FROM postgres_query('x', 'y')",
    "FROM pool AT (VERSION => 1)",
]

SETTINGS = [
    "SET enable_external_access = true",
    "SET memory_limit = '100GB'",
    "SET threads = 64",
    "SET VARIABLE file = '{csv}'",
    "RESET lock_configuration",
    "PRAGMA memory_limit = '100GB'",
    "PRAGMA database_list",
    "PRAGMA enable_profiling",
    "FROM pragma_storage_info('pool')",
    "FROM enable_logging()",
    "FROM disable_logging()",
    "FROM enable_profiling()",
    "FROM truncate_duckdb_logs()",
    "SELECT write_log('x')",
    "FROM checkpoint()",
    "FROM force_checkpoint()",
    "SELECT set_config('threads', '64')",
    "SELECT nextval('s')",
    "BEGIN",
    "PREPARE p AS SELECT 1",
    "EXECUTE p",
]

TEXT_AS_SQL = [
    "FROM query('SELECT 1')",
    "FROM QUERY('SELECT 1')",
    "FROM \"query\"('SELECT 1')",
    "FROM system.main.query('SELECT 1')",
    "SELECT (SELECT count(*) FROM query('SELECT 1'))",
    "FROM query('COPY (SELECT 1) TO ''{csv}.out''')",
    "FROM query('FROM ''{csv}''')",
    "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('FROM pool_table'))",
    "SELECT * FROM json_execute_serialized_sql(json_serialize_sql("
    "'WITH x AS (COPY (SELECT 1) TO ''{csv}.out'') SELECT 1'))",
    "FROM destroy_external_resource('query', 'SELECT 1')",
    "FROM destroy_external_resource('read_text', '{csv}')",
    "FROM register_external_resource_type('x', kind := 'ATTACH', create_function := 'read_text')",
    "FROM register_external_resource('x', 'y', MAP {'a': 'b'})",
    "FROM create_external_resource('x')",
    "FROM deregister_external_resource('x')",
]

MACROS = [
    "CREATE MACRO cosine(a, b) AS 1",
    "CREATE OR REPLACE MACRO nearest(a) AS TABLE FROM read_text('{csv}')",
    "CREATE TEMP MACRO f() AS TABLE FROM read_text('{csv}')",
    "DROP MACRO cosine",
    "DROP MACRO TABLE nearest",
    "FROM members('math'; DROP VIEW pool)",
    "FROM members('math''; DROP VIEW pool; --')",
    "FROM members((SELECT content FROM read_text('{csv}')))",
    "FROM nearest('gsm8k', 'rds', (SELECT count(*) FROM read_csv('{csv}')))",
    "FROM nearest('gsm8k', 'rds', 3, by := (SELECT content FROM read_text('{csv}')))",
    "FROM nearest('gsm8k', 'rds) FROM read_text(''{csv}''', 3)",
    "FROM nearest('gsm8k', 'rds', -1)",
    "SELECT cosine((SELECT a FROM read_csv('{csv}')), [1])",
    "FROM features WHERE id IN (SELECT file FROM glob('/etc/*'))",
    "INSERT INTO features VALUES ('x')",
    "DROP VIEW scores_gsm8k",
]

PYTHON_AND_THE_MACHINE = [
    "SELECT getenv('HOME')",
    *(
        f"FROM {name}"
        for name in (
            "connection request settings channel place relation relations features_of stored batch "
            "reader schema query os sys json __main__ globals"
        ).split()
    ),
    "FROM arrow_scan(1, 2, 3)",
    "FROM arrow_scan_dumb(1, 2, 3)",
    "FROM python_arrow_scan(1)",
    "FROM python_map_function((SELECT 1))",
    "FROM pandas_scan(1)",
    "FROM seq_scan('pool')",
    "SELECT 1::POINTER",
    "SELECT system('id')",
    "SELECT load_extension('x')",
    "FROM http_get('http://example.com')",
    "FROM files",
    "FROM artifacts",
    "SELECT ?",
    "SELECT $file",
    ".shell id",
    ".read {csv}",
    "\\copy pool TO x",
    "SELECT " + "(" * 5000 + "1" + ")" * 5000,
    "SELECT " + "-" * 3 + "1 WHERE",
]


@pytest.mark.parametrize(
    "text",
    [
        *READING_FILES,
        *WRITING,
        *OTHER_DATABASES_AND_EXTENSIONS,
        *SETTINGS,
        *TEXT_AS_SQL,
        *MACROS,
        *PYTHON_AND_THE_MACHINE,
    ],
)
def test_a_way_out_is_refused_and_the_process_lives_on(
    session: SqlSession, store: Store, folder: Path, text: str
) -> None:
    for kind in ("csv", "json", "parquet", "db"):
        text = text.replace(f"{{{kind}}}", str(folder / f"secret.{kind}"))
    before = session._process
    with pytest.raises(QueryError) as error:
        session.run(text.replace("{store}", store.uri)).read_all()
    assert "process" not in str(error.value), "it died of it"
    left = ["secret.csv", "secret.db", "secret.json", "secret.parquet"]
    assert sorted(path.name for path in folder.iterdir()) == left
    assert session._process is before and not before.gone


def test_the_same_process_answers_after_all_of_them(session: SqlSession) -> None:
    assert rows(session, "SELECT count(*) AS n FROM pool") == [{"n": 60}]
    assert rows(session, "SELECT count(*) AS n FROM features") == [{"n": 60}]


@pytest.mark.parametrize(
    "where",
    [
        "id IN (SELECT content FROM read_text('/etc/hostname'))",
        "id IN (FROM query('SELECT id FROM pool'))",
        "write_log(id) IS NULL",
        "EXISTS (WITH x AS (COPY pool TO '/tmp/x') SELECT 1)",
        "id = getenv('HOME')",
    ],
)
def test_a_filter_is_held_to_the_same_rules(session: SqlSession, where: str) -> None:
    with pytest.raises(QueryError):
        session.run_filter(where).read_all()


def test_nothing_is_kept_from_one_query_to_the_next(session: SqlSession) -> None:
    """What a query can read of the session is that of a fresh one."""
    assert rows(session, "SELECT getvariable('file') AS v") == [{"v": None}]
    for function in ("duckdb_variables", "duckdb_prepared_statements", "duckdb_external_resources"):
        assert rows(session, f"FROM {function}()") == []
    assert rows(session, "SELECT current_setting('lock_configuration') AS locked") == [
        {"locked": True}
    ]
    assert rows(session, "SELECT current_setting('enable_external_access') AS open") == [
        {"open": False}
    ]


def test_a_word_of_the_list_is_no_harm_as_a_name(session: SqlSession) -> None:
    text = "SELECT query AS checkpoint, 'COPY pool TO x' AS t FROM coreset_rows AS query LIMIT 1"
    assert list(rows(session, text)[0]) == ["checkpoint", "t"]


# -- bounds -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "SELECT count(*) FROM range(10000000000000)",
        "SELECT sum(r) FROM generate_series(1, 10000000000000) t(r)",
        "WITH RECURSIVE t AS (SELECT 1 AS a UNION ALL SELECT a + 1 FROM t) SELECT count(*) FROM t",
        "SELECT max(cosine(a.rds, b.rds) + cosine(c.rds, d.rds) + cosine(e.rds, f.rds)) "
        "FROM features a, features b, features c, features d, features e, features f",
        "SELECT sleep_ms(1000000)",
    ],
)
def test_a_runaway_query_stops_at_its_time_limit(store: Store, text: str) -> None:
    with SqlSession(store.uri, time_limit=0.5) as session:
        first = session._process
        with pytest.raises(QueryError, match=r"time limit: it ran for 0.5 seconds"):
            session.run(text).read_all()
        assert first.gone


def test_time_is_counted_over_the_whole_result(store: Store) -> None:
    with SqlSession(store.uri, time_limit=0.5) as session:
        with pytest.raises(QueryError, match="time limit"):
            for _ in session.run("FROM range(10000000000000)"):
                pass
        session._time_limit = 60
        assert rows(session, "SELECT 1 AS one") == [{"one": 1}]


@pytest.mark.parametrize(
    "text",
    [
        "SELECT list(r) FROM range(300000000) t(r)",
        "SELECT string_agg(r) FROM range(300000000) t(r)",
        "SELECT repeat('x', 3000000000)",
        "SELECT repeat([1], 1000000000)",
        "SELECT unnest(range(1000000000))",
        "SELECT generate_series(1, 4000000000)",
        "SELECT list_resize([1], 4000000000)",
        "SELECT md5(r::VARCHAR) FROM range(30000000) t(r) ORDER BY 1",
        "WITH RECURSIVE t AS (SELECT 'x' AS a UNION ALL SELECT a || a FROM t) "
        "SELECT max(length(a)) FROM t",
        "SELECT list(rds) FROM features, range(100000000)",
    ],
)
def test_a_hungry_query_stops_at_its_memory_limit(session: SqlSession, text: str) -> None:
    with pytest.raises(QueryError, match=r"memory limit of 400MB|maximum|too large|overflow"):
        session.run(text).read_all()
    assert rows(session, "SELECT 1 AS one") == [{"one": 1}]
