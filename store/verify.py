"""Is a store what was written? Sizes and manifests in under a second, or every byte.

No byte of a table is read by Lance in this process before its checksum was compared; what carries
no checksum is first read to the end in a process of its own.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from ..schemas.tables import TABLES
from . import layout
from .checksums import Checksums, FileNote, by_path, read_journal
from .examine import State, examine, read_sound
from .isolated import Reader
from .keys import key_column
from .locks import StoreLock
from .owed import PATH as OWED_PATH
from .owed import Owed, read_owed
from .place import Place, place_at
from .report import Damage, LostRow, Report

if TYPE_CHECKING:
    from .store import Store

WAIT_SECONDS = 600.0
_SETTLE_SECONDS = 0.5
_PLACES = ["id", "corpus", "file", "line", "run"]


def verify(
    store: str | Store, full: bool = False, storage_options: dict[str, str] | None = None
) -> Report:
    """Compare the files of a store with what was noted when they were written.

    Plain: sizes of all files, hashes of manifests. Full: hashes of everything, and whether every
    row that was seen is in the pool. Files without a note (their run died before noting it) are
    read in a process of their own, then noted as they stand and reported.

    Raises:
        StoreNotFoundError: there is no store.
        StoreBusyError: maintenance kept the store for ten minutes.
    """
    place, lock = reach(store, storage_options)
    with lock.held(shared=True, wait=WAIT_SECONDS):
        return inspect(place, full)[0]


def reach(store: str | Store, storage_options: dict[str, str] | None) -> tuple[Place, StoreLock]:
    """Place and lock of a store that may not open.

    Raises:
        StoreNotFoundError: there is none.
    """
    if not isinstance(store, str):
        return store.place, store.locking
    place = place_at(store, storage_options)
    layout.require_pool(place)
    return place, StoreLock(place)


def inspect(place: Place, full: bool) -> tuple[Report, dict[str, State]]:
    """The report and what it was drawn from; the caller holds the lock."""
    with Reader(place) as reader:
        return _inspect(place, reader, full)


def _inspect(place: Place, reader: Reader, full: bool) -> tuple[Report, dict[str, State]]:
    states, torn = _examine_all(place, reader, full)
    owed = read_owed(place)
    if not full and (owed or any(damage.newest for damage in _damages(states))):
        states, torn = _examine_all(place, reader, full=True)  # naming lost rows takes reading
    report = Report(place.uri, full)
    report.late = _heal(place, reader, states)
    for path in torn:
        what = "its note of checksums is damaged; the files it spoke of count as without one"
        report.damages.append(Damage("files", path, "bytes", "checksums", what))
    if owed.torn:
        what = "every row that was seen and is not in the pool counts as lost"
        report.damages.append(Damage("pool", OWED_PATH, "bytes", "list of lost rows", what))
    for table, state in states.items():
        report.damages += [_with_keys(reader, state, damage) for damage in state.damages]
        report.orphans |= state.orphans
        report.checked_files += len(state.checked)
        report.checked_bytes += sum(state.checked.values())
        if state.version is not None:
            report.versions[table] = state.version
    _add_lost(place, states, report, owed)
    return report, states


def _damages(states: dict[str, State]) -> list[Damage]:
    return [damage for state in states.values() for damage in state.damages]


def _examine_all(place: Place, reader: Reader, full: bool) -> tuple[dict[str, State], list[str]]:
    notes, torn, states = _notes(place, reader)
    for table in TABLES:
        if table != "files":
            states[table] = examine(place, reader, table, notes, full=full)
    if any(state.unnoted for state in states.values()):
        time.sleep(_SETTLE_SECONDS)  # most likely a writer between its commit and its note
        notes, torn, again = _notes(place, reader)
        states["files"] = again["files"]
        for table, state in states.items():
            if state.unnoted and table != "files":
                states[table] = examine(place, reader, table, notes, full=full)
    return states, torn


def _notes(place: Place, reader: Reader) -> tuple[dict[str, FileNote], list[str], dict[str, State]]:
    """Every note there is, after the table `files` itself was checked byte by byte."""
    journal, torn = read_journal(place)
    seals: dict[str, FileNote] = {}
    others: dict[str, FileNote] = {}
    for name, notes in journal.items():
        into = seals if name.startswith("files-") else others
        into |= {note.path: note for note in notes}
    state = examine(place, reader, "files", seals, full=True)
    _try_unnoted(reader, state)
    rows = []
    if state.version is not None and not state.broken_fragments:
        rows = read_sound(place, state, [*TABLES["files"].names]).to_pylist()
    return by_path(rows) | others, torn, {"files": state}


def _try_unnoted(reader: Reader, state: State) -> None:
    """Read fragments no note vouches for in a process of their own; those that fail are damaged."""
    if state.version is None:
        return
    sound = set(state.sound_fragments)
    doubtful = {state.fragment_of.get(path, -1) for path in state.unnoted} & sound
    failed = reader.unreadable(state.table, state.version, sorted(doubtful))
    for number, why in failed.items():
        state.sound_fragments.remove(number)
        for path in [path for path in state.unnoted if state.fragment_of.get(path) == number]:
            detail = f"no checksum was noted, and {why}"
            what = Damage(state.table, path, "unreadable", "data", detail, fragment=number)
            state.damages.append(replace(what, rows=state.rows[number]))
            del state.unnoted[path]


def _heal(place: Place, reader: Reader, states: dict[str, State]) -> list[str]:
    """Note files that nobody noted, once a process of its own has read them to the end."""
    checksums, late = Checksums(place), []
    for table, state in states.items():
        if table != "files":
            _try_unnoted(reader, state)
        broken = set(state.broken_fragments)
        files = {p: v for p, v in state.unnoted.items() if state.fragment_of.get(p) not in broken}
        if table == "files" and (not files or state.damages):
            continue  # repair makes the table whole first
        if table == "files":
            checksums.seal(late=True)
        elif files:
            checksums.note(table, files, late=True)
        late += sorted(files)
    place.sync(checksums.unsynced)
    return late


def _with_keys(reader: Reader, state: State, damage: Damage) -> Damage:
    if damage.fragment is None or not damage.newest or state.table == "pool":
        return damage
    assert state.version is not None
    column = key_column(TABLES[state.table])
    told = reader.keys(state.table, state.version, damage.fragment, column)
    return replace(damage, keys=tuple(told))


def _add_lost(place: Place, states: dict[str, State], report: Report, owed: Owed) -> None:
    """Which rows of the pool are gone, and where each can be read again."""
    pool, sources = states["pool"], states["sources"]
    hurt = {damage.table for damage in report.damages if damage.newest}
    if pool.version is None:
        report.lost = list(owed.rows)
        return
    if not (report.full or owed or hurt & {"pool", "sources", "rejects"}):
        return
    held = read_sound(place, pool, ["id"])["id"]
    places = (
        _absent(read_sound(place, sources, _PLACES), held) if sources.version is not None else []
    )
    # Which absent rows the pool never had cannot be told once it is damaged: all count as lost.
    debts = {row.id for row in owed.rows if row.id}
    taken = "pool" in hurt
    report.lost = [row for row in places if taken or row.id in debts]
    report.pending = [row for row in places if not (taken or row.id in debts)]
    known = {row.id for row in report.lost}
    report.lost += _absent_rows([row for row in owed.rows if row.id not in known], held)
    ids = report.lost_ids
    old = len(debts.intersection(ids))
    broken = sum(pool.rows[number] for number in pool.broken_fragments)
    report.unnamed_rows = max(0, broken - (len(ids) - old))
    report.unnamed_rows += owed.short(len(held) + broken, old)
    whole = {(row.corpus, row.file): row for row in owed.rows if not row.id}
    if hurt & {"sources", "rejects"}:
        for row in _whole_files(place, states):
            whole.setdefault((row.corpus, row.file), row)
    blind = taken and ("sources" in hurt or any(not row.id for row in owed.rows))
    report.lost += [replace(row, unnamed=row.unnamed or blind) for row in whole.values()]


def _absent(places: pa.Table, held: pa.ChunkedArray) -> list[LostRow]:
    """The places whose rows are not among the ids held."""
    there = pc.is_in(places["id"], value_set=held.combine_chunks())  # pyright: ignore[reportAttributeAccessIssue]
    gone = places.filter(pc.invert(there))  # pyright: ignore[reportAttributeAccessIssue]
    return [LostRow(**row) for row in gone.to_pylist()]


def _absent_rows(rows: list[LostRow], held: pa.ChunkedArray) -> list[LostRow]:
    there = set(held.to_pylist()) if rows else set()
    return [row for row in rows if row.id and row.id not in there]


def _whole_files(place: Place, states: dict[str, State]) -> list[LostRow]:
    """Every file that was ever read: the lists of what stood in them are damaged."""
    files: dict[tuple[str, str], None] = {}
    runs, sources = states["runs"], states["sources"]
    if runs.version is not None:
        for row in read_sound(place, runs, ["files"])["files"].to_pylist():
            files |= {(entry["corpus"], entry["file"]): None for entry in row or ()}
    if sources.version is not None:
        pairs: pa.Table = read_sound(place, sources, ["corpus", "file"])
        for row in pairs.group_by(["corpus", "file"]).aggregate([]).to_pylist():
            files[(row["corpus"], row["file"])] = None
    return [LostRow("", corpus, file, 0) for corpus, file in files]
