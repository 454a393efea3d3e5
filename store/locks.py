"""Who may touch the files of a store: writers share, maintenance is alone.

Lance's own commits are safe without any lock. The lock is for what Lance cannot see: `clean`
deletes files that no manifest names yet, which is exactly what a running writer has; compaction
and repair move rows that a fill may be working on.

On a local disk it is an advisory `flock`, which the kernel drops when a process dies. On an object
store it is a lease: each holder keeps a small object there and renews it. Everybody announces
first and looks second, so of two contenders at least one sees the other; ages are measured between
the server's own time stamps, so clocks need not agree. A lease not renewed for `LEASE_SECONDS`
counts as dead. Limit: a holder that is suspended for longer than that loses its lease unnoticed.

A run holds a lock of its own (`RunLock`) for as long as it lives, which tells whether it goes on
(`run_state`): in the table `runs` a killed run says "running" for ever. The kernel drops what a
dead process held; on an object store its lease is no longer renewed, so a killed run counts as
running for up to a minute. Beside the lock stands where the run began: a lock held under another
kernel (a network disk) may not be visible here, and the state is then "not known".
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import pyarrow.fs as pafs

from ..schemas.errors import ReadOnlyStoreError, StoreBusyError, StoreError
from ..schemas.plain_text import first_line
from .place import Place, writing_refused

log = logging.getLogger(__name__)

LOCK_FILE = "_lock"
LEASE_FOLDER = "_leases"
LEASE_SECONDS = 60.0
_POLL_SECONDS = 0.1


class _Holder(Protocol):
    def acquire(self, shared: bool) -> bool: ...
    def release(self) -> None: ...


class StoreLock:
    """The lock of one store, as one process holds it; re-entrant, and safe between threads.

    With `folder` (a path in the store that ends in a slash) it is another lock, which lies there.
    """

    def __init__(self, place: Place, folder: str = "") -> None:
        self._uri = place.uri
        self._holder: _Holder = _FileLock(place, folder) if place.local else _Lease(place, folder)
        self._change = threading.Condition()
        self._depth, self._shared, self._owner = 0, False, 0

    @property
    def alone(self) -> bool:
        """Whether this process holds it and keeps everybody else out."""
        return bool(self._depth) and not self._shared

    @contextmanager
    def held(self, *, shared: bool, wait: float) -> Iterator[None]:
        """Hold the lock; whoever has it exclusively may take it again either way.

        Raises:
            StoreBusyError: others did not let go within `wait` seconds.
        """
        self._take(shared, time.monotonic() + wait)
        try:
            yield
        finally:
            with self._change:
                self._depth -= 1
                if not self._depth:
                    self._holder.release()
                self._change.notify_all()

    def _take(self, shared: bool, deadline: float) -> None:
        me = threading.get_ident()
        with self._change:
            while True:
                nested = self._depth and (shared if self._shared else self._owner == me)
                if nested or (not self._depth and self._holder.acquire(shared)):
                    if not nested:
                        self._shared, self._owner = shared, me
                    self._depth += 1
                    return
                if time.monotonic() >= deadline:
                    raise StoreBusyError(self._uri, "maintained" if shared else "used")
                self._change.wait(_POLL_SECONDS)


class _FileLock:
    def __init__(self, place: Place, folder: str) -> None:
        self._path = place.absolute(f"{folder}{LOCK_FILE}")
        self._handle = -1

    def acquire(self, shared: bool) -> bool:
        try:
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:  # a store on a read-only disk can still be verified
            if not os.path.exists(self._path):
                kind = ReadOnlyStoreError if writing_refused(str(error)) else StoreError
                raise kind(f"{self._path}: cannot be written: {error.strerror}") from error
            handle = os.open(self._path, os.O_RDONLY)
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return False
        self._handle = handle
        return True

    def release(self) -> None:
        os.close(self._handle)


class _Lease:
    def __init__(self, place: Place, folder: str) -> None:
        self._place, self._folder = place, f"{folder}{LEASE_FOLDER}"
        self._path = ""
        self._stop = threading.Event()
        self._renewal = threading.Thread()

    def acquire(self, shared: bool) -> bool:
        mode = "shared" if shared else "exclusive"
        path = f"{self._folder}/{mode}-{uuid.uuid4().hex}.json"
        holder = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "mode": mode})
        self._place.write(path, holder.encode())
        if self._others(path, shared):
            self._place.delete(path)
            time.sleep(random.uniform(0, 2 * _POLL_SECONDS))  # two contenders part ways
            return False
        self._path, self._stop = path, threading.Event()
        self._renewal = threading.Thread(target=self._renew, args=(path, holder), daemon=True)
        self._renewal.start()
        return True

    def release(self) -> None:
        self._stop.set()
        self._renewal.join()  # or it might put the lease back
        self._place.delete(self._path)

    def _others(self, mine: str, shared: bool) -> bool:
        selector = pafs.FileSelector(self._place.absolute(self._folder), allow_not_found=True)
        leases = {info.base_name: info for info in self._place.files.get_file_info(selector)}
        now = leases.pop(mine.rsplit("/", 1)[1]).mtime_ns
        live = False
        for name, info in leases.items():
            if now - info.mtime_ns > LEASE_SECONDS * 1e9:
                self._place.delete(f"{self._folder}/{name}")
            elif not shared or name.startswith("exclusive"):
                live = True
        return live

    def _renew(self, path: str, holder: str) -> None:
        while not self._stop.wait(LEASE_SECONDS / 4):
            try:
                self._place.write(path, holder.encode())
            except StoreError as error:  # the server may be back before the lease is over
                log.warning("%s: a lease could not be renewed: %s", self._place.uri, error)


FOLDER = "_runs"
_FACTS = "began.json"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class RunState:
    """Whether a run goes on: `state` is "running", "killed" or "not known"."""

    state: str
    because: str


class RunLock:
    """Held by a run while it lives; what it leaves in the store goes once its end is recorded."""

    def __init__(self, place: Place, run: str) -> None:
        self._place, self._folder = place, f"{FOLDER}/{run}"
        self._held = ExitStack()
        self._recorded = False

    def __enter__(self) -> Self:
        facts = {"host": socket.gethostname(), "process": os.getpid(), "kernel": kernel_id()}
        self._place.write(f"{self._folder}/{_FACTS}", json.dumps(facts).encode())
        lock = StoreLock(self._place, f"{self._folder}/")
        self._held.enter_context(lock.held(shared=False, wait=0.0))
        return self

    def end_is_recorded(self) -> None:
        """Say that the table `runs` tells how the run ended: its lock is no longer needed."""
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


def run_state(place: Place, run: str) -> RunState:
    """Whether a run that never recorded its end goes on."""
    try:
        facts = json.loads(place.read(f"{FOLDER}/{run}/{_FACTS}"))
        where = f"process {facts['process']} on {facts['host']}"
        began_under = facts["kernel"]
    except FileNotFoundError:
        return RunState(
            "not known", "it left no lock: an older coresetdb began it, or it was removed"
        )
    except (ValueError, KeyError, TypeError):  # the machine went down before the disk had it
        return RunState(
            "not known", f"{FOLDER}/{run}/{_FACTS}, which tells who began it, is damaged"
        )
    try:
        with StoreLock(place, f"{FOLDER}/{run}/").held(shared=True, wait=0.0):
            pass
    except StoreBusyError:
        return RunState("running", f"{where} holds its lock")
    except StoreError as error:
        return RunState("not known", f"the lock of {where} cannot be tried: {first_line(error)}")
    # Kernels that share a disk need not see each other's locks. One host name under two kernels
    # is one machine that was started again.
    if place.local and kernel_id() != began_under and socket.gethostname() != facts["host"]:
        return RunState("not known", f"{where} began it, whose lock may be invisible from here")
    return RunState("killed", f"nobody holds the lock of {where}")


def remove_stale_run_locks(place: Place, recorded: Collection[str]) -> None:
    """Remove the locks of runs that the table lacks: killed before their first commit."""
    folders: dict[str, list[str]] = {}
    for path in place.sizes(FOLDER):
        folders.setdefault(path.split("/")[1], []).append(path)
    for run in folders.keys() - set(recorded):
        if run_state(place, run).state != "running":
            for path in place.sizes(f"{FOLDER}/{run}"):
                place.delete(path)
            if place.local:
                with suppress(OSError):
                    os.rmdir(place.absolute(f"{FOLDER}/{run}"))


def kernel_id() -> str:
    """An id of the running kernel: containers share it, a restart changes it."""
    if _BOOT_ID.exists():
        return _BOOT_ID.read_text().strip()
    return f"{socket.gethostname()}-{uuid.getnode():012x}"  # no Linux: the machine
