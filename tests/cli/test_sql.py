"""The `sql` command: golden outputs, the terminal's table, and the prompt."""

from __future__ import annotations

import datetime
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from coresetdb.cli.main import commands
from coresetdb.cli.sql import Completer, candidates, prompt, relations_of
from coresetdb.cli.sql_output import check_parquet, show, write_parquet, write_to_terminal
from coresetdb.schemas.errors import QueryError, UsageError
from coresetdb.store.sql.session import SqlSession
from coresetdb.store.sql.table import fitted, python_values
from coresetdb.store.store import Store

NOON = datetime.datetime(2026, 11, 20, 12, tzinfo=datetime.UTC)
TEXTS = ["two\nlines, “quoted”", 'a "plain" one', "\x1b[31mred\x07", "数据 " * 40]
QUERY = (
    "SELECT corpus, tokens, nll, tokens > 11 AS long, messages[1].content AS text, "
    "[tokens, NULL] AS list, added_at, source_id, sum(tokens) OVER () AS total "
    "FROM pool ORDER BY tokens LIMIT 3"
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    made = Store.create(
        str(tmp_path_factory.mktemp("cli") / "pool"), {}, [pa.field("nll", pa.float32())]
    )
    rows = [
        {
            "id": f"{number:032x}",
            "corpus": "dolly",
            "source_id": ["", None, "s2", "s3"][number],
            "messages": [{"role": "user", "content": text}],
            "tokens": 10 + number,
            "nll": [0.1, None, float("nan"), 2.5][number],
            "metadata": json.dumps({"topic": f"t{number}"}),
            "added_at": NOON,
        }
        for number, text in enumerate(TEXTS)
    ]
    made.insert("pool", pa.Table.from_pylist(rows, schema=made.dataset("pool").schema))
    return made.uri


@pytest.fixture(scope="module")
def session(store: str):
    with SqlSession(store) as session:
        yield session


def run(store: str, *arguments: str, stdin: str = "") -> str:
    words = ["sql", store, *arguments]
    done = CliRunner().invoke(commands, words, input=stdin, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


# -- golden outputs -----------------------------------------------------------------------------


def test_table(store: str) -> None:
    query = QUERY.replace("added_at, ", "")
    assert (
        run(store, query)
        == r"""
corpus  tokens   nll  long   text                  list        source_id  total
------  ------  ----  -----  --------------------  ----------  ---------  -----
dolly       10   0.1  false  two\nlines, “quoted”  [10, null]                46
dolly       11  NULL  false  a "plain" one         [11, null]  NULL          46
dolly       12   nan  true   \x1b[31mred\x07       [12, null]  s2            46
""".lstrip()
    )


def test_csv(store: str) -> None:
    assert run(store, QUERY, "--csv") == (
        '"corpus","tokens","nll","long","text","list","added_at","source_id","total"\n'
        '"dolly",10,0.1,false,"two\nlines, “quoted”","[10, null]",'
        '2026-11-20 12:00:00.000000Z,"",46\n'
        '"dolly",11,,false,"a ""plain"" one","[11, null]",2026-11-20 12:00:00.000000Z,,46\n'
        '"dolly",12,nan,true,"\x1b[31mred\x07","[12, null]",'
        '2026-11-20 12:00:00.000000Z,"s2",46\n'
    )


def test_json(store: str) -> None:
    assert run(store, QUERY, "--json") == (
        '{"corpus": "dolly", "tokens": 10, "nll": 0.1, "long": false, '
        '"text": "two\\nlines, “quoted”", "list": [10, null], '
        '"added_at": "2026-11-20T12:00:00+00:00", "source_id": "", "total": 46}\n'
        '{"corpus": "dolly", "tokens": 11, "nll": null, "long": false, '
        '"text": "a \\"plain\\" one", "list": [11, null], '
        '"added_at": "2026-11-20T12:00:00+00:00", "source_id": null, "total": 46}\n'
        '{"corpus": "dolly", "tokens": 12, "nll": null, "long": true, '
        '"text": "\\u001b[31mred\\u0007", "list": [12, null], '
        '"added_at": "2026-11-20T12:00:00+00:00", "source_id": "s2", "total": 46}\n'
    )


def test_parquet(store: str, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    assert run(store, QUERY, "--parquet", str(out)) == ""
    table = pq.read_table(out)
    assert table.schema.types[:5] == [
        pa.string(),
        pa.int32(),
        pa.float32(),
        pa.bool_(),
        pa.string(),
    ]
    assert table["text"].to_pylist() == TEXTS[:3]
    assert table["list"].to_pylist() == [[10, None], [11, None], [12, None]]
    assert table["added_at"].to_pylist() == [NOON] * 3
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]


def test_every_type_of_duckdb_has_a_form(session: SqlSession, capfdbinary) -> None:
    query = (
        "SELECT 1::TINYINT a, 1.50::DECIMAL(9, 2) b, 170141183460469231731::HUGEINT c, "
        "INTERVAL 14 MONTH d, TIME '10:00' e, DATE '2026-11-20' f, 'x'::BLOB g, "
        "MAP {'k': 0.1::FLOAT} h, {'s': [1, NULL]} i, 'y'::ENUM('x', 'y') j, "
        "union_value(n := 1) k, '{\"a\": 1}'::JSON l, 'inf'::DOUBLE m, NULL n, "
        "TIMESTAMP_NS '2026-11-20 12:00:00.123456789' o, "
        "'00000000-0000-0000-0000-000000000001'::UUID p"
    )
    show(session.run(query), "json")
    assert json.loads(capfdbinary.readouterr().out) == {
        "a": 1,
        "b": 1.5,
        "c": 170141183460469231731,
        "d": "P14M0DT0S",
        "e": "10:00:00",
        "f": "2026-11-20",
        "g": "78",
        "h": {"k": 0.1},
        "i": {"s": [1, None]},
        "j": "y",
        "k": 1,
        "l": '{"a": 1}',
        "m": None,
        "n": None,
        "o": "2026-11-20 12:00:00.123456789",
        "p": "00000000-0000-0000-0000-000000000001",
    }
    for form in ("table", "csv"):
        show(session.run(query), form)
        assert len(capfdbinary.readouterr().out.splitlines()) == (3 if form == "table" else 2)


def test_times_that_python_lacks_are_text_however_deep_they_stand() -> None:
    """Whether pandas is there or not."""
    noon = 1795176000123456789
    flat = pa.array([noon, None], pa.timestamp("ns"))
    never = pa.array([2**63 - 1], pa.timestamp("us"))
    texts = ["2026-11-20 12:00:00.123456789", None]
    columns = [
        (flat, texts),
        (pa.array([[noon, None]], pa.list_(pa.timestamp("ns"))), [texts]),
        (pa.array([[noon, None]], pa.list_(pa.timestamp("ns"), 2)), [texts]),
        (
            pa.array([{"a": 1, "t": [{"u": noon}]}, None], pa.struct(
                {"a": pa.int8(), "t": pa.list_(pa.struct({"u": pa.timestamp("ns")}))}
            )),
            [{"a": 1, "t": [{"u": texts[0]}]}, None],
        ),
        (
            pa.array([[("k", noon)]], pa.map_(pa.string(), pa.timestamp("ns"))),
            [[("k", texts[0])]],
        ),
        (pa.array([5], pa.time64("ns")), ["00:00:00.000000005"]),
        (pa.array([[NOON]], pa.list_(pa.timestamp("us", "UTC"))), [[NOON]]),
    ]  # fmt: skip
    for column, values in columns:
        assert python_values(column) == values, column.type
    (said,) = python_values(never)
    assert python_values(pa.ListArray.from_arrays([0, 1], never)) == [[said]]
    far = never.cast(pa.timestamp("us", "UTC"))  # which Arrow would write as a day of year 32103
    assert python_values(pa.ListArray.from_arrays([0, 1], far)) == [[said]]
    union = pa.UnionArray.from_dense(pa.array([0], pa.int8()), pa.array([0], pa.int32()), [flat])
    with pytest.raises(QueryError, match="cast the value in the query"):
        python_values(union)


# -- the call -----------------------------------------------------------------------------------


def test_the_query_comes_from_standard_input(store: str) -> None:
    assert run(store, "--csv", stdin="SELECT count(*) AS n\nFROM pool;\n") == '"n"\n4\n'


def test_an_earlier_version(store: str) -> None:
    assert run(store, "SELECT count(*) AS n FROM pool", "--csv", "--at", "1") == '"n"\n0\n'


def test_wrong_calls(store: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(commands, ["sql", store, "SELECT 1", "--csv", "--json"])
    assert done.exit_code == 2 and "choose one of" in done.stderr
    for error, arguments in [
        (QueryError, ["SELECT nope FROM pool"]),
        (QueryError, ["COPY pool TO 'x'"]),
        (QueryError, ["SELECT 1", "--at", "nope"]),
        (QueryError, ["SELECT count(*) FROM range(10000000000000)", "--timeout", "0.5"]),
        (QueryError, ["SELECT list(r) FROM range(100000000) t(r)", "--memory", "200MB"]),
        (QueryError, ["SELECT INTERVAL 1 DAY AS i", "--parquet", str(tmp_path / "x.parquet")]),
        (UsageError, ["SELECT 1", "--memory", "plenty"]),
        (UsageError, ["SELECT 1", "--parquet", str(tmp_path / "no" / "x.parquet")]),
    ]:
        with pytest.raises(error):
            CliRunner().invoke(commands, ["sql", store, *arguments], catch_exceptions=False)
    assert list(tmp_path.iterdir()) == []


def test_only_a_file_of_ours_is_replaced(store: str, tmp_path: Path) -> None:
    corpus, text, out = (tmp_path / name for name in ("corpus.parquet", "notes.txt", "out.parquet"))
    rows = pa.record_batch({"n": [1]})

    class Result:
        schema = rows.schema

        def __iter__(self):
            return iter([rows])

    pq.write_table(pa.table({"mine": [1]}), corpus)
    text.write_text("mine")
    for file in (corpus, text):
        before = file.read_bytes()
        with pytest.raises(UsageError, match=r"did not write.*--overwrite"):
            CliRunner().invoke(
                commands, ["sql", store, "SELECT 1", "--parquet", str(file)], catch_exceptions=False
            )
        assert file.read_bytes() == before
        write_parquet(Result(), str(file))
        check_parquet(str(file))
        assert pq.read_table(file).to_pylist() == [{"n": 1}]
    check_parquet(str(out))


def test_a_failing_query_leaves_the_old_parquet_file(store: str, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    run(store, "SELECT 1 AS n", "--parquet", str(out))
    with pytest.raises(QueryError):
        late = "SELECT CASE WHEN r = 200000 THEN 'x' ELSE '1' END::INT AS n FROM range(300000) t(r)"
        CliRunner().invoke(
            commands, ["sql", store, late, "--parquet", str(out)], catch_exceptions=False
        )
    assert pq.read_table(out).to_pylist() == [{"n": 1}]
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]


def test_importing_the_command_is_light() -> None:
    program = (
        "import sys, coresetdb.cli.sql\n"
        "print([n for n in ('pyarrow', 'numpy', 'duckdb', 'lance') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


# -- the terminal -------------------------------------------------------------------------------


def test_wide_text_is_shortened_on_a_terminal_and_said_to_be(session: SqlSession, capsys) -> None:
    query = "SELECT tokens, messages[1].content AS text, corpus FROM pool ORDER BY tokens"
    write_to_terminal(session.run(query), 40)
    out, err = capsys.readouterr()
    assert out == (
        "tokens  text                      corpus\n"
        "------  ------------------------  ------\n"
        "    10  two\\nlines, “quoted”      dolly\n"
        '    11  a "plain" one             dolly\n'
        "    12  \\x1b[31mred\\x07           dolly\n"
        "    13  数据 数据 数据 数据 数…   dolly\n"
    )
    assert err == (
        "4 rows; wide text is shortened (--csv, --json, --parquet or a pipe give all of it)\n"
    )


def test_what_fits_is_left_alone(session: SqlSession, capsys) -> None:
    write_to_terminal(session.run("SELECT 1 AS one"), 40)
    assert capsys.readouterr() == ("one\n---\n  1\n", "1 row\n")


def test_many_columns_become_a_block_per_row(session: SqlSession, capsys) -> None:
    query = f"SELECT {', '.join(f'123456789 AS column_{i}' for i in range(10))} FROM range(2)"
    write_to_terminal(session.run(query), 40)
    out, err = capsys.readouterr()
    assert out.startswith("-- row 1\ncolumn_0  123456789\ncolumn_1  123456789\n")
    assert out.count("-- row") == 2 and err == "2 rows\n"


def test_a_terminal_gets_the_first_rows_of_many(session: SqlSession, capsys) -> None:
    write_to_terminal(session.run("FROM range(100000000)"), 40)
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 502
    assert err == "the first 500 rows (--csv, --json, --parquet or a pipe give all of it)\n"


def test_the_widest_column_gives_way_first() -> None:
    assert fitted([3, 50, 10], 40) == [3, 27, 10]
    assert fitted([3, 50, 60], 43) == [3, 20, 20]
    assert fitted([3, 4, 5], 12) == [3, 4, 5]
    assert fitted([30, 30, 30], 12) is None
    assert fitted([32, 50, 60], 60, whole=[0]) == [32, 14, 14]
    assert fitted([32, 50], 36, whole=[0]) is None


# -- the prompt ---------------------------------------------------------------------------------


class Typed:
    """Lines as a person types them; an exception among them is raised in their place."""

    def __init__(self, *lines: str | type[BaseException]) -> None:
        self.lines, self.asked = list(lines), []

    def __call__(self, text: str) -> str:
        self.asked.append(text)
        if not self.lines:
            raise EOFError
        line = self.lines.pop(0)
        if isinstance(line, str):
            return line
        raise line


@pytest.fixture(autouse=True)
def own_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def test_the_prompt_goes_on_after_everything(session: SqlSession, capsys) -> None:
    typed = Typed(
        "",
        "SELECT corpus, count(*) AS n",
        "FROM pool GROUP BY corpus;",
        "DROP VIEW pool;",
        "SELECT half of a",
        KeyboardInterrupt,
        ".tables",
        ".schema coresets",
        ".schema nowhere",
        ".what",
        ".help",
        "SELECT 42 AS n;",
        ".exit",
        "SELECT 43 AS never;",
    )
    prompt(session, "pool", "csv", typed)
    out, err = capsys.readouterr()
    assert '"corpus","n"\n"dolly",4\n' in out
    assert '"n"\n42\n' in out and "43" not in out
    assert '"pool_version","BIGINT"' in out
    assert re.search(r"^coreset_rows +a row is a member of a selection$", out, re.MULTILINE)
    assert re.search(
        r"^features +a row is the vectors and lists of an instruction$", out, re.MULTILINE
    )
    assert "members(coreset): the rows of a coreset" in out
    assert ".schema RELATION" in out
    assert "Error: only SELECT is allowed here, and this is DROP\n" in err
    assert "interrupted" in err
    assert "nowhere: no such relation; there are coreset_rows, coresets, e" in err
    assert ".what: no such command" in err
    assert typed.asked[:4] == ["sql> ", "sql> ", "...> ", "sql> "]


RELATIONS = {"pool": ["id", "tokens", "topic name"], "scores_my-task": ["id", "rds:top"]}


@pytest.mark.parametrize(
    ("line", "text", "wanted"),
    [
        ("sel", "sel", ["SELECT"]),
        ("SELECT to", "to", ["tokens", '"topic name"']),
        ('SELECT "to', '"to', ["tokens", '"topic name"']),
        ("SELECT p.tok", "tok", ["tokens"]),
        ("SELECT rd", "rd", ['"rds:top"']),
        ("FROM po", "po", ["pool"]),
        ("FROM SCO", "SCO", ['"scores_my-task"']),
        ("FROM ne", "ne", ["nearest("]),
        ("SELECT zz", "zz", []),
        (".", "", ["exit", "help", "schema", "tables"]),
        (".sc", "sc", ["schema"]),
        (".schema p", "p", ["pool"]),
    ],
)
def test_what_tab_completes(line: str, text: str, wanted: list[str]) -> None:
    assert sorted(candidates(line, text, RELATIONS)) == sorted(wanted)


class Readline:
    """What the completer uses of readline."""

    __doc__ = "GNU readline"

    def __init__(self, line: str) -> None:
        self.line, self.bound = line, ""

    def get_line_buffer(self) -> str:
        return self.line

    def set_completer_delims(self, text: str) -> None:
        self.delims = text

    def set_completer(self, completer) -> None:
        self.complete = completer

    def parse_and_bind(self, text: str) -> None:
        self.bound = text


def test_tab_knows_the_relations_of_the_store(session: SqlSession) -> None:
    readline = Readline("SELECT nl")
    Completer(session).install(readline)
    assert readline.bound == "tab: complete"
    assert [readline.complete("nl", state) for state in (0, 1)] == ["nll", None]
    assert [readline.complete("target_f", state) for state in (0, 1)] == ["target_features", None]
    assert "pool_table" not in relations_of(session)
    assert relations_of(session)["features"] == ["id"]


def test_tab_with_no_store_behind_it_knows_sql(tmp_path: Path) -> None:
    with SqlSession(str(tmp_path / "none")) as session:
        readline = Readline("sel")
        Completer(session).install(readline)
        assert readline.complete("sel", 0) == "SELECT"


@pytest.mark.parametrize("word", ["quit", "exit", "\\q", "QUIT;", ".exit", "exit()"])
def test_words_that_leave_the_prompt(session: SqlSession, word: str, capsys) -> None:
    typed = Typed(word, "SELECT 43 AS never;")
    prompt(session, "pool", "csv", typed)
    out, err = capsys.readouterr()
    assert out == "" and "or quit" in err and len(typed.asked) == 1


def test_commands_of_other_prompts(session: SqlSession, capsys) -> None:
    prompt(session, "pool", "csv", Typed("help", "\\dt", "\\d coresets", "SELECT 1", "\\q"))
    out, _ = capsys.readouterr()
    assert "quit, exit, \\q and Ctrl-D" in out and "members(coreset): " in out
    assert '"pool_version","BIGINT"' in out


def test_ids_stay_whole_on_a_terminal(session: SqlSession, capsys) -> None:
    wide = "SELECT md5('a') AS id, repeat('x', 90) AS a, repeat('y', 90) AS b, 'z' AS c"
    write_to_terminal(session.run(wide), 60)
    out, _ = capsys.readouterr()
    assert "0cc175b9c0f1b6a831c399e269772661" in out and "…" in out
    assert all(len(line) <= 60 for line in out.splitlines())


def test_the_end_of_the_input_ends_the_prompt(session: SqlSession, capsys) -> None:
    prompt(session, "pool", "table", Typed())
    assert capsys.readouterr().err.endswith("\n\n")


def test_a_person_at_a_terminal(store: str, tmp_path: Path) -> None:
    owner, terminal = pty.openpty()
    program = f"from coresetdb.cli.main import main; main(['sql', {store!r}])"
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path), "TERM": "dumb"}
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=environment,
        start_new_session=True,
    )
    os.close(terminal)
    seen = b""

    def until(mark: bytes) -> None:
        nonlocal seen
        while mark not in seen:
            seen += os.read(owner, 4096)

    until(b"sql> ")
    os.write(owner, b"SELECT count(*) AS rows_there FROM pool;\n")
    until(b"1 row\r\n")
    os.write(owner, b"SELECT 'tabbed' AS t, count(cor\tpus) FROM coreset_r\t;\n")
    until(b"coreset_rows;")
    until(b"tabbed")
    os.write(owner, b".exit\n")
    assert process.wait(60) == 0
    os.close(owner)
    assert b"rows_there\r\n----------\r\n         4\r\n" in seen
    assert "count(*)" in (tmp_path / "coresetdb" / "sql_history").read_text()
