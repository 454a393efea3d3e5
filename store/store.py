"""A store: Lance tables under one root, opened, extended and read.

Rows enter by insert-if-absent on each table's declared key, in bounded commits (a coreset's by one
append, under the lock of its name); every commit is a version. Only pylance writes; LanceDB, polars
and others open the same tables.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..schemas.errors import DamagedStoreError, StoreError, UsageError
from ..schemas.ids import KnownIds
from ..schemas.recipe import Recipe
from ..schemas.tables import TABLES
from . import catalog, layout
from . import rows as incoming
from .checksums import Checksums, members
from .commits import committed
from .locks import StoreLock
from .place import Place, first_line, place_at, unopened
from .rows import key_column, offsets_of

if TYPE_CHECKING:
    import lance

    from .maintenance import Cleaned

log = logging.getLogger(__name__)

WRITER_WAIT_SECONDS = 600.0
_DIGEST_KEYS = ("id", "key")  # keys of 32 hexadecimal digits, which KnownIds can hold


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
        self._held: dict[str, KnownIds] = {}
        self._healed: set[str] = set()

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
        if place.local:
            _make_folder(place)
        layout.require_free(place)
        store = cls(place, config)
        with store.lock():
            for table in layout.make_tables(place, config, pool_features, target_features):
                if table == "files":
                    store.checksums.seal()
                else:
                    store.checksums.note(table, members(table, store.dataset(table)))
            store.sync()
        return store

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

        def write() -> None:
            pool = self.dataset("pool")
            config = {**layout.read_config(self.place), **changes}
            before = pool.version
            pool.update_schema_metadata({layout.CONFIG_KEY: layout.config_text(config)})
            self.note("pool", before)
            self.config = config

        with self.lock(shared=True, wait=WRITER_WAIT_SECONDS):
            committed("changing the configuration", write)

    # -- reading -----------------------------------------------------------------------------

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
        try:
            return lance.dataset(
                self.place.table_uri(table),
                version=version,
                storage_options=self.place.options,
            )
        except (OSError, ValueError) as error:
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

    def known_ids(self, table: str = "pool") -> KnownIds:
        """The keys a table holds now, in memory (16 bytes each); `refresh()` brings in more."""
        return KnownIds(lambda: self.dataset(table), key_column(TABLES[table]))

    # -- writing -----------------------------------------------------------------------------

    def insert(self, table: str, rows: pa.Table) -> int:
        """Insert the rows whose key the table lacks; of equal keys among them the first counts.

        Commits of at most 10,000 rows and 8 MB of the widest column; between two of them the
        table is as a reader may see it. Safe beside any other writer, safe to repeat.

        Returns:
            How many rows were really inserted.

        Raises:
            StoreError: columns or types do not fit, a vector is not sound, or the commit failed.
        """
        key = key_column(TABLES[table])
        with self.lock(shared=True, wait=WRITER_WAIT_SECONDS):
            newest = self._ready(table)
            fitting = incoming.conform(table, rows, newest.schema)
            fresh = self._absent(table, newest, incoming.distinct(fitting, key, "first"), key)
            incoming.check_vectors(table, fresh, key)
            inserted = 0
            for part in incoming.parts(fresh):
                inserted += self._merge(table, part, key, update=False)["num_inserted_rows"]
        return inserted

    def append(self, table: str, rows: pa.Table) -> None:
        """Add rows whose keys differ and are not in the table, in one commit; nobody looks.

        For who made sure of that: deleted what had these keys, under a lock without which nobody
        writes such rows. (On an object store a process that was suspended has lost its lock
        unawares; what it appends then stands there twice.)

        Raises:
            StoreError: as `insert`.
        """
        with self.lock(shared=True, wait=WRITER_WAIT_SECONDS):
            fitting = incoming.conform(table, rows, self._ready(table).schema)
            incoming.check_vectors(table, fitting, key_column(TABLES[table]))
            if len(fitting):
                self._add(table, pa.concat_tables(incoming.parts(fitting)))

    def upsert(self, table: str, rows: pa.Table) -> None:
        """Insert rows or replace those with the same key; for small tables, not for the pool."""
        key = key_column(TABLES[table])
        with self.lock(shared=True, wait=WRITER_WAIT_SECONDS):
            fitting = incoming.conform(table, rows, self._ready(table).schema)
            incoming.check_vectors(table, fitting, key)
            for part in incoming.parts(incoming.distinct(fitting, key, "last")):
                self._merge(table, part, key, update=True)

    def delete(self, table: str, where: str) -> int:
        """Delete the rows a Lance filter names; returns how many there were."""
        with self.lock(shared=True, wait=WRITER_WAIT_SECONDS):
            dataset = self._ready(table)
            if not dataset.count_rows(filter=where):
                return 0
            done = committed(f"deleting from {table}", lambda: self._remove(table, where))
        return done

    def add_columns(self, table: str, fields: Sequence[pa.Field]) -> None:
        """Declare columns, all null; those that exist with the same type are left alone.

        Raises:
            StoreError: a column of that name has another type.
        """

        def declare() -> None:
            dataset = self.dataset(table)
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
                before = dataset.version
                dataset.add_columns(new)
                self.note(table, before, dataset)

        with self.lock(shared=True, wait=WRITER_WAIT_SECONDS):
            self._ready(table)
            committed(f"adding columns to {table}", declare)

    def note(self, table: str, before: int, after: Any = None) -> None:
        """Note the checksums of what was committed after version `before`.

        The store's own writers do it themselves; it is for whoever commits to `dataset(table)`
        directly, such as the filling of a late feature.
        """
        newest = after if after is not None else self.dataset(table)
        self.checksums.note(table, members(table, newest, since=before))

    def _ready(self, table: str) -> Any:
        """The newest dataset; before a table's first write, its unnoted files are noted."""
        newest = self.dataset(table)
        if table not in self._healed:
            self.checksums.heal(table, newest)
            self._healed.add(table)
        return newest

    def _absent(self, table: str, newest: Any, rows: pa.Table, key: str) -> pa.Table:
        """Without rows known to be there: a merge of nothing new would commit an empty version."""
        if key not in _DIGEST_KEYS:
            return rows
        known = self._held.setdefault(table, KnownIds(None, key))
        known.refresh(newest)
        return rows.filter(pa.array(~known.contains(rows[key])))

    def _add(self, table: str, rows: pa.Table) -> None:
        def add() -> Any:
            dataset = self.dataset(table)
            dataset.insert(rows)
            return dataset

        dataset = committed(f"writing to {table}", add)
        self.note(table, dataset.version - 1, dataset)

    def _merge(self, table: str, part: pa.Table, key: str, update: bool) -> dict[str, int]:
        def merge() -> tuple[Any, Any]:
            dataset = self.dataset(table)
            builder = dataset.merge_insert(key).when_not_matched_insert_all()
            if update:
                builder = builder.when_matched_update_all()
            return dataset, builder.execute(part)

        dataset, counts = committed(f"writing to {table}", merge)
        self.note(table, dataset.version - 1, dataset)
        return counts

    def _remove(self, table: str, where: str) -> int:
        dataset = self.dataset(table)
        count = dataset.delete(where)["num_deleted_rows"]
        self.note(table, dataset.version - 1, dataset)
        return count

    # -- versions ----------------------------------------------------------------------------

    def tag(self, name: str, version: int, table: str = "pool", dataset: Any = None) -> None:
        """Keep a version of a table under a name; `clean` spares it.

        `dataset` is that version, where the caller has it open.

        Raises:
            UsageError: the name stands for another version already, or there is no such version.
        """
        with self.lock(shared=True, wait=WRITER_WAIT_SECONDS):  # `clean` must not be at work
            dataset = self.dataset(table, version) if dataset is None else dataset
            known = dataset.tags.list().get(name)
            if known is None:
                try:
                    dataset.tags.create(name, version)
                except ValueError as error:
                    raise UsageError(
                        f"{self.uri}: table {table} has no version {version}"
                    ) from error
                self.checksums.unsynced.add(f"{table}.lance/_refs/tags/{name}.json")
            elif known["version"] != version:
                raise UsageError(f"tag {name!r} stands for version {known['version']} already")

    def untag(self, name: str, table: str = "pool") -> None:
        """Let go of a name given by `tag`; one that is not there is no error."""
        with self.lock(shared=True, wait=WRITER_WAIT_SECONDS):
            dataset = self.dataset(table)
            if name in dataset.tags.list():
                dataset.tags.delete(name)

    def tags(self, table: str = "pool") -> dict[str, int]:
        """Tagged versions of a table, by name."""
        return {name: tag["version"] for name, tag in self.dataset(table).tags.list().items()}

    # -- recipes and artifacts ----------------------------------------------------------------

    def recipes(self) -> dict[str, Recipe]:
        """Which recipe fills which column of the pool."""
        return catalog.recipes(self)

    def put_recipe(self, recipe: Recipe) -> None:
        """Keep a recipe, with a second copy in the pool's schema for the day of repair."""
        catalog.put_recipe(self, recipe)

    def put_artifact(self, fingerprint: str, name: str, data: bytes) -> bytes:
        """Keep a blob under (fingerprint, name); the first one committed wins and is returned."""
        return catalog.put_artifact(self, fingerprint, name, data)

    def artifact(self, fingerprint: str, name: str) -> bytes | None:
        """The blob kept under (fingerprint, name), or None."""
        return catalog.artifact(self, fingerprint, name)

    # -- durability and maintenance -----------------------------------------------------------

    def sync(self) -> None:
        """Force everything this process committed onto the disk; call before reporting success.

        Raises:
            StoreBusyError: maintenance kept the store for ten minutes.
        """
        # The fold commits to the table of checksums: a `clean` meanwhile would take its files.
        with self.lock(shared=True, wait=WRITER_WAIT_SECONDS):
            self.checksums.fold()
            written, self.checksums.unsynced = self.checksums.unsynced, set()
            self.place.sync(written)

    @contextmanager
    def lock(self, *, shared: bool = False, wait: float = 0.0) -> Iterator[None]:
        """Hold the store: alone for maintenance, or shared as writers do.

        Raises:
            StoreBusyError: others did not let go within `wait` seconds.
        """
        with self.locking.held(shared=shared, wait=wait):
            yield

    def compact(self, small_rows: int = 20_000) -> int:
        """Merge fragments of fewer than `small_rows` rows; returns how many went away.

        Ids, tags, old versions and indices stay; row addresses change.

        Raises:
            StoreBusyError: another process is writing.
        """
        from .maintenance import compact

        return compact(self, small_rows)

    def clean(self, older_than_seconds: float = 3600.0) -> Cleaned:
        """Remove old untagged versions and what killed runs left behind.

        Readers that opened a version longer ago than `older_than_seconds` may fail.

        Raises:
            StoreBusyError: another process is writing.
        """
        from .maintenance import clean

        return clean(self, older_than_seconds)


def _make_folder(place: Place) -> None:
    try:
        place.files.create_dir(place.root, recursive=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError(
            f"{place.uri}: a file is in the way; a store is a folder, choose another name"
        ) from error
    except OSError as error:
        raise StoreError(f"{place.uri}: cannot be made: {first_line(error)}") from error
