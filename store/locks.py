"""Who may touch the files of a store: writers share, maintenance is alone.

Lance's own commits are safe without any lock. The lock is for what Lance cannot see: `clean`
deletes files that no manifest names yet, which is exactly what a running writer has; compaction
and repair move rows that a fill may be working on.

On a local disk it is an advisory `flock`, which the kernel drops when a process dies. On an object
store it is a lease: each holder keeps a small object there and renews it. Everybody announces
first and looks second, so of two contenders at least one sees the other; ages are measured between
the server's own time stamps, so clocks need not agree. A lease not renewed for `LEASE_SECONDS`
counts as dead. Limit: a holder that is suspended for longer than that loses its lease unawares.
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
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import pyarrow.fs as pafs

from ..schemas.errors import StoreBusyError, StoreError
from .place import Place

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
                raise StoreError(f"{self._path}: cannot be written: {error.strerror}") from error
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
