"""Where chosen rows come from: counts of the values of a field, among the rows and in the pool."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from ..schemas.errors import UsageError, suggest
from ..schemas.ids import IdSet, keys_of
from ..store.sql.names import quoted

if TYPE_CHECKING:
    from ..store.sql.session import SqlSession
    from ..store.store import Store


@dataclass(frozen=True)
class Origin:
    """A value of a field as text (None where a row has none): rows among the picks and in all."""

    value: str | None
    picked: int
    pool: int


def origins(store: Store, ids: Sequence[str], version: int, field: str) -> list[Origin]:
    """Count the values of a field among some rows of the pool and in the whole of it.

    Args:
        ids: of the rows.
        version: of the pool.
        field: a column of the relation `pool` (docs/sql.md), metadata fields included.

    Returns:
        Every value, most picked first.

    Raises:
        UsageError: the pool has no such field, or it is not one value a row.
    """
    picks = IdSet(keys_of(pa.array(ids, pa.string())))
    picked, pool = Counter[str | None](), Counter[str | None]()
    with _session(store, version) as session:
        name = quoted(_column(store, session, field))
        for batch in session.run(f"SELECT id, {name}::VARCHAR AS value FROM pool"):
            values = batch.column("value")
            _count(pool, values)
            if len(picks):
                chosen = picks.contains(keys_of(batch.column("id")))
                _count(picked, values.filter(pa.array(chosen)))
    counted = [Origin(value, picked[value], rows) for value, rows in pool.items()]
    counted.sort(key=lambda each: (-each.picked, -each.pool, each.value is None, each.value or ""))
    return counted


def check_field(store: Store, field: str) -> None:
    """Refuse a field that the newest pool does not have, before anything is chosen.

    Raises:
        UsageError: as `origins`.
    """
    with _session(store) as session:
        _column(store, session, field)


def _session(store: Store, version: int | None = None) -> SqlSession:
    from ..store.sql.session import FILTER_TIME_LIMIT, SqlSession

    return SqlSession(
        store.place.uri,
        at=version,
        time_limit=FILTER_TIME_LIMIT,
        storage_options=store.place.options,
    )


def _column(store: Store, session: SqlSession, field: str) -> str:
    """Return the column of the relation `pool` that a field names, in whatever case."""
    schema = session.schema()
    known = {name.casefold(): name for name in schema.names}
    name = known.get(field.casefold())
    if name is None:
        fields = suggest(field, schema.names, f"coresetdb sql {store.typed} 'DESCRIBE pool'")
        raise UsageError(f"the pool of {store.uri} has no field {field!r}: {fields}")
    if pa.types.is_nested(schema.field(name).type):
        raise UsageError(f"{field}: rows have several values of it; name a plain field")
    return name


def _count(counts: Counter[str | None], values: pa.Array) -> None:
    for value in values.value_counts().to_pylist():
        counts[value["values"]] += value["counts"]
