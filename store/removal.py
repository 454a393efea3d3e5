"""Rows taken out of the pool and put back: tombstones, what a restore needs, unfinished business.

The table `removed` has a tombstone for every such row, and `removed_rows` all that the pool had of
it. A removal keeps the rows, then commits all tombstones at once ("leaving"), then deletes the rows
from the pool, then says "removed". A restore says "returning", inserts the rows, deletes what was
kept, then the tombstones. So a row that has a tombstone and stands in the pool tells by its state
which way it was going when a process was killed, and `settle` takes it there. Both hold the store
alone: an ingestion looks for tombstones and inserts under one lock, and never falls in between.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from ..schemas.errors import StoreBusyError
from ..schemas.ids import GrowingIdSet
from ..schemas.plain_text import count_of
from ..schemas.progress import Progress, Silence
from ..schemas.tables import POOL, REMOVED, literal
from . import layout
from .features import without_removed_columns
from .maintenance import bytes_on_disk
from .rows import key_column

if TYPE_CHECKING:
    from .store import Store

State = Literal["leaving", "removed", "returning", "purging", "purged"]

WAIT_SECONDS = 60.0
"""How long a removal waits for the commits of others."""

Returned = Callable[["Store", Sequence[str]], None]
"""Told the ids of restored rows once they are in the pool, and before the tombstones go: what has
to follow a restore is done again where a process was killed at it."""

_PART_BYTES = 64 << 20  # of rows that are kept or brought back at once
_PART_ROWS = 4096


UNSETTLED = ("leaving", "returning", "purging")
"""States of rows that are on their way."""


@dataclass(frozen=True)
class Tombstone:
    """That a row was taken out of the pool.

    Attributes:
        id: of the row.
        corpus: it was in.
        why: what was said as the reason, "" for nothing.
        removed_at: when.
        purged: whether nothing else is left of it.
    """

    id: str
    corpus: str
    why: str
    removed_at: datetime
    purged: bool


@contextmanager
def alone(store: Store, wait: float = WAIT_SECONDS) -> Iterator[None]:
    """Hold the store for a removal: no feature is being filled, no coreset recorded, nobody writes.

    Raises:
        StoreBusyError: a feature is being filled, or others did not let go within `wait` seconds.
    """
    with ExitStack() as stack:
        stack.enter_context(store.named_lock("names", wait=wait))
        try:
            stack.enter_context(store.named_lock("fill", wait=0.0))
        except StoreBusyError as error:
            raise StoreBusyError(store.uri, "featurized") from error
        stack.enter_context(store.lock(wait=wait))
        yield


def removed_ids(store: Store) -> GrowingIdSet:
    """Ids of all rows that were taken out of the pool, purged ones included."""
    ids = GrowingIdSet()
    ids.add(stones(store)["id"])
    return ids


def present_ids(store: Store) -> GrowingIdSet:
    """Ids that an ingestion has nothing to do for: of rows in the pool, and of rows taken out."""
    ids = store.known_ids()
    ids.add(stones(store)["id"])
    return ids


def tombstones(store: Store, ids: Sequence[str] | None = None) -> list[Tombstone]:
    """The tombstones there are, or those of some ids, in the order of removal."""
    rows = stones(store, ids)
    return [
        Tombstone(
            row["id"],
            row["corpus"] or "",
            row["why"] or "",
            row["removed_at"],
            row["state"] in ("purging", "purged"),
        )
        for row in rows.sort_by([("removed_at", "ascending"), ("id", "ascending")]).to_pylist()
        if row["state"] != "returning"
    ]


def remove(
    store: Store,
    corpora: Mapping[str, str],
    why: str = "",
    state: State = "leaving",
    progress: Progress | None = None,
) -> None:
    """Take rows out of the pool; the caller holds the store by `alone` and has settled it.

    Args:
        corpora: id -> corpus of the rows; those that the pool lacks get a tombstone alone.
        why: kept with the tombstones.
        state: "purging" to keep nothing of them; the pool is then left to `purge`.
        progress: receives news of rows that are kept.
    """
    store.make_missing("removed", "removed_rows")
    ids = list(corpora)
    if state == "leaving":
        _keep(store, ids, progress or Silence())
    count = len(ids)
    columns = {
        "id": pa.array(ids, pa.string()),
        "corpus": pa.array(corpora.values(), pa.string()),
        "why": pa.repeat(pa.scalar(why or None, pa.string()), count),
        "removed_at": pa.repeat(
            pa.scalar(datetime.now(UTC), REMOVED.field("removed_at").type), count
        ),
        "state": pa.repeat(pa.scalar(state, pa.string()), count),
    }
    put_stones(store, pa.table(columns, schema=REMOVED))
    store.sync()
    if state == "leaving":
        _leave(store, ids)


def restore(
    store: Store,
    ids: Sequence[str],
    progress: Progress | None = None,
    returned: Returned | None = None,
) -> int:
    """Put removed rows back as they were; of those that were purged only the tombstones go.

    The caller holds the store by `alone` and has settled it. Features that the store has had since
    are null in the rows, as in any that wait for a late feature.

    Args:
        ids: of the rows.
        progress: receives news of rows that are put back.
        returned: see there.

    Returns:
        How many rows are in the pool again.
    """
    rows = stones(store, ids)
    if not rows.num_rows:
        return 0
    set_state(store, rows, "returning")
    return _return(store, rows["id"].to_pylist(), progress or Silence(), returned)


def summary(store: Store) -> list[dict[str, Any]]:
    """The removed rows of each corpus and reason: how many, how many of them purged, when last."""
    groups: dict[tuple[str, str], list[Tombstone]] = {}
    for stone in tombstones(store):
        groups.setdefault((stone.corpus, stone.why), []).append(stone)
    return [
        {
            "corpus": corpus,
            "rows": len(group),
            "purged": sum(stone.purged for stone in group),
            "why": why,
            "removed": max(stone.removed_at for stone in group).isoformat(timespec="seconds"),
        }
        for (corpus, why), group in sorted(groups.items())
    ]


def settle(store: Store, returned: Returned | None = None) -> int:
    """Finish removals and restores that were killed; the caller holds the store by `alone`.

    Of a removal that was killed before its tombstones were written, the copies go. A copy without a
    tombstone whose row the pool lacks stays: it is all that is left of it (`verify --repair` writes
    the tombstone again).

    Args:
        returned: see there.

    Returns:
        How many rows were on their way.
    """
    if not layout.has_table(store.place, "removed"):
        return 0
    rows = stones(store)
    leaving, returning = in_state(rows, "leaving"), in_state(rows, "returning")
    if leaving.num_rows:
        _leave(store, leaving["id"].to_pylist())
    if returning.num_rows:
        _return(store, returning["id"].to_pylist(), Silence(), returned)
    if layout.has_table(store.place, "removed_rows"):
        kept = store.dataset("removed_rows").to_table(columns=["id"])["id"]
        if unmarked := _without(kept, rows["id"]):
            pool = store.dataset("pool").to_table(columns=["id"])["id"]
            copies = pool.filter(among(pool, unmarked)).combine_chunks()
            delete_rows(store, "removed_rows", copies)
    return leaving.num_rows + returning.num_rows


def unsettled(store: Store) -> dict[str, int]:
    """State -> rows that are on their way because a process was killed, or is at it."""
    if not layout.has_table(store.place, "removed"):
        return {}
    states = ", ".join(map(literal, UNSETTLED))
    rows = store.dataset("removed").to_table(columns=["state"], filter=f"state IN ({states})")
    return dict(Counter(rows["state"].to_pylist()))


def stones(store: Store, ids: Sequence[str] | None = None) -> pa.Table:
    """The table `removed`, or what it has of some ids; empty where an older store lacks it."""
    if not layout.has_table(store.place, "removed"):
        return REMOVED.empty_table()
    rows = store.dataset("removed").to_table(columns=REMOVED.names)
    return rows if ids is None else rows.filter(among(rows["id"], ids))


def in_state(rows: pa.Table, state: State) -> pa.Table:
    """Tombstones whose rows are in that state."""
    return rows.filter(pc.equal(rows["state"], state))  # pyright: ignore[reportAttributeAccessIssue]


def set_state(store: Store, rows: pa.Table, state: State) -> None:
    """Say of tombstones what became of their rows."""
    column = pa.repeat(pa.scalar(state, pa.string()), rows.num_rows)
    put_stones(store, rows.set_column(REMOVED.get_field_index("state"), "state", column))


def put_stones(store: Store, rows: pa.Table) -> None:
    """Write tombstones, in place of those of the same rows, in one commit."""
    rows = rows.cast(REMOVED).combine_chunks()
    store.change(
        "removed",
        "noting removed rows",
        lambda dataset: (
            dataset.merge_insert("id")
            .when_matched_update_all()
            .when_not_matched_insert_all()
            .execute(rows)
        ),
    )


def delete_rows(store: Store, table: str, ids: Sequence[str] | pa.Array) -> int:
    """Delete what a table has of the rows with these ids, in one commit; how many rows it had.

    Args:
        table: one with a column `id`, whether that is its key or not.
    """
    dataset = store.dataset(table)
    key = key_column(dataset.schema)
    rows = dataset.to_table(columns=list(dict.fromkeys([key, "id"])))
    doomed = rows.filter(among(rows["id"], ids)).select([key])
    if not doomed.num_rows:
        return 0
    doomed = doomed.cast(pa.schema([dataset.schema.field(key)])).combine_chunks()
    done = store.change(
        table,
        f"deleting from {table}",
        lambda dataset: dataset.merge_insert(key).when_matched_delete().execute(doomed),
    )
    return done["num_deleted_rows"]


def _leave(store: Store, ids: Sequence[str]) -> None:
    delete_rows(store, "pool", ids)
    set_state(store, stones(store, ids), "removed")


def _return(store: Store, ids: Sequence[str], progress: Progress, returned: Returned | None) -> int:
    kept = store.dataset("removed_rows")
    there = kept.to_table(columns=["id"])["id"]
    back = there.filter(among(there, ids)).to_pylist()
    schema = store.dataset("pool").schema
    columns, restored = [name for name in kept.schema.names if name in schema.names], 0
    for part in store.stream(back, columns, table="removed_rows", rows=_part_rows(kept)):
        store.insert("pool", without_removed_columns(part, schema))
        restored += part.num_rows
        if restored < len(back):
            progress.say(f"restored {restored:,} of {count_of(len(back), 'row')}")
    store.sync()
    if returned is not None:
        returned(store, ids)
    delete_rows(store, "removed_rows", back)
    delete_rows(store, "removed", ids)
    return len(back)


def _keep(store: Store, ids: Sequence[str], progress: Progress) -> None:
    """Write what the pool has of the rows to `removed_rows`."""
    pool = store.dataset("pool")
    there = pool.to_table(columns=["id"])["id"]
    present = there.filter(among(there, ids)).to_pylist()
    _align(store, pool.schema)
    kept = 0
    for part in store.stream(present, pool.schema.names, pool.version, rows=_part_rows(pool)):
        store.insert("removed_rows", part)
        kept += part.num_rows
        if kept < len(present):
            progress.say(f"kept {kept:,} of {count_of(len(present), 'row')} for a restore")


def _align(store: Store, pool: pa.Schema) -> None:
    """Give `removed_rows` the columns of the pool; those of features that are gone go there too."""
    kept = store.dataset("removed_rows").schema
    same = set(without_removed_columns(kept.empty_table(), pool).column_names)
    stale = [
        field.name
        for field in kept
        if field.name not in POOL.names
        and (field.name not in same or pool.field(field.name).type != field.type)
    ]
    if stale:
        store.change(
            "removed_rows",
            "dropping columns of removed_rows",
            lambda dataset: dataset.drop_columns(stale),
        )
    store.add_columns("removed_rows", [field for field in pool if field.name not in POOL.names])


def _part_rows(dataset: object) -> int:
    return max(1, min(_PART_ROWS, int(_PART_BYTES / max(bytes_on_disk(dataset), 1.0))))  # type: ignore[arg-type]


def among(values: pa.Array | pa.ChunkedArray, ids: Sequence[str] | pa.Array) -> pa.Array:
    """Which of the values are among the ids."""
    known = ids if isinstance(ids, pa.Array) else pa.array(ids, pa.string())
    return pc.is_in(values, value_set=known)  # pyright: ignore[reportAttributeAccessIssue]


def _without(values: pa.ChunkedArray, ids: pa.ChunkedArray) -> list[str]:
    there = pc.is_in(values, value_set=ids.combine_chunks())  # pyright: ignore[reportAttributeAccessIssue]
    return values.filter(pc.invert(there)).to_pylist()  # pyright: ignore[reportAttributeAccessIssue]
