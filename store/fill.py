"""Filling a column that was declared after its rows: which rows wait for it, and the commits.

A fragment is filled by one new data file for the columns in question, written from the shards in
batches, and an `Update` commit. That conflicts with nothing but changes to the same fragment; then
the fragment is written again from the newest version. `update_columns` would do the same with the
whole column in memory.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from ..schemas.errors import StoreBusyError
from ..schemas.recipe import Recipe
from . import rows as incoming
from .commits import lost_race
from .rows import key_column

if TYPE_CHECKING:
    import lance

    from .store import Store

_BATCH_BYTES = 2 << 20  # of the widest column; the writer gathers batches into pages of 8 MB
_BATCH_ROWS = (64, 8192)
_SCAN_BYTES = 64 << 20  # lists of unequal length may be a megabyte a row
_OFFSET = 0xFFFFFFFF  # of a row address; the fragment's number stands above
_TOMBSTONE = -2  # a field of a data file that a later file of the fragment replaces


class RowValues(Protocol):
    """Values of a recipe's columns for rows known by their ids: finished shards, or a file's."""

    @property
    def recipe(self) -> Recipe: ...
    def positions(self, ids: pa.Array) -> np.ndarray:
        """Where each id stands, (len(ids),) int64; -1 for a row that keeps what it has."""
        ...

    def take(self, positions: np.ndarray) -> pa.Table:
        """The recipe's columns at `positions` (none of them -1), in that order."""
        ...

    def row_bytes(self) -> int:
        """Bytes of the widest column of a row (at least 1)."""
        ...

    def forget(self, ids: pa.Array) -> None:
        """Let go of rows that stand in the pool now."""
        ...


@contextmanager
def fill_lock(store: Store) -> Iterator[None]:
    """Hold the lock for filling features; compaction, cleaning and repair wait.

    Raises:
        StoreBusyError: another process is filling features or maintains the store.
    """
    with only_filler(store), store.lock(shared=True, wait=60.0):
        yield


@contextmanager
def only_filler(store: Store) -> Iterator[None]:
    """Keep others from filling features, and nobody from anything else.

    Raises:
        StoreBusyError: another process is filling features.
    """
    with ExitStack() as held:
        try:
            held.enter_context(store.named_lock("fill", wait=0.0))
        except StoreBusyError as error:
            raise StoreBusyError(store.uri, "featurized") from error
        yield


def unfilled(
    dataset: lance.LanceDataset, fragment: lance.LanceFragment, recipe: Recipe
) -> Iterator[tuple[pa.Array, np.ndarray]]:
    """The rows of a fragment that have neither a value nor a reason.

    Returns:
        Keys and row addresses (uint64), in batches, in the fragment's order.
    """
    schema, key = dataset.schema, key_column(dataset.schema)
    if not _has_file(dataset, fragment, recipe.columns):
        scanner = fragment.scanner(columns=[key], with_row_address=True)
        for batch in scanner.to_batches():
            yield batch[key], batch["_rowaddr"].to_numpy()
        return
    # Scalars first: only by reading a vector is it known to be null.
    nested = [name for name in recipe.columns if pa.types.is_nested(schema.field(name).type)]
    flat = [name for name in recipe.columns if name not in nested]
    scanner = fragment.scanner(
        columns=[key, *nested],
        filter=" AND ".join(f"`{name}` IS NULL" for name in flat),
        with_row_address=True,
        batch_size=_rows_per_batch(incoming.bytes_per_row(schema)),
        batch_size_bytes=_SCAN_BYTES,
    )
    for batch in scanner.to_batches():
        empty = np.ones(batch.num_rows, bool)
        for name in nested:
            empty &= batch[name].is_null().to_numpy(zero_copy_only=False)
        yield batch[key].filter(pa.array(empty)), batch["_rowaddr"].to_numpy()[empty]


def count_unfilled(dataset: lance.LanceDataset, recipe: Recipe) -> int:
    """How many rows of a table have neither a value nor a reason."""
    count = 0
    for fragment in dataset.get_fragments():
        if _has_file(dataset, fragment, recipe.columns):
            count += sum(len(keys) for keys, _ in unfilled(dataset, fragment, recipe))
        else:
            count += fragment.count_rows()
    return count


def fill(store: Store, numbers: Sequence[int], shards: Sequence[RowValues]) -> int:
    """Fill fragments of the pool with what the shards hold of their rows, in one commit.

    Fragments that no longer exist (compacted, deleted) are passed over: rows of them that remain
    are in other fragments. Existing values stay.

    Returns:
        How many rows got a value or a reason.

    Raises:
        StoreError: other writers committed first every time, or the disk is full.
    """

    def write_and_commit(dataset: lance.LanceDataset) -> list[_Written]:
        import lance

        fragments = {part.fragment_id: part for part in dataset.get_fragments()}
        written: list[_Written] = []
        files: list[str] = []
        committing = False
        try:
            for part in [fragments[number] for number in numbers if number in fragments]:
                files.append(f"{uuid.uuid4().hex}.lance")
                fragment = _write(store, dataset, part, shards, files[-1])
                if fragment is not None:
                    written.append(fragment)
            if not written:
                return []
            operation = lance.LanceOperation.Update(
                updated_fragments=[fragment.metadata for fragment in written],
                fields_modified=sorted(
                    {field for fragment in written for field in fragment.fields}
                ),
                update_mode="rewrite_columns",
            )
            committing = True
            lance.LanceDataset.commit(
                dataset.uri,
                operation,
                read_version=dataset.version,
                storage_options=store.place.options,
            )
        except OSError as error:
            # After any other error (a broken connection) the commit may have succeeded, and its
            # files must stay; `clean` removes files that no version names.
            if not committing or lost_race(error):
                for name in files:
                    store.place.delete(f"pool.lance/data/{name}")
            raise
        return written

    written = store.change("pool", "filling a feature", write_and_commit)
    for fragment in written:
        for shard in shards:
            shard.forget(fragment.ids)
    return sum(len(fragment.ids) for fragment in written)


