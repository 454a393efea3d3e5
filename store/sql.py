"""SQL from outside: one SELECT, in a process of its own, bounded in memory and in time.

    with SqlSession("pool") as session:
        for batch in session.run("SELECT corpus, count(*) FROM pool GROUP BY corpus"):
            ...

The process is warm: it is started once, serves one query after another, and is replaced when a
query had to be stopped. This side imports neither DuckDB nor Lance.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import pyarrow as pa

from ..schemas.errors import UsageError
from ..schemas.memory import memory_bytes
from .sql_frames import BATCH, batch_from_bytes
from .sql_process import Clock, QueryProcess

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
    """Run exactly one SELECT over a store's relations, in a process that ends with the result.

    Args:
        store_uri: folder or object-store URI of the store.
        text: SQL; docs/sql.md lists the relations.
        at: version or tag of the pool to look at; the newest by default.
        memory_limit: such as "2GB" or "512MiB".
        time_limit: seconds that the query may keep its reader waiting, all in all.
        storage_options: for an object store, as Lance takes them.

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


class QueryResult:
    """The rows of one query as they come: iterate for `pa.RecordBatch`, once.

    At most a batch is held on this side. `close()` stops a query whose rest is not wanted;
    reading to the end, or dropping the result, does as well.
    """

    def __init__(
        self, schema: pa.Schema, process: QueryProcess, clock: Clock, *, last: bool
    ) -> None:
        self.schema = schema
        self._process, self._clock, self._last = process, clock, last
        self._ended = False

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return self

    def __next__(self) -> pa.RecordBatch:
        """The next batch.

        Raises:
            QueryError: the query failed or met a limit on the way.
        """
        if self._ended:
            raise StopIteration
        try:
            kind, payload = self._process.answer(self._clock)
        except BaseException:
            self._end()
            raise
        if kind == BATCH:
            return batch_from_bytes(payload)
        self._end()
        raise StopIteration

    def read_all(self) -> pa.Table:
        """What is left of the result, in memory.

        Raises:
            QueryError: the query failed or met a limit on the way.
        """
        return pa.Table.from_batches(self, self.schema)

    def close(self) -> None:
        """Stop the query; nothing happens when it has ended."""
        if not self._ended:
            self._process.end()
            self._ended = True

    def __del__(self) -> None:
        self.close()

    def _end(self) -> None:
        self._ended = True
        if self._last:
            self._process.end()


class SqlSession:
    """A warm process for one query after another over one store.

    The process starts with the session, so that it is warm by the time a person has typed. Every
    query sees the newest state of the store (of the pool: of the version `at`, where given).
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
        self._settings: dict[str, Any] = {
            "store_uri": store_uri,
            "at": at,
            "memory_limit": memory_limit,
            "memory_bytes": _memory_bytes(memory_limit),
            "storage_options": storage_options,
        }
        self._time_limit = time_limit
        self._process = QueryProcess(self._settings)
        self._result: QueryResult | None = None

    def run(self, text: str, *, last: bool = False) -> QueryResult:
        """Run one SELECT; an earlier result that is still being read is stopped.

        With `last`, the process ends with the result.

        Raises:
            QueryError: the text was refused or failed, or a limit was met.
            StoreError: the store cannot be opened.
        """
        return self._ask({"text": text}, last)

    def run_filter(self, where: str, *, last: bool = False) -> QueryResult:
        """The column `id` of those rows of the pool for which the expression `where` is true.

        Raises:
            QueryError: `where` is not one expression, failed, or met a limit.
            StoreError: the store cannot be opened.
        """
        return self._ask({"where": where}, last)

    def close(self) -> None:
        """End the process, amid a query if there is one."""
        self._process.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, request: dict[str, Any], last: bool) -> QueryResult:
        if self._result is not None:
            self._result.close()
        if self._process.gone:
            self._process = QueryProcess(self._settings)
        clock = Clock.of(self._time_limit)
        schema = pa.ipc.read_schema(pa.py_buffer(self._process.ask(request, clock)))
        self._result = QueryResult(schema, self._process, clock, last=last)
        return self._result


def _memory_bytes(text: str) -> int:
    size = memory_bytes(text)
    if size < SMALLEST_MEMORY:
        raise UsageError(f"memory limit {text!r}: it must be at least 64MB")
    return size
