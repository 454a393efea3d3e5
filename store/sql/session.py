"""SQL from outside: one SELECT, in a process of its own, bounded in memory and in time.

    with SqlSession("pool") as session:
        for batch in session.run("SELECT corpus, count(*) FROM pool GROUP BY corpus"):
            ...

The process is warm: it is started once, serves one query after another, also of other sessions and
stores, and is replaced when a query had to be stopped. This side imports neither DuckDB nor Lance.
`eligible_ids` asks such a process which rows of the pool a filter lets through.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Self, cast

import pyarrow as pa

from ...schemas import errors
from ...schemas.amounts import memory_bytes
from ...schemas.child_process import interpreter_of, receive, send_json
from ...schemas.errors import CoresetDBError, QueryError, UsageError
from ...schemas.notebook import html_cells, html_text
from ...schemas.plain_text import count_of
from ...schemas.tables import NEWEST_POSSIBLE
from .frames import BATCH, DONE, ERROR, QUERY, READY, SETTINGS, batch_from_bytes

if TYPE_CHECKING:
    import polars as pl

    from ..store import Store


START_SECONDS = 120.0  # to import DuckDB and Lance, on however slow a disk
KEPT_SECONDS = 60.0  # for which an idle process waits for the next query of this one
LAST_WORDS = 5  # lines of stderr kept for the message when the process dies

_ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "2",  # glibc otherwise maps 64 MB a thread, which the memory bound counts
    "ARROW_DEFAULT_MEMORY_POOL": "system",  # it gives memory back, and maps no gigabyte ahead
    "LANCE_LOG": "error",
    "TZ": "UTC",  # one answer everywhere; the stored times are UTC
}


_running: weakref.WeakSet[QueryProcess] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    """End what a program left open, while the threads that listen can still be joined."""
    for process in list(_running):
        process.end()


@dataclass
class Clock:
    """The seconds of a query's time limit that are left; only waiting for the process counts."""

    limit: float
    left: float

    @classmethod
    def of(cls, seconds: float) -> Clock:
        return cls(seconds, seconds)