def amend(store: Store, table: str, rows: pa.Table) -> None:
    """Set some columns of the rows with these keys; keys that no longer exist are passed over.

    For small tables: the columns of each fragment touched are written anew.

    Raises:
        StoreError: a column does not fit, a vector is not sound, or the commit failed.
    """

    with store.lock(shared=True):
        schema = store.dataset(table).schema
        key = key_column(schema)
        changed = pa.schema([schema.field(name) for name in rows.column_names])
        values = incoming.conform(table, rows, changed)
        incoming.check_vectors(table, values, key)
        store.change(
            table,
            f"writing to {table}",
            lambda dataset: dataset.merge_insert(key).when_matched_update_all().execute(values),
        )


@dataclass(frozen=True)
class _Written:
    """A fragment as it will be with its new data file."""

    metadata: Any
    fields: list[int]
    ids: pa.Array  # of the rows the shards held


def _write(
    store: Store,
    dataset: lance.LanceDataset,
    fragment: lance.LanceFragment,
    shards: Sequence[RowValues],
    name: str,
) -> _Written | None:
    """Write what the shards hold of a fragment's rows to a file; None where they hold nothing."""
    from lance.file import LanceFileWriter
    from lance.fragment import DataFile

    live = fragment.scanner(columns=["id"], with_row_address=True).to_table()
    ids = live["id"].combine_chunks()
    places = [(shard, shard.positions(ids)) for shard in shards]
    places = [(shard, where) for shard, where in places if (where >= 0).any()]
    if not places:
        return None
    offsets = (live["_rowaddr"].to_numpy() & _OFFSET).astype(np.int64)
    columns = [name for shard, _ in places for name in shard.recipe.columns]
    schema = pa.schema([dataset.schema.field(name) for name in columns])
    step = _rows_per_batch(max(shard.row_bytes() for shard, _ in places))
    with LanceFileWriter(
        f"{store.place.table_uri('pool')}/data/{name}",
        schema,
        version=dataset.data_storage_version,
        storage_options=store.place.options,
    ) as writer:
        physical = fragment.metadata.physical_rows
        for start in range(0, physical, step):
            count = min(step, physical - start)
            first, last = np.searchsorted(offsets, (start, start + count))
            rows = np.full(count, -1, np.int64)  # deleted rows have a place in the file
            rows[offsets[first:last] - start] = np.arange(last - first)
            arrays = []
            for shard, where in places:
                arrays += _batch(dataset, fragment, shard, where[first:last], first, rows)
            writer.write_batch(pa.record_batch(arrays, schema=schema))
    file = DataFile.create(dataset, name)
    metadata = fragment.metadata
    for older in metadata.files:
        older.fields = [_TOMBSTONE if field in file.fields else field for field in older.fields]
    used = [older for older in metadata.files if any(field >= 0 for field in older.fields)]
    metadata.files = [*used, file]
    filled = np.any([where >= 0 for _, where in places], axis=0)
    return _Written(metadata, file.fields, ids.filter(pa.array(filled)))


def _batch(
    dataset: lance.LanceDataset,
    fragment: lance.LanceFragment,
    shards: RowValues,
    where: np.ndarray,
    first: int,
    rows: np.ndarray,
) -> list[pa.Array]:
    """One recipe's columns of a batch of physical rows.

    Args:
        where: positions in the shards of the live rows of the batch, -1 where they lack one.
        first: how many live rows of the fragment stand before the batch.
        rows: per physical row its number among the live ones of the batch, -1 for deleted rows.
    """
    columns, in_shards = list(shards.recipe.columns), where >= 0
    table = shards.take(where[in_shards])
    source = np.full(len(where), -1, np.int64)
    source[in_shards] = np.arange(in_shards.sum())
    if not in_shards.all() and _has_file(dataset, fragment, columns):
        stored = fragment.scanner(columns=columns, offset=first, limit=len(where)).to_table()
        source[~in_shards] = len(table) + np.flatnonzero(~in_shards)
        table = pa.concat_tables([table, stored.cast(table.schema)])
    places = np.where(rows >= 0, source[rows], -1) if len(source) else rows
    rows_of_batch = table.take(pa.array(places, mask=places < 0))
    return [rows_of_batch[name].combine_chunks() for name in columns]


def _has_file(
    dataset: lance.LanceDataset, fragment: lance.LanceFragment, columns: Sequence[str]
) -> bool:
    """Whether any of the columns was ever written for a fragment; else all of them are null."""
    ids: set[int] = set()
    for field in dataset.lance_schema.fields():
        if field.name() in columns:
            ids |= _field_ids(field)
    return any(not ids.isdisjoint(file.fields) for file in fragment.metadata.files)


def _field_ids(field: Any) -> set[int]:
    return {field.id()}.union(*(_field_ids(child) for child in field.children()))


def _rows_per_batch(row_bytes: int) -> int:
    least, most = _BATCH_ROWS
    return min(most, max(least, _BATCH_BYTES // max(1, row_bytes)))
