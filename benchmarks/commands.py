"""Running a command of coresetdb as a user types it: what it takes by the clock, and in all."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile


@dataclass(frozen=True)
class Taken:
    """What a command took.

    Attributes:
        seconds: by the clock.
        cpu: seconds of processors, of the command and the processes that it waited for. On a
            machine that others use these can be compared, and those of the clock cannot.
        mebibytes: the largest resident memory of one of them.
    """

    seconds: float
    cpu: float
    mebibytes: float


def taken(*command: str) -> Taken:
    """Run a command of coresetdb in a process of its own; end this one where it fails."""
    program = Path(sys.executable).with_name("coresetdb")
    start = time.perf_counter()
    with TemporaryFile() as complaints:
        child = subprocess.Popen([program, *command], stdout=subprocess.DEVNULL, stderr=complaints)
        _, status, used = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            complaints.seek(0)
            said = complaints.read().decode(errors="replace")
            sys.exit(f"coresetdb {' '.join(command)}: {said}")
    return Taken(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
