"""Making a store's tables, and reading what a store says about itself.

The layout version and the configuration stand in the schema metadata of `pool`, which is made last:
a folder with tables but no `pool` is a store whose creation was interrupted, and creating it again
finishes it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from shlex import quote
from typing import Any

import pyarrow as pa

from ..schemas.errors import LayoutError, StoreError, StoreNotFoundError, UsageError
from ..schemas.tables import LAYOUT_VERSION, NEWER_TABLES, TABLES
from ..schemas.version import VERSION
from .checksums import FOLDER as CHECKSUM_FOLDER
from .locks import LEASE_FOLDER, LOCK_FILE
from .nearby import store_hint
from .place import Place, unopened
from .underway import FOLDER as UNDERWAY_FOLDER

LAYOUT_KEY = "coresetdb:layout"
CONFIG_KEY = "coresetdb:config"
WRITER_KEY = "coresetdb:writer"
TABLE_KEY = "coresetdb:table"
RECIPE_PREFIX = "coresetdb:recipe:"

_MADE_BEFORE_POOL = (LOCK_FILE, LEASE_FOLDER, CHECKSUM_FOLDER, UNDERWAY_FOLDER)


def require_outside(path: str) -> None:
    """Refuse a file that would lie in the folder of a store.

    Raises:
        UsageError: it would.
    """
    folder = os.path.dirname(os.path.realpath(path))
    while True:
        if all(os.path.isdir(f"{folder}/{name}") for name in ("pool.lance", CHECKSUM_FOLDER)):
            raise UsageError(
                f"{path}: {folder} is a store, in which only coresetdb's own files may lie. Choose "
                "another folder"
            )
        above = os.path.dirname(folder)
        if above == folder:
            return
        folder = above


def require_writable_name(place: Place) -> None:
    """Refuse an address that could not be written on a line.

    Raises:
        UsageError: it has a control character in it, such as a line break.
    """
    if any(character < " " or "\x7f" <= character <= "\x9f" for character in place.uri):
        raise UsageError(
            f"{place.uri!r}: there is a control character in this address, which could not be "
            "written on a line. Choose another name"
        )


def require_free(place: Place) -> None:
    """Make sure that a store may be made at `place`: nothing is there, or an unfinished creation.

    Raises:
        UsageError: there is a store already, one that lost its pool, or something else.
    """
    if _has_pool(place):
        raise UsageError(f"{place.uri}: there is a store already")
    if held := _held_without_pool(place):
        raise UsageError(
            f"{place.uri}: a store stands here whose table pool is gone, {held} with it. Nothing "
            "was changed. Bring the folder pool.lance back from a copy, or choose another place"
        )
    tables = {f"{table}.lance": table for table in TABLES}
    found = place.names()
    foreign = [name for name in found if name not in {*tables, *_MADE_BEFORE_POOL}]
    if foreign:
        others = f" and {len(foreign) - 1:,} more" if len(foreign) > 1 else ""
        raise UsageError(
            f"{place.uri}: this place is not empty and holds no store (found {foreign[0]}{others})."
            f" Choose a new or empty one, such as {quote(f'{place.uri}/pool')}"
        )
    for name in found:
        if name in tables:
            _ours(place, tables[name])


def make_tables(
    place: Place,
    config: dict[str, Any],
    pool_features: Sequence[pa.Field],
    target_features: Sequence[pa.Field],
) -> Iterator[str]:
    """Write every table, empty, `pool` last; gives back each name once its table is there.

    Raises:
        UsageError: there is a store already, or a table of somebody else's is in the way.
    """
    import lance

    if _has_pool(place):
        raise UsageError(f"{place.uri}: there is a store already")
    unfinished = [table for table in TABLES if _ours(place, table)]
    features = {"pool": pool_features, "targets": target_features}
    facts = {
        LAYOUT_KEY: str(LAYOUT_VERSION),
        WRITER_KEY: VERSION,
        CONFIG_KEY: config_text(config),
    }
    for table in ["files", *(name for name in TABLES if name not in ("files", "pool")), "pool"]:
        metadata = {TABLE_KEY: table, **(facts if table == "pool" else {})}
        schema = pa.schema([*TABLES[table], *features.get(table, ())], metadata=metadata)
        with place.reached("written"):
            lance.write_dataset(
                schema.empty_table(),
                place.table_uri(table),
                mode="overwrite" if table in unfinished else "create",
                storage_options=place.options,
                enable_stable_row_ids=True,
            )
        yield table


def tables_at(place: Place) -> list[str]:
    """The tables of a store: all, less those that an older coresetdb did not make."""
    return [table for table in TABLES if table not in NEWER_TABLES or has_table(place, table)]


def has_table(place: Place, table: str) -> bool:
    """Whether a version of a table was ever committed and is still there."""
    versions = place.sizes(f"{table}.lance/_versions")
    return any(path.endswith(".manifest") for path in versions)


def make_newer(place: Place, table: str) -> None:
    """Write a table that an older coresetdb did not make, empty; the store is held alone."""
    import lance

    with place.reached("written"):
        lance.write_dataset(
            pa.schema(TABLES[table], metadata={TABLE_KEY: table}).empty_table(),
            place.table_uri(table),
            mode="create",
            storage_options=place.options,
            enable_stable_row_ids=True,
        )


def config_text(config: dict[str, Any]) -> str:
    """The configuration as the pool's schema metadata has it."""
    return json.dumps(config, ensure_ascii=False, sort_keys=True)


