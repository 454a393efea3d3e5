"""Processes that do what a user types, are killed at a moment, and are looked for afterwards.

They are forked from one that has loaded everything and opened nothing, so that each takes a second
and not ten.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
import traceback
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from helpers.killing import watched_changes

LONGEST_SECONDS = 900.0
SECONDS_TO_END = 60.0
"""In which the workers of a killed process have to be gone."""

UNEXPECTED = 70
"""Exit status of a process that ended with a traceback."""

_MARK = "CORESETDB_TORTURE"


class Run:
    """A process, begun; what it prints goes to a file.

    Args:
        work: what it does; what it returns goes to the log.
        log: gets stdout and stderr.
        kill_at: it kills itself at this change of a file, as `helpers.killing` counts them.
        scratch: its folder for temporary files.

    Attributes:
        seconds: of a processor that it used, its own children that it waited for included.
    """

    def __init__(
        self,
        work: Callable[[], object],
        log: Path,
        kill_at: int | None = None,
        scratch: Path | None = None,
    ) -> None:
        self.log = log
        self.seconds = 0.0
        self._mark = uuid.uuid4().hex
        self._start = time.monotonic()
        self.number = os.fork()
        if not self.number:
            code = UNEXPECTED
            try:
                os.environ[_MARK] = self._mark
                if scratch is not None:
                    os.environ["TMPDIR"] = tempfile.tempdir = str(scratch)
                with open(log, "w") as file:
                    os.dup2(file.fileno(), 1)
                    os.dup2(file.fileno(), 2)
                code = _code(work, kill_at)
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(code)

    def wait(self, kill_after: float | None = None) -> int:
        """Wait for the end, or kill; the exit status, negative for a signal.

        Args:
            kill_after: seconds of a processor that it gets, so that a busy machine kills at the
                same places.
        """
        while time.monotonic() - self._start < LONGEST_SECONDS:
            done, status, used = os.wait4(self.number, os.WNOHANG)
            if done:
                self.seconds = used.ru_utime + used.ru_stime
                return os.waitstatus_to_exitcode(status)
            if kill_after is not None and self._used() >= kill_after:
                break
            time.sleep(0.02 if kill_after is None else 0.005)
        os.kill(self.number, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(self.number, 0)[1])

    def _used(self) -> float:
        words = Path(f"/proc/{self.number}/stat").read_text().rsplit(")", 1)[1].split()
        return sum(map(int, words[11:15])) / os.sysconf("SC_CLK_TCK")  # with reaped children

    def orphans(self) -> list[str]:
        """Processes that it started and that outlive it for longer than they may."""
        until = time.monotonic() + SECONDS_TO_END
        while found := self._living():
            if time.monotonic() > until:
                return found
            time.sleep(0.2)
        return []

    def _living(self) -> list[str]:
        mark = f"{_MARK}={self._mark}".encode()
        found = []
        for process in Path("/proc").iterdir():
            if process.name.isdigit():
                try:
                    if mark in (process / "environ").read_bytes():
                        words = (process / "cmdline").read_bytes().replace(b"\0", b" ")
                        found.append(f"{process.name}: {words.decode(errors='replace')}")
                except OSError:  # it ended meanwhile, or is another user's
                    continue
        return found

    @property
    def said(self) -> str:
        """What it printed."""
        return self.log.read_text(errors="replace")


def _code(work: Callable[[], object], kill_at: int | None) -> int:
    def kill(reached: list[str]) -> None:
        if len(reached) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        with watched_changes(kill):
            work()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else UNEXPECTED
    except BaseException:
        traceback.print_exc()
        return UNEXPECTED
    return 0


def type_in(words: Sequence[str], folder: Path) -> None:
    """Do in this process what `coresetdb` does with these words in that folder."""
    from coresetdb.cli.main import main

    os.chdir(folder)
    sys.argv = ["coresetdb", *words]
    main()
