"""The owner's end of a query's process: start it, talk to it, and end it when it must end."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from ..schemas import errors
from ..schemas.errors import QueryError
from .sql_frames import DONE, ERROR, QUERY, READY, SETTINGS, receive, send_json

START_SECONDS = 120.0  # to import DuckDB and Lance, on however slow a disk
LAST_WORDS = 5  # lines of stderr kept for the message when the process dies

# A program handed to a fresh interpreter rather than a fork (Lance is not fork-safe) or a spawn of
# multiprocessing, which would import the caller's main module again.
_PROGRAM = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from {} import main; main()"

_ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "2",  # glibc otherwise maps 64 MB a thread, which the memory bound counts
    "ARROW_DEFAULT_MEMORY_POOL": "system",  # it gives memory back, and maps no gigabyte ahead
    "LANCE_LOG": "error",
    "TZ": "UTC",  # one answer everywhere; the stored times are UTC
}


_running: weakref.WeakSet[QueryProcess] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    """End what a program left open, while the threads that listen can still be joined."""
    for process in list(_running):
        process.end()


@dataclass
class Clock:
    """The seconds of a query's time limit that are left; only waiting for the process counts."""

    limit: float
    left: float

    @classmethod
    def of(cls, seconds: float) -> Clock:
        return cls(seconds, seconds)


class QueryProcess:
    """A running `sql_child`; `settings` are what every query of it shares."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._memory_limit = settings["memory_limit"]
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-c",
                _PROGRAM.format(f"{__package__}.sql_child"),
                json.dumps(sys.path),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **_ENVIRONMENT},
            start_new_session=True,  # Ctrl-C is for the owner, who then ends this process
        )
        self._requests = cast(BinaryIO, self._process.stdin)
        self._answers = cast(BinaryIO, self._process.stdout)
        self._last_words: deque[bytes] = deque(maxlen=LAST_WORDS)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self.pid = self._process.pid
        self._expired = False
        self._ready = False
        self.gone = False
        _running.add(self)
        # Settings may hold an object store's keys: they go through the pipe, never the arguments.
        self._send(SETTINGS, settings)

    def ask(self, request: dict[str, Any], clock: Clock) -> bytes:
        """Send a query; the payload of its first frame.

        Raises:
            QueryError: the query was refused or failed, or the process ended.
            StoreError: the store cannot be opened.
        """
        if not self._ready:
            kind, _ = self._receive(Clock.of(START_SECONDS), "it did not start")
            self._ready = kind == READY
        self._send(QUERY, request)
        return self.answer(clock)[1]

    def answer(self, clock: Clock) -> tuple[bytes, bytes]:
        """The next frame of a query's answer, as (kind, payload).

        Raises:
            QueryError: the query failed, or the process ended at a limit.
            StoreError: the store cannot be opened.
        """
        kind, payload = self._receive(clock, "the query was stopped at its time limit: it ran")
        if kind in (DONE, ERROR):
            end = json.loads(payload)
            if end["worn"]:
                self.end()
            if kind == ERROR:
                raise getattr(errors, end["kind"])(end["message"])
        return kind, payload

    def end(self) -> None:
        """Kill the process and wait for it; nothing happens the second time."""
        if self.gone:
            return
        self.gone = True
        _running.discard(self)
        self._process.kill()
        self._process.wait()
        self._listener.join()
        for stream in (self._requests, self._answers, self._process.stderr):
            with contextlib.suppress(BrokenPipeError):  # a request it never took
                cast(BinaryIO, stream).close()

    def _send(self, kind: bytes, value: dict[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):  # it died: receiving says why
            send_json(self._requests, kind, value)

    def _receive(self, clock: Clock, late: str) -> tuple[bytes, bytes]:
        timer = threading.Timer(max(clock.left, 0), self._expire)
        timer.daemon = True
        timer.start()
        began = time.monotonic()
        try:
            frame = receive(self._answers)
        except BaseException:
            self.end()  # an interrupt amid a frame leaves nothing to go on with
            raise
        finally:
            timer.cancel()
            clock.left -= time.monotonic() - began
        if frame is None:
            raise QueryError(self._obituary(clock, late))
        return frame

    def _expire(self) -> None:
        self._expired = True
        self._process.kill()

    def _listen(self) -> None:
        for line in cast(BinaryIO, self._process.stderr):
            self._last_words.append(line)

    def _obituary(self, clock: Clock, late: str) -> str:
        status = self._process.wait()
        self.end()
        words = b"".join(self._last_words).decode(errors="replace").strip()
        if self._expired:
            return f"{late} for {clock.limit:g} seconds; raise the limit or ask for less"
        if status < 0:
            return (
                f"the query's process was ended by {signal.Signals(-status).name}, most likely at "
                f"its memory limit of {self._memory_limit}; raise the limit or ask for less"
                + (f" ({words})" if words else "")
            )
        return f"the query's process ended with status {status}: {words}"
