"""A command that was killed after its commit is done when it is typed again; a mistake is not."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from helpers import toy_stores
from helpers.warm_processes import WarmParent

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
KILLED_BEFORE = """
import os
from coresetdb.store.store import Store
insert = Store.insert
def killed(self, table, rows):
    if table == "coresets":
        os._exit(137)
    return insert(self, table, rows)
Store.insert = killed
from coresetdb.cli.main import main
main()
"""
KILLED_AT_ONCE = """
import os
import coresetdb
from coresetdb.store import underway
connect = coresetdb.connect
def killed(uri):
    underway.begin(connect(uri).store.place)
    os._exit(137)
coresetdb.connect = killed
from coresetdb.cli.main import main
main()
"""
UNWRITTEN = """
from coresetdb.database import Database
from coresetdb.schemas.errors import OutputError
def export(*arguments, **keywords):
    raise OutputError("rows.jsonl", "no room")
Database.export = export
from coresetdb.cli.main import main
main()
"""
EVALUATE = """
from coresetdb.cli.evaluate import evaluate_command as group
from coresetdb.cli.options import open_database
from coresetdb.schemas.errors import OutputError, UsageError
def study(store, **keywords):
    database = open_database(store)
    if "first-arm" not in [row["coreset"] for row in database.list_coresets()]:
        database.select("arithmetic", budget=3, name="first-arm")
        raise OutputError("disk", "no room")
    raise UsageError("the target is gone")
group.commands["run"].callback, group.commands["run"].params[2:] = study, []
from coresetdb.cli.main import main
main()
"""
READER_GONE = """
from coresetdb.cli import coreset
def gone(text):
    raise BrokenPipeError(32, "Broken pipe")
coreset.print_text = gone
from coresetdb.cli.main import main
main()
"""
ELSEWHERE = """
import socket
socket.gethostname = lambda: "another-machine"
"""
OPENED = """
import os
from coresetdb.store import purge
def settled(store):
    store.configure(note="settled")
    os._exit(137)
