"""What a killed process leaves behind in folders for temporary files is removed by the next."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from coresetdb.schemas.scratch import ScratchFolder, beginning_of

_KILLED = """
import os, signal, sys
from coresetdb.schemas.scratch import ScratchFolder, beginning_of
folder = ScratchFolder()
open(folder.name + "/rows", "w").write("half")
open(beginning_of(sys.argv[1]), "w").write("half")
print(folder.name, flush=True)
if sys.argv[2] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
sys.stdin.read()
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def begun(out: Path, how: str) -> tuple[subprocess.Popen[str], Path]:
    child = subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(out), how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    folder = Path(child.stdout.readline().strip())
    assert (folder / "rows").exists()
    os.utime(folder, (time.time() - 100, time.time() - 100))
    return child, folder


def test_what_a_killed_process_left_is_removed(temporary):
    out = temporary / "out.jsonl"
    child, folder = begun(out, "kill")
    assert child.wait() == -signal.SIGKILL
    assert folder.exists() and len(list(temporary.glob("out.jsonl.part-*"))) == 1
    with ScratchFolder() as mine:
        assert Path(mine).exists() and not folder.exists()
    assert beginning_of(str(out)).endswith(str(os.getpid()))
    assert list(temporary.iterdir()) == []


def test_what_a_living_process_or_another_machine_writes_stays(temporary):
    out = temporary / "out.jsonl"
    child, folder = begun(out, "wait")
    kept = [temporary / name for name in ("coresetdb-demo", "coresetdb-scratch-of-mine")]
    for path in kept:
        path.mkdir()
        (path / "rows").touch()
        os.utime(path, (time.time() - 100, time.time() - 100))
    other = temporary / f"out.jsonl.part-not-{socket.gethostname()}-4000000000"
    other.touch()
    with ScratchFolder():
        assert (folder / "rows").exists()
    beginning_of(str(out))
    assert other.exists() and len(list(temporary.glob("out.jsonl.part-*"))) == 2
    assert all((path / "rows").exists() for path in kept)
    child.communicate("")
    assert child.returncode == 0
