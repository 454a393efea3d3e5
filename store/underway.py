"""The trace of a command that changes a store, while it runs.

A command that was killed after its commit fails when it is typed again: the name is taken, or what
it removed is gone. Its trace, left in the store before its first change and taken away at its end,
tells that from a mistake. A command that would do the same once more, and not fail, notes in its
trace what it made, and looks there itself (`answer_from_notes`). Only the command line sets a
command; from Python nothing is traced.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from ..schemas.errors import StoreError

FOLDER = "_underway"
_MADE = "made"


class Place(Protocol):
    """What is needed here of `place.Place`, which looks here itself."""

    @property
    def uri(self) -> str: ...
    def read(self, path: str) -> bytes: ...
    def write(self, path: str, data: bytes) -> None: ...
    def delete(self, path: str) -> None: ...


class _Command:
    """The command of this process.

    Attributes:
        name: of its trace; "" where none was set.
        places: that it looked at, by their addresses.
        left: where it left its trace.
        killed: whether it found one of itself that nobody is at.
        answers: whether it looks itself for what it made, and says so.
        aside: whether what is done now is not what was typed.
    """

    def __init__(self) -> None:
        self.name = ""
        self.places: dict[str, Place] = {}
        self.left: dict[str, Place] = {}
        self.killed = False
        self.answers = False
        self.aside = False


_command = _Command()


def set_command(words: Sequence[str]) -> None:
    """Say which command this process runs, so that it leaves a trace where it changes a store."""
    _command.__init__()
    typed = json.dumps([os.getcwd(), *words]).encode()
    _command.name = f"{FOLDER}/{hashlib.blake2b(typed, digest_size=16).hexdigest()}.json"


def answer_from_notes() -> None:
    """Say that this command looks for what it made: it alone notes that, and answers by that."""
    _command.answers = True


@contextmanager
def untraced() -> Iterator[None]:
    """Change a store without a trace: what others left undone, not what was typed."""
    before, _command.aside = _command.aside, True
    try:
        yield
    finally:
        _command.aside = before


def look(place: Place) -> None:
    """Remember a place that the command has to do with."""
    if _command.name:
        _command.places.setdefault(place.uri, place)


def begin(place: Place) -> None:
    """Leave the trace, before the first change of a store."""
    if not _command.name or _command.aside or place.uri in _command.left:
        return
    _command.left[place.uri] = place
    before = _left_by_the_dead(place)
    _command.killed |= before is not None
    _write(place, before[_MADE] if before and _is_from_here(before) else {})


def note(place: Place, **made: Any) -> None:
    """Say in the trace what a command that answers from it is about to commit (JSON values)."""
    if _command.name and _command.answers:
        begin(place)
        _write(place, made)


def was_killed() -> bool:
    """Whether the same command was killed here after it had begun to change a store.

    Not of one that answers from its notes: if it had been done, it would have said so.
    """
    return not _command.answers and (
        _command.killed
        or any(_left_by_the_dead(place) is not None for place in _command.places.values())
    )


def made_when_killed(place: Place, from_here: bool = False) -> dict[str, Any]:
    """What the same command was about to commit at a place when it was killed, as noted.

    Args:
        from_here: only on this machine: whether a process of another one lives is not known.
    """
    if not _command.name:
        return {}
    facts = _facts(place) if place.uri in _command.left else _left_by_the_dead(place)
    if not facts or (from_here and not _is_from_here(facts)):
        return {}
    return facts[_MADE]


def finish(broken_off: bool = False) -> None:
    """Take the traces of this command away.

    Args:
        broken_off: it ended in an error; those that say what it made stay, as after a kill.
    """
    for place in {**_command.places, **_command.left}.values():
        try:
            if broken_off and _command.answers and made_when_killed(place):
                continue
            if place.uri in _command.left or _left_by_the_dead(place) is not None:
                place.delete(_command.name)
        except StoreError:  # a disk that was taken away, or may not be written: a trace is no harm
            continue
    set_command(())
    _command.name = ""


def _write(place: Place, made: dict[str, Any]) -> None:
    facts = {"host": socket.gethostname(), "process": os.getpid(), _MADE: made}
    place.write(_command.name, json.dumps(facts).encode())


def _is_from_here(facts: dict[str, Any]) -> bool:
    return facts["host"] == socket.gethostname()


def _facts(place: Place) -> dict[str, Any] | None:
    """What the trace says; nothing where it was cut short, None where there is none."""
    try:
        facts = json.loads(place.read(_command.name))
        return {"host": facts["host"], "process": facts["process"], _MADE: facts.get(_MADE, {})}
    except (FileNotFoundError, StoreError):
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _left_by_the_dead(place: Place) -> dict[str, Any] | None:
    """What the trace of a process says that is no more; None where there is none of such a one."""
    facts = _facts(place)
    if not facts:
        return facts
    if not _is_from_here(facts):
        return facts
    process = facts["process"]
    return None if process == os.getpid() or os.path.exists(f"/proc/{process}") else facts
