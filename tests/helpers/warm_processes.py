"""Processes that start with torch and transformers loaded, in a twentieth of the time.

    with WarmParent() as warm:
        process = warm.start("import sys; print(sys.argv[1])", "hello")
        output, errors = process.communicate()

They are forks of a process that loaded what all programs load, and did nothing else: it runs no
thread of Python's, opened no file, and never imports Lance (which is not fork-safe) or anything of
this package. Each is a process of its own, with its own streams, environment, folder and exit code,
and ends as an interpreter does (but for taking its modules apart, which would copy the memory that
it shares), or by a signal. A test of what is imported needs a fresh one.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import IO, Any, Self

LOADED = "pyarrow.dataset torch transformers.models.llama.modeling_llama transformers.generation"
_REQUEST, _ENDED = struct.Struct("<Q"), struct.Struct("<i")


class WarmParent:
    """The process whose forks are handed out; it ends with this one. A context manager."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        self._socket = ours

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._process.wait()

    def start(
        self, program: str, *arguments: str | Path, cwd: Path | None = None, typed: str = ""
    ) -> WarmProcess:
        """Run a program, as `python -c` would, with this process's environment as it is now.

        Args:
            program: Python.
            arguments: `sys.argv` after the first.
            cwd: its working directory; by default that of this process.
            typed: standard input.
        """
        request = {
            "program": program,
            "arguments": ["-c", *map(str, arguments)],
            "folder": str(cwd or os.getcwd()),
            "environment": dict(os.environ),
            "path": [str(cwd or ""), *sys.path],
        }
        output, errors = tempfile.TemporaryFile(), tempfile.TemporaryFile()
        reading, writing = os.pipe()
        ended, ending = os.pipe()
        text = json.dumps(request).encode()
        socket.send_fds(
            self._socket,
            [_REQUEST.pack(len(text))],
            [reading, output.fileno(), errors.fileno(), ending],
        )
        self._socket.sendall(text)
        for mine in (reading, ending):
            os.close(mine)
        with os.fdopen(writing, "wb") as stdin:
            stdin.write(typed.encode())  # less than a pipe holds
        return WarmProcess(output, errors, ended)


class WarmProcess:
    """A process that was started: a part of what `subprocess.Popen` offers.

    Attributes:
        pid: of the process.
        returncode: None until its end was noticed; below zero, the signal that ended it.
    """

    def __init__(self, output: IO[bytes], errors: IO[bytes], ended: int) -> None:
        self._output, self._errors = output, errors
        self._ended = os.fdopen(ended, "rb", buffering=0)
        self.returncode: int | None = None
        [self.pid] = _ENDED.unpack(self._receive())

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        os.set_blocking(self._ended.fileno(), False)
        if self.returncode is None and (told := self._ended.read(_ENDED.size)) is not None:
            self._note(told)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once it has ended.

        Raises:
            subprocess.TimeoutExpired: it runs after so many seconds.
        """
        limit = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if limit is not None and time.monotonic() > limit:
                raise subprocess.TimeoutExpired("a warm process", timeout or 0.0)
            time.sleep(0.005)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it wrote to standard output and standard error, once it has ended."""
        self.wait(timeout)
        texts = []
        for stream in (self._output, self._errors):
            stream.seek(0)
            texts.append(stream.read().decode())
        return texts[0], texts[1]

    def kill(self) -> None:
        """Send SIGKILL, if its end was not noticed yet."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def _receive(self) -> bytes:
        told = self._ended.read(_ENDED.size)
        assert told, "the parent of the warm processes died"
        return told

    def _note(self, told: bytes) -> None:
        assert told, "the parent of the warm processes died"
        [self.returncode] = _ENDED.unpack(told)


def _serve(requests: socket.socket) -> dict[str, Any]:
    """Fork for each request, and tell how each fork ended; returns only in a fork, its request."""
    forks: dict[int, int] = {}
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready, _, _ = select.select([requests, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            _tell(forks)
        if requests not in ready:
            continue
        head, fds, _, _ = socket.recv_fds(requests, _REQUEST.size, 4)
        if not head:
            os._exit(0)
        [length] = _REQUEST.unpack(head)
        text = b""
        while len(text) < length:
            text += requests.recv(length - len(text))
        *streams, ending = fds
        if pid := os.fork():
            forks[pid] = ending
            os.write(ending, _ENDED.pack(pid))
            for fd in streams:
                os.close(fd)
            continue
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number, fd in enumerate(streams):
            os.dup2(fd, number)
        for fd in (*fds, *forks.values(), woken, wake):
            os.close(fd)
        requests.close()
        return json.loads(text)


def _tell(forks: dict[int, int]) -> None:
    """Reap those that ended, and tell their exit codes."""
    while forks:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        ending = forks.pop(pid)
        os.write(ending, _ENDED.pack(os.waitstatus_to_exitcode(status)))
        os.close(ending)


def _run(request: dict[str, Any]) -> int:
    """Run the program of a request; its exit code."""
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.path[:] = request["path"]
    sys.argv = request["arguments"]
    try:
        exec(compile(request["program"], "<string>", "exec"), {"__name__": "__main__"})
    except SystemExit as left:
        if left.code is None or isinstance(left.code, int):
            return left.code or 0
        print(left.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.path.pop(0)  # the helpers' own folder
    gc.disable()  # there is none yet
    for _name in LOADED.split():
        importlib.import_module(_name)
    gc.freeze()
    gc.enable()
    _code = _run(_serve(socket.socket(fileno=int(sys.argv[1]))))
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(_code)
