"""The process that runs queries: one DuckDB connection per query, locked, bounded, read-only.

Started by `session.SqlSession` as a fresh interpreter (nothing is inherited but the environment);
it speaks `frames` on standard input and output. Nothing outside the store's own relations can be
reached: no files, no network, no extensions, no Python variables, no settings.

SQL from outside is exactly one SELECT that reads. DuckDB's own parser decides, not a pattern:
`extract_statements` counts and types the statements, `json_serialize_sql` gives the syntax tree.
The tree is needed because DuckDB types `WITH x AS (COPY ... TO ...) SELECT` as a SELECT.
"""

from __future__ import annotations

import json
import os
import queue
import re
import sys
import threading
import traceback
from collections.abc import Iterator
from typing import Any, BinaryIO

import duckdb
import pyarrow as pa

from ...schemas.child_process import claim_standard_streams, receive, send, send_json
from ...schemas.errors import CoresetDBError, DamagedStoreError, QueryError
from ...schemas.plain_text import first_line
from ..layout import read_config
from ..place import place_at, unopened
from .frames import BATCH, DONE, ERROR, READY, SCHEMA, batch_to_bytes
from .names import quoted
from .relations import register
from .unknown_names import mended

READING = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"}
"""The nodes of a syntax tree that read; INSERT_QUERY_NODE, COPY_QUERY_NODE and so on do not."""

REFUSED = {
    "query": "runs a text as SQL",
    "json_execute_serialized_sql": "runs a text as SQL",
    "create_external_resource": "changes the session",
    "register_external_resource": "changes the session",
    "register_external_resource_type": "changes the session",
    "deregister_external_resource": "changes the session",
    "destroy_external_resource": "runs a function by its name",
    "enable_logging": "changes the session",
    "disable_logging": "changes the session",
    "truncate_duckdb_logs": "changes the session",
    "write_log": "changes the session",
    "enable_profiling": "changes the session",
    "disable_profiling": "changes the session",
    "checkpoint": "changes the session",
    "force_checkpoint": "changes the session",
}
"""Functions that do more than read. Where they run the lock holds all the same: none of them got at
a file or a setting when tried, but what their text says is beyond the check of the syntax tree."""

_PIVOT = "; a PIVOT has to name its values, as in PIVOT pool ON corpus IN ('a', 'b') USING count(*)"


def sole_select(connection: duckdb.DuckDBPyConnection, text: str) -> str:
    """The one SELECT in `text` (DESCRIBE, SUMMARIZE, SHOW TABLES, FROM and VALUES are forms of it).

    Raises:
        QueryError: there is none, there are several statements, or it is of another kind.
    """
    statements = _parsed(connection, text)
    if not statements:
        raise QueryError("the query is empty: write one SELECT")
    if len(statements) > 1:
        raise QueryError(f"one SELECT at a time: the text holds {len(statements)} statements")
    statement = statements[0]
    kind = _kind(statement)
    if kind != "SELECT":
        raise QueryError(
            f"only SELECT is allowed here, and this is {kind}{_PIVOT if kind == 'MULTI' else ''}"
        )
    branches = list(_branches(_tree(connection, statement.query)))
    types = {each["type"] for each in branches if isinstance(each.get("type"), str)}
    writing = sorted(name for name in types - READING if name.endswith("_NODE"))
    if writing:
        raise QueryError(f"only SELECT is allowed here, and this holds {', '.join(writing)}")
    for branch in branches:
        name = str(branch.get("function_name", "")).casefold()
        if name in REFUSED:
            raise QueryError(f"{name}() is not allowed here: it {REFUSED[name]}")
    return statement.query


def filter_select(connection: duckdb.DuckDBPyConnection, where: str, relation: str = "pool") -> str:
    """The SELECT of the ids of a relation's rows for which the expression `where` is true.

    Raises:
        QueryError: `where` is not one expression (it closes the parenthesis it stands in, say).
    """
    if not where.strip():
        raise QueryError("the filter is empty: write an expression, such as tokens < 512")
    text = _ids_where(where, relation)
    statements = _parsed(connection, text)
    if len(statements) != 1 or _kind(statements[0]) != "SELECT":
        raise QueryError(f"a filter is one expression, such as tokens < 512: {where!r} is not")
    query = sole_select(connection, text)
    if _around(_tree(connection, query)) != _around(
        _tree(connection, _ids_where("true", relation))
    ):
        raise QueryError(f"a filter is one expression, such as tokens < 512: {where!r} is more")
    return query


