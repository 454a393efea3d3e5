"""The trace of a command that changes a store, while it runs.

A command that was killed after its commit fails when it is typed again: the name is taken, or what
it removed is gone. Its trace, left in the store before its first change and taken away at its end,
tells that from a mistake. Only the command line sets a command; from Python nothing is traced.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Sequence
from typing import Protocol

from ..schemas.errors import StoreError

FOLDER = "_underway"


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
    """

    def __init__(self) -> None:
        self.name = ""
        self.places: dict[str, Place] = {}
        self.left: dict[str, Place] = {}
        self.killed = False


_command = _Command()


def set_command(words: Sequence[str]) -> None:
    """Say which command this process runs, so that it leaves a trace where it changes a store."""
    _command.__init__()
    typed = json.dumps([os.getcwd(), *words]).encode()
    _command.name = f"{FOLDER}/{hashlib.blake2b(typed, digest_size=16).hexdigest()}.json"


def look(place: Place) -> None:
    """Remember a place that the command has to do with."""
    if _command.name:
        _command.places.setdefault(place.uri, place)


def begin(place: Place) -> None:
    """Leave the trace, before the first change of a store."""
    if not _command.name or place.uri in _command.left:
        return
    _command.left[place.uri] = place
    _command.killed |= _left_by_the_dead(place)
    facts = {"host": socket.gethostname(), "process": os.getpid()}
    place.write(_command.name, json.dumps(facts).encode())


def was_killed() -> bool:
    """Whether the same command was killed here after it had begun to change a store."""
    return _command.killed or any(map(_left_by_the_dead, _command.places.values()))


def finish() -> None:
    """Take the traces of this command away."""
    for place in {**_command.places, **_command.left}.values():
        try:
            if place.uri in _command.left or _left_by_the_dead(place):
                place.delete(_command.name)
        except StoreError:  # a disk that was taken away, or may not be written: a trace is no harm
            continue
    set_command(())
    _command.name = ""


def _left_by_the_dead(place: Place) -> bool:
    try:
        facts = json.loads(place.read(_command.name))
        host, process = facts["host"], facts["process"]
    except (FileNotFoundError, StoreError):
        return False
    except (ValueError, KeyError, TypeError):  # cut short by the kill
        return True
    if process == os.getpid() and host == socket.gethostname():
        return False
    return host != socket.gethostname() or not os.path.exists(f"/proc/{process}")
