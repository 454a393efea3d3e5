"""Whether a run goes on: each holds a lock of its own for as long as it lives.

The table `runs` keeps what a run said last, and one that was killed says "running" there for ever.
Its lock does not lie: the kernel drops what a dead process held, and on an object store nobody
renews its lease (so a dead run counts as running there for up to a minute). Beside the lock stands
where the run began. A lock held by a process under another kernel (a network disk) may not be seen
from here; then it is said that nobody knows.
"""

from __future__ import annotations

import json
import os
import socket
import uuid
from collections.abc import Collection
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ..schemas.errors import StoreBusyError, StoreError
from .locks import StoreLock
from .place import Place, first_line

FOLDER = "_runs"
_FACTS = "began.json"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Life:
    """Whether a run goes on: `state` is "running", "ended without a word" or "not known"."""

    state: str
    because: str


class Presence:
    """Held by a run while it lives; what it leaves in the store goes once its end is recorded."""

    def __init__(self, place: Place, run: str) -> None:
        self._place, self._folder = place, f"{FOLDER}/{run}"
        self._held = ExitStack()
        self._recorded = False

    def __enter__(self) -> Self:
        facts = {"host": socket.gethostname(), "process": os.getpid(), "kernel": kernel()}
        self._place.write(f"{self._folder}/{_FACTS}", json.dumps(facts).encode())
        lock = StoreLock(self._place, f"{self._folder}/")
        self._held.enter_context(lock.held(shared=False, wait=0.0))
        return self

    def end_is_recorded(self) -> None:
        """The table `runs` tells how the run ended: nobody needs to ask for its lock any more."""
        self._recorded = True

    def __exit__(self, *_: object) -> None:
        self._held.close()
        if self._recorded:
            for path in self._place.sizes(self._folder):
                self._place.delete(path)
            if self._place.local:
                # Somebody may just be asking for the lock, and leave it: `clean` removes that.
                with suppress(OSError):
                    os.rmdir(self._place.absolute(self._folder))


def life_of(place: Place, run: str) -> Life:
    """Whether a run that never recorded its end goes on."""
    try:
        facts = json.loads(place.read(f"{FOLDER}/{run}/{_FACTS}"))
        where = f"process {facts['process']} on {facts['host']}"
        began_under = facts["kernel"]
    except FileNotFoundError:
        return Life("not known", "it left no lock: an older coresetdb began it, or it was removed")
    except (ValueError, KeyError, TypeError):  # the machine went down before the disk had it
        return Life("not known", f"{FOLDER}/{run}/{_FACTS}, which tells who began it, is damaged")
    try:
        with StoreLock(place, f"{FOLDER}/{run}/").held(shared=True, wait=0.0):
            pass
    except StoreBusyError:
        return Life("running", f"{where} holds its lock")
    except StoreError as error:
        return Life("not known", f"the lock of {where} cannot be asked for: {first_line(error)}")
    # Kernels that share a disk need not see each other's locks. One host name under two kernels
    # is one machine that was started again.
    if place.local and kernel() != began_under and socket.gethostname() != facts["host"]:
        return Life("not known", f"{where} began it, whose lock need not be seen from here")
    return Life("ended without a word", f"nobody holds the lock of {where}")


def sweep(place: Place, recorded: Collection[str]) -> None:
    """Remove what runs left of which the table tells nothing: killed before their first commit."""
    folders: dict[str, list[str]] = {}
    for path in place.sizes(FOLDER):
        folders.setdefault(path.split("/")[1], []).append(path)
    for run in folders.keys() - set(recorded):
        if life_of(place, run).state != "running":
            for path in place.sizes(f"{FOLDER}/{run}"):
                place.delete(path)
            if place.local:
                with suppress(OSError):
                    os.rmdir(place.absolute(f"{FOLDER}/{run}"))


def kernel() -> str:
    """Which running kernel this is: containers share it, a restart makes another one."""
    if _BOOT_ID.exists():
        return _BOOT_ID.read_text().strip()
    return f"{socket.gethostname()}-{uuid.getnode():012x}"  # no Linux: the machine
