"""A group of processes: tasks done elsewhere after a death, errors, the end of workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from helpers.roles import ADDER

from coresetdb.schemas.errors import BackboneError, StoreError, WorkerError
from coresetdb.workers.group import WorkerGroup
from coresetdb.workers.processes import ProcessWorker
from coresetdb.workers.task import Equipment, Task


def group_of(count: int, settings: dict | None = None, said: list[str] | None = None):
    say = (said if said is not None else []).append
    return WorkerGroup(lambda number: ProcessWorker(ADDER, settings or {}, {}), count, say)


def task(number: int, equipment: Equipment | None = None, **facts) -> Task:
    facts = {"number": number, **facts}
    return Task(facts, b"body of %d" % number, lambda: f"row {number}", equipment)


class Counts:
    """Receives reports."""

    def __init__(self) -> None:
        self.rows = self.tokens = 0

    def __call__(self, rows: int, tokens: int) -> None:
        self.rows += rows
        self.tokens += tokens


def done(group: WorkerGroup, tasks: list[Task], counts: Counts | None = None) -> list[int]:
    for each in tasks:
        group.submit(each)
    for each in tasks:
        group.wait(each, counts or Counts())
    assert [each.answer[1] for each in tasks] == [b"body of %d" % n for n in range(len(tasks))]
    return [each.answer[0]["sum"] for each in tasks]


def test_tasks_are_done_by_several_with_what_they_were_equipped_with():
    counts = Counts()
    three, seven = Equipment({"added": 3}), Equipment({"added": 5}, [b"a", b"b"])
    with group_of(2) as group:
        tasks = [task(n, three if n < 4 else seven, sleep=0.05) for n in range(8)]
        assert done(group, tasks, counts) == [3, 4, 5, 6, 11, 12, 13, 14]
        assert len({each.answer[0]["pid"] for each in tasks}) == 2
    assert (counts.rows, counts.tokens) == (16, 160)


def test_one_task_starts_one_worker():
    with group_of(4) as group:
        done(group, [task(0)])
        assert sum(place.worker is not None for place in group._places) == 1


@pytest.mark.parametrize("memory", [False, True])
@pytest.mark.parametrize("count", [1, 2])
def test_a_task_is_done_again_after_two_deaths(tmp_path, count, memory):
    said, counts = [], Counts()
    fatal = {"die": 2, "file": str(tmp_path / "deaths"), "memory": memory}
    with group_of(count, said=said) as group:
        assert done(group, [task(0, **fatal), task(1)], counts) == [0, 1]
    assert (counts.rows, counts.tokens) == (4, 40)  # what was lost does not count
    assert [sentence.partition("(")[0] for sentence in said] == ["a worker died "] * 2
    why = "out of memory: no room for 1 GB" if memory else "killed by SIGKILL"
    assert all(why in sentence and "row 0" in sentence for sentence in said)


def test_after_three_deaths_the_rows_are_named(tmp_path):
    poison = task(0, die=3, file=str(tmp_path / "deaths"))
    with group_of(1) as group, pytest.raises(WorkerError, match=r"3 workers died.* row 0; .*SIGK"):
        done(group, [poison])
    assert (tmp_path / "deaths").stat().st_size == 3


def test_parts_are_kept_over_a_death(tmp_path):
    gives = task(0, give=True, die=1, file=str(tmp_path / "deaths"))
    with group_of(1) as group:
        done(group, [gives])
    news, parts = [{"news": 0}, {"news": 1}], [{"part": 0}, {"part": 1}]
    assert [facts for facts, body in gives.given if not body] == news
    assert gives.parts() == [(part, b"part") for part in parts]


def test_answers_stay_when_another_task_is_given_up(tmp_path):
    with group_of(2) as group:
        good = task(0)
        group.submit(good)
        group.wait(good, Counts())
        with pytest.raises(WorkerError):
            done(group, [task(0, die=3, file=str(tmp_path / "deaths"))])
        assert good.answer is not None


@pytest.mark.parametrize("kind", [BackboneError, StoreError])
def test_an_error_of_the_role_is_the_owners(kind):
    with group_of(2) as group, pytest.raises(kind, match="of the role"):
        done(group, [task(0), task(1, fail=kind.__name__)])


def test_a_bug_of_the_role_shows_its_trace():
    with group_of(1) as group, pytest.raises(RuntimeError, match=r"(?s)roles.py.*a Bug of the ro"):
        done(group, [task(0, fail="Bug")])


def test_a_role_that_cannot_be_made():
    with group_of(2, {"fail": "BackboneError"}) as group, pytest.raises(BackboneError):
        done(group, [task(0)])
    with group_of(2, {"die": True}) as group, pytest.raises(WorkerError, match="status 3"):
        done(group, [task(0), task(1)])


def test_no_process_can_be_made(monkeypatch):
    def popen(*words, **options):
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", popen)
    said: list[str] = []
    with group_of(2, said=said) as group, pytest.raises(WorkerError, match="Resource temporarily"):
        done(group, [task(0)])
    assert len(said) == 3


def test_a_closed_group_starts_anew(tmp_path):
    with group_of(1) as group:
        left = task(0, sleep=60)
        group.submit(left)
        group.close()
        assert left.answer is None
        assert done(group, [task(0)]) == [0]


def test_closing_ends_workers_that_start_or_work():
    for wait in (0, 1.5):
        with group_of(2) as group:
            for n in range(3):
                group.submit(task(n, sleep=60))
            time.sleep(wait)
            workers = [place.worker for place in group._places]
        assert not any(alive(worker.pid) for worker in workers if worker)


@pytest.fixture
def interruptible():
    """Ctrl-C interrupts, though a shell may have started the tests with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_reaches_the_owner(interruptible):
    with group_of(1) as group:
        waits = task(0, sleep=60)
        group.submit(waits)
        timer = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            group.wait(waits, Counts())
        timer.join()


OWNER = """
    import sys, time
    from coresetdb.workers.group import WorkerGroup
    from coresetdb.workers.processes import ProcessWorker
    from coresetdb.workers.task import Task
    group = WorkerGroup(lambda number: ProcessWorker("helpers.roles.Adder", {}, {}), 2)
    for n in range(2):
        group.submit(Task({"number": n, "sleep": 60}, b"", lambda: "row"))
    while not all(place.worker for place in group._places):
        time.sleep(0.01)
    print(*(place.worker.pid for place in group._places), flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("wait", [0, 1.0])
def test_no_worker_outlives_an_owner_that_is_killed(repository, wait):
    owner = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(OWNER)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    pids = [int(pid) for pid in owner.stdout.readline().split()]
    assert len(pids) == 2
    time.sleep(wait)  # while they start, and while they work
    owner.kill()
    owner.wait()
    owner.stdout.close()
    patience = time.monotonic() + 30
    while any(map(alive, pids)) and time.monotonic() < patience:
        time.sleep(0.05)
    assert not any(map(alive, pids))


def alive(pid: int) -> bool:
    """Whether a process runs; one that waits to be reaped does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
