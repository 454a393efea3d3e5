"""Which rows of the pool a WHERE expression lets through."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from ..schemas.errors import QueryError
from .sql import MEMORY_LIMIT, SqlSession

if TYPE_CHECKING:
    from .store import Store

FILTER_TIME_LIMIT = 600.0  # seconds; a filter may join the scores of a whole pool


def eligible_ids(
    store: Store,
    where: str,
    version: int | str | None = None,
    *,
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
            ids = session.run_filter(where).read_all()["id"]
        except QueryError as error:
            if "Referenced column" not in str(error):
                raise
            columns = ", ".join(session.run("FROM pool LIMIT 0").schema.names)
            raise QueryError(f"{error}\nThe columns of pool are: {columns}") from error
    return pa.concat_arrays(ids.chunks) if ids.num_chunks else pa.array([], pa.string())
