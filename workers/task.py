"""What a group of workers is handed: tasks, what all of them need, and what a worker is.

A role is a class of ours that does tasks; a worker is a process or a Ray actor that plays one. Rows
travel as Arrow IPC, facts as JSON; nothing is pickled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import pyarrow as pa

from ..schemas import errors
from ..schemas.errors import CoresetDBError

Bytes: TypeAlias = bytes | pa.Buffer
Answer: TypeAlias = tuple[dict[str, Any], Bytes]
"""Facts and rows."""
Given: TypeAlias = tuple[dict[str, Any], bytes]
"""Facts and bytes of a part of an answer, or of news (without bytes)."""


class Owner(Protocol):
    """What a role tells about its task before that is done."""

    def seen(self, rows: int, tokens: int) -> None:
        """So many rows and tokens are done since this was last called."""
        ...

    def give(self, facts: dict[str, Any], body: bytes = b"") -> None:
        """A part of the answer, which a worker that goes on with the task is given; or news.

        News have no bytes.
        """
        ...


@dataclass(frozen=True, eq=False)
class Equipment:
    """What a worker needs for the tasks to come: facts and blobs; sent to each worker once."""

    facts: dict[str, Any]
    blobs: Sequence[bytes] = ()


@dataclass(eq=False)
class Task:
    """Something to do; a group fills in what became of it.

    Attributes:
        facts, body: what the role is given.
        label: says which rows it is about, for the error when it cannot be done.
        equipment: that it needs.
        rows, tokens: done so far by the attempt that runs.
        deaths: of workers that had it.
        given: parts and news so far, in order.
        answer: None until it is done.
    """

    facts: dict[str, Any]
    body: Bytes
    label: Callable[[], str]
    equipment: Equipment | None = None
    rows: int = 0
    tokens: int = 0
    deaths: int = 0
    given: list[Given] = field(default_factory=list, repr=False)
    answer: Answer | None = field(default=None, repr=False)

    def parts(self) -> list[Given]:
        """What was given of its answer."""
        return [given for given in self.given if given[1]]


class Role(Protocol):
    """What workers do; made once in each, from JSON values."""

    def __init__(self, settings: dict[str, Any]) -> None: ...

    def equip(self, facts: dict[str, Any], blobs: Sequence[bytes]) -> None:
        """Take what the tasks to come need."""
        ...

    def do(
        self, facts: dict[str, Any], body: bytes, parts: Sequence[Given], owner: Owner
    ) -> Answer:
        """Do a task.

        Args:
            body: an Arrow IPC stream or empty, as the rows of the answer are.
            parts: what a worker that died had given of the answer.
        """
        ...


class Worker(Protocol):
    """A process or an actor that plays a role, as its owner sees it.

    Every method but `end` raises WorkerDiedError where it is gone, and what the role raised there.
    `end` may be called from another thread; a method that waits then raises WorkerDiedError.
    """

    def ready(self, news: Callable[[str], None]) -> None:
        """Wait until it has started; `news` hears what keeps it waiting."""
        ...

    def equip(self, equipment: Equipment) -> None:
        """Send what the tasks to come need."""
        ...

    def do(self, task: Task, owner: Owner) -> Answer:
        """Have a task done."""
        ...

    def end(self) -> None:
        """End it at once; nothing happens the second time."""
        ...


class WorkerDiedError(Exception):
    """A worker is gone; the message says how it ended."""


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: the worker may be of no use from then on."""
    names = {kind.__name__ for kind in type(error).__mro__}
    said = "can't allocate memory" in str(error)  # torch, on the CPU
    return said or bool(names & {"MemoryError", "OutOfMemoryError"})


def described(error: BaseException, trace: str) -> dict[str, str]:
    """An error of a role, as JSON values."""
    return {"kind": type(error).__name__, "message": str(error), "trace": trace}


def rebuilt(facts: dict[str, str]) -> Exception:
    """The error that `described` described."""
    kind = getattr(errors, facts["kind"], None)
    if not (isinstance(kind, type) and issubclass(kind, CoresetDBError)):
        return RuntimeError(f"a worker failed: {facts['message']}\n{facts['trace']}".strip())
    try:
        return kind(facts["message"])
    except TypeError:  # made of several arguments
        return CoresetDBError(facts["message"])


def to_bytes(table: pa.Table) -> pa.Buffer:
    """A table as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def to_table(body: Bytes) -> pa.Table:
    """The table of an Arrow IPC stream, without a copy."""
    with pa.ipc.open_stream(body if isinstance(body, pa.Buffer) else pa.py_buffer(body)) as reader:
        return reader.read_all()
