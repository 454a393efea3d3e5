"""Whether a run goes on: told by its lock, never guessed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest

from coresetdb.schemas.errors import StoreBusyError, StoreError
from coresetdb.schemas.tables import RUNS
from coresetdb.store import locks, maintenance
from coresetdb.store.locks import FOLDER, RunLock, run_state
from coresetdb.store.place import place_at
from coresetdb.store.status import status_of

RUN = """
import sys, time
from coresetdb.store.place import place_at
from coresetdb.store.locks import RunLock
with RunLock(place_at(sys.argv[1]), "r"):
    print("here", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def place(tmp_path):
    return place_at(str(tmp_path))


def begun(uri: str) -> subprocess.Popen[str]:
    child = subprocess.Popen([sys.executable, "-c", RUN, uri], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "here\n"
    return child


def killed(child: subprocess.Popen[str]) -> None:
    child.send_signal(signal.SIGKILL)
    child.communicate()


def elsewhere(place, **facts: object) -> None:
    """The run began under another kernel."""
    path = f"{FOLDER}/r/began.json"
    place.write(path, json.dumps(json.loads(place.read(path)) | facts).encode())


def test_a_process_that_lives_and_one_that_was_killed(place):
    child = begun(place.uri)
    run = run_state(place, "r")
    assert run.state == "running" and f"process {child.pid} on " in run.because
    killed(child)
    run = run_state(place, "r")
    assert run.state == "killed" and str(child.pid) in run.because


def test_under_another_kernel_a_held_lock_is_seen_and_a_free_one_tells_nothing(place):
    child = begun(place.uri)
    elsewhere(place, kernel="another", host="node7")
    assert run_state(place, "r").state == "running"
    killed(child)
    run = run_state(place, "r")
    assert run.state == "not known" and "on node7 began it" in run.because


def test_a_machine_that_was_started_again_runs_nothing(place, monkeypatch):
    with RunLock(place, "r"):
        pass
    monkeypatch.setattr(locks, "kernel_id", lambda: "of today")
    assert run_state(place, "r").state == "killed"


def test_a_run_of_an_older_coresetdb_left_no_lock(place):
    run = run_state(place, "r")
    assert run.state == "not known" and "it left no lock" in run.because


@pytest.mark.parametrize("left", [b"", b"{", b"[]", b'{"host": "node7"}'])
def test_what_a_crash_of_the_machine_left_half_written(place, left):
    with RunLock(place, "r"):
        pass
    place.write(f"{FOLDER}/r/began.json", left)
    run = run_state(place, "r")
    assert run.state == "not known" and "began.json" in run.because


def test_somebody_asks_for_the_lock_just_as_the_run_ends(place, monkeypatch):
    rmdir = locks.os.rmdir

    def asked(folder):
        Path(folder, "_lock").touch()
        rmdir(folder)

    monkeypatch.setattr(locks.os, "rmdir", asked)
    with RunLock(place, "r") as here:
        here.end_is_recorded()
    assert list(place.sizes(FOLDER)) == [f"{FOLDER}/r/_lock"]
    monkeypatch.undo()
    locks.remove_stale_run_locks(place, [])
    assert not Path(place.absolute(f"{FOLDER}/r")).exists()


def test_cleaning_removes_what_the_table_does_not_know(store):
    for run in ("known", "unknown"):
        with RunLock(store.place, run):
            pass
    row = run_row("known", "running", 1, ["a"], "coresetdb ingest pool a")
    store.upsert("runs", pa.Table.from_pylist([row], schema=RUNS))
    child = subprocess.Popen(
        [sys.executable, "-c", RUN.replace('"r"', '"alive"'), store.uri],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None and child.stdout.readline() == "here\n"
    maintenance.clean(store, 0)
    killed(child)
    folders = {path.split("/")[1] for path in store.place.sizes(FOLDER)}
    assert folders == {"known", "alive"}


def test_an_end_that_is_recorded_leaves_nothing(place):
    with RunLock(place, "r") as here:
        here.end_is_recorded()
    assert place.sizes(FOLDER) == {} and not Path(place.absolute(f"{FOLDER}/r")).exists()
    with pytest.raises(ZeroDivisionError), RunLock(place, "r"):
        _ = 1 / 0  # before the end was recorded
    assert run_state(place, "r").state == "killed"


def run_row(run: str, status: str, minute: int, files: list[str], command: str) -> dict:
    empty = dict.fromkeys(RUNS.names)
    entries = [{"file": file, "corpus": "c"} for file in files]
    started = f"2026-01-01T00:{minute:02}:00"
    started = pa.scalar(started).cast(pa.timestamp("us")).cast(RUNS.field("started_at").type)
    told = {"run": run, "status": status, "started_at": started.as_py(), "files": entries}
    return empty | told | {"command": command, "metadata_keys": []}


def test_status_tells_them_apart(store):
    told = [
        run_row("dead", "running", 1, ["a"], "coresetdb ingest pool a"),
        run_row("superseded", "running", 2, ["b"], "coresetdb ingest pool b"),
        run_row("old", "running", 3, ["c"], "coresetdb ingest pool c"),
        run_row("again", "done", 4, ["b"], "coresetdb ingest pool b"),
        run_row("fills", "running", 5, [], "coresetdb featurize pool rds"),
        run_row("broke", "failed", 6, ["d"], "coresetdb ingest pool d"),
    ]
    store.upsert("runs", pa.Table.from_pylist(told, schema=RUNS))
    for run in ("dead", "superseded"):
        with RunLock(store.place, run):
            pass
    with RunLock(store.place, "fills"):
        status = status_of(store)
        assert {run["run"]: run["status"] for run in status.unfinished} == {
            "dead": "killed",
            "old": "not known",
            "fills": "running",
            "broke": "failed",
        }
    (sentence,) = [said for said in status.advice() if said.startswith("Run ")]
    assert sentence.startswith("Run dead was killed")
    assert sentence.endswith("Next: coresetdb ingest pool a")
    assert status_of(store).unfinished[2]["status"] == "killed"
    another = run_row("another", "done", 7, [], "coresetdb featurize pool less")
    store.upsert("runs", pa.Table.from_pylist([another], schema=RUNS))
    assert [run["run"] for run in status_of(store).unfinished] == ["dead", "old", "fills", "broke"]
    fill_again = run_row("filled", "done", 8, [], "coresetdb featurize pool")
    store.upsert("runs", pa.Table.from_pylist([fill_again], schema=RUNS))
    assert [run["run"] for run in status_of(store).unfinished] == ["dead", "old", "broke"]


def test_a_run_that_ends_while_it_is_looked_for(store, monkeypatch):
    store.upsert("runs", pa.Table.from_pylist([run_row("r", "running", 1, ["a"], "")], schema=RUNS))

    def ends(place, run):
        done = run_row("r", "done", 1, ["a"], "")
        store.upsert("runs", pa.Table.from_pylist([done], schema=RUNS))
        return run_state(place, run)

    monkeypatch.setattr("coresetdb.store.status.run_state", ends)
    assert status_of(store).unfinished == []


def test_on_an_object_store(bucket, monkeypatch):
    monkeypatch.setattr(locks, "LEASE_SECONDS", 1.5)
    place = place_at(f"s3://{bucket}/store")
    with RunLock(place, "r") as here:
        assert run_state(place, "r").state == "running"
        here.end_is_recorded()
    assert place.sizes(FOLDER) == {}
    child = begun(place.uri)
    killed(child)
    assert run_state(place, "r").state == "running"  # its lease is not over yet
    time.sleep(3)
    assert run_state(place, "r").state == "killed"


def test_a_lease_outlives_a_server_that_is_away_for_a_moment(bucket, monkeypatch):
    monkeypatch.setattr(locks, "LEASE_SECONDS", 2.0)
    place = place_at(f"s3://{bucket}/store")
    write, away = type(place).write, [True]

    def fails_once(self, path, data):
        if path.startswith(locks.LEASE_FOLDER) and self is place and away and renewing:
            away.pop()
            raise StoreError("the server is away")
        write(self, path, data)

    renewing: list[bool] = []
    monkeypatch.setattr(type(place), "write", fails_once)
    with locks.StoreLock(place).held(shared=False, wait=0.0):
        renewing.append(True)
        time.sleep(3.5)
        other = place_at(place.uri)
        with pytest.raises(StoreBusyError), locks.StoreLock(other).held(shared=True, wait=0.0):
            pass
    assert not away
