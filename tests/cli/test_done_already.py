"""A command that was killed after its commit is done when it is typed again; a mistake is not."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from helpers import toy_stores

from coresetdb.database import Database
from coresetdb.store.store import Store

KILLED = """
import os, sys
from coresetdb.store.store import Store
syncs, sync = [], Store.sync
def killed(self):
    sync(self)
    os._exit(137)
Store.sync = killed
from coresetdb.cli.main import main
main()
"""
WHOLE = "from coresetdb.cli.main import main; main()"


def run(program: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *words]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def store(tmp_path) -> Store:
    store = toy_stores.toy_store(tmp_path / "pool")
    rows = [toy_stores.question("sums", number) for number in range(30)]
    store.insert("pool", toy_stores.pool_rows(rows, ["sums"] * 30))
    toy_stores.add_target(store, "arithmetic", [toy_stores.question("sums", 100)])
    Database(store).select("arithmetic", budget=5, name="one")
    store.sync()
    return store


@pytest.mark.parametrize(
    "line",
    [
        "select STORE arithmetic --budget 3 --name two",
        "coreset remove STORE one",
        "target remove STORE arithmetic",
        "corpus rename STORE sums numbers",
    ],
)
def test_the_same_command_says_that_it_was_done(store, line):
    words = [store.uri if word == "STORE" else word for word in line.split()]
    killed = run(KILLED, *words)
    assert killed.returncode == 137, killed.stderr
    assert store.place.sizes("_underway")
    again = run(WHOLE, *words)
    assert again.returncode == 0, again.stderr
    assert not store.place.sizes("_underway")
    third = run(WHOLE, *words)
    assert third.returncode == 2 and "Error" in third.stderr
    assert not store.place.sizes("_underway")


def test_a_selection_that_was_made_is_exported(store, tmp_path):
    out = tmp_path / "two.jsonl"
    words = ["select", store.uri, "arithmetic", "--budget", "3", "--name", "two", "--out", str(out)]
    assert run(KILLED, *words).returncode == 137 and not out.exists()
    again = run(WHOLE, *words)
    assert again.returncode == 0 and "Done already" in again.stderr
    assert len(out.read_text().splitlines()) == 3


def test_a_store_that_was_made_is_made(tmp_path):
    words = ["init", str(tmp_path / "pool"), "--features", "lexical"]
    assert run(KILLED, *words).returncode == 137
    again = run(WHOLE, *words)
    assert again.returncode == 0 and "Done already" in again.stderr, again.stderr
    assert run(WHOLE, *words).returncode == 2


def test_another_command_is_not_taken_for_it(store):
    words = ["select", store.uri, "arithmetic", "--budget", "3", "--name", "two"]
    assert run(KILLED, *words).returncode == 137
    other = run(WHOLE, *words, "--seed", "1")
    assert other.returncode == 2 and "already" in other.stderr
    os.chdir("/")
    Database(store).compact(0)
    assert not store.place.sizes("_underway")
