"""Workers that are processes of this machine.

They stand in sessions of their own, so that Ctrl-C reaches the owner alone, who ends them; an owner
that is killed closes their standard input, on which they end by themselves.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, cast

from ..schemas.child_process import interpreter_of, receive, send, send_json
from .child import BLOB, BODY, DONE, EQUIP, FAILED, GIVEN, READY, SEEN, SETTINGS, TASK
from .task import Answer, Equipment, Owner, Task, WorkerDiedError, rebuilt

LAST_WORDS = 5
"""Lines of stderr kept for the message when the process dies."""

_running: weakref.WeakSet[ProcessWorker] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    for worker in list(_running):
        worker.end()


class ProcessWorker:
    """A process that plays a role.

    Args:
        role: dotted name of a class.
        settings: that it is made from (JSON values).
        environment: added to that of this process.

    Raises:
        WorkerDiedError: it cannot be started.
    """

    def __init__(self, role: str, settings: dict[str, Any], environment: Mapping[str, str]) -> None:
        self._ended = False
        self._ending = threading.Lock()
        try:
            self._process = subprocess.Popen(
                interpreter_of(f"{__package__}.child"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, **environment},
                start_new_session=True,
            )
        except OSError as error:
            raise WorkerDiedError(f"no process can be made: {error}") from error
        self.pid = self._process.pid
        self._requests = cast(BinaryIO, self._process.stdin)
        self._answers = cast(BinaryIO, self._process.stdout)
        self._last_words: deque[bytes] = deque(maxlen=LAST_WORDS)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        _running.add(self)
        with self._alive():
            send_json(self._requests, SETTINGS, {"role": role, "settings": settings})

    def ready(self, news: Callable[[str], None]) -> None:
        """See Worker; nothing but its own loading keeps it waiting."""
        self._answer(READY)

    def equip(self, equipment: Equipment) -> None:
        """See Worker."""
        with self._alive():
            facts = {"facts": equipment.facts, "blobs": len(equipment.blobs)}
            send_json(self._requests, EQUIP, facts)
            for blob in equipment.blobs:
                send(self._requests, BLOB, blob)

    def do(self, task: Task, owner: Owner) -> Answer:
        """See Worker."""
        parts = task.parts()
        with self._alive():
            send_json(self._requests, TASK, {"facts": task.facts, "parts": len(parts)})
            send(self._requests, BODY, task.body)
            for facts, blob in parts:
                send_json(self._requests, GIVEN, facts)
                send(self._requests, BLOB, blob)
        while True:
            kind, payload = self._answer(DONE, SEEN, GIVEN)
            facts = json.loads(payload)
            if kind == SEEN:
                owner.seen(**facts)
            elif kind == GIVEN:
                owner.give(facts, self._answer(BLOB)[1])
            else:
                return facts, self._answer(BODY)[1]

    def end(self) -> None:
        """See Worker."""
        with self._ending:
            if self._ended:
                return
            self._ended = True
            _running.discard(self)
            self._process.kill()
            self._process.wait()
            self._listener.join()

    def _answer(self, *kinds: bytes) -> tuple[bytes, bytes]:
        frame = receive(self._answers)
        if frame is None:
            raise WorkerDiedError(self._obituary())
        if frame[0] == FAILED:
            raise rebuilt(json.loads(frame[1]))
        if frame[0] not in kinds:
            raise RuntimeError(f"a worker answered {frame[0]!r} where {kinds} was expected")
        return frame

    @contextlib.contextmanager
    def _alive(self) -> Any:
        try:
            yield
        except BrokenPipeError as error:
            raise WorkerDiedError(self._obituary()) from error

    def _listen(self) -> None:
        for line in cast(BinaryIO, self._process.stderr):
            self._last_words.append(line)

    def _obituary(self) -> str:
        status = self._process.wait()
        self.end()
        words = b"".join(self._last_words).decode(errors="replace").strip()
        if status == -signal.SIGKILL:
            return "killed by SIGKILL, as the system does where memory runs out"
        how = f"ended by {signal.Signals(-status).name}" if status < 0 else f"status {status}"
        return f"{how}: {words}" if words else how
