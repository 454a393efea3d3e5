"""A condition or a name that a command takes does nothing but be refused when it is more."""

from __future__ import annotations

import shlex
from pathlib import Path

import pyarrow as pa
import pytest
from helpers import toy_stores
from helpers.files import write_jsonl
from helpers.sql_attempts import CONDITIONS

import coresetdb
from coresetdb.cli.main import main
from coresetdb.schemas.errors import CoresetDBError
from coresetdb.store.sql.session import SqlSession

BREAKING_OUT = "true) OR EXISTS (WITH x AS (COPY pool TO 'out.csv') SELECT 1"
READING = "id IN (SELECT content FROM read_text('secret.txt'))"
SECOND = "true); COPY (SELECT 1) TO 'out.csv'; SELECT (1"

NAME = """x" FROM read_text('secret.txt') -- `'"""
"""A name of a column, a corpus and a target that ends whatever quotes it."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A store of rows whose metadata, corpus and target have hostile names, and files."""
    folder = tmp_path_factory.mktemp("hostile")
    store = toy_stores.toy_store(folder / "pool")
    rows = [toy_stores.question("sums", number) for number in range(20)]
    metadata = [{NAME: str(number % 2), "level": number} for number in range(20)]
    store.insert("pool", toy_stores.pool_rows(rows, [NAME, "sums"] * 10, metadata))
    run = {"run": "r1", "status": "done", "metadata_keys": [NAME, "level"]}
    store.insert("runs", pa.Table.from_pylist([run]))
    for target in ("sums", NAME):
        toy_stores.add_target(store, target, [toy_stores.question("sums", 100)])
    store.sync()
    db = coresetdb.Database(store)
    db.remove(where="tokens = 6")
    db.select("sums", budget=3, name="kept")
    (folder / "secret.txt").write_text("secret")
    write_jsonl(folder / "bench.jsonl", [{"question": "What?", "answer": "That."}])
    return folder


def type_in(line: str, condition: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    words = [condition if word == "CONDITION" else word for word in shlex.split(line)]
    with pytest.raises(SystemExit) as left:
        main(words)
    said = capsys.readouterr()
    return left.value.code or 0, said.out + said.err  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("line", "condition"),
    [
        ("select pool sums --budget 2 --where CONDITION", BREAKING_OUT),
        ("score run pool sums --with rds --where CONDITION", READING),
        ("remove pool --where CONDITION", SECOND),
        ("restore pool --where CONDITION", BREAKING_OUT),
        ("purge pool --yes --where CONDITION", READING),
        ("leaks pool bench.jsonl --where CONDITION", SECOND),
        ("dedup pool --keep CONDITION", READING),
        ("dedup pool --keep CONDITION", "1) AS preference, (SELECT content FROM 'secret.txt'"),
        ("sql pool CONDITION", f"SELECT id FROM pool WHERE {READING}"),
    ],
)
def test_no_command_lets_a_condition_out(folder, monkeypatch, capsys, line, condition):
    monkeypatch.chdir(folder)
    files = sorted(folder.iterdir())
    rows = coresetdb.connect("pool").store.dataset("pool").count_rows()
    code, said = type_in(line, condition, capsys)
    assert code == 2 and "Error" in said and "Traceback" not in said, said
    assert sorted(folder.iterdir()) == files
    assert coresetdb.connect("pool").store.dataset("pool").count_rows() == rows


def test_no_method_of_python_lets_one_out(folder, monkeypatch):
    monkeypatch.chdir(folder)
    db = coresetdb.connect("pool")
    files = sorted(folder.iterdir())
    for call in (
        lambda: db.select("sums", budget=2, where=BREAKING_OUT),
        lambda: db.score("sums", "rds", where=SECOND),
        lambda: db.remove(where=READING),
        lambda: db.sql(SECOND),
        lambda: db.sql("SELECT 1", at="1; DROP VIEW pool"),
        lambda: db.open_coreset("x' OR name <> '"),
        lambda: db.table("pool'; --"),
        lambda: db.open_scores("x' OR target <> '"),
        lambda: db.remove_scores("x' OR target <> '"),
        lambda: db.remove_target("x' OR target <> '"),
        lambda: db.explain("kept", "x' OR id <> '"),
    ):
        with pytest.raises(CoresetDBError):
            call()
    assert sorted(folder.iterdir()) == files


def test_a_hostile_name_is_a_name(folder, monkeypatch):
    """Columns, corpora and targets may be named so; SQL over them sees a name."""
    monkeypatch.chdir(folder)
    db = coresetdb.connect("pool")
    quoted = '"' + NAME.replace('"', '""') + '"'
    with SqlSession(db.store.uri) as session:
        assert NAME in session.run("FROM pool LIMIT 0").schema.names
        counts = session.run(f"SELECT {quoted} AS v, count(*) AS n FROM pool GROUP BY v ORDER BY v")
        assert [row["v"] for row in counts.read_all().to_pylist()] == ["0", "1"]
    literal = NAME.replace("'", "''")
    coreset = db.select(NAME, budget=2, where=f"corpus = '{literal}'", name="hostile")
    assert len(coreset.ids) == 2
    assert NAME in {row["corpus"] for row in db.list_corpora()}
    db.remove_target(NAME)
    assert [target.name for target in db.list_targets()] == ["sums"]


def test_every_condition_that_sql_refuses_is_refused_by_select(folder, monkeypatch):
    """The list that the SQL process is tried with, one after another at one filter's gate."""
    monkeypatch.chdir(folder)
    with SqlSession("pool") as session:
        for where in CONDITIONS:
            with pytest.raises(CoresetDBError):
                session.run_filter(where.replace("{store}", "pool"), "removed").read_all()