def _ids_where(where: str, relation: str) -> str:
    """The SELECT of the ids of the rows that a filter passes."""
    # The filter stands on a line of its own: it may end in --
    return f"SELECT id FROM {quoted(relation)} WHERE (\n{where}\n)"


def _parsed(connection: duckdb.DuckDBPyConnection, text: str) -> list[duckdb.Statement]:
    try:
        return connection.extract_statements(text)
    except duckdb.Error as error:
        raise QueryError(str(error)) from error


def _tree(connection: duckdb.DuckDBPyConnection, query: str) -> dict[str, Any]:
    [row] = connection.execute("SELECT json_serialize_sql(?)", [query]).fetchall()
    tree = json.loads(row[0])
    if tree["error"]:
        raise QueryError(f"this query cannot be checked, so it is refused: {tree['error_message']}")
    return tree


def _kind(statement: duckdb.Statement) -> str:
    try:
        return statement.type.name
    except ValueError:  # kinds that DuckDB's Python face has no name for, such as UPDATE EXTENSIONS
        return "another kind of statement"


def _branches(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, list):
        for branch in tree:
            yield from _branches(branch)
    elif isinstance(tree, dict):
        yield tree
        yield from _branches(list(tree.values()))


def _around(tree: dict[str, Any]) -> dict[str, Any]:
    """A tree without its outermost WHERE: what a filter must leave as it is."""
    node = {**tree["statements"][0]["node"], "where_clause": None}
    return {**tree, "statements": [{**tree["statements"][0], "node": node}]}


ROWS_PER_BATCH = 2048  # DuckDB's own vector, so that wide text stays small in a frame

OUT_OF_MEMORY = "Out of Memory Error"  # how such an error of DuckDB begins

SLACK_BYTES = 1 << 30  # address space for Lance's buffers and the threads it starts
SLACK_BYTES_PER_CORE = 32 << 20


def main() -> None:
    """Serve queries until the owner closes its end or something unforeseen; never returns."""
    requests, channel = claim_standard_streams()
    settings = _json(receive(requests))
    waiting: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests, waiting), daemon=True).start()
    _restrict(settings["memory_bytes"])
    send(channel, READY)
    room = _mapped_bytes() + SLACK_BYTES
    try:
        while True:
            kind, answer = _answer(channel, settings | waiting.get())
            # What allocators keep mapped counts against the bound: then the next query is better
            # served by a fresh process.
            send_json(channel, kind, {**answer, "replace": _mapped_bytes() > room})
    except BaseException:  # the listening thread would keep the interpreter from ending by itself
        traceback.print_exc()
        os._exit(1)


def _listen(requests: BinaryIO, waiting: queue.SimpleQueue[dict[str, Any]]) -> None:
    """Pass requests on; when the owner is gone, so is this process, even amid a query."""
    while (frame := receive(requests)) is not None:
        waiting.put(_json(frame))
    os._exit(0)


def _json(frame: tuple[bytes, bytes] | None) -> dict[str, Any]:
    if frame is None:
        os._exit(0)
    return json.loads(frame[1])


def _restrict(memory_bytes: int) -> None:
    """No file can grow, no core is dumped, and the address space ends above DuckDB's own limit.

    DuckDB's limit leaves out what Lance, Arrow and some of its own functions allocate. Only Linux
    honours a bound on the address space; elsewhere DuckDB's own limit stands alone.
    """
    if sys.platform != "linux":
        return
    import resource

    # Thread stacks and pools are mapped only when first used, hence the slack per core.
    slack = SLACK_BYTES + SLACK_BYTES_PER_CORE * (os.cpu_count() or 1)
    bound = _mapped_bytes() + memory_bytes + slack
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _mapped_bytes() -> int:
    """The address space this process has in use; 0 where it is not bounded anyway."""
    if sys.platform != "linux":
        return 0
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")


# What DuckDB says where Lance could not read the table that it was given under this name.
_UNREAD = re.compile(
    r"reading the stream registered as '(?P<name>[a-z_]+)' failed.*(External error|Lance)"
)