purge.settle_if_killed = settled
from coresetdb.cli.main import main
main()
"""
WHOLE = "from coresetdb.cli.main import main; main()"


@pytest.fixture
def run(warm: WarmParent) -> Callable[..., tuple[int, str]]:
    """Runs a command as a process; gives its exit code and what it wrote to stderr."""

    def run(program: str, *words: str) -> tuple[int, str]:
        process = warm.start(program, *words)
        _, errors = process.communicate(300)
        return process.wait(), errors

    return run


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
def test_the_same_command_says_that_it_was_done(store, line, run):
    words = [store.uri if word == "STORE" else word for word in line.split()]
    killed, errors = run(KILLED, *words)
    assert killed == 137, errors
    assert store.place.sizes("_underway")
    again, errors = run(WHOLE, *words)
    assert again == 0, errors
    assert not store.place.sizes("_underway")
    third, errors = run(WHOLE, *words)
    assert third == 2 and "Error" in errors
    assert not store.place.sizes("_underway")


def test_a_selection_that_was_made_is_exported(store, tmp_path, run):
    out = tmp_path / "two.jsonl"
    words = ["select", store.uri, "arithmetic", "--budget", "3", "--name", "two", "--out", str(out)]
    assert run(KILLED, *words)[0] == 137 and not out.exists()
    again, errors = run(WHOLE, *words)
    assert again == 0 and "Done already" in errors
    assert len(out.read_text().splitlines()) == 3


def coresets(store: Store) -> list[str]:
    return store.dataset("coresets").to_table(columns=["name"])["name"].to_pylist()


def test_a_selection_without_a_name_is_not_made_twice_after_a_kill(store, tmp_path, run):
    out = tmp_path / "rows.jsonl"
    words = ["select", store.uri, "arithmetic", "--budget", "3", "--out", str(out)]
    assert run(KILLED, *words)[0] == 137 and not out.exists()
    (made,) = set(coresets(store)) - {"one"}
    again, errors = run(WHOLE, *words)
    assert again == 0 and f"recorded coreset {made}" in errors, errors
    assert len(out.read_text().splitlines()) == 3
    assert set(coresets(store)) == {"one", made}
    third, errors = run(WHOLE, *words)  # nothing was killed: it is meant
    assert third == 0 and "already" not in errors, errors
    assert len(coresets(store)) == 3


def test_a_selection_killed_before_the_pool_changed_is_made_anew(store, run):
    words = ["select", store.uri, "arithmetic", "--budget", "3"]
    assert run(KILLED, *words)[0] == 137
    rows = [toy_stores.question("sums", number) for number in range(40, 50)]
    store.insert("pool", toy_stores.pool_rows(rows, ["sums"] * 10))
    again, errors = run(WHOLE, *words)
    assert again == 0 and "Choosing anew" in errors, errors
    assert len(coresets(store)) == 3


def test_a_name_that_another_process_took_is_not_taken_for_ours(store, run):
    """The process was killed between its note and its commit, and the name went to another."""
    words = ["select", store.uri, "arithmetic", "--budget", "3"]
    assert run(KILLED_BEFORE, *words)[0] == 137
    assert coresets(store) == ["one"]
    made = Database(store).select("arithmetic", budget=4)
    again, errors = run(WHOLE, *words)
    assert again == 0 and "already" not in errors, errors
    assert len(coresets(store)) == 3 and made.name in coresets(store)


def test_a_coreset_of_another_process_is_not_said_to_be_ours(store, tmp_path, run):
    out = tmp_path / "two.jsonl"
    words = ["select", store.uri, "arithmetic", "--budget", "3", "--name", "two", "--out", str(out)]
    assert run(KILLED_BEFORE, *words)[0] == 137
    Database(store).select("arithmetic", budget=4, name="two")
    for _ in range(2):
        again, errors = run(WHOLE, *words)
        assert again == 2 and "Done already" not in errors and "two" in errors, errors
    assert not out.exists()


def test_a_selection_killed_on_another_machine_answers_to_its_name_only(store, run):
    words = ["select", store.uri, "arithmetic", "--budget", "3"]
    assert run(ELSEWHERE + KILLED, *words)[0] == 137
    again, errors = run(WHOLE, *words)  # the other process may be alive
    assert again == 0 and "already" not in errors, errors
    assert len(coresets(store)) == 3
    words += ["--name", "two"]
    assert run(ELSEWHERE + KILLED, *words)[0] == 137
    again, errors = run(WHOLE, *words)
    assert again == 0 and "recorded coreset two" in errors, errors


def test_a_selection_that_nobody_reads_to_the_end_is_done(store, tmp_path, run):
    out = tmp_path / "rows.jsonl"
    words = ["select", store.uri, "arithmetic", "--budget", "3", "--out", str(out)]
    run(READER_GONE, *words)
    assert len(out.read_text().splitlines()) == 3
    assert len(coresets(store)) == 2 and not store.place.sizes("_underway")
    again, errors = run(WHOLE, *words)
    assert again == 0 and "already" not in errors, errors
    assert len(coresets(store)) == 3


def test_a_study_that_failed_after_its_first_coreset_is_not_done(store, run):
    words = ["evaluate", "run", store.uri, "arithmetic"]
    failed, errors = run(EVALUATE, *words)
    assert failed == 1 and "no room" in errors, errors
    assert not store.place.sizes("_underway")
    again, errors = run(EVALUATE, *words)
    assert again == 2 and "Error: the target is gone" in errors, errors


def test_what_is_done_while_a_store_is_opened_leaves_no_trace(store, run):
    words = ["explain", store.uri, "nosuch", "1"]
    assert run(OPENED, *words)[0] == 137
    assert store.config != Store.open(store.uri).config and not store.place.sizes("_underway")
    again, errors = run(WHOLE, *words)
    assert again == 2 and "already" not in errors, errors


def test_a_selection_whose_export_failed_is_not_made_twice(store, tmp_path, run):
    out = tmp_path / "rows.jsonl"
    words = ["select", store.uri, "arithmetic", "--budget", "3", "--out", str(out)]
    failed, errors = run(UNWRITTEN, *words)
    assert failed == 1 and "no room" in errors, errors
    again, errors = run(WHOLE, *words)
    assert again == 0 and "Done already" in errors, errors
    assert len(coresets(store)) == 2 and len(out.read_text().splitlines()) == 3
    assert not store.place.sizes("_underway")


def test_what_was_made_is_known_though_the_next_one_is_killed_as_well(store, run):
    words = ["select", store.uri, "arithmetic", "--budget", "3"]
    assert run(KILLED, *words)[0] == 137
    (made,) = set(coresets(store)) - {"one"}
    assert run(KILLED_AT_ONCE, *words)[0] == 137
    again, errors = run(WHOLE, *words)
    assert again == 0 and f"recorded coreset {made}" in errors, errors
    assert len(coresets(store)) == 2


def test_a_store_that_was_made_is_made(tmp_path, run):
    words = ["init", str(tmp_path / "pool"), "--features", "lexical"]
    assert run(KILLED, *words)[0] == 137
    again, errors = run(WHOLE, *words)
    assert again == 0 and "Done already" in errors, errors
    assert run(WHOLE, *words)[0] == 2


def test_another_command_is_not_taken_for_it(store, run):
    words = ["select", store.uri, "arithmetic", "--budget", "3", "--name", "two"]
    assert run(KILLED, *words)[0] == 137
    other, errors = run(WHOLE, *words, "--seed", "1")
    assert other == 2 and "already" in errors
    os.chdir("/")
    Database(store).compact(0)
    assert not store.place.sizes("_underway")
