"""The tables of a store as DuckDB relations: columns, filters and versions reach Lance.

DuckDB asks a registered dataset for the columns and the filter it needs, and Lance reads just
those. One thing stands in the way: DuckDB refuses a dataset whose schema holds a float16 column,
even one that no query names. `Relation` leaves such columns out of its schema; the vectors stay
where they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import lance
import pyarrow as pa

from ..schemas.errors import DamagedStoreError, QueryError
from .place import Place
from .sql_names import POOL_TABLE, RELATIONS

if TYPE_CHECKING:
    import duckdb

IO_BUFFER_BYTES = 64 << 20  # Lance's default of 2 GiB is most of a query's memory limit
BATCH_BYTES = 8 << 20


class Relation(lance.LanceDataset):
    """A table without its float16 columns, for DuckDB: columns and filters are still pushed down.

    `io_stats_incremental()` tells the bytes that really were read.
    """

    @property
    def schema(self) -> pa.Schema:
        """The stored schema less every column that holds float16 at any depth."""
        stored = super().schema
        return pa.schema([field for field in stored if not holds_float16(field.type)])

    def scanner(
        self, columns: Any = None, filter: Any = None, *args: Any, **options: Any
    ) -> lance.LanceScanner:
        """Lance's scanner on the visible columns alone, with buffers that fit a memory limit."""
        return super().scanner(
            self.schema.names if columns is None else columns,
            filter,
            *args,
            **{"io_buffer_size": IO_BUFFER_BYTES, "batch_size_bytes": BATCH_BYTES, **options},
        )


def holds_float16(type_: pa.DataType) -> bool:
    """Whether a type is float16 or contains it in a list, struct or map."""
    return pa.types.is_float16(type_) or any(
        holds_float16(type_.field(index).type) for index in range(type_.num_fields)
    )


def open_relation(place: Place, table: str, version: int | str | None = None) -> Relation:
    """One table of the store at `place`, newest or at a version number or tag.

    Raises:
        QueryError: the table has no such version.
        DamagedStoreError: the table cannot be opened.
    """
    uri = place.table_uri(table)
    try:
        return Relation(uri, version=version, storage_options=place.options)
    except (ValueError, OSError) as error:
        if version is not None:
            newest = open_relation(place, table)
            numbers = [known["version"] for known in newest.versions()]
            tags = ", ".join(sorted(newest.tags.list())) or "none"
            raise QueryError(
                f"{table} has no version {version!r}: its versions run from {numbers[0]} to "
                f"{numbers[-1]}, its tags are: {tags}"
            ) from error
        raise DamagedStoreError(
            f"{uri} cannot be opened ({str(error).splitlines()[0]}); "
            f"run `coresetdb verify {place.uri}`"
        ) from error


def register(
    connection: duckdb.DuckDBPyConnection, place: Place, at: int | str | None = None
) -> None:
    """Give a DuckDB connection every relation of a store; `at` is a version or tag of the pool.

    The view `pool` carries the metadata fields of all corpora as VARCHAR columns after the stored
    ones. The other relations are always the newest.

    Raises:
        QueryError: the pool has no version `at`.
        DamagedStoreError: a table cannot be opened.
    """

    def opened(table: str) -> Relation:
        return open_relation(place, table, at if table == "pool" else None)

    with ThreadPoolExecutor(len(RELATIONS)) as threads:  # an object store takes its time for each
        relations = dict(zip(RELATIONS, threads.map(opened, RELATIONS), strict=True))
    for table, relation in relations.items():
        connection.register(POOL_TABLE if table == "pool" else table, relation)
    connection.execute(pool_view(relations["pool"].schema.names, _metadata_keys(relations["runs"])))


def _metadata_keys(runs: Relation) -> list[str]:
    """All keys, those of the first ingestion first: a later corpus renames no column."""
    table = runs.to_table(columns=["metadata_keys", "started_at", "run"])
    by_age = table.sort_by([("started_at", "ascending"), ("run", "ascending")])
    keys = (key for of_run in by_age["metadata_keys"].to_pylist() for key in of_run or ())
    return list(dict.fromkeys(keys))


def metadata_columns(keys: Iterable[str], taken: Sequence[str]) -> dict[str, str]:
    """The column under which each (distinct) metadata key is reached, in the order of the keys.

    SQL knows no upper and lower case in names, so a key that differs from a pool column (or from
    an earlier key) in nothing else is named `meta_<key>`, and `meta_<key>_2` and so on if that is
    taken too. A key that holds a NUL character has no column: SQL text ends there.
    """
    used = {name.casefold() for name in taken}
    columns: dict[str, str] = {}
    for key in keys:
        if "\0" in key:
            continue
        name = key or "meta_"  # a column needs a name, a JSON key does not
        number = 1
        while name.casefold() in used:
            name = f"meta_{key}" if number == 1 else f"meta_{key}_{number}"
            number += 1
        used.add(name.casefold())
        columns[key] = name
    return columns


def pool_view(stored: Sequence[str], keys: Iterable[str]) -> str:
    """The statement that makes `pool`: the stored columns, then one per metadata key."""
    fields = [quoted(name) for name in stored]
    fields += [
        f"json_extract_string(metadata, {_text(_pointer(key))}) AS {quoted(name)}"
        for key, name in metadata_columns(keys, stored).items()
    ]
    return f"CREATE VIEW pool AS SELECT {', '.join(fields)} FROM {POOL_TABLE}"


def quoted(name: str) -> str:
    """A name as a SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _pointer(key: str) -> str:
    # A JSON pointer takes any key; a path ($.key) has no form for some quotes and stars.
    return "/" + key.replace("~", "~0").replace("/", "~1")
