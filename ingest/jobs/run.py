"""A run of a job: its lock, its clock, the tokens it has made, and its row in the table `runs`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Protocol

import pyarrow as pa

from ...schemas.progress import Progress
from ...schemas.tables import RUNS
from ...schemas.version import VERSION
from ...store.locks import RunLock
from ...store.store import Store


class RunAccount(Protocol):
    """What a run has done; a job counts, and `Run` keeps tokens and seconds."""

    run: str
    tokens: int
    seconds: float

    def lines(self) -> list[str]:
        """The account in words."""
        ...


class Run:
    """One run, from its start to the row in `runs` that says how it ended.

    Attributes:
        id: a random one; it names the lock and the row.
    """

    def __init__(
        self,
        store: Store,
        command: str,
        account: RunAccount,
        columns: Callable[[], dict[str, Any]],
        progress: Progress,
    ) -> None:
        """
        Args:
            command: kept in the row.
            columns: returns further columns of the row as they are now.
            progress: receives what is kept of a run that was stopped.
        """
        self.id = account.run
        self._store, self._command, self._account = store, command, account
        self._columns, self._progress = columns, progress
        self._lock = RunLock(store.place, self.id)
        self._began, self._began_at = time.monotonic(), datetime.now(UTC)
        self._unkept_tokens = 0

    @contextmanager
    def running(self, stop: Callable[[str], None], finish: Callable[[str], None]) -> Iterator[None]:
        """Hold the lock of the run, and call `finish("done")` at the end of the block.

        An exception in the block calls `stop("interrupted")` or `stop("failed")` instead.
        """
        with self._lock:
            try:
                yield
            except KeyboardInterrupt:
                stop("interrupted")
                raise
            except Exception:
                stop("failed")
                raise
            finish("done")

    def add_tokens(self, tokens: int) -> None:
        """Count tokens that went through the model, for rows that are not kept yet.

        Fewer than none where they are lost with a worker.
        """
        self._account.tokens += tokens
        self._unkept_tokens += tokens

    def keep_tokens(self, tokens: int) -> None:
        """The rows of so many of the tokens counted so far are kept."""
        self._unkept_tokens -= tokens

    def keep_all_tokens(self) -> None:
        """The rows of all tokens counted so far are kept."""
        self._unkept_tokens = 0

    def drop_tokens(self) -> None:
        """Tokens of rows that are not kept no longer count."""
        self._account.tokens -= self._unkept_tokens
        self._unkept_tokens = 0

    def record(self, status: str) -> None:
        """Write the row of the run as it is now."""
        self._account.seconds = time.monotonic() - self._began
        row = {
            "run": self.id,
            "command": self._command,
            "status": status,
            "started_at": self._began_at,
            "finished_at": None if status == "running" else datetime.now(UTC),
            **dict.fromkeys(("new", "duplicate", "rejected"), 0),
            "files": [],
            "metadata_keys": [],
            "code_version": VERSION,
            "tokens": self._account.tokens,
            "seconds": self._account.seconds,
            **self._columns(),
        }
        self._store.upsert("runs", pa.Table.from_pylist([row], schema=RUNS))

    def finish(self, status: str) -> None:
        """Sync what was committed, and record how the run ended."""
        self._store.sync()
        self.record(status)
        self._lock.end_is_recorded()

    def say_what_is_kept(self) -> None:
        """Tell the account of a run that was stopped."""
        self._progress.say("Stopped. What is kept:")
        for sentence in self._account.lines():
            self._progress.say(sentence)
