"""Folders and files that a process needs for a while, and that do not stay if it is killed.

What a killed process left behind is removed by the next one that needs the like: a folder that
nobody holds a lock on, or the beginning of a file whose writer is gone.
"""

from __future__ import annotations

import fcntl
import glob
import os
import re
import shutil
import socket
import tempfile
import time
from contextlib import suppress
from pathlib import Path

_PREFIX = "coresetdb-scratch-"
_NAME = re.compile(rf"{_PREFIX}[a-z0-9_]{{8}}")
"""Of such a folder, as `tempfile` makes them; a person's folder beside them has another."""

_SECONDS_TO_LOCK = 60.0
"""Within which a folder that was just made is locked by its owner."""


class ScratchFolder(tempfile.TemporaryDirectory[str]):
    """A temporary folder that is locked for as long as its process lives."""

    def __init__(self) -> None:
        _remove_abandoned(Path(tempfile.gettempdir()))
        super().__init__(prefix=_PREFIX)
        self._lock = os.open(self.name, os.O_RDONLY | os.O_DIRECTORY)
        with suppress(OSError):  # a file system without locks: then nobody removes it either
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def cleanup(self) -> None:
        """Remove the folder, and let the lock go."""
        super().cleanup()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _remove_abandoned(folder: Path) -> None:
    for path in folder.glob(f"{_PREFIX}*"):
        if not _NAME.fullmatch(path.name):
            continue
        try:
            if time.time() - path.stat().st_mtime < _SECONDS_TO_LOCK:
                continue
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:  # another user's, no folder, or gone meanwhile
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        except OSError:  # somebody is at work in it
            continue
        finally:
            os.close(lock)


def beginning_of(out: str) -> str:
    """The name under which a file is written that will be `out`; those of dead writers go."""
    host = socket.gethostname()
    for path in glob.glob(f"{glob.escape(out)}.part-{glob.escape(host)}-*"):
        process = path.rpartition("-")[2]
        if process.isdigit() and not _lives(int(process)):
            with suppress(OSError):  # it may not be removed, or is gone
                os.remove(path)
    return f"{out}.part-{host}-{os.getpid()}"


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True
