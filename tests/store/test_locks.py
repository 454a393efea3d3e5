"""The lock between writers and maintenance."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

from coresetdb.schemas.errors import StoreBusyError
from coresetdb.store.locks import StoreLock
from coresetdb.store.place import place_at

HOLDER = """
import sys, time
from coresetdb.store.locks import StoreLock
from coresetdb.store.place import place_at
with StoreLock(place_at(sys.argv[1])).held(shared=sys.argv[2] == "shared", wait=5.0):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def place(tmp_path):
    return place_at(str(tmp_path))


def takes(lock: StoreLock, shared: bool, wait: float = 0.0) -> bool:
    try:
        with lock.held(shared=shared, wait=wait):
            return True
    except StoreBusyError:
        return False


def test_shared_and_exclusive(place):
    ours, theirs = StoreLock(place), StoreLock(place)
    with ours.held(shared=True, wait=0):
        assert takes(theirs, shared=True) and not takes(theirs, shared=False)
        assert takes(ours, shared=True) and not takes(ours, shared=False)
    with ours.held(shared=False, wait=0):
        assert not takes(theirs, shared=True) and not takes(theirs, shared=False)
        assert takes(ours, shared=True) and takes(ours, shared=False)
    assert takes(theirs, shared=False)


def test_another_thread_waits_for_the_exclusive_one(place):
    lock, answers = StoreLock(place), []
    with lock.held(shared=False, wait=0):
        thread = threading.Thread(target=lambda: answers.append(takes(lock, shared=True)))
        thread.start()
        thread.join()
    thread = threading.Thread(target=lambda: answers.append(takes(lock, shared=True)))
    thread.start()
    thread.join()
    assert answers == [False, True]


@pytest.mark.parametrize("mode", ["shared", "exclusive"])
def test_a_dead_process_holds_nothing(place, mode):
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, place.uri, mode], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None and child.stdout.readline() == "held\n"
    assert takes(StoreLock(place), shared=True) == (mode == "shared")
    assert not takes(StoreLock(place), shared=False)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert takes(StoreLock(place), shared=False)