class QueryProcess:
    """A running process of `child.py`.

    Args:
        memory_limit: for each of its queries.
        origin: see `_origin_of`.
    """

    def __init__(self, memory_limit: str, origin: tuple[Any, ...] | None) -> None:
        self._memory_limit = memory_limit
        self.origin = origin
        self._process = subprocess.Popen(
            interpreter_of(f"{__package__}.child", pandas=False),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **_ENVIRONMENT},
            start_new_session=True,  # Ctrl-C is for the owner, who then ends this process
        )
        self._requests = cast(BinaryIO, self._process.stdin)
        self._answers = cast(BinaryIO, self._process.stdout)
        # Without requests it ends: Python keeps a forgotten Popen, with its pipes, until it has.
        weakref.finalize(self, self._requests.close).atexit = False
        self._last_words: deque[bytes] = deque(maxlen=LAST_WORDS)
        heard = (self._process.stderr, self._last_words)  # not self, which would never be freed
        self._listener = threading.Thread(target=_listen, args=heard, daemon=True)
        self._listener.start()
        self.pid = self._process.pid
        self._expired = False
        self._ready = False
        self._answering = False
        self.gone = False
        _running.add(self)
        memory = {"memory_limit": memory_limit, "memory_bytes": _memory_bytes(memory_limit)}
        self._send(SETTINGS, memory)

    def ask(self, request: dict[str, Any], clock: Clock) -> bytes:
        """Send a query; the payload of its first frame.

        Raises:
            QueryError: the query was refused or failed, or the process ended.
            StoreError: the store cannot be opened.
        """
        if not self._ready:
            kind, _ = self._receive(Clock.of(START_SECONDS), "it did not start")
            self._ready = kind == READY
        self._answering = True
        # A request may hold an object store's keys: it goes through the pipe, never the arguments.
        self._send(QUERY, request)
        return self.answer(clock)[1]

    def answer(self, clock: Clock) -> tuple[bytes, bytes]:
        """The next frame of a query's answer, as (kind, payload).

        Raises:
            QueryError: the query failed, or the process ended at a limit.
            StoreError: the store cannot be opened.
        """
        kind, payload = self._receive(clock, "the query was stopped at its time limit: it ran")
        if kind in (DONE, ERROR):
            end = json.loads(payload)
            self._answering = False
            if end["replace"]:
                self.end()
            if kind == ERROR:
                raise getattr(errors, end["kind"])(end["message"])
        return kind, payload

    @property
    def idle(self) -> bool:
        """Whether it lives and has answered whatever it was asked."""
        return not self.gone and not self._answering and self._process.poll() is None

    def end(self) -> None:
        """Kill the process and wait for it; nothing happens the second time."""
        if self.gone:
            return
        self.gone = True
        _running.discard(self)
        self._process.kill()
        self._process.wait()
        self._listener.join()
        for stream in (self._requests, self._answers, self._process.stderr):
            with contextlib.suppress(BrokenPipeError):  # a request it never took
                cast(BinaryIO, stream).close()

    def _send(self, kind: bytes, value: dict[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):  # it died: receiving says why
            send_json(self._requests, kind, value)

    def _receive(self, clock: Clock, late: str) -> tuple[bytes, bytes]:
        timer = threading.Timer(max(clock.left, 0), self._expire)
        timer.daemon = True
        timer.start()
        began = time.monotonic()
        try:
            frame = receive(self._answers)
        except BaseException:
            self.end()  # an interrupt amid a frame leaves nothing to go on with
            raise
        finally:
            timer.cancel()
            clock.left -= time.monotonic() - began
        if frame is None:
            raise QueryError(self._obituary(clock, late))
        return frame

    def _expire(self) -> None:
        self._expired = True
        self._process.kill()

    def _obituary(self, clock: Clock, late: str) -> str:
        status = self._process.wait()
        self.end()
        words = b"".join(self._last_words).decode(errors="replace").strip()
        if self._expired:
            return f"{late} for {clock.limit:g} seconds; raise the limit or ask for less"
        if status < 0:
            return (
                f"the query's process was ended by {signal.Signals(-status).name}, most likely at "
                f"its memory limit of {self._memory_limit}; raise the limit or ask for less"
                + (f" ({words})" if words else "")
            )
        return f"the query's process ended with status {status}: {words}"


def _listen(stream: BinaryIO, last_words: deque[bytes]) -> None:
    for line in stream:
        last_words.append(line)


def _origin_of(store_uri: str, memory_limit: str) -> tuple[Any, ...] | None:
    """What a process has from this one; two of the same origin serve a query alike.

    None of a process that must not serve another query: the environment, which may change, can hold
    the keys to an object store.
    """
    if "://" in store_uri:
        return None
    try:
        folder = os.getcwd()  # which the path may be relative to
    except FileNotFoundError:
        return None
    return memory_limit, folder, os.getpid(), tuple(sys.path)


_idle: QueryProcess | None = None
_idle_lock = threading.Lock()


def _process_for(store_uri: str, memory_limit: str) -> QueryProcess:
    """The process that an earlier query left, or a new one where that would not serve alike."""
    global _idle
    origin = _origin_of(store_uri, memory_limit)
    with _idle_lock:
        if origin and _idle and _idle.origin == origin and _idle.idle:
            process, _idle = _idle, None
            return process
    return QueryProcess(memory_limit, origin)


def _leave(process: QueryProcess) -> None:
    """Keep a process for the next query for a while, in place of an earlier one, or end it."""
    global _idle
    if process.origin is None or not process.idle:
        process.end()
        return
    with _idle_lock:
        earlier, _idle = _idle, process
    if earlier is not None and earlier is not process:
        earlier.end()
    timer = threading.Timer(KEPT_SECONDS, _end_idle, [process])
    timer.daemon = True
    timer.start()


def _end_idle(process: QueryProcess) -> None:
    """End a process if no query has taken it."""
    global _idle
    with _idle_lock:
        if _idle is not process:
            return
        _idle = None
    process.end()


MEMORY_LIMIT = "2GB"
TIME_LIMIT = 60.0  # seconds
SMALLEST_MEMORY = 64_000_000  # bytes; DuckDB needs some for every thread before it does anything


def run_query(
    store_uri: str,
    text: str,
    *,
    at: int | str | None = None,
    memory_limit: str = MEMORY_LIMIT,
    time_limit: float = TIME_LIMIT,
    storage_options: dict[str, str] | None = None,
) -> QueryResult:
    """Run exactly one SELECT over a store's relations, in a process of its own.

    The process waits a minute for the next query once the result was read to its end.

    Args:
        store_uri: folder or object-store URI of the store.
        time_limit: seconds that the query may keep its reader waiting, all in all.
        storage_options: for an object store, as Lance takes them.
        The others are those of `Database.sql`.

    Raises:
        QueryError: the text was refused or failed, or a limit was met (also while iterating).
        UsageError: a limit is malformed.
        StoreError: the store cannot be opened.
    """
    session = SqlSession(
        store_uri,
        at=at,
        memory_limit=memory_limit,
        time_limit=time_limit,
        storage_options=storage_options,
    )
    try:
        return session.run(text, last=True)
    except BaseException:
        session.close()
        raise


ROWS_SHOWN = 20
"""Rows of a result that `print` and a notebook show."""


class QueryResult:
    """The rows of one query as they come: iterate for `pa.RecordBatch`, once.

    At most a batch is held on this side, or the first rows once they were shown. `close()` stops a
    query whose rest is not wanted; reading to the end, or dropping the result, does as well.
    """

    def __init__(
        self, schema: pa.Schema, process: QueryProcess, clock: Clock, *, last: bool
    ) -> None:
        self.schema = schema
        self._process, self._clock, self._last = process, clock, last
        self._ended = self._stopped = False
        self._error: BaseException | None = None
        self._ahead: deque[pa.RecordBatch] = deque()  # received to be shown, not yet given
        self._given = 0  # rows

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return self

    def __next__(self) -> pa.RecordBatch:
        """The next batch.

        Raises:
            QueryError: the query failed or met a limit on the way.
        """
        batch = self._ahead.popleft() if self._ahead else self._receive()
        if batch is None:
            raise StopIteration
        self._given += batch.num_rows
        return batch

    def read_all(self) -> pa.Table:
        """What is left of the result, in memory.

        Raises:
            QueryError: the query failed or met a limit on the way.
        """
        return pa.Table.from_batches(self, self.schema)

    def to_arrow(self) -> pa.Table:
        """All rows, as an Arrow table.

        Raises:
            UsageError: rows were read already, which come only once.
            QueryError: the query failed or met a limit on the way.
        """
        if self._given or self._stopped:
            raise UsageError(self._gone())
        return self.read_all()

    def to_polars(self) -> pl.DataFrame:
        """All rows, as a polars frame; errors as `to_arrow`."""
        import polars as pl

        return cast("pl.DataFrame", pl.from_arrow(self.to_arrow()))

    def to_pandas(self) -> Any:
        """All rows, as a pandas frame, where pandas is installed; errors as `to_arrow`."""
        if importlib.util.find_spec("pandas") is None:
            raise UsageError("pandas is not installed: install it, or take to_polars()")
        return self.to_arrow().to_pandas()

    def close(self) -> None:
        """Stop the query; nothing happens when it has ended."""
        if not self._ended:
            self._process.end()
            self._ended = self._stopped = True
            self._ahead.clear()

    def __del__(self) -> None:
        self.close()

    def __repr__(self) -> str:
        """The first rows as the command line shows them, and how many there are."""
        return self._shown(shutil.get_terminal_size().columns)

    def _repr_html_(self) -> str:
        try:
            cells, said = self._first_cells()
        except CoresetDBError as error:
            return html_text(f"the rows cannot be shown: {error}")
        if cells is None:
            return html_text(said)
        # Names need not be different, so they are no keys here.
        return html_cells(self.schema.names, cells) + html_text(said)

    def _shown(self, columns: int) -> str:
        from .table import fitted_lines

        try:
            cells, said = self._first_cells()
        except CoresetDBError as error:
            return f"the rows cannot be shown: {error}"
        if cells is None:
            return said
        lines, _ = fitted_lines(self.schema, cells, columns)
        return "\n".join([*lines, said])

    def _first_cells(self) -> tuple[list[list[str]] | None, str]:
        """The cells of the rows to be shown, None where they are gone, and a sentence on them.

        Raises:
            QueryError: the query failed or met a limit on the way.
        """
        from .table import cells_of

        while sum(batch.num_rows for batch in self._ahead) <= ROWS_SHOWN:
            batch = self._receive()
            if batch is None:
                break
            self._ahead.append(batch)
        left = sum(batch.num_rows for batch in self._ahead)
        if self._stopped or (self._given and not left):
            return None, self._gone()
        cells = list(islice((row for batch in self._ahead for row in cells_of(batch)), ROWS_SHOWN))
        count = count_of(left, "row")
        if left > ROWS_SHOWN:
            of = f"of {left:,} " if self._ended else ""
            count = f"the {'next' if self._given else 'first'} {ROWS_SHOWN} {of}rows"
        after = f", after {self._given:,} that were read already" if self._given else ""
        return cells, f"{count}{after}"

    def _gone(self) -> str:
        names = ", ".join(self.schema.names)
        if self._stopped:
            return f"this result ({names}) was closed; run the query again"
        return (
            f"{count_of(self._given, 'row')} of this result ({names}) "
            f"{'was' if self._given == 1 else 'were'} read already, and a result can be read only "
            "once; run the query again, and keep what to_arrow() or to_polars() returns"
        )

    def _receive(self) -> pa.RecordBatch | None:
        """The next batch from the process; None at the end."""
        if self._error:
            raise self._error
        if self._ended:
            return None
        try:
            kind, payload = self._process.answer(self._clock)
        except BaseException as error:
            self._error = error
            self._end()
            raise
        if kind == BATCH:
            return batch_from_bytes(payload)
        self._end()
        return None

    def _end(self) -> None:
        self._ended = True
        if self._last:
            _leave(self._process)


class SqlSession:
    """A warm process for one query after another over one store.

    The process starts with the session, so that it is warm by the time a person has typed, and
    waits a minute for another session once this one is closed. Every query sees the newest state of
    the store (of the pool: of the version `at`, where given).
    Arguments as for `run_query`; the limits hold for each query.
    """

    def __init__(
        self,
        store_uri: str,
        *,
        at: int | str | None = None,
        memory_limit: str = MEMORY_LIMIT,
        time_limit: float = TIME_LIMIT,
        storage_options: dict[str, str] | None = None,
    ) -> None:
        if not time_limit > 0:
            raise UsageError(f"time limit {time_limit:g}: it must be above zero seconds")
        if isinstance(at, int) and not 0 < at <= NEWEST_POSSIBLE:
            raise UsageError(f"{store_uri}: table pool has no version {at}")
        _memory_bytes(memory_limit)
        self._store: dict[str, Any] = {
            "store_uri": store_uri,
            "at": at,
            "storage_options": storage_options,
        }
        self._memory_limit, self._time_limit = memory_limit, time_limit
        self._process = _process_for(store_uri, memory_limit)
        self._closed = False
        self._result: QueryResult | None = None

    def run(self, text: str, *, last: bool = False) -> QueryResult:
        """Run one SELECT; an earlier result that is still being read is stopped.

        With `last`, the session is closed with the result.

        Raises:
            QueryError: the text was refused or failed, or a limit was met.
            StoreError: the store cannot be opened.
        """
        return self._ask({"text": text}, last)

    def run_filter(self, where: str, relation: str = "pool", *, last: bool = False) -> QueryResult:
        """The column `id` of those rows of a relation for which the expression `where` is true.

        Raises:
            QueryError: `where` is not one expression, failed, or met a limit.
            StoreError: the store cannot be opened.
        """
        return self._ask({"where": where, "relation": relation}, last)

    def schema(self, relation: str = "pool") -> pa.Schema:
        """The names and types of a relation's columns; errors as `run`."""
        return self.run(f"FROM {relation} LIMIT 0").read_all().schema

    def close(self) -> None:
        """Leave the process, and end it where it is amid a query; the second time does nothing."""
        if not self._closed:
            self._closed = True
            _leave(self._process)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, request: dict[str, Any], last: bool) -> QueryResult:
        if self._result is not None:
            self._result.close()
        if self._process.gone or self._closed:
            self._process = _process_for(self._store["store_uri"], self._memory_limit)
            self._closed = False
        clock = Clock.of(self._time_limit)
        schema = pa.ipc.read_schema(pa.py_buffer(self._process.ask(self._store | request, clock)))
        self._result = QueryResult(schema, self._process, clock, last=last)
        self._closed = last
        return self._result


