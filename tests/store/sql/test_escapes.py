"""What SQL from outside must not do: leave the store, change anything, or run without end."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.sql_attempts import ATTEMPTS, CONDITIONS, TELLING

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


def filled(text: str, store: Store, folder: Path) -> str:
    """An attempt with its files in it."""
    for kind in ("csv", "json", "parquet", "db"):
        text = text.replace(f"{{{kind}}}", str(folder / f"secret.{kind}"))
    return text.replace("{store}", store.uri)


def assert_untouched(folder: Path) -> None:
    left = ["secret.csv", "secret.db", "secret.json", "secret.parquet"]
    assert sorted(path.name for path in folder.iterdir()) == left


@pytest.mark.parametrize("kind", ATTEMPTS)
def test_a_way_out_is_refused_and_the_process_lives_on(
    session: SqlSession, store: Store, folder: Path, kind: str
) -> None:
    for text in ATTEMPTS[kind]:
        before = session._process
        with pytest.raises(QueryError) as error:
            print(session.run(filled(text, store, folder)).read_all(), text[:200])
        if kind != "out of bounds":  # a process may be replaced after those
            assert "process" not in str(error.value), f"it died of {text}"
            assert session._process is before and not before.gone, text
        assert_untouched(folder)


def test_there_are_many_and_all_differ() -> None:
    every = [text for texts in ATTEMPTS.values() for text in texts]
    assert len(every) == len(set(every)) > 350


def test_the_same_process_answers_after_all_of_them(session: SqlSession) -> None:
    assert rows(session, "SELECT count(*) AS n FROM pool") == [{"n": 60}]
    assert rows(session, "SELECT count(*) AS n FROM features") == [{"n": 60}]


def test_a_file_with_the_name_of_the_database_is_a_file(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = [":memory:", ":memory:.wal", ":memory:.wal.recovery"]
    with SqlSession(store.uri) as session:
        for name in names:
            (tmp_path / name).write_text("a,b\n1,2\n")
            for path in (name, tmp_path / name):
                for function in ("read_text", "read_csv", "read_blob"):
                    with pytest.raises(QueryError):
                        session.run(f"FROM {function}('{path}')").read_all()
        assert rows(session, "SELECT current_setting('allowed_paths') AS open") == [{"open": []}]


def test_what_a_session_says_of_itself_names_no_place(
    session: SqlSession, store: Store, folder: Path
) -> None:
    places = {store.uri, str(Path.home()), os.getcwd(), sys.prefix}
    for text in TELLING:
        try:
            said = str(session.run(filled(text, store, folder)).read_all().to_pylist())
        except QueryError as error:
            said = str(error)
        named = [place for place in places if len(place) > 1 and place in said]
        assert not named, f"{text} tells {named}"


@pytest.mark.parametrize("start", range(0, len(CONDITIONS), 12))
def test_a_filter_is_held_to_the_same_rules(
    session: SqlSession, store: Store, folder: Path, start: int
) -> None:
    for where in CONDITIONS[start : start + 12]:
        with pytest.raises(QueryError):
            print(session.run_filter(filled(where, store, folder)).read_all(), where)
        assert_untouched(folder)


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
        "SELECT lpad('x', 2000000000, 'y')",  # these three reach the memory limit after long
        "SELECT rpad('x', 2147483647, 'y')",
        "SELECT bitstring('1', 2000000000)",
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
