from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pytest

from coresetdb.schemas.errors import QueryError, StoreError, StoreNotFoundError, UsageError
from coresetdb.store.sql.session import SqlSession, run_query
from coresetdb.store.store import Store


@pytest.fixture(scope="module")
def session(store: Store):
    with SqlSession(store.uri, time_limit=60, memory_limit="400MB") as session:
        yield session


def rows(session: SqlSession, text: str) -> list[dict]:
    return session.run(text).read_all().to_pylist()


def test_one_query(store: Store) -> None:
    result = run_query(
        store.uri, "SELECT corpus, count(*) AS n FROM pool GROUP BY corpus ORDER BY 1"
    )
    assert result.schema == pa.schema([("corpus", pa.string()), ("n", pa.int64())])
    assert result.read_all().to_pylist() == [
        {"corpus": "code", "n": 20},
        {"corpus": "dolly", "n": 20},
        {"corpus": "gsm8k", "n": 20},
    ]
    assert list(result) == []


def test_the_next_query_finds_the_process_warm(store: Store, tmp_path: Path) -> None:
    first = run_query(store.uri, "SELECT 1 AS one")
    first.read_all()
    with pytest.raises(QueryError, match="tokns"):
        run_query(store.uri, "SELECT tokns FROM pool")
    other = Store.create(str(tmp_path / "pool"), {})
    with SqlSession(other.uri) as session:
        assert session._process is first._process
        assert rows(session, "SELECT count(*) AS n FROM pool") == [{"n": 0}]
        aside = run_query(store.uri, "SELECT count(*) AS n FROM pool")  # while the other is in use
        assert aside.read_all().to_pylist() == [{"n": 60}]
        assert aside._process is not session._process
    assert first._process.idle and aside._process.gone  # one at most waits
    for memory, same in (("100MB", False), ("100MB", True), ("2GB", False)):
        result = run_query(store.uri, "SELECT 1 AS one", memory_limit=memory)
        assert (result._process is first._process) == same
        first = result
        assert result.read_all().num_rows == 1


