"""STORE may be left out where CORESETDB_STORE names one: which word is what."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from helpers import toy_stores as toys

import coresetdb
from coresetdb.cli.main import COMMANDS, commands, main
from coresetdb.cli.options import store_argument
from coresetdb.cli.store_argument import HELP, StoreArgument
from coresetdb.schemas.errors import UsageError

DEFAULT = "/data/default"


def parsed(words: list[str], *arguments, options=()):
    """What a command of these arguments gets from the words."""
    seen = {}

    def command(**values):
        seen.update(values)

    for argument in reversed([store_argument, *arguments, *options]):
        command = argument(command)
    click.command()(command).main(words, standalone_mode=False)
    return seen


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working folder with a store `pool`, a folder `data` and a default store elsewhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CORESETDB_STORE", DEFAULT)
    (tmp_path / "pool" / "pool.lance").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    return tmp_path


NAME = click.argument("name")
ROW = click.argument("row")
TARGETS = click.argument("targets", nargs=-1)
SOURCES = click.argument("sources", nargs=-1, required=True)
QUERY = click.argument("query", required=False)


@pytest.mark.parametrize(
    ("words", "arguments", "expected"),
    [
        ([], [], {"store": DEFAULT}),
        (["pool"], [], {"store": "pool"}),
        (["new"], [], {"store": "new"}),
        (["c"], [NAME], {"store": DEFAULT, "name": "c"}),
        (["elsewhere", "c"], [NAME], {"store": "elsewhere", "name": "c"}),
        (["pool"], [NAME], {"store": DEFAULT, "name": "pool"}),
        (["c", "17"], [NAME, ROW], {"store": DEFAULT, "name": "c", "row": "17"}),
        (["x", "c", "17"], [NAME, ROW], {"store": "x", "name": "c", "row": "17"}),
        ([], [TARGETS], {"store": DEFAULT, "targets": ()}),
        (["math"], [TARGETS], {"store": DEFAULT, "targets": ("math",)}),
        (["math", "code"], [TARGETS], {"store": DEFAULT, "targets": ("math", "code")}),
        (["pool", "math"], [TARGETS], {"store": "pool", "targets": ("math",)}),
        (["./pool", "math"], [TARGETS], {"store": "./pool", "targets": ("math",)}),
        (["pool"], [TARGETS], {"store": "pool", "targets": ()}),
        (["data"], [TARGETS], {"store": DEFAULT, "targets": ("data",)}),
        (["data/a.jsonl"], [SOURCES], {"store": DEFAULT, "sources": ("data/a.jsonl",)}),
        (["data", "b"], [SOURCES], {"store": DEFAULT, "sources": ("data", "b")}),
        (["pool", "data"], [SOURCES], {"store": "pool", "sources": ("data",)}),
        (["SELECT 1"], [QUERY], {"store": DEFAULT, "query": "SELECT 1"}),
        (["pool", "SELECT 1"], [QUERY], {"store": "pool", "query": "SELECT 1"}),
        (["pool"], [QUERY], {"store": "pool", "query": None}),
        (["c", "a", "b"], [NAME, TARGETS], {"store": DEFAULT, "name": "c", "targets": ("a", "b")}),
    ],
)
def test_words_are_matched(folder, words, arguments, expected):
    assert parsed(words, *arguments) == expected


def test_options_may_stand_anywhere(folder):
    budget = click.option("--budget")
    assert parsed(["math", "--budget", "5", "code"], TARGETS, options=[budget]) == {
        "store": DEFAULT,
        "targets": ("math", "code"),
        "budget": "5",
    }


@pytest.mark.parametrize("value", [None, ""])
def test_without_the_variable_the_first_word_is_the_store(folder, monkeypatch, value):
    if value is None:
        monkeypatch.delenv("CORESETDB_STORE")
    else:
        monkeypatch.setenv("CORESETDB_STORE", value)
    assert parsed(["math"], TARGETS) == {"store": "math", "targets": ()}
    assert parsed(["a", "b", "c"], NAME, ROW) == {"store": "a", "name": "b", "row": "c"}
    with pytest.raises(click.MissingParameter, match="set CORESETDB_STORE"):
        parsed([], TARGETS)
    with pytest.raises(click.MissingParameter, match="name"):
        parsed(["a"], NAME)
    with pytest.raises(UsageError, match="set the environment variable CORESETDB_STORE"):
        coresetdb.connect()


def test_missing_and_extra_words_are_still_errors(folder):
    with pytest.raises(click.MissingParameter, match="row"):
        parsed(["c"], NAME, ROW)
    with pytest.raises(click.UsageError, match="unexpected extra argument"):
        parsed(["a", "b", "c", "d"], NAME, ROW)
    with pytest.raises(click.MissingParameter):
        parsed([], SOURCES)


@pytest.fixture
def without_default(folder, monkeypatch) -> Path:
    monkeypatch.delenv("CORESETDB_STORE")
    (folder / "data" / "a.jsonl").write_text("{}")
    return folder


def complaint(words: list[str], capsys) -> str:
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "typed"),
    [
        ("ingest data/a.jsonl pool", "ingest pool data/a.jsonl"),
        ("plan data/a.jsonl pool", "plan pool data/a.jsonl"),
        ("fit data/a.jsonl pool", "fit pool data/a.jsonl"),
        ("leaks data/a.jsonl pool", "leaks pool data/a.jsonl"),
        ("target add math data/a.jsonl pool", "target add pool math data/a.jsonl"),
        ("target add math pool data/a.jsonl", "target add pool math data/a.jsonl"),
        ("select math pool --budget 5", "select pool math ..."),
        ("select math --out pool", "select pool math --out FILE"),
        ("export out.jsonl best --out pool", "export pool best --out out.jsonl"),
        ("explain best 1 pool", ""),
        ("explain best pool 1", "explain pool best 1"),
        ("target copy math pool other", "target copy pool math other"),
        ("vectors add minilm x.npy pool", "vectors add pool minilm x.npy"),
    ],
)
def test_a_store_in_the_wrong_place(without_default, words, typed, capsys):
    said = complaint(words.split(), capsys)
    if typed:
        assert f"STORE comes first: coresetdb {typed}" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("ingest data/a.jsonl", "data/a.jsonl is a file, no store."),
        ("ingest data/a.jsonl", "STORE comes first: coresetdb ingest pool data/a.jsonl"),
        ("target add math data/a.jsonl", "math was taken for STORE"),
        ("explain best 1", "Stores here: pool."),
        ("status", "Stores here: pool."),
        ("status pol", "Did you mean pool?"),
        ("status POOL", "Did you mean pool?"),
        ("status pool/pool.lance", "Did you mean pool?"),
        ("status .", "Did you mean pool?"),
        ("status nowhere", "Stores beside it: pool."),
        ("target copy nowhere math pool", "there is no store here"),
        ("status dta/pool", "there is no store here"),
        ("select math", "Stores beside it: pool."),
        ("sql pol", "Did you mean pool?"),
        (
            "target add pool data/a.jsonl",
            "data/a.jsonl was taken for NAME, which comes before FILE",
        ),
        ("explain pool best", "best was taken for CORESET, which comes before ROW"),
        ("export pool best", "name a file: --out best.jsonl"),
    ],
)
def test_a_store_that_is_missing_or_mistyped(without_default, words, said, capsys):
    assert said in complaint(words.split(), capsys)


def test_a_store_in_a_mistyped_folder(without_default, capsys):
    (without_default / "demo-stores" / "math" / "pool.lance").mkdir(parents=True)
    assert "Did you mean demo-stores/math?" in complaint(["status", "demo-store/math"], capsys)


def test_every_command_of_a_store_takes_the_default():
    context = click.Context(commands)
    for name in COMMANDS:
        command = commands.get_command(context, name)
        assert command is not None
        several = command.commands if isinstance(command, click.Group) else {name: command}
        for own, each in several.items():
            arguments = [param for param in each.params if isinstance(param, click.Argument)]
            stores = [param for param in arguments if param.name == "store"]
            if name in ("demo", "completion"):
                assert not stores
                continue
            assert len(stores) == 1, (name, own)
            if name == "methods":
                assert stores[0].envvar == "CORESETDB_STORE"
            else:
                assert isinstance(stores[0], StoreArgument) and arguments[0] is stores[0]
                assert each.epilog == HELP


def test_a_session_without_naming_the_store(tmp_path, monkeypatch, capsys):
    store = toys.toy_store(tmp_path / "pool")
    rows = [toys.question("sums", number) for number in range(20)]
    store.insert("pool", toys.pool_rows(rows, ["sums"] * 20))
    toys.add_target(store, "arithmetic", [toys.question("sums", 100)])
    monkeypatch.setenv("CORESETDB_STORE", str(tmp_path / "pool"))
    assert len(coresetdb.connect().select("arithmetic", budget=3, name="first")) == 3
    for words in (
        ["select", "arithmetic", "--budget", "3", "--name", "second"],
        ["coreset", "show", "second"],
        ["compare", "first", "second"],
    ):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "3 rows by rds:round_robin for arithmetic" in out and "Jaccard 1.000" in out
