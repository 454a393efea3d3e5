"""Keeping a store small: merge little fragments, drop old versions and what killed runs left."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from ..schemas.errors import StoreError
from ..schemas.plain_text import LinesResult, count_of
from . import catalog, locks, shards, underway
from .rows import bytes_per_row

if TYPE_CHECKING:
    import lance

    from .store import Store

log = logging.getLogger(__name__)

_READ_BYTES = 2 << 20  # per batch; the writer gathers batches into pages of 8 to 12 MB
_READ_ROWS = (64, 8192)
_DELETED_SHARE = 0.1  # of a fragment's rows, from which on it is written again
_LIST_BYTES = 64 << 20  # of whole rows: lists of unequal length cost memory, not pages


@dataclass(frozen=True)
class Cleaned:
    """What `clean` removed."""

    versions: int
    files: int
    bytes: int


@dataclass(frozen=True)
class Compacted(LinesResult):
    """What `compact_and_clean` did: fragments merged away, and what was removed."""

    merged: int
    versions: int
    files: int
    bytes: int

    def lines(self) -> list[str]:
        """Return what was done as one sentence."""
        return [
            f"merged away {count_of(self.merged, 'fragment')}, deleted "
            f"{count_of(self.versions, 'old version')} and {count_of(self.files, 'file')} "
            f"({self.bytes / 1e6:,.1f} MB)"
        ]


def compact_and_clean(store: Store, keep_hours: float) -> Compacted:
    """Merge small fragments, then drop what versions of the last `keep_hours` do not need.

    Raises:
        StoreBusyError: another process is writing.
    """
    merged = compact(store)
    cleaned = clean(store, older_than_seconds=keep_hours * 3600.0)
    return Compacted(merged, cleaned.versions, cleaned.files, cleaned.bytes)


def compact(store: Store, small_rows: int = 20_000) -> int:
    """Merge fragments of fewer than `small_rows` rows in every table.

    Ids, tags, old versions and indices stay; row addresses change.

    Returns:
        How many fragments went away.

    Raises:
        StoreBusyError: another process is writing.
    """
    with store.lock():
        return sum(_compact(store, table, small_rows) for table in store.tables())


def _rows_at_once(widest: int, whole: float) -> int:
    """Rows of a batch, from the bytes of the widest vector of a row and those of a whole row.

    A batch of lists must not outgrow 32-bit offsets either: TRIM's codes may be a megabyte a row.
    """
    least, most = _READ_ROWS
    fitting = min(_READ_BYTES // widest, int(_LIST_BYTES / max(whole, 1.0)))
    return min(most, max(least, fitting))


def bytes_on_disk(dataset: lance.LanceDataset) -> float:
    """Bytes of a row on disk, on average; lists are packed there, codes hardly."""
    fragments = dataset.get_fragments()
    size = sum(file.file_size_bytes or 0 for part in fragments for file in part.data_files())
    return size / max(1, sum(part.physical_rows for part in fragments))


def drop_deleted(store: Store, table: str, small_rows: int = 20_000) -> None:
    """Write the fragments of a table that hold deleted rows again, without them.

    Older versions, and the files they are made of, go with the next `clean`.

    Raises:
        StoreBusyError: another process is writing.
    """
    with store.lock():
        if has_deleted(store, table):
            _compact(store, table, small_rows, threshold=0.0)


def has_deleted(store: Store, table: str) -> bool:
    """Whether files of a table's newest version hold rows that were deleted from it."""
    return any(part.num_deletions for part in store.dataset(table).get_fragments())


def _compact(store: Store, table: str, small_rows: int, threshold: float = _DELETED_SHARE) -> int:
    dataset = store.dataset(table)
    fragments = dataset.get_fragments()
    small = [part for part in fragments if part.physical_rows < small_rows]
    if len(small) < 2 and not any(part.num_deletions for part in fragments):
        return 0
    if table != "files":
        store.checksums.note_missing(table, dataset)
    rows = _rows_at_once(bytes_per_row(dataset.schema), bytes_on_disk(dataset))
    done = store.change(
        table,
        f"compacting {table}",
        lambda dataset: dataset.optimize.compact_files(
            target_rows_per_fragment=small_rows,
            batch_size=rows,
            materialize_deletions_threshold=threshold,
        ),
    )
    if done.fragments_removed:
        log.info("%s: %d fragments became %d", table, done.fragments_removed, done.fragments_added)
    return done.fragments_removed - done.fragments_added


def clean(store: Store, older_than_seconds: float = 3600.0) -> Cleaned:
    """Remove untagged versions older than that, and every file no version names.

    The newest version and tagged ones stay, and so do the files they are made of. Readers that
    opened a version longer ago than `older_than_seconds` may fail.

    Raises:
        StoreBusyError: another process is writing.
    """
    versions = files = size = 0
    with store.lock():
        store.checksums.fold()
        tables = store.tables()
        for table in tables:
            dataset = store.dataset(table)
            try:
                done = dataset.cleanup_old_versions(
                    older_than=timedelta(seconds=max(older_than_seconds, 1e-6)),
                    delete_unverified=True,  # safe alone: nobody else is between write and commit
                    error_if_tagged_old_versions=False,
                )
            except OSError as error:
                raise StoreError(
                    f"cleaning {table}: {error}. Run `coresetdb verify {store.typed}`"
                ) from error
            versions += done.old_versions
            files += (
                done.data_files_removed + done.deletion_files_removed + done.index_files_removed
            )
            size += done.bytes_removed
        for trace in store.place.sizes(underway.FOLDER):  # of commands that were killed
            store.place.delete(trace)
        every = store.place.sizes("")
        folders = {f"{table}.lance" for table in tables}
        present = {path for path in every if path.split("/")[0] in folders}
        known = store.checksums.known()
        store.checksums.forget(
            path for path, note in known.items() if note.table != "files" and path not in present
        )
        for path in every.keys() - present:
            if path.endswith(".part"):
                store.place.delete(path)
        shards.remove_foreign_shards(
            store.place, [recipe.fingerprint for recipe in catalog.recipes(store).values()]
        )
        runs = store.dataset("runs").to_table(columns=["run"], filter="status = 'running'")
        locks.remove_stale_run_locks(store.place, runs["run"].to_pylist())
    return Cleaned(versions, files, size)
