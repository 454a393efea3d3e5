"""Repair a damaged store: step over torn manifests, take damaged rows out, read them again.

Nothing is dropped in silence: every step is an action in the result, and rows that cannot be
brought back are named with the command that may. Old versions are left as they are; a damaged file
stays on the disk as long as one of them names it. Rows that are taken out are recorded first
(`LostRows`), and struck off only once they are back.

A repair may be killed anywhere and run again. What is wrong is read from the files each time, and
what a step takes out of sight (rows, a manifest) was recorded before it, with the damages in hand.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ...schemas.errors import UsageError
from ...schemas.plain_text import count_of
from ...schemas.recipe import Recipe
from ...schemas.tables import POOL, RECIPES, REMOVED, TABLES
from .. import catalog, indices, layout, removal
from ..checksums import Checksums, read_journal, version_files
from ..commits import committed
from ..place import Place, put_tag
from ..rows import delete_second_rows, key_column
from .facts import compare_tables, coreset_tag
from .losses import (
    ADVICE,
    Loss,
    new_loss,
    note_losses,
    read_losses,
    some_of,
    write_losses,
)
from .report import PATH as LOST_PATH
from .report import (
    Damage,
    LostRow,
    LostRows,
    Repair,
    Report,
    accept_command,
    count_and_verb,
    lost_row_ids,
    read_lost,
    write_lost,
)
from .verify import (
    WAIT_SECONDS,
    NewestTables,
    State,
    inspect,
    place_and_lock,
    tag_path,
    verify,
)

if TYPE_CHECKING:
    from ..store import Store


Reingest = Callable[[list[LostRow]], dict[str, str]]
"""Makes lost rows anew; gives back the files it could not read (or not wholly), and why."""

Check = Callable[[dict[str, Any], list[Recipe]], None]
"""Told the store's configuration and recipes before rows are taken out; raises where they could
not be made again."""

Remake = Callable[[str], str]
"""Makes the members of a coreset anew, by its name; gives back why it could not, or ""."""

_TAGGED = ("pool", "targets")
"""Where coresets keep the versions they were made from."""


def repair(
    store: str | Store,
    reingest: Reingest | None = None,
    storage_options: dict[str, str] | None = None,
    check: Check | None = None,
    remake: Remake | None = None,
) -> Repair:
    """Make the newest version of every table sound again.

    A damaged newest manifest is removed, so the version before it counts. Damaged fragments are
    taken out of the newest version. `reingest` is then handed the lost rows, and those that were
    seen but never reached the pool (after the lock is let go, so that it may write): it reads the
    text again from its source and makes the features anew. What is not back afterwards, whatever
    the reason, is still lost to the next `verify`. Where tables contradict each other afterwards,
    what follows from the others is made again, members of coresets by `remake`.

    Raises:
        StoreNotFoundError: there is no store.
        StoreBusyError: another process is writing.
        CoresetDBError: what `check` raised; nothing was changed then.
    """
    place, lock = place_and_lock(store, storage_options)
    with lock.held(shared=False, wait=0.0):
        found, states = inspect(place, full=True)
        done = Repair(found)
        if states["pool"].version is None:
            done.unrepaired.append(
                "pool: no version of it opens; restore the folder pool.lance from a copy, or make "
                "a new store and ingest again"
            )
            return done
        pool = states["pool"]
        if check is not None and (found.lost_ids or found.unnamed_rows or found.pending):
            check(*_made_by(place, pool))
        hurt = _hurt([*found.interrupted, *found.damages])
        recorded = _record(found, pool, hurt)
        losses = _for_good(hurt)
        note_losses(place, losses)
        write_lost(place, recorded)
        if found.damages:
            _mend(place, states, done)
        if "recipes" in hurt:
            _restore_recipes(place, done)
        _restore_tombstones(place, done, hurt)
        _mend_facts(place, done)
    if remake is not None and layout.has_table(place, "coreset_rows"):
        _remake_members(place, done, remake)
    if recorded or found.pending:
        _fetch(place, done, recorded, reingest)
        with lock.held(shared=True, wait=WAIT_SECONDS):
            _settle(place, done, recorded)
    done.unrepaired += [loss.sentence(place.uri) for loss in losses]
    if losses:
        done.unrepaired.append(
            f"later checks name what is lost for good as well, until it is accepted: "
            f"{accept_command(place.uri)}"
        )
    done.after = verify(store, full=True, storage_options=storage_options)
    for contradiction in done.after.contradictions:
        why = done.not_remade.get(contradiction.name, "")
        parts = [str(contradiction), why, contradiction.advice]
        done.unrepaired.append("; ".join(filter(None, parts)))
    return done


def accept(store: str | Store, storage_options: dict[str, str] | None = None) -> list[str]:
    """Accept what is lost: rows that are not back, and what no repair can bring back.

    Rows of the pool count as removed and purged from then on: an ingestion leaves them out, until
    they are restored.

    Returns:
        A sentence on each loss that later checks will not name any more.

    Raises:
        StoreNotFoundError: there is no store.
        StoreBusyError: another process is writing.
        UsageError: a repair was stopped before its end, or is to be run first.
    """
    place, lock = place_and_lock(store, storage_options)
    with lock.held(shared=False, wait=0.0):
        rows = read_lost(place)
        if rows.damages:
            raise UsageError(
                f"{place.uri}: a repair was stopped before its end, and what is lost is not known "
                f"yet; finish it first: coresetdb verify {place.typed} --repair"
            )
        accepted = [loss.sentence(place.uri) for loss in read_losses(place)]
        if ids := _bury(place) if rows else []:
            accepted.append(
                f"pool: {count_of(len(ids), 'row')} ({some_of(ids)}), which now "
                f"{'counts' if len(ids) == 1 else 'count'} as removed and purged; after `coresetdb "
                f"restore {place.typed} --ids FILE` they can be ingested again"
            )
        if rows.unnamed:
            accepted.append(f"pool: {count_of(rows.unnamed, 'row')} that no list names")
        accepted += [
            f"sources, rejects: the list of rows of {row.file} ({row.corpus})"
            for row in rows.rows
            if not row.id
        ]
        write_losses(place, [])
        write_lost(place, LostRows())
    return accepted


def _bury(place: Place) -> list[str]:
    """Write tombstones of the lost rows of the pool, as of purged ones; the ids."""
    found, _ = inspect(place, full=False)
    hurt = [damage for damage in found.damages if damage.newest and damage.what != "index"]
    if any(damage.table in ("pool", "removed") for damage in hurt):
        raise UsageError(
            f"{place.uri}: files are damaged that tell which rows are lost; repair them first: "
            f"coresetdb verify {place.typed} --repair"
        )
    corpora = {row.id: row.corpus for row in found.lost if row.id}
    if not corpora:
        return []
    checksums = Checksums(place)
    for table in ("removed", "removed_rows"):
        if not layout.has_table(place, table):  # an older coresetdb did not make it
            _make_anew(place, table, checksums)
    place.sync(checksums.unsynced)
    _write_stones(place, corpora, _ACCEPTED, "purged", "accepting a loss")
    return list(corpora)


_ACCEPTED = "lost by damage, which was accepted"


def _write_stones(
    place: Place, corpora: Mapping[str, str], why: str | None, state: removal.State, what: str
) -> None:
    """Write tombstones of rows (id -> corpus) that have none; `what` is being done, for errors."""
    facts = {"why": why, "removed_at": datetime.now(UTC), "state": state}
    stones = [{"id": row_id, "corpus": corpus, **facts} for row_id, corpus in corpora.items()]
    checksums = Checksums(place)
    _insert_missing(place, checksums, "removed", pa.Table.from_pylist(stones, REMOVED), what)
    checksums.fold()
    place.sync(checksums.unsynced)


def _hurt(damages: list[Damage]) -> dict[str, list[Damage]]:
    """Table -> what its newest version lost; of a file that is named twice, the first."""
    losses: dict[str, Damage] = {}
    for damage in damages:
        if damage.newest and damage.what in ("manifest", "data", "deletions"):
            losses.setdefault(damage.path, damage)
    tables: dict[str, list[Damage]] = {}
    for damage in losses.values():
        tables.setdefault(damage.table, []).append(damage)
    return tables


def _for_good(hurt: dict[str, list[Damage]]) -> list[Loss]:
    """What is lost from tables that nothing else tells to make again.

    Of rows in damaged files the keys are known; of what stood behind a torn manifest nothing is, so
    the one loss can be made good and the other cannot.
    """
    losses = []
    for table, damages in hurt.items():
        if table not in ADVICE:
            continue
        torn = [damage for damage in damages if damage.what == "manifest"]
        files = [damage for damage in damages if damage.what != "manifest"]
        if rows := sum(damage.rows for damage in files):
            keys = [key for damage in files for key in damage.keys]
            losses.append(new_loss(table, rows, keys, [damage.path for damage in files]))
        if any((damage.version or 0) > 1 for damage in torn):  # version 1: the empty table
            losses.append(new_loss(table, 0, (), [damage.path for damage in torn]))
    return losses


def _record(found: Report, pool: State, hurt: dict[str, list[Damage]]) -> LostRows:
    """What is to be known of the loss before anything is changed."""
    held = sum(pool.rows[number] for number in pool.sound_fragments)
    broken = pool.broken_fragments
    return LostRows(
        found.lost,
        found.unnamed_rows,
        held + len(found.lost_ids) + found.unnamed_rows,
        tuple(path for path, number in pool.fragment_of.items() if number in broken),
        tuple(damage for damages in hurt.values() for damage in damages),
    )


def _mend(place: Place, states: dict[str, State], done: Repair) -> None:
    """Everything that takes the store for oneself."""
    gone = []
    checksums = Checksums(place)
    if not any(damage.table == "files" and damage.newest for damage in done.found.damages):
        checksums.fold()  # of a version that is removed and committed again, the later note counts
    for damage in done.found.damages:
        if damage.what == "manifest":
            gone += _remove_manifest(place, damage, done)
        elif damage.path == LOST_PATH:
            done.actions.append("wrote the damaged list of lost rows anew")
        elif damage.what in ("checksums", "tag"):
            place.delete(damage.path)
            done.actions.append(f"removed the damaged {damage.what} {damage.path}")
    for table in _TAGGED:
        _drop_tags(place, states[table], done)
    _mend_files_table(place, states["files"], done)
    checksums.forget(gone)
    for table, state in states.items():
        if table in ("files", "pool") or state.version is not None:
            continue
        _make_anew(place, table, checksums)
        done.actions.append(f"{table}: no version opened; made it anew, empty")
    for table, state in states.items():
        if table != "files" and state.version is not None and state.broken_fragments:
            _take_out(place, state, checksums)
            rows = sum(state.rows[number] for number in state.broken_fragments)
            done.actions.append(f"{table}: took {count_of(rows, 'row')} in damaged files out")
    _drop_indices(place, done, checksums)
    checksums.fold()
    place.sync(checksums.unsynced)


def _remove_manifest(place: Place, damage: Damage, done: Repair) -> list[str]:
    if damage.version is None:
        return []
    place.delete(damage.path)
    back = "the version before it counts again" if damage.newest else "it cannot be opened any more"
    done.actions.append(
        f"{damage.table}: removed the damaged manifest of version {damage.version}; {back}"
    )
    return [damage.path]


def _drop_tags(place: Place, state: State, done: Repair) -> None:
    if state.version is None:
        return
    removed = {
        damage.version
        for damage in state.damages
        if damage.what == "manifest" and damage.version is not None
    }
    tags = _open(place, state.table).tags
    for name, tag in tags.list().items():
        if tag["version"] in removed:
            tags.delete(name)
            done.actions.append(
                f"{state.table}: tag {name} stood for version {tag['version']}, which is gone; "
                "removed it. Its coreset keeps its rows but cannot be replayed at its version"
            )


def _mend_files_table(place: Place, files: State, done: Repair) -> None:
    """The table of checksums: what it still says is kept, or it is made anew and says so."""
    checksums = Checksums(place)
    if files.version is None or files.broken_fragments:
        if files.version is None:
            checksums.unseal()
            _make_anew(place, "files", checksums)
        else:  # the seal goes last: without it, damaged checksums would count
            _make_anew(place, "files", checksums)
            checksums.unseal()
            checksums.seal()
        journal, _ = read_journal(place)
        noted = {note.path for notes in journal.values() for note in notes}
        noted |= {damage.path for damage in done.found.damages}  # known to be wrong as they are
        for table in TABLES:
            if table != "files" and _opens(place, table):
                every = version_files(table, _open(place, table), since=0)
                bare = {path: version for path, version in every.items() if path not in noted}
                checksums.note(table, bare, late=True)
        checksums.fold()
        done.actions.append(
            "files: the checksums were damaged; recorded new ones of all files as they are now, "
            "unverified"
        )
    checksums.seal()


def _make_anew(place: Place, table: str, checksums: Checksums) -> None:
    import lance

    features = []
    if table in ("targets", "removed_rows"):
        pool = _open(place, "pool").schema
        features = [pool.field(name) for name in pool.names if name not in POOL.names]
    schema = pa.schema([*TABLES[table], *features], metadata={layout.TABLE_KEY: table})
    lance.write_dataset(
        schema.empty_table(),
        place.table_uri(table),
        mode="overwrite" if _opens(place, table) else "create",
        storage_options=place.options,
        enable_stable_row_ids=True,
    )
    if table == "files":
        checksums.seal()
    else:
        checksums.note(table, version_files(table, _open(place, table)))


def _take_out(place: Place, state: State, checksums: Checksums) -> None:
    import lance

    before = _open(place, state.table)
    operation = lance.LanceOperation.Delete([], state.broken_fragments, "damaged files")
    after = lance.LanceDataset.commit(
        before.uri, operation, read_version=before.version, storage_options=place.options
    )
    checksums.note(state.table, version_files(state.table, after, since=before.version))


def _drop_indices(place: Place, done: Repair, checksums: Checksums) -> None:
    for damage in done.found.damages:
        if damage.what != "index" or not _opens(place, damage.table):
            continue
        dataset = _open(place, damage.table)
        for index in dataset.list_indices():
            if str(index["uuid"]) in damage.path:
                before = dataset.version
                column = indices.column_of(index["name"])
                if column:
                    dataset.update_schema_metadata(indices.note_of([column]))
                dataset.drop_index(index["name"])
                newest = _open(place, damage.table)
                checksums.note(damage.table, version_files(damage.table, newest, since=before))
                done.actions.append(
                    f"{damage.table}: dropped the damaged index {index['name']}"
                    + ("" if column else "; another tool made it: make it again there")
                )
                break  # its other files are gone with it


def _restore_recipes(place: Place, done: Repair) -> None:
    """Write recipes again that the pool has a copy of, and the columns of, and the table lacks."""
    pool = _open(place, "pool")
    known = set(
        _open(place, "recipes").to_table(columns=["fingerprint"])["fingerprint"].to_pylist()
    )
    rows = [
        row
        for row in catalog.recipes_in(pool.schema.metadata or {})
        if row["fingerprint"] not in known and set(row["columns"]) <= set(pool.schema.names)
    ]
    if not rows:
        return
    checksums = Checksums(place)
    table = pa.Table.from_pylist(rows, schema=RECIPES)
    _insert_missing(place, checksums, "recipes", table, "restoring recipes")
    checksums.fold()
    place.sync(checksums.unsynced)
    done.actions.append(
        f"recipes: restored {count_of(len(rows), 'recipe')} from the copies in the pool"
    )


def _restore_tombstones(place: Place, done: Repair, hurt: Collection[str]) -> None:
    """Write the tombstones of removed rows again, from the copies that a restore needs of them.

    A copy of a row that the pool lacks was removed. Where the tombstones are sound, a lost row of
    the pool may have a copy too, of a removal that was killed before it took place: it is read
    again like any other.
    """
    if not (_opens(place, "removed") and _opens(place, "removed_rows")):
        return
    copies: pa.Table = _open(place, "removed_rows").to_table(columns=["id", "corpus"])
    if not copies.num_rows:
        return
    stones = _open(place, "removed").to_table(columns=["id"])["id"].to_pylist()
    others = _pool_ids(place).union(stones)
    if "removed" not in hurt:
        others.update(done.found.lost_ids)
    found = [row for row in copies.to_pylist() if row["id"] not in others]
    if not found:
        return
    known = {row["id"]: row["corpus"] for row in found}
    _write_stones(place, known, None, "removed", "restoring tombstones")
    done.found.pending = [row for row in done.found.pending if row.id not in known]
    done.actions.append(
        f"removed: wrote {count_of(len(found), 'tombstone')} again, from the copies of removed "
        "rows; why and when these were removed is not known"
    )


def _mend_facts(place: Place, done: Repair) -> None:
    """Take out rows that were removed or are there twice, and give coresets their tags again."""
    for contradiction in compare_tables(NewestTables(place)).contradictions:
        if contradiction.what == "removed":
            _delete_again(place, contradiction.ids)
            count = count_of(len(contradiction.ids), "row")
            done.actions.append(f"pool: took out {count} that had been removed before")
        elif contradiction.what == "twice":
            again = _delete_second(place, contradiction.ids)
            done.actions.append(f"pool: took out {count_of(again, 'row')} that came a second time")
        elif contradiction.what == "tag":
            table, version = contradiction.table, contradiction.version
            assert version is not None
            name = coreset_tag(contradiction.name, table)
            put_tag(place, table, name, version)
            place.sync([tag_path(table, name)])
            done.actions.append(f"{table}: tagged version {version} as {name} again")


def _delete_again(place: Place, ids: Sequence[str]) -> None:
    checksums = Checksums(place)
    for start in range(0, len(ids), 1000):
        before = _open(place, "pool")
        named = ", ".join(f"'{row_id}'" for row_id in ids[start : start + 1000])
        before.delete(f"id IN ({named})")
        newest = _open(place, "pool")
        checksums.note("pool", version_files("pool", newest, since=newest.version - 1))
    checksums.fold()
    place.sync(checksums.unsynced)


def _delete_second(place: Place, ids: Sequence[str]) -> int:
    before = _open(place, "pool")
    again = delete_second_rows(before, ids)
    checksums = Checksums(place)
    newest = _open(place, "pool")
    checksums.note("pool", version_files("pool", newest, since=newest.version - 1))
    checksums.fold()
    place.sync(checksums.unsynced)
    return again


def _remake_members(place: Place, done: Repair, remake: Remake) -> None:
    """Have the members of coresets that lost some chosen again."""
    for contradiction in compare_tables(NewestTables(place)).contradictions:
        if contradiction.what != "members":
            continue
        name = contradiction.name
        if why := remake(name):
            done.not_remade[name] = why
        else:
            done.actions.append(f"{contradiction}; chose them again as it was chosen")


def _insert_missing(
    place: Place, checksums: Checksums, table: str, rows: pa.Table, what: str
) -> None:
    """Insert the rows whose key a table lacks, and note the files."""

    def insert() -> None:
        dataset = _open(place, table)
        before = dataset.version
        merge = dataset.merge_insert(key_column(dataset.schema)).when_not_matched_insert_all()
        merge.execute(rows)
        checksums.note(table, version_files(table, _open(place, table), since=before))

    committed(what, insert)


def _made_by(place: Place, pool: State) -> tuple[dict[str, Any], list[Recipe]]:
    """Configuration and recipes, as the newest version of the pool that opens has them."""
    import lance

    newest = lance.dataset(
        place.table_uri("pool"), version=pool.version, storage_options=place.options
    )
    facts = newest.schema.metadata or {}
    config = json.loads(facts[layout.CONFIG_KEY.encode()])
    return config, [catalog.as_recipe(row) for row in catalog.recipes_in(facts)]


def _fetch(place: Place, done: Repair, recorded: LostRows, reingest: Reingest | None) -> None:
    """Have lost rows read again, and see which are back."""
    wanted = [*recorded.rows, *done.found.pending]
    if reingest is not None and wanted:
        done.unread, done.reread = reingest(wanted), True
    pool = _pool_ids(place)
    ids = lost_row_ids(wanted)
    done.restored = [row for row in ids if row in pool]
    lost, pending = done.found.lost_ids, done.found.pending_ids
    _name_missing(place, done, "is not back|are not back", [row for row in lost if row not in pool])
    _name_missing(
        place,
        done,
        "that was seen but never reached the pool could not be read again"
        "|that were seen but never reached the pool could not be read again",
        [row for row in pending if row not in pool],
    )


def _name_missing(place: Place, done: Repair, what: str, missing: list[str]) -> None:
    """Say which rows are missing; `what` is said of one row, and behind the bar of several."""
    if not missing:
        return
    gone = set(missing)
    files = {row.file: None for row in (*done.found.lost, *done.found.pending) if row.id in gone}
    why = "; ".join(f"{file}: {done.unread[file]}" for file in files if file in done.unread)
    words = what.split("|")[len(missing) > 1]
    done.unrepaired.append(
        f"pool: {count_of(len(missing), 'row')} {words} ({some_of(missing)}); "
        f"{why + '; ' if why else ''}" + _again(place, list(files))
    )


def _settle(place: Place, done: Repair, recorded: LostRows) -> None:
    """Strike off the rows that are back; the rest stays recorded."""
    pool = _pool_ids(place)
    missing = [row for row in done.found.lost_ids if row not in pool]
    short = recorded.still_unnamed(len(pool), len(missing))
    files = sorted({row.file for row in recorded.rows})
    if short:
        done.unrepaired.append(
            f"pool: {count_and_verb(short, 'more row')} lost whose source is not known; "
            f"{_again(place, files)}"
        )
    gone, left = set(missing), []
    for row in recorded.rows:
        if row.id in gone:
            left.append(row)
        elif not row.id and (not done.reread or row.file in done.unread):
            left.append(row)
            why = done.unread.get(row.file, "it was not read again")
            done.unrepaired.append(
                f"sources, rejects: the list of rows of {row.file} ({row.corpus}) is lost: {why}; "
                f"{_again(place, [row.file])}"
            )
    rest = LostRows(left, short, recorded.expected)
    write_lost(place, rest)
    if rest:
        done.unrepaired.append(
            f"this loss stays recorded in {place.uri}/{LOST_PATH} until the rows are back; "
            f"to accept it: {accept_command(place.uri)}"
        )


def _again(place: Place, files: list[str]) -> str:
    return f"type `coresetdb ingest {place.typed} {shlex.join(files[:5]) or 'FILE'}`"


def _pool_ids(place: Place) -> set[str]:
    return set(_open(place, "pool").to_table(columns=["id"])["id"].to_pylist())


def _opens(place: Place, table: str) -> bool:
    try:
        _open(place, table)
    except (OSError, ValueError):
        return False
    return True


def _open(place: Place, table: str) -> Any:
    import lance

    return lance.dataset(place.table_uri(table), storage_options=place.options)