def _answer(channel: BinaryIO, request: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
    """Send a query's rows; how it ended, as the last frame says it."""
    try:
        _stream(channel, request)
    except CoresetDBError as error:
        return _failed(type(error).__name__, str(error))
    except RecursionError:
        return _failed("QueryError", "the query is nested too deeply")
    except (duckdb.Error, pa.ArrowException, OSError, MemoryError) as error:
        # While rows stream, Arrow passes DuckDB's errors on as its own: only the text tells.
        hungry = isinstance(error, MemoryError) or OUT_OF_MEMORY in str(error)
        if not hungry and (table := _UNREAD.search(str(error))):
            place = place_at(request["store_uri"], request["storage_options"])
            name = table["name"].removesuffix("_table")
            of = {"features": "pool", "target_features": "targets"}.get(name, name)
            why = unopened(place, of, error, "cannot be read")
            return _failed(type(why).__name__, str(why))
        limit = request["memory_limit"]
        return _failed("QueryError", _out_of_memory(error, limit) if hungry else str(error))
    return DONE, {}


def _failed(kind: str, message: str) -> tuple[bytes, dict[str, Any]]:
    return ERROR, {"kind": kind, "message": message}


def _out_of_memory(error: BaseException, limit: str) -> str:
    detail = (str(error).splitlines() or [OUT_OF_MEMORY])[0]
    return (
        f"{detail}\nThe query needs more than its memory limit of {limit}: ask for fewer columns "
        "or rows at once, or raise the limit"
    )


def _stream(channel: BinaryIO, request: dict[str, Any]) -> None:
    connection = _connect(request["memory_bytes"])
    try:
        if "where" in request:
            query = filter_select(connection, request["where"], request["relation"])
        else:
            query = sole_select(connection, request["text"])
        place = place_at(request["store_uri"], request["storage_options"])
        read_config(place)  # is it a store, and of a layout that this version reads?
        try:
            register(connection, place, request["at"])
        except CoresetDBError:
            raise
        except (pa.ArrowException, OSError) as error:
            raise DamagedStoreError(
                f"{place.uri}: a table cannot be read ({first_line(error)}). Run `coresetdb "
                f"verify {place.typed} --repair`"
            ) from error
        connection.execute("SET lock_configuration = true")
        try:
            bound = _bound(connection, query)
        except (duckdb.BinderException, duckdb.CatalogException) as error:
            raise QueryError(mended(connection, place, str(error))) from error
        reader = bound.to_arrow_reader(ROWS_PER_BATCH)
        schema = pa.schema(
            [
                field.with_name(name)
                for field, name in zip(
                    reader.schema, unique_names(reader.schema.names), strict=True
                )
            ]
        )
        send(channel, SCHEMA, schema.serialize())
        for batch in reader:
            send(channel, BATCH, batch_to_bytes(batch.rename_columns(schema.names)))
    finally:
        connection.close()


def _bound(connection: duckdb.DuckDBPyConnection, query: str) -> duckdb.DuckDBPyRelation:
    try:
        return connection.sql(query)  # unlike `execute`, it streams what it finds
    except (duckdb.BinderException, duckdb.CatalogException):
        connection.execute(query)  # fails alike, and says at which line and word
        raise


def _connect(memory_bytes: int) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(
        ":memory:",
        config={
            "autoload_known_extensions": "false",
            "autoinstall_known_extensions": "false",
            "allow_community_extensions": "false",
            "python_enable_replacements": "false",
            "memory_limit": f"{memory_bytes >> 10}KiB",
            "temp_directory": "",
            "home_directory": "/",  # where things lie on this machine is nobody's business
            "secret_directory": "/",
        },
    )
    # Given with the others above, it would leave files named `:memory:` open to queries.
    connection.execute("SET enable_external_access = false")
    return connection


def unique_names(names: list[str]) -> list[str]:
    """Column names made different: a second `n` becomes `n_1`, or the next that is free."""
    taken: set[str] = set()
    result: list[str] = []
    for name in names:
        number, candidate = 0, name
        while candidate in taken or (number and candidate in names):
            number += 1
            candidate = f"{name}_{number}"
        taken.add(candidate)
        result.append(candidate)
    return result
