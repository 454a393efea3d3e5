"""Check that a store is what was written: sizes and manifests in under a second, or every byte.

`examine` compares the files of one table with their notes. Manifests are always hashed, and only
sound ones are opened in this process; the newest sound one names the files that the table needs,
which are compared by size, or by hash with `full`. Lance reads no byte of a table in this process
before its checksum was compared; a file without one is first read in a process of its own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ...schemas.errors import ReadOnlyStoreError
from ...schemas.ids import GrowingIdSet
from ...schemas.plain_text import count_of
from ...schemas.tables import NEWER_TABLES, TABLES
from .. import layout
from ..checksums import FOLDER as CHECKSUM_FOLDER
from ..checksums import Checksums, FileNote, by_path, manifest_versions, read_journal
from ..indices import owed
from ..locks import StoreLock
from ..place import Place, place_at
from ..removal import UNSETTLED
from ..rows import key_column
from .facts import compare_tables
from .isolated import Reader
from .losses import Loss, read_losses, write_losses
from .report import PATH as LOST_PATH
from .report import Damage, LostRow, LostRows, Report, read_lost

if TYPE_CHECKING:
    from ..store import Store


@dataclass
class State:
    """One table: the newest version that opens, what it is made of, and what is wrong."""

    table: str
    version: int | None = None
    damages: list[Damage] = field(default_factory=list)
    files: dict[str, int] = field(default_factory=dict)  # needed by the newest version -> bytes
    checked: dict[str, int] = field(default_factory=dict)  # compared with its note -> bytes
    unnoted: dict[str, int] = field(default_factory=dict)  # path -> version
    orphans: dict[str, int] = field(default_factory=dict)
    sound_fragments: list[int] = field(default_factory=list)
    rows: dict[int, int] = field(default_factory=dict)  # rows of each fragment
    fragment_of: dict[str, int] = field(default_factory=dict)

    @property
    def broken_fragments(self) -> list[int]:
        """Fragments of the newest version with a damaged file."""
        return [number for number in self.rows if number not in self.sound_fragments]


@dataclass(frozen=True)
class _Need:
    """A file a version needs."""

    path: str
    what: str
    fragment: int
    size: int | None
    rows: int


def examine(
    place: Place, reader: Reader, table: str, notes: Mapping[str, FileNote], *, full: bool
) -> State:
    """Check one table against its notes (path -> note); `reader` opens what has none."""
    state = State(table)
    sizes = place.sizes(f"{table}.lance")
    manifests = manifest_versions(table, sizes)
    bad = _bad_manifests(place, reader, state, manifests, sizes, notes)
    sound = [version for version in manifests if version not in bad]
    if not sound:
        return state
    state.version = max(sound)
    state.damages += [replace(d, newest=d.version > max(sound)) for d in bad.values()]  # type: ignore[operator]
    dataset = _open(place, table, state.version)
    needs = _needs(table, dataset)
    state.rows = {need.fragment: need.rows for need in needs}
    state.fragment_of = {need.path: need.fragment for need in needs}
    broken = _check(place, state, needs, sizes, notes, full, newest=True)
    state.sound_fragments = [number for number in state.rows if number not in broken]
    state.unnoted |= {need.path: state.version for need in needs if need.path not in notes}
    _check_older(place, state, manifests, bad, sizes, notes, full)
    needed = {need.path for need in needs} | {manifests[version] for version in manifests}
    state.orphans = {
        path: size
        for path, size in sizes.items()
        if path not in notes
        and path not in needed
        and path.split("/")[1] in ("data", "_deletions", "_indices")
    }
    return state


def _bad_manifests(
    place: Place,
    reader: Reader,
    state: State,
    manifests: Mapping[int, str],
    sizes: Mapping[str, int],
    notes: Mapping[str, FileNote],
) -> dict[int, Damage]:
    table = state.table
    noted = manifest_versions(table, notes)
    bad = {}
    unnoted = sorted(version for version, path in manifests.items() if path not in notes)
    closed = reader.unopenable(table, unnoted)
    for version, path in sorted(manifests.items()):
        problem: tuple[str, str] | None = None
        if path in notes:
            problem = _compare(place, state, notes[path], sizes[path], full=True)
        elif version in closed:
            problem = ("unreadable", closed[version])
        else:
            state.unnoted[path] = version
        if problem:
            bad[version] = Damage(table, path, problem[0], "manifest", problem[1], version)
    for version, path in noted.items():
        if version not in manifests:
            detail = f"version {version} was committed, its manifest is gone"
            bad[version] = Damage(table, path, "missing", "manifest", detail, version)
    if not set(manifests) - set(bad):
        detail = "no version of this table opens"
        bad.setdefault(0, Damage(table, f"{table}.lance", "missing", "manifest", detail))
        state.damages += list(bad.values())
    return bad


def _check(
    place: Place,
    state: State,
    needs: list[_Need],
    sizes: Mapping[str, int],
    notes: Mapping[str, FileNote],
    full: bool,
    newest: bool,
    tags: tuple[str, ...] = (),
) -> set[int]:
    broken = set()
    for need in needs:
        note = notes.get(need.path)
        if newest:
            state.files[need.path] = sizes.get(need.path, 0)
        problem: tuple[str, str] | None
        if need.path not in sizes:
            problem = ("missing", "the file is gone")
        elif need.size is not None and need.size != sizes[need.path]:
            problem = ("size", f"{sizes[need.path]:,} bytes instead of {need.size:,}")
        elif note is not None:
            problem = _compare(place, state, note, sizes[need.path], full)
        else:
            problem = None
        if problem:
            broken.add(need.fragment)
            state.damages.append(
                Damage(
                    state.table,
                    need.path,
                    problem[0],
                    need.what,
                    problem[1],
                    fragment=need.fragment,
                    rows=need.rows if newest else 0,
                    newest=newest,
                    tags=tags,
                )
            )
    return broken


def _check_older(
    place: Place,
    state: State,
    manifests: Mapping[int, str],
    bad: Mapping[int, Damage],
    sizes: Mapping[str, int],
    notes: Mapping[str, FileNote],
    full: bool,
) -> None:
    """What only older versions need: files of tagged ones, and in full whatever is noted."""
    tags = _tags(place, state, sizes)
    state.damages = [
        replace(d, tags=tuple(tags.get(d.version or 0, ()))) if d.what == "manifest" else d
        for d in state.damages
    ]
    for version, names in sorted(tags.items()):
        if version not in manifests and not _has_version(place, state.table, version):
            detail = f"it stands for version {version}, which is gone"
            state.damages += [
                Damage(state.table, tag_path(state.table, name), "bytes", "tag", detail)
                for name in names
                if version not in bad
            ]
        if version in bad or version not in manifests:
            continue
        older = _needs(state.table, _open(place, state.table, version))
        known = {damage.path: damage for damage in state.damages}
        again = [need for need in older if need.path in known]
        for need in again:
            damage = known[need.path]
            at = state.damages.index(damage)
            state.damages[at] = replace(damage, tags=(*damage.tags, *names))
        fresh = [need for need in older if need.path not in known and need.path not in state.files]
        _check(place, state, fresh, sizes, notes, full, newest=False, tags=tuple(names))
    if not full:
        return
    checked = {damage.path for damage in state.damages} | set(state.files)
    for path, note in notes.items():
        if note.table != state.table or path in checked or path.endswith(".manifest"):
            continue
        problem = ("missing", "the file is gone")
        if path in sizes:
            problem = _compare(place, state, note, sizes[path], full=True)
        if problem:
            what = _what(path)
            newest = what == "index" and _in_an_index(place, state, path)
            state.damages.append(
                Damage(state.table, path, problem[0], what, problem[1], newest=newest)
            )


def _in_an_index(place: Place, state: State, path: str) -> bool:
    """Whether a file belongs to an index of the newest version."""
    assert state.version is not None
    there = _open(place, state.table, state.version).list_indices()
    return path.split("/")[2] in {str(index["uuid"]) for index in there}


def _tags(place: Place, state: State, sizes: Mapping[str, int]) -> dict[int, list[str]]:
    """Version -> names that stand for it; a tag that is no JSON is a damage."""
    tags: dict[int, list[str]] = {}
    for path in sizes:
        if path.startswith(f"{state.table}.lance/_refs/tags/") and path.endswith(".json"):
            try:
                version = json.loads(place.read(path))["version"]
            except (ValueError, KeyError, TypeError):
                detail = "the tag does not say its version"
                state.damages.append(Damage(state.table, path, "bytes", "tag", detail))
                continue
            name = path.rsplit("/", 1)[1].removesuffix(".json")
            tags.setdefault(version, []).append(name)
    return tags


def tag_path(table: str, name: str) -> str:
    """Where Lance keeps what a tag of a table stands for."""
    return f"{table}.lance/_refs/tags/{name}.json"


def _has_version(place: Place, table: str, version: int) -> bool:
    """Whether a version is there now: it may be newer than the list of files."""
    return version in manifest_versions(table, place.sizes(f"{table}.lance/_versions"))


def _compare(
    place: Place, state: State, note: FileNote, size: int, full: bool
) -> tuple[str, str] | None:
    state.checked[note.path] = size
    if size != note.size:
        return "size", f"{size:,} bytes instead of {note.size:,}"
    if full and place.checksum(note.path)[1] != note.xxh3:
        return "bytes", "its bytes are not those that were written"
    return None


def _needs(table: str, dataset: Any) -> list[_Need]:
    needs = []
    for part in dataset.get_fragments():
        meta, number = part.metadata, part.fragment_id
        for file in meta.files:
            path = f"{table}.lance/data/{file.path}"
            needs.append(_Need(path, "data", number, file.file_size_bytes, meta.num_rows))
        deletions = part.deletion_file()
        if deletions:
            path = f"{table}.lance/{deletions}"
            needs.append(_Need(path, "deletions", number, None, meta.num_rows))
    return needs


def _what(path: str) -> str:
    return {"_indices": "index", "_deletions": "deletions"}.get(path.split("/")[1], "data")


def _open(place: Place, table: str, version: int) -> Any:
    import lance

    return lance.dataset(place.table_uri(table), version=version, storage_options=place.options)


def read_sound(place: Place, state: State, columns: list[str]) -> pa.Table:
    """Columns of the rows in sound fragments of the newest version that opens."""
    batches = list(sound_batches(place, state, columns))
    if not batches:
        assert state.version is not None
        return _open(place, state.table, state.version).schema.empty_table().select(columns)
    return pa.Table.from_batches(batches)


def sound_batches(place: Place, state: State, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """What `read_sound` reads, in batches."""
    assert state.version is not None
    dataset = _open(place, state.table, state.version)
    sound = set(state.sound_fragments)
    parts = [part for part in dataset.get_fragments() if part.fragment_id in sound]
    if parts:
        yield from dataset.scanner(columns=columns, fragments=parts).to_batches()


class SoundTables:
    """The tables in whose newest version nothing is damaged, as `facts.Tables`."""

    def __init__(self, place: Place, states: Mapping[str, State]) -> None:
        self._place, self._states = place, states
        self.uri = place.typed

    def has(self, table: str) -> bool:
        """Whether it is there and sound."""
        state = self._states.get(table)
        if state is None or state.version is None:
            return False
        beside = ("tag", "index")  # no row stands in them
        return not any(damage.newest and damage.what not in beside for damage in state.damages)

    def read(self, table: str, columns: list[str]) -> pa.Table:
        """Columns of the version that was checked."""
        return read_sound(self._place, self._states[table], columns)

    def batches(self, table: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """The same in batches."""
        return sound_batches(self._place, self._states[table], columns)

    def reread(self, table: str, columns: list[str]) -> pa.Table:
        """Columns of the version that is the newest now."""
        return self._open(table).to_table(columns=columns)

    def tags(self, table: str) -> dict[str, int]:
        """Name -> version; damaged ones are left out."""
        named = _tags(self._place, State(table), self._place.sizes(f"{table}.lance/_refs"))
        return {name: version for version, names in named.items() for name in names}

    def versions(self, table: str) -> set[int]:
        """Those with a manifest."""
        return set(manifest_versions(table, self._place.sizes(f"{table}.lance/_versions")))

    def _open(self, table: str) -> Any:
        import lance

        return lance.dataset(self._place.table_uri(table), storage_options=self._place.options)


class NewestTables(SoundTables):
    """The newest versions of a store that was just mended, as `facts.Tables`."""

    def __init__(self, place: Place) -> None:
        super().__init__(place, {})

    def has(self, table: str) -> bool:
        """Whether it is there."""
        return layout.has_table(self._place, table)

    def read(self, table: str, columns: list[str]) -> pa.Table:
        """Columns of the newest version."""
        return self.reread(table, columns)

    def batches(self, table: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """The same in batches."""
        return self._open(table).scanner(columns=columns).to_batches()


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
    place, lock = place_and_lock(store, storage_options)
    with lock.held(shared=True, wait=WAIT_SECONDS):
        return inspect(place, full)[0]


def place_and_lock(
    store: str | Store, storage_options: dict[str, str] | None
) -> tuple[Place, StoreLock]:
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
    recorded = read_lost(place)
    if not full and (recorded or any(damage.newest for damage in _damages(states))):
        states, torn = _examine_all(place, reader, full=True)  # naming lost rows takes reading
    report = Report(place.uri, full, interrupted=list(recorded.damages))
    report.late = _note_missing(place, reader, states)
    for path in torn:
        what = (
            "this checksum record is damaged, or another store's; the files it lists count as "
            "having no checksum"
        )
        report.damages.append(Damage("files", path, "bytes", "checksums", what))
    if recorded.torn:
        what = "every row that was seen and is not in the pool counts as lost"
        report.damages.append(Damage("pool", LOST_PATH, "bytes", "list of lost rows", what))
    for table, state in states.items():
        report.damages += [_with_keys(reader, state, damage) for damage in state.damages]
        report.orphans |= state.orphans
        report.checked_files += len(state.checked)
        report.checked_bytes += sum(state.checked.values())
        if state.version is not None:
            report.versions[table] = state.version
    _add_lost(place, states, report, recorded)
    report.losses = _losses(place, states, full)
    if full:  # otherwise the bytes were not compared
        report.notes += [*_on_their_way(place, states), *_indices_owed(place, states)]
        facts = compare_tables(SoundTables(place, states))
        report.contradictions = facts.contradictions
        report.notes += facts.remarks
    return report, states


def _damages(states: dict[str, State]) -> list[Damage]:
    return [damage for state in states.values() for damage in state.damages]


def _examine_all(place: Place, reader: Reader, full: bool) -> tuple[dict[str, State], list[str]]:
    notes, torn, states = _notes(place, reader)
    noted = {note.table for note in notes.values()}
    for table in TABLES:
        if table in NEWER_TABLES and table not in noted and not layout.has_table(place, table):
            continue  # an older coresetdb did not make it
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
    sealing = {name: notes for name, notes in journal.items() if name.startswith("files-")}
    fitting = sealing
    if len(sealing) > 1:  # one was being replaced by the next, or is another store's
        fitting = {name: notes for name, notes in sealing.items() if _fits(place, notes)}
    if fitting and len(fitting) < len(sealing):
        torn += [f"{CHECKSUM_FOLDER}/{name}" for name in sealing if name not in fitting]
        sealing = fitting
    seals = {note.path: note for notes in sealing.values() for note in notes}
    state = examine(place, reader, "files", seals, full=True)
    _try_unnoted(reader, state)
    rows = []
    if state.version is not None and not state.broken_fragments:
        rows = read_sound(place, state, [*TABLES["files"].names]).to_pylist()
    known = by_path(rows)
    others: dict[str, FileNote] = {}
    for name, notes in journal.items():
        if name.startswith("files-"):
            continue
        disputed = [note for note in notes if _otherwise(known.get(note.path), note)]
        if any(_fits(place, [known[note.path]]) for note in disputed):
            torn.append(f"{CHECKSUM_FOLDER}/{name}")  # the table is right, so the note is not
        else:
            others |= {note.path: note for note in notes}
    return known | others, torn, {"files": state}


def _fits(place: Place, notes: list[FileNote]) -> bool:
    """Whether those files that are there are what the notes say."""
    sizes = place.sizes("files.lance") if any(n.table == "files" for n in notes) else None
    for note in notes:
        there = note.path in sizes if sizes is not None else place.exists(note.path)
        if there and place.checksum(note.path) != (note.size, note.xxh3):
            return False
    return True


def _otherwise(known: FileNote | None, note: FileNote) -> bool:
    return known is not None and (known.size, known.xxh3) != (note.size, note.xxh3)


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


def _note_missing(place: Place, reader: Reader, states: dict[str, State]) -> list[str]:
    """Note files without a note, once a process of its own has read them to the end."""
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
    keys = reader.keys(state.table, state.version, damage.fragment, column)
    return replace(damage, keys=tuple(keys))


def _add_lost(place: Place, states: dict[str, State], report: Report, recorded: LostRows) -> None:
    """Which rows of the pool are gone, and where each can be read again."""
    pool, sources = states["pool"], states["sources"]
    hurt = {d.table for d in report.damages if d.newest and d.what != "index"}
    before = {damage.table for damage in report.interrupted}
    if pool.version is None:
        report.lost = list(recorded.rows)
        return
    if not (report.full or recorded or hurt & {"pool", "sources", "rejects"}):
        return
    held = GrowingIdSet()
    held.add_all(batch["id"] for batch in sound_batches(place, pool, ["id"]))
    in_pool = len(held)
    held.add_all(_removed_ids(place, states, "removed"))
    if "removed" in hurt | before:  # repair writes the tombstones again
        held.add_all(_removed_ids(place, states, "removed_rows"))
    places = []
    if sources.version is not None:
        for batch in sound_batches(place, sources, _PLACES):
            places += _absent(batch, held)
    # Which absent rows the pool never had cannot be told once it is damaged: all count as lost.
    recorded_ids = {row.id for row in recorded.rows if row.id}
    taken = "pool" in hurt
    report.lost = [row for row in places if taken or row.id in recorded_ids]
    report.pending = [row for row in places if not (taken or row.id in recorded_ids)]
    known = {row.id for row in report.lost}
    report.lost += _absent_rows([row for row in recorded.rows if row.id not in known], held)
    ids = report.lost_ids
    old = len(recorded_ids.intersection(ids))
    # A repair that was stopped has counted some rows already, whether it took them out or not.
    counted = {pool.fragment_of.get(path, -1) for path in recorded.counted}
    broken = sum(pool.rows[number] for number in pool.broken_fragments if number not in counted)
    report.unnamed_rows = max(0, broken - (len(ids) - old))
    report.unnamed_rows += recorded.still_unnamed(in_pool + broken, old)
    report.deleted = _deleted(place, states, report.pending)
    whole = {(row.corpus, row.file): row for row in recorded.rows if not row.id}
    if hurt & {"sources", "rejects"}:
        for row in _whole_files(place, states):
            whole.setdefault((row.corpus, row.file), row)
    blind = taken and ("sources" in hurt or any(not row.id for row in recorded.rows))
    report.lost += [replace(row, unnamed=row.unnamed or blind) for row in whole.values()]


def _losses(place: Place, states: dict[str, State], full: bool) -> list[Loss]:
    """The losses that repairs noted; in full, those that were made good are struck off."""
    noted = read_losses(place)
    if not (noted and full):
        return noted

    def keys(table: str) -> set[str]:
        state = states.get(table)
        if state is None or state.version is None:
            return set()
        column = key_column(TABLES[table])
        return set(read_sound(place, state, [column])[column].to_pylist())

    left = [loss for loss in noted if not loss.is_back(keys)]
    if len(left) < len(noted):
        try:
            write_losses(place, left)
        except ReadOnlyStoreError:  # then each look finds again that they are back
            return left
    return left


def _on_their_way(place: Place, states: dict[str, State]) -> list[str]:
    """A sentence on removals, restores and purges that were killed, or are at it right now."""
    removed = states.get("removed")
    if removed is None or removed.version is None:
        return []
    rows = read_sound(place, removed, ["state"])["state"].to_pylist()
    count = sum(state in UNSETTLED for state in rows)
    if not count:
        return []
    return [
        f"the removal, restore or purge of {count_of(count, 'row')} is running or was interrupted; "
        "the next command that opens the store finishes it"
    ]


def _indices_owed(place: Place, states: dict[str, State]) -> list[str]:
    """A sentence on indices that were dropped, and are not there again yet."""
    state = states["pool"]
    if state.version is None:
        return []
    pool = _open(place, "pool", state.version)
    names = owed(pool)
    ours = [name for name in names if name in pool.schema.names]
    theirs = [name for name in names if name not in ours]
    who = "a purge or a repair that is running or was interrupted dropped"
    sentences = []
    if ours:
        sentences.append(
            f"{who} the index of {', '.join(ours)}; the next command that opens the store makes it "
            "again"
        )
    if theirs:
        sentences.append(
            f"{who} the index {', '.join(theirs)}, which another tool made or whose feature is "
            "gone; make it again with that tool"
        )
    return sentences


def _removed_ids(place: Place, states: dict[str, State], table: str) -> Iterator[pa.Array]:
    """Ids of rows that were taken out of the pool on purpose, as a table has them, in parts."""
    removed = states.get(table)
    if removed is not None and removed.version is not None:
        for batch in sound_batches(place, removed, ["id"]):
            yield batch["id"]


def _deleted(place: Place, states: dict[str, State], pending: list[LostRow]) -> list[str]:
    """Those absent rows whose ingestion ended well: the pool had them, and another tool did not.

    A run that ended had inserted everything it listed.
    """
    runs = states["runs"]
    if not pending or runs.version is None:
        return []
    rows = read_sound(place, runs, ["run", "status"]).to_pylist()
    ended = {row["run"] for row in rows if row["status"] == "done"}
    return list(dict.fromkeys(row.id for row in pending if row.run in ended))


def _absent(places: pa.RecordBatch, held: GrowingIdSet) -> list[LostRow]:
    """The places whose rows are not among the ids held."""
    gone = places.filter(pa.array(~held.contains(places["id"])))
    return [LostRow(**row) for row in gone.to_pylist()]


def _absent_rows(rows: list[LostRow], held: GrowingIdSet) -> list[LostRow]:
    named = [row for row in rows if row.id]
    there = held.contains([row.id for row in named]).tolist()
    return [row for row, is_there in zip(named, there, strict=True) if not is_there]


def _whole_files(place: Place, states: dict[str, State]) -> list[LostRow]:
    """Every file that was ever read: the lists of what stood in them are damaged."""
    files: dict[tuple[str, str], None] = {}
    runs, sources = states["runs"], states["sources"]
    if runs.version is not None:
        for row in read_sound(place, runs, ["files"])["files"].to_pylist():
            entries = [entry for entry in row or () if entry["corpus"]]  # else it was attached
            files |= {(entry["corpus"], entry["file"]): None for entry in entries}
    if sources.version is not None:
        pairs: pa.Table = read_sound(place, sources, ["corpus", "file"])
        for row in pairs.group_by(["corpus", "file"]).aggregate([]).to_pylist():
            files[(row["corpus"], row["file"])] = None
    return [LostRow("", corpus, file, 0) for corpus, file in files]
