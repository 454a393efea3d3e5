"""Warm processes are processes: streams, folder, environment, exit codes, signals."""

from __future__ import annotations

import signal
import time

import pytest


def test_a_program_has_streams_arguments_a_folder_and_an_environment(warm, tmp_path, monkeypatch):
    monkeypatch.setenv("OF_THE_TEST", "yes")
    program = (
        "import os, sys; print(sys.argv[1:], os.getcwd(), os.environ['OF_THE_TEST'], input());"
        "print(__name__, 'torch' in sys.modules, 'lance' in sys.modules, file=sys.stderr)"
    )
    process = warm.start(program, "a", "b c", cwd=tmp_path, typed="typed\n")
    assert process.communicate(60) == (
        f"['a', 'b c'] {tmp_path} yes typed\n",
        "__main__ True False\n",
    )
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("program", "code", "said"),
    [
        ("import sys; sys.exit(3)", 3, ""),
        ("raise SystemExit('no')", 1, "no"),
        ("1 / 0", 1, "ZeroDivisionError"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, ""),
        ("import atexit; atexit.register(lambda: print(1 / 0))", 0, "ZeroDivisionError"),
    ],
)
def test_how_it_ends(warm, program, code, said):
    process = warm.start(program)
    _, errors = process.communicate(60)
    assert process.returncode == process.poll() == code
    assert said in errors


def test_several_run_at_once_and_can_be_killed(warm, tmp_path):
    waits = "import pathlib, sys, time; pathlib.Path(sys.argv[1]).touch(); time.sleep(600)"
    first, second = (warm.start(waits, str(tmp_path / name)) for name in "ab")
    while len(list(tmp_path.iterdir())) < 2:
        time.sleep(0.01)
    assert first.poll() is second.poll() is None and first.pid != second.pid
    second.kill()
    assert second.wait(60) == -signal.SIGKILL and first.poll() is None
    first.kill()
    assert first.wait(60) == -signal.SIGKILL
