"""Rendering in a process of its own, with bounded memory and time: templates that are not plain.

`python -m coresetdb.ingest.conversations.limited_rendering` reads pickled requests from its parent
and answers each with a text. What does not fit the limits ends the process, not its parent; the
next request gets a new one.
"""

from __future__ import annotations

import os
import pickle
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, BinaryIO

MEMORY_BYTES = 1 << 30
"""Of address space."""

SECONDS = 5.0
"""For one rendering, or for compiling."""

LONGEST = 64 << 20
"""Bytes (UTF-8) of a rendering."""

_HEADER = 8
_TEXT, _REFUSED, _LIMIT = b"t", b"r", b"l"


class LimitReached(Exception):
    """A rendering takes more time or memory than a conversation can be worth."""


class Refused(Exception):
    """The template raised an error; its text."""


class LimitedRenderer:
    """Renders templates in another process, which is started when it is first needed.

    Args:
        templates: name -> text.
        special: names of special tokens -> their texts.
    """

    def __init__(self, templates: Mapping[str, str], special: Mapping[str, str]) -> None:
        self._setup = (dict(templates), dict(special))
        self._child: subprocess.Popen[bytes] | None = None
        self._one_at_a_time = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"_setup": self._setup}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(*state["_setup"])

    def compile(self) -> None:
        """Compile all templates.

        Raises:
            LimitReached, Refused: see there.
        """
        with self._one_at_a_time:
            self._started()

    def render(self, name: str, variables: Mapping[str, Any]) -> str:
        """The text of a template.

        Raises:
            LimitReached, Refused: see there.
        """
        with self._one_at_a_time:
            return self._ask(self._started(), (name, dict(variables)))

    def close(self) -> None:
        """End the process."""
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:  # it died with a request unread
                    continue

    def __del__(self) -> None:
        self.close()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            self.close()
            search = os.pathsep.join(filter(None, sys.path))
            self._child = subprocess.Popen(
                [sys.executable, "-m", "coresetdb.ingest.conversations.limited_rendering"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": search},
            )
            ready = self._read(self._child, 1, time.monotonic() + _START_SECONDS)
            if ready != _TEXT:
                self.close()
                raise LimitReached("the process for it does not start")
            self._ask(self._child, self._setup)
        return self._child

    def _ask(self, child: subprocess.Popen[bytes], request: Any) -> str:
        assert child.stdin is not None
        data = pickle.dumps(request)
        try:
            child.stdin.write(len(data).to_bytes(_HEADER, "little") + data)
            child.stdin.flush()
            until = time.monotonic() + SECONDS
            head = self._read(child, 1 + _HEADER, until)
            size = int.from_bytes(head[1:], "little")
            text = self._read(child, size, until).decode("utf-8", "surrogatepass")
        except (BrokenPipeError, EOFError) as error:
            self.close()
            raise LimitReached(f"it takes more than {MEMORY_BYTES >> 30} GiB of memory") from error
        except TimeoutError as error:
            self.close()
            raise LimitReached(f"it takes longer than {SECONDS:g} s") from error
        if head[:1] == _LIMIT:
            raise LimitReached(text)
        if head[:1] == _REFUSED:
            raise Refused(text)
        return text

    def _read(self, child: subprocess.Popen[bytes], count: int, until: float) -> bytes:
        assert child.stdout is not None
        pipe, parts, left = child.stdout.fileno(), [], count
        while left:
            if not select.select([pipe], [], [], max(0.0, until - time.monotonic()))[0]:
                raise TimeoutError
            part = os.read(pipe, min(left, 1 << 20))
            if not part:
                raise EOFError
            parts.append(part)
            left -= len(part)
        return b"".join(parts)


_START_SECONDS = 60.0  # a machine may be busy


def _answer(out: BinaryIO, kind: bytes, text: str) -> None:
    data = text.encode("utf-8", "surrogatepass")
    if len(data) > LONGEST:
        kind, data = _LIMIT, f"it gives more than {LONGEST >> 20} MiB of text".encode()
    out.write(kind + len(data).to_bytes(_HEADER, "little") + data)
    out.flush()


def _main() -> None:
    import resource

    from .template_environment import template_environment

    environment = template_environment()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    source, out = sys.stdin.buffer, sys.stdout.buffer
    out.write(_TEXT)
    out.flush()
    compiled: dict[str, Any] | None = None
    special: dict[str, str] = {}
    while header := source.read(_HEADER):
        request = pickle.loads(source.read(int.from_bytes(header, "little")))
        try:
            if compiled is None:
                templates, special = request
                compiled = {}
                compiled = {name: environment.from_string(text) for name, text in templates.items()}
                text = ""
            else:
                name, variables = request
                text = compiled[name].render(**variables, **special)
        except MemoryError:
            _answer(out, _LIMIT, f"it takes more than {MEMORY_BYTES >> 30} GiB of memory")
        except Exception as error:  # a foreign program may raise anything
            _answer(out, _REFUSED, str(error))
        else:
            _answer(out, _TEXT, text)


if __name__ == "__main__":
    _main()