def _memory_bytes(text: str) -> int:
    size = memory_bytes(text)
    if size < SMALLEST_MEMORY:
        raise UsageError(f"memory limit {text!r}: it must be at least 64MB")
    return size


FILTER_TIME_LIMIT = 600.0  # seconds; a filter may join the scores of a whole pool


def eligible_ids(
    store: Store,
    where: str,
    version: int | str | None = None,
    *,
    relation: Literal["pool", "removed"] = "pool",
    memory_limit: str = MEMORY_LIMIT,
    time_limit: float = FILTER_TIME_LIMIT,
) -> pa.Array:
    """The ids of the rows for which a DuckDB expression is true (not false, not null).

    The expression sees the columns of `pool` with its metadata fields, and every other relation
    through sub-selects. It runs as all SQL from outside does: in a process of its own, bounded.

    Args:
        store: an open store.
        where: such as "corpus = 'dolly' AND tokens < 512".
        version: version or tag of the pool; the newest by default.
        relation: whose rows; the pool's by default.

    Returns:
        (N,) string, each id once, in no promised order.

    Raises:
        QueryError: not one expression, an unknown column, a failure, or a limit that was met.
        StoreError: the store cannot be opened.
    """
    with SqlSession(
        store.place.uri,
        at=version,
        memory_limit=memory_limit,
        time_limit=time_limit,
        storage_options=store.place.options,
    ) as session:
        try:
            ids = session.run_filter(where, relation).read_all()["id"]
        except QueryError as error:
            if "Referenced column" not in str(error):
                raise
            columns = ", ".join(session.schema(relation).names)
            raise QueryError(f"{error}\nThe columns of {relation} are: {columns}") from error
    return pa.concat_arrays(ids.chunks) if ids.num_chunks else pa.array([], pa.string())
