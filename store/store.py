"""A store: Lance tables under one root, opened, extended and read.

Rows enter by insert-if-absent on each table's declared key, in bounded commits (a coreset's by one
append, under the lock of its name); every commit is a version. Only pylance writes; LanceDB, polars
and others open the same tables.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from ..schemas.errors import DamagedStoreError, StoreError, UsageError
from ..schemas.ids import GrowingIdSet
from ..schemas.plain_text import first_line
from ..schemas.tables import NEWER_TABLES, NEWEST_POSSIBLE, TABLES
from . import layout, underway
from . import rows as incoming
from .checksums import Checksums, version_files
from .commits import committed
from .locks import StoreLock
from .place import Place, place_at, put_tag, unopened
from .reads import guarded
from .rows import HeldKeys, key_column, offsets_of

if TYPE_CHECKING:
    import lance

log = logging.getLogger(__name__)

WRITER_WAIT_SECONDS = 600.0
"""How long a writer waits for maintenance to let go of the store."""

Result = TypeVar("Result")

_DIGEST_KEYS = ("id", "key")  # keys of 32 hexadecimal digits, which a set of ids can hold


class Store:
    """One store, as one process uses it.

    Attributes:
        uri: absolute local path or `s3://` address.
        typed: the same as a person types it into a shell.
        config: what was written at creation (JSON values).
    """

    def __init__(self, place: Place, config: dict[str, Any]) -> None:
        self.place, self.config = place, config
        self.uri, self.typed = place.uri, place.typed
        self.checksums = Checksums(place)
        self.locking = StoreLock(place)
        self._held: dict[str, HeldKeys] = {}
        self._complete: set[str] = set()

    # -- life --------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        uri: str,
        config: dict[str, Any],
        pool_features: Sequence[pa.Field] = (),
        target_features: Sequence[pa.Field] = (),
        storage_options: dict[str, str] | None = None,
    ) -> Store:
        """Make an empty store; one whose creation was interrupted is finished.

        Raises:
            UsageError: there is a store already, or a file is in the way, or the folder holds
                something else.
            StoreError: the place cannot be reached or written.
        """
        place = place_at(uri, storage_options)
        layout.require_writable_name(place)
        if place.local:
            _make_folder(place)
        layout.require_free(place)
        store = cls(place, config)
        with store.lock():
            underway.begin(place)
            for table in layout.make_tables(place, config, pool_features, target_features):
                if table == "files":
                    store.checksums.seal()
                else:
                    store.checksums.note(table, version_files(table, store.dataset(table)))
            store.sync()
        return store

    @staticmethod
    def require_free(uri: str, storage_options: dict[str, str] | None = None) -> None:
        """Make sure that nothing stands at `uri` that `create` would refuse; make nothing."""
        place = place_at(uri, storage_options)
        layout.require_writable_name(place)
        if place.local:
            root = Path(place.root)
            nearest = next(path for path in (root, *root.parents) if path.exists())
            if not nearest.is_dir():
                raise _file_in_the_way(place)
        layout.require_free(place)

    @classmethod
    def open(cls, uri: str, storage_options: dict[str, str] | None = None) -> Store:
        """Open the store at a path or `s3://` address.

        Raises:
            StoreNotFoundError: there is none, or its creation was interrupted.
            LayoutError: a newer coresetdb wrote it.
            DamagedStoreError: it does not open.
            StoreError: it cannot be reached.
        """
        place = place_at(uri, storage_options)
        return cls(place, layout.read_config(place))

    def configure(self, **changes: Any) -> None:
        """Change what the store says of itself (JSON values); other keys stay."""

        def write(pool: lance.LanceDataset) -> None:
            config = {**layout.read_config(self.place), **changes}
            pool.update_schema_metadata({layout.CONFIG_KEY: layout.config_text(config)})
            self.config = config

        self.change("pool", "changing the configuration", write)

    # -- reading -----------------------------------------------------------------------------

    def tables(self) -> list[str]:
        """The tables there are: `TABLES`, less those that an older coresetdb did not make."""
        return layout.tables_at(self.place)

    def dataset(self, table: str, version: int | str | None = None) -> lance.LanceDataset:
        """A table at a version or tag; the newest one when none is named.

        Raises:
            UsageError: there is no such table or version.
            DamagedStoreError: the newest version does not open.
            StoreError: the table cannot be reached.
        """
        import lance

        if table not in TABLES:
            raise UsageError(f"there is no table {table!r}; a store has {', '.join(TABLES)}")
        if isinstance(version, int) and not 0 < version <= NEWEST_POSSIBLE:
            raise UsageError(f"{self.uri}: table {table} has no version {version}")
        try:
            dataset = lance.dataset(
                self.place.table_uri(table),
                version=version,
                storage_options=self.place.options,
            )
            if key_column(TABLES[table]) not in dataset.schema.names:
                raise ValueError("its manifest names no columns")
            return guarded(dataset, self.place, table)
        except (OSError, ValueError) as error:
            if table in NEWER_TABLES and not layout.has_table(self.place, table):
                raise UsageError(
                    f"{self.uri}: an older coresetdb made this store, and no row was removed from "
                    f"it yet: there is no table {table}"
                ) from error
            why = unopened(self.place, table, error)
            if version is None or not isinstance(why, DamagedStoreError):
                raise why from error
            raise UsageError(f"{self.uri}: table {table} has no version {version!r}") from error

    def version(self, table: str = "pool") -> int:
        """The number of a table's newest version."""
        return self.dataset(table).version

    def take(
        self,
        ids: Sequence[str],
        columns: Sequence[str],
        version: int | str | None = None,
        table: str = "pool",
    ) -> pa.Table:
        """The rows with these keys, in the order given (a key given twice comes twice).

        Raises:
            StoreError: some keys are not in that version; names the first of them.
        """
        dataset = self.dataset(table, version)
        return dataset.take(offsets_of(dataset, self.uri, table, ids), columns=list(columns))

    def stream(
        self,
        ids: Sequence[str],
        columns: Sequence[str],
        version: int | str | None = None,
        table: str = "pool",
        rows: int = 1000,
    ) -> Iterator[pa.Table]:
        """What `take` gives in parts of at most `rows`; the keys are looked for only once.

        Raises:
            StoreError: as `take`, before the first part.
        """
        dataset = self.dataset(table, version)
        offsets = offsets_of(dataset, self.uri, table, ids)
        for start in range(0, len(offsets), rows):
            yield dataset.take(offsets[start : start + rows], columns=list(columns))

    def known_ids(self, table: str = "pool") -> GrowingIdSet:
        """The keys a table holds now, in memory (16 bytes each, shared with `insert`)."""
        return self._held.setdefault(table, HeldKeys()).refresh(self.dataset(table)).copy()

    # -- writing -----------------------------------------------------------------------------

    def insert(self, table: str, rows: pa.Table) -> int:
        """Insert the rows whose key the table lacks; of equal keys among them the first counts.

        Commits of at most 10,000 rows; between two of them the table is as a reader may see it.
        Safe beside any other writer, safe to repeat. On a local disk writers take turns, so that
        looking a key up does not read those of the whole table again at each commit. An object
        store knows no lock that a process cannot lose unnoticed: there Lance joins rows and table,
        in commits of at most 8 MB of the widest column.

        Returns:
            How many rows were really inserted.

        Raises:
            StoreError: columns or types do not fit, a vector is not sound, or the commit failed.
        """
        key = key_column(TABLES[table])
        with self.lock(shared=True):
            newest = self._ready(table)
            fitting = incoming.conform(table, rows, newest.schema)
            fresh = self._absent(table, newest, incoming.distinct(fitting, key, "first"), key)
            incoming.check_vectors(table, fresh, key)
            if key in _DIGEST_KEYS and self.place.local and len(fresh):
                return self._insert_in_turn(table, fresh, key, newest.version)
            return sum(
                self._merge(table, part, key, update=False) for part in incoming.parts(fresh)
            )

    def append(self, table: str, rows: pa.Table) -> None:
        """Add rows whose keys differ and are not in the table, in one commit, unchecked.

        The caller made sure of that: it deleted the rows of these keys under a lock that every
        writer of such rows takes. (On an object store a process that was suspended may have lost
        its lock unnoticed; the rows it then appends are there twice.)

        Raises:
            StoreError: as `insert`.
        """
        with self.lock(shared=True):
            fitting = incoming.conform(table, rows, self._ready(table).schema)
            incoming.check_vectors(table, fitting, key_column(TABLES[table]))
            if len(fitting):
                self._append(table, fitting)

    def upsert(self, table: str, rows: pa.Table) -> None:
        """Insert rows or replace those with the same key; for small tables, not for the pool."""
        key = key_column(TABLES[table])
        with self.lock(shared=True):
            fitting = incoming.conform(table, rows, self._ready(table).schema)
            incoming.check_vectors(table, fitting, key)
            for part in incoming.parts(incoming.distinct(fitting, key, "last")):
                self._merge(table, part, key, update=True)

    def delete(self, table: str, where: str) -> int:
        """Delete the rows a Lance filter names; returns how many there were."""
        with self.lock(shared=True):
            if not self._ready(table).count_rows(filter=where):
                return 0
            return self.change(
                table,
                f"deleting from {table}",
                lambda dataset: dataset.delete(where)["num_deleted_rows"],
            )

    def add_columns(self, table: str, fields: Sequence[pa.Field]) -> None:
        """Declare columns, all null; those that exist with the same type are left alone.

        Raises:
            StoreError: a column of that name has another type.
        """

        def add_missing(dataset: lance.LanceDataset) -> None:
            new = []
            for field in fields:
                if field.name not in dataset.schema.names:
                    new.append(field)
                elif dataset.schema.field(field.name).type != field.type:
                    raise StoreError(
                        f"table {table} has a column {field.name!r} of type "
                        f"{dataset.schema.field(field.name).type}, not {field.type}"
                    )
            if new:
                dataset.add_columns(new)

        with self.lock(shared=True):
            self._ready(table)
            self.change(table, f"adding columns to {table}", add_missing)

    def make_missing(self, *tables: str) -> None:
        """Make tables (of `NEWER_TABLES`) that an older coresetdb did not make; held alone."""
        for table in tables:
            if not layout.has_table(self.place, table):
                layout.make_newer(self.place, table)
                self.checksums.note(table, version_files(table, self.dataset(table)))

    def change(
        self, table: str, what: str, action: Callable[[lance.LanceDataset], Result]
    ) -> Result:
        """Change a table: the one way in which everything is committed to a store.

        `action(dataset)` runs on the newest version, under the writers' lock, and again after a
        race that was lost to another writer. Then the checksums of the files it added are noted.

        Args:
            what: is being done, such as "adding columns to pool", for errors.
            action: commits once at most; more often only where the caller holds the store alone.

        Returns:
            What `action` returned.

        Raises:
            StoreError: other writers were quicker every time, the disk is full, or Lance refused.
            StoreBusyError: maintenance kept the store for ten minutes.
        """

        def attempt() -> tuple[lance.LanceDataset, int, Result]:
            dataset = self.dataset(table)
            before = dataset.version
            return dataset, before, action(dataset)

        with self.lock(shared=True):
            underway.begin(self.place)
            dataset, before, result = committed(what, attempt)
            if dataset.version == before:  # nothing was committed, or by another handle
                dataset = self.dataset(table)
            elif not self.locking.alone:  # others may have committed in between, and note their own
                before = dataset.version - 1
            if table == "files":
                self.checksums.seal()
            elif dataset.version > before:
                self.checksums.note(table, version_files(table, dataset, since=before))
        return result

    def _ready(self, table: str) -> Any:
        """The newest dataset; before a table's first write, its unnoted files are noted."""
        newest = self.dataset(table)
        if table not in self._complete:
            self.checksums.note_missing(table, newest)
            self._complete.add(table)
        return newest

    def _absent(self, table: str, newest: Any, rows: pa.Table, key: str) -> pa.Table:
        """Without rows known to be there: a merge of nothing new would commit an empty version."""
        if key not in _DIGEST_KEYS:
            return rows
        known = self._held.setdefault(table, HeldKeys()).refresh(newest)
        return rows.filter(pa.array(~known.contains(rows[key])))

    def _insert_in_turn(self, table: str, rows: pa.Table, key: str, version: int) -> int:
        """Append the rows that the table still lacks once all other inserts wait.

        A writer that does not (an older coresetdb, another kernel on a network disk without locks)
        is noticed by the version that our commit gets: of rows that then stand there twice, the
        first one stays.

        Args:
            version: that lacks them all.
        """
        inserted = 0
        with self.named_lock("insert"):
            newest = self.dataset(table)
            if newest.version != version:
                rows = self._absent(table, newest, rows, key)
            last = newest.version
            for part in incoming.commits(rows):
                ours = self._append(table, part)
                inserted += len(part)
                if ours > last + 1:
                    inserted -= self._drop_twins(table, part[key], ours - 1)
                    ours = self.version(table)
                last = ours
        return inserted

    def _drop_twins(self, table: str, keys: pa.ChunkedArray, version: int) -> int:
        """Delete all but the first row of each key that stands there twice; how many those are.

        Args:
            keys: that we inserted.
            version: the last before ours.
        """
        there = self._held[table].refresh(self.dataset(table, version)).contains(keys)
        if not there.any():  # others filled features, or deleted rows
            return 0
        twins = keys.filter(pa.array(there)).to_pylist()
        return self.change(
            table,
            f"writing to {table}",
            lambda dataset: incoming.delete_second_rows(dataset, twins),
        )

    def _append(self, table: str, rows: pa.Table) -> int:
        """Add rows in one commit; return its version."""

        def add(dataset: lance.LanceDataset) -> int:
            pages = (batch for part in incoming.parts(rows) for batch in part.to_batches())
            dataset.insert(pa.RecordBatchReader.from_batches(rows.schema, pages))
            return dataset.version

        return self.change(table, f"writing to {table}", add)

    def _merge(self, table: str, part: pa.Table, key: str, update: bool) -> int:
        """Insert rows whose key the table lacks, and `update` the others; how many were new."""

        def merge(dataset: lance.LanceDataset) -> int:
            builder = dataset.merge_insert(key).when_not_matched_insert_all()
            if update:
                builder = builder.when_matched_update_all()
            return builder.execute(part)["num_inserted_rows"]

        return self.change(table, f"writing to {table}", merge)

    # -- versions ----------------------------------------------------------------------------

    def tag(self, name: str, version: int, table: str = "pool", dataset: Any = None) -> None:
        """Keep a version of a table under a name; `clean` spares it.

        `dataset` is that version, where the caller has it open.

        Raises:
            UsageError: the name stands for another version already, or there is no such version.
            StoreError: the disk is full, or the store cannot be written.
        """
        import lance

        with self.lock(shared=True):  # `clean` must not be at work
            dataset = self.dataset(table, version) if dataset is None else dataset
            known = dataset.tags.list().get(name)
            if known is None:
                try:
                    with self.place.reached("written"), self.place.plain_uri() as root:
                        if root != self.uri:
                            dataset = lance.dataset(f"{root}/{table}.lance", version=version)
                        dataset.tags.create(name, version)
                except ValueError as error:
                    raise UsageError(
                        f"{self.uri}: table {table} has no version {version}"
                    ) from error
                self.checksums.unsynced.add(f"{table}.lance/_refs/tags/{name}.json")
            elif known["version"] != version:
                raise UsageError(f"tag {name!r} stands for version {known['version']} already")

    def move_tag(self, name: str, version: int, table: str = "pool") -> None:
        """Let a name stand for another version of a table, whether it was given before or not."""
        with self.lock(shared=True):
            put_tag(self.place, table, name, version)
            self.checksums.unsynced.add(f"{table}.lance/_refs/tags/{name}.json")

    def untag(self, name: str, table: str = "pool") -> None:
        """Let go of a name given by `tag`; one that is not there is no error."""
        with self.lock(shared=True):
            dataset = self.dataset(table)
            with self.place.reached("written"):
                if name in dataset.tags.list():
                    dataset.tags.delete(name)

    def tags(self, table: str = "pool") -> dict[str, int]:
        """Tagged versions of a table, by name."""
        return {name: tag["version"] for name, tag in self.dataset(table).tags.list().items()}

    # -- durability and locks --------------------------------------------------------------

    def sync(self) -> None:
        """Force everything this process committed onto the disk; call before reporting success.

        Raises:
            StoreBusyError: maintenance kept the store for ten minutes.
        """
        # The fold commits to the table of checksums: a `clean` meanwhile would take its files.
        with self.lock(shared=True):
            self.checksums.fold()
            written, self.checksums.unsynced = self.checksums.unsynced, set()
            self.place.sync(written)

    @contextmanager
    def lock(self, *, shared: bool = False, wait: float | None = None) -> Iterator[None]:
        """Hold the store: alone for maintenance, or shared as writers do.

        Args:
            wait: seconds for others to let go; by default a writer waits ten minutes and
                maintenance does not wait.

        Raises:
            StoreBusyError: others did not let go.
        """
        if wait is None:
            wait = WRITER_WAIT_SECONDS if shared else 0.0
        with self.locking.held(shared=shared, wait=wait):
            yield

    @contextmanager
    def named_lock(self, name: str, wait: float = WRITER_WAIT_SECONDS) -> Iterator[None]:
        """Be the only one who does what `name` stands for ("fill", "fit", "names").

        Raises:
            StoreBusyError: another one did not finish within `wait` seconds.
        """
        self.place.make_folder(f"_{name}")
        with StoreLock(self.place, f"_{name}/").held(shared=False, wait=wait):
            yield


def _file_in_the_way(place: Place) -> UsageError:
    return UsageError(
        f"{place.uri}: a file is in the way; a store is a folder, choose another name"
    )


def _make_folder(place: Place) -> None:
    try:
        place.files.create_dir(place.root, recursive=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise _file_in_the_way(place) from error
    except OSError as error:
        raise StoreError(f"{place.uri}: cannot be made: {first_line(error)}") from error
