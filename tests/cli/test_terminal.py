"""Names and texts of others reach a terminal with control characters shown, and not obeyed."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from helpers import toy_stores

from coresetdb.cli.main import main
from coresetdb.store.store import Store

HOSTILE = "a\x1b[31mred\x07\x9b2J\rb\u202ec"
UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]")


@pytest.fixture
def coresetdb(capsys, monkeypatch):
    """Runs a command line; gives stdout and stderr."""

    def run(*words: str) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["coresetdb", *words])
        with pytest.raises(SystemExit):
            main(list(words))
        return capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    store = toy_stores.toy_store(tmp_path_factory.mktemp("terminal") / "pool")
    store.configure(backbone={"name": HOSTILE}, features="")
    rows = [toy_stores.question(f"sums {HOSTILE}", number) for number in range(20)]
    metadata = [{HOSTILE: HOSTILE}] * 20
    store.insert("pool", toy_stores.pool_rows(rows, [HOSTILE] * 20, metadata))
    toy_stores.add_target(store, "arithmetic", [toy_stores.question("sums", 100)])
    return store


COMMANDS = [
    "select STORE arithmetic --budget 3 --name one --dry-run --allow-leakage",
    "select STORE arithmetic --budget 3 --name two",
    "coreset show STORE two",
    "explain STORE two 1",
    "export STORE two --out OUT",
    "corpus list STORE",
    "corpus rename STORE HOSTILE other",
    "corpus rename STORE other HOSTILE",
    "corpus rename STORE missing HOSTILE",
    "target list STORE",
    "target add STORE t HOSTILE",
    "select STORE HOSTILE --budget 3",
    "select STORE arithmetic --where HOSTILE",
    "select STORE arithmetic --budget HOSTILE",
    "select STORE arithmetic --method HOSTILE",
    "select STORE arithmetic --budget 3 --by HOSTILE",
    "coreset show STORE HOSTILE",
    "HOSTILE",
    "status HOSTILE",
    "status STORE --HOSTILE",
    "sql STORE TABLE",
    "sql STORE HOSTILE",
    "remove STORE --corpus HOSTILE --dry-run",
    "verify STORE --full",
]


@pytest.mark.parametrize("line", COMMANDS)
def test_nothing_unsafe_is_printed(store, tmp_path, coresetdb, line):
    sql = "SELECT corpus, metadata FROM pool LIMIT 1"
    replaced = {"STORE": store.uri, "HOSTILE": HOSTILE, "OUT": str(tmp_path / "x"), "TABLE": sql}
    words = [replaced.get(word, word) for word in line.split()]
    words = [HOSTILE.join(word.split("HOSTILE")) for word in words]
    said = "".join(coresetdb(*words))
    assert said
    assert not UNSAFE.search(said), repr(said)


def test_data_for_programs_is_as_it_was(store, coresetdb):
    query = "SELECT metadata FROM pool LIMIT 1"
    printed = coresetdb("sql", store.uri, query, "--json")[0]
    assert json.loads(json.loads(printed)["metadata"]) == {HOSTILE: HOSTILE}


def test_all_output_of_the_commands_goes_through_one_place():
    folder = Path(__file__).parents[2] / "cli"
    direct = re.compile(r"click\.(secho|echo)\(|(?<![\w.])print\(")
    users = {path.name for path in folder.glob("*.py") if direct.search(path.read_text())}
    assert users == {"options.py"}