def _ours(place: Place, table: str) -> bool:
    """Whether an interrupted creation left this table."""
    import lance

    try:
        found = lance.dataset(place.table_uri(table), storage_options=place.options)
    except (OSError, ValueError):  # not there, or killed before its first manifest
        return False
    if (found.schema.metadata or {}).get(TABLE_KEY.encode()) != table.encode():
        raise UsageError(
            f"{place.uri}: the table {table!r} there was not made by coresetdb; "
            "choose another folder"
        )
    return True


def _has_pool(place: Place) -> bool:
    """A manifest, or rows that lost theirs (an interrupted creation leaves neither)."""
    versions = place.sizes("pool.lance/_versions")
    return any(path.endswith(".manifest") for path in versions) or bool(
        place.sizes("pool.lance/data")
    )


def _held_without_pool(place: Place) -> str:
    """What other tables hold, in words; "" where they are as an interrupted creation leaves them.

    A creation writes one version of each, without rows; every later commit adds a version.
    """
    import lance

    for table in TABLES:
        manifests = [p for p in place.sizes(f"{table}.lance/_versions") if p.endswith(".manifest")]
        if not manifests or table == "files":
            continue
        try:
            there = lance.dataset(place.table_uri(table), storage_options=place.options)
            if (there.schema.metadata or {}).get(TABLE_KEY.encode()) != table.encode():
                continue  # somebody else's, of which `_ours` speaks
            rows, version = there.count_rows(), there.version
        except (OSError, ValueError):  # it does not open: more than one version is no beginning
            rows, version = 0, len(manifests)
        if rows or version > 1:
            return f"and {rows:,} rows of the table {table}" if rows else f"and the table {table}"
    return ""


def require_pool(place: Place) -> None:
    """Make sure there is a store, sound or not.

    Raises:
        StoreNotFoundError: there is none, or its creation was interrupted.
    """
    if _has_pool(place):
        return
    if held := _held_without_pool(place):
        raise StoreNotFoundError(
            f"{place.uri}: the table pool of this store is gone, {held} with it; bring the folder "
            "pool.lance back from a copy"
        )
    if any(place.exists(f"{table}.lance") for table in TABLES):
        raise StoreNotFoundError(
            f"{place.uri}: the creation of this store was interrupted; "
            "run `coresetdb init` for it again"
        )
    hint = store_hint(place.uri)
    if "://" not in place.uri and os.path.isfile(place.uri):
        raise StoreNotFoundError(f"{place.uri}: this is a file, and a store is a folder{hint}")
    make = f"make one with `coresetdb init {place.typed}`"
    raise StoreNotFoundError(
        f"{place.uri}: there is no store here; {make}"
        if not hint
        else f"{place.uri}: there is no store here{hint} To make one: coresetdb init {place.typed}"
    )


def read_config(place: Place) -> dict[str, Any]:
    """The configuration of the store at `place`.

    Raises:
        StoreNotFoundError: there is no store, or its creation was interrupted.
        LayoutError: a newer coresetdb wrote it.
        DamagedStoreError: `pool` is there but does not open.
        StoreError: the place cannot be reached.
    """
    import lance

    require_pool(place)
    try:
        pool = lance.dataset(place.table_uri("pool"), storage_options=place.options)
        facts = {
            key.decode(): value.decode() for key, value in (pool.schema.metadata or {}).items()
        }
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise unopened(place, "pool", error) from error
    if LAYOUT_KEY not in facts:
        raise StoreNotFoundError(
            f"{place.uri}: this is a LanceDB folder, but not a store of coresetdb"
        )
    if int(facts[LAYOUT_KEY]) > LAYOUT_VERSION:
        raise LayoutError(
            f"{place.uri}: this store was written by coresetdb {facts.get(WRITER_KEY, '?')} in "
            f"layout {facts[LAYOUT_KEY]}; this is coresetdb {VERSION}, which reads layouts up "
            f"to {LAYOUT_VERSION}. Upgrade coresetdb to open it"
        )
    try:
        return json.loads(facts[CONFIG_KEY])
    except (KeyError, ValueError) as error:
        raise StoreError(f"{place.uri}: the store's configuration is not readable") from error