def test_what_may_not_serve_again_ends(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    amid = run_query(store.uri, "FROM range(1000000000000)")
    next(amid)
    amid.close()
    assert amid._process.gone
    killed = run_query(store.uri, "SELECT 1 AS one")
    killed.read_all()
    os.kill(killed._process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, killed._process.pid, os.WEXITED | os.WNOWAIT)
    assert run_query(store.uri, "SELECT 1 AS one").read_all().num_rows == 1
    monkeypatch.setattr("coresetdb.store.sql.session.KEPT_SECONDS", 0.0)
    alone = run_query(store.uri, "SELECT 1 AS one")
    alone.read_all()
    deadline = time.monotonic() + 60
    while not alone._process.gone and time.monotonic() < deadline:  # nothing took it
        time.sleep(0.01)
    assert alone._process.gone


def test_every_relation_answers(session: SqlSession) -> None:
    tables = {row["name"] for row in rows(session, "SHOW TABLES")}
    assert {"pool", "sources", "targets", "scores", "coresets", "coreset_rows"} < tables
    assert {"runs", "rejects", "recipes"} < tables
    assert not {"files", "artifacts"} & tables
    described = [row["column_name"] for row in rows(session, "DESCRIBE pool")]
    assert described == session.run("FROM pool LIMIT 0").schema.names
    assert len(rows(session, "SUMMARIZE pool")) == len(described)


def test_a_result_without_rows_has_its_schema(session: SqlSession) -> None:
    table = session.run("SELECT id, tokens FROM pool WHERE false").read_all()
    assert table.schema == pa.schema([("id", pa.string()), ("tokens", pa.int32())])
    assert table.num_rows == 0


def test_equal_names_are_made_different(session: SqlSession) -> None:
    assert rows(session, 'SELECT 1 AS a, 2 AS a, 3 AS a_1, 4 AS a, 5 AS "A"') == [
        {"a": 1, "a_2": 2, "a_1": 3, "a_3": 4, "A": 5}
    ]


def test_enums_bring_their_dictionary(session: SqlSession) -> None:
    query = "SELECT (['x', 'y'][r % 2 + 1])::ENUM('x', 'y') AS e FROM range(5000) t(r)"
    values = session.run(query).read_all()["e"].to_pylist()
    assert values == ["x", "y"] * 2500


def test_an_earlier_version(store: Store) -> None:
    with SqlSession(store.uri, at=1) as session:
        assert rows(session, "SELECT count(*) AS n FROM pool") == [{"n": 0}]
    with pytest.raises(QueryError, match="pool has no version 77: its versions run from 1 to"):
        run_query(store.uri, "SELECT 1", at=77)


def test_a_session_sees_what_was_written_since(store: Store, tmp_path: Path) -> None:
    fresh = Store.create(str(tmp_path / "pool"), {})
    with SqlSession(fresh.uri) as session:
        assert rows(session, "SELECT count(*) AS n FROM pool") == [{"n": 0}]
        fresh.insert("pool", pa.table({"id": ["0" * 32]}))
        assert rows(session, "SELECT count(*) AS n FROM pool") == [{"n": 1}]


# -- errors -------------------------------------------------------------------------------------


def test_what_duckdb_says_comes_back_with_the_place(session: SqlSession) -> None:
    with pytest.raises(QueryError) as error:
        session.run("SELECT id,\n  tokns FROM pool")
    assert "tokns" in str(error.value) and '"tokens"' in str(error.value)
    assert "LINE 2" in str(error.value) and "^" in str(error.value)


def test_an_error_after_the_first_rows(session: SqlSession) -> None:
    text = "SELECT CASE WHEN r = 200000 THEN 'x' ELSE '1' END::INT AS n FROM range(300000) t(r)"
    with pytest.raises(QueryError, match="Could not convert string 'x' to INT32"):
        session.run(text).read_all()
    assert rows(session, "SELECT 1 AS one") == [{"one": 1}]


# -- bounds -------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds the address space")
def test_the_process_itself_is_bounded(session: SqlSession) -> None:
    rows(session, "SELECT 1")
    limits = Path(f"/proc/{session._process.pid}/limits").read_text()
    bounds = {line[:25].strip(): line[25:].split()[0] for line in limits.splitlines()}
    assert bounds["Max file size"] == "0"
    assert bounds["Max core file size"] == "0"
    assert int(bounds["Max address space"]) < 10_000_000_000


def test_a_killed_process_is_a_query_error_and_is_replaced(session: SqlSession) -> None:
    result = session.run("FROM range(10000000)")
    next(result)
    os.kill(session._process.pid, signal.SIGKILL)
    with pytest.raises(QueryError, match=r"SIGKILL, most likely at its memory limit of 400MB"):
        result.read_all()
    assert rows(session, "SELECT 1 AS one") == [{"one": 1}]


def test_a_huge_result_is_streamed(session: SqlSession) -> None:
    result = session.run("FROM range(1000000000000)")
    seen = 0
    for batch in result:
        seen += batch.num_rows
        if seen > 100_000:
            break
    assert batch.num_rows <= 2048
    result.close()
    assert session._process.gone
    assert rows(session, "SELECT 1 AS one") == [{"one": 1}]


def test_the_next_query_stops_the_one_still_read(session: SqlSession) -> None:
    first = session.run("FROM range(1000000000000)")
    next(first)
    assert rows(session, "SELECT 1 AS one") == [{"one": 1}]
    assert list(first) == []


@pytest.mark.skipif(find_spec("pandas") is None, reason="pandas is not installed")
def test_the_process_does_without_pandas(session: SqlSession) -> None:
    assert rows(session, "SELECT count(*) AS n FROM pool") == [{"n": 60}]
    with open(f"/proc/{session._process.pid}/maps") as mapped:
        assert not [line for line in mapped if "/pandas/" in line]


def test_the_process_ends_with_its_owner(store: Store) -> None:
    program = (
        "import os, sys\n"
        "from coresetdb.store.sql.session import SqlSession\n"
        f"session = SqlSession({store.uri!r})\n"
        "session.run('SELECT 1').read_all()\n"
        "print(session._process.pid, flush=True)\n"
        "os._exit(0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert _ends(int(done.stdout)), "the query's process outlived its owner"


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_process_of_a_session_that_is_forgotten_ends(store: Store) -> None:
    session = SqlSession(store.uri, memory_limit="401MB")  # no process waits for such
    session.run("SELECT 1").read_all()
    child = session._process.pid
    del session
    gc.collect()
    assert _ends(child)


def test_a_program_may_end_amid_a_result(store: Store) -> None:
    program = (
        "from coresetdb.store.sql.session import run_query\n"
        f"result = run_query({store.uri!r}, 'FROM range(10000000000)')\n"
        "print(next(result).num_rows)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "2048\n", "")


def _ends(pid: int) -> bool:
    """Wait for its end, some 20 seconds."""
    for _ in range(1000):
        if not _alive(pid):
            return True
        signal.sigtimedwait([], 0.02)
    return False


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.parametrize("limit", ["", "2 elephants", "-1GB", "1KB", "0", "10MB"])
def test_a_malformed_memory_limit(store: Store, limit: str) -> None:
    with pytest.raises(UsageError, match="memory limit"):
        run_query(store.uri, "SELECT 1", memory_limit=limit)


@pytest.mark.parametrize("limit", ["64MB", "1.5 GiB", "2g", "500000000", "1TB"])
def test_memory_limits(store: Store, limit: str) -> None:
    assert run_query(store.uri, "SELECT 1 AS one", memory_limit=limit).read_all().num_rows == 1


def test_a_time_limit_is_above_zero(store: Store) -> None:
    for limit in (0, -1, float("nan")):
        with pytest.raises(UsageError, match="time limit"):
            run_query(store.uri, "SELECT 1", time_limit=limit)


# -- the store ----------------------------------------------------------------------------------


def test_no_store_there(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError, match="no store here"):
        run_query(str(tmp_path / "none"), "SELECT 1")


def test_a_scheme_it_cannot_live_on() -> None:
    with pytest.raises(StoreError, match="local folder or under s3://"):
        run_query("ftp://host/pool", "SELECT 1")


def test_neither_side_imports_torch_and_this_side_no_lance(store: Store) -> None:
    program = (
        "import sys\n"
        "from coresetdb.store.sql.session import run_query\n"
        f"run_query({store.uri!r}, 'SELECT 1').read_all()\n"
        "print([name for name in ('torch', 'transformers', 'duckdb', 'lance', 'pandas')"
        " if name in sys.modules])\n"
        "import coresetdb.store.sql.child\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[:2] == ["[]", "[]"]


def test_a_script_without_main_guard_starts_no_second_script(store: Store, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from coresetdb.store.sql.session import run_query\n"
        "print('started')\n"
        f"print(run_query({store.uri!r}, 'SELECT 41 + 1 AS n').read_all().to_pylist())\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n") == ["started", "[{'n': 42}]", ""]
