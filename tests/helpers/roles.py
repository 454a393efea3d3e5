"""A role without a model, which dies, fails and counts as its tasks say; a worker in a thread."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coresetdb.workers.task import Equipment, Given, Owner, Task, WorkerDiedError

ADDER = "helpers.roles.Adder"

LOADING = threading.Lock()
"""transformers loads one model at a time: it changes classes of torch meanwhile."""


class Adder:
    """Adds a number to that of a task.

    A task may `die` where its file of deaths has less than so many bytes, `fail` with an error,
    `sleep`, or say that memory is short.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        if settings.get("die"):
            os._exit(3)
        if settings.get("fail"):
            raise _error(settings["fail"])
        self.added = 0

    def equip(self, facts: dict[str, Any], blobs: Sequence[bytes]) -> None:
        self.added = facts["added"] + sum(map(len, blobs))

    def do(
        self, facts: dict[str, Any], body: bytes, parts: Sequence[Given], owner: Owner
    ) -> tuple[dict[str, Any], bytes]:
        owner.seen(1, 10)
        if facts.get("give"):
            owner.give({"news": len(parts)})
            owner.give({"part": len(parts)}, b"part")
            time.sleep(1.0)  # until an actor was asked
        if facts.get("die"):
            deaths = Path(facts["file"])
            with deaths.open("a") as file:
                file.write("x")
            if deaths.stat().st_size <= facts["die"]:
                if facts.get("memory"):
                    raise MemoryError("no room for 1 GB")
                os.kill(os.getpid(), signal.SIGKILL)
        if facts.get("fail"):
            raise _error(facts["fail"])
        time.sleep(facts.get("sleep", 0))
        owner.seen(1, 10)
        return {"sum": facts["number"] + self.added, "pid": os.getpid()}, body


def _error(kind: str) -> Exception:
    from coresetdb.schemas import errors

    return getattr(errors, kind, ValueError)(f"a {kind} of the role")


@dataclass(frozen=True)
class Alive:
    """Passes on what a role tells as long as its worker lives."""

    worker: ThreadWorker
    owner: Owner

    def seen(self, rows: int, tokens: int) -> None:
        if self.worker.dead:
            raise WorkerDiedError("killed by a test")
        self.owner.seen(rows, tokens)

    def give(self, facts: dict[str, Any], body: bytes = b"") -> None:
        self.seen(0, 0)
        self.owner.give(facts, body)


class ThreadWorker:
    """A worker of this process, in the thread of its place: it starts at once. `end` kills it."""

    def __init__(self, role: type, settings: dict[str, Any]) -> None:
        self._role, self._settings, self.dead = role, settings, False

    def ready(self, news: Callable[[str], None]) -> None:
        with LOADING:
            self.role = self._role(self._settings)

    def equip(self, equipment: Equipment) -> None:
        self.role.equip(equipment.facts, equipment.blobs)

    def do(self, task: Task, owner: Owner) -> Any:
        alive = Alive(self, owner)
        alive.seen(0, 0)
        answer = self.role.do(task.facts, bytes(task.body), task.parts(), alive)
        alive.seen(0, 0)
        return answer

    def end(self) -> None:
        self.dead = True
