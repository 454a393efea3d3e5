"""The store's own record of its files: size and xxh3 of every file a version is made of.

Lance keeps no checksum of data files, deletion files or manifests. After each commit the files it
added are hashed and noted in one small object under `_checksums/`, which carries a hash of itself;
`fold` moves such notes into the table `files`. The files of that table cannot vouch for themselves:
after every fold a seal, again an object under `_checksums/`, lists them.

Order: Lance offers no way to learn the names of the files before a commit that is still exact
(`execute_uncommitted` leaves out the key filter, so two stale inserts of one id both get in:
tried). So the note follows its commit. A process killed in between leaves files without a note;
the next writer or `verify` finds them, notes their present bytes and marks them `late`.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from ..schemas.canonical import digest_of
from ..schemas.tables import FILES
from .commits import committed, lost_race
from .place import Place, unopened
from .rows import key_of

FOLDER = "_checksums"
FOLD_AFTER = 64  # notes
_MERGE_FRAGMENTS = 32  # of the table `files`, which grows by one with every fold
_SETTLE_SECONDS = 0.5
_NEWEST_FIRST = (1 << 64) - 1  # Lance names manifests so that the newest sorts first
_KINDS = ("manifest", "data file", "deletion file", "index file")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FileNote:
    """What a file was when it was written. `path` is relative to the store."""

    table: str
    path: str
    size: int
    xxh3: str
    version: int
    late: bool = False


def version_files(table: str, dataset: Any, since: int | None = None) -> dict[str, int]:
    """The files of a version (path relative to the store -> version), or of those after `since`.

    With `since`, files that version `since` already had are left out.
    """
    version = dataset.version
    first = version if since is None else since
    rows = dataset.tracked_files(min_version=first).read_all().to_pylist()
    files: dict[str, int] = {}
    for row in sorted(rows, key=lambda row: row["version"]):
        if row["version"] <= version and row["type"] in _KINDS:
            files.setdefault(f"{table}.lance/{row['path']}", row["version"])
    return {path: at for path, at in files.items() if since is None or at > since}


def manifest_versions(table: str, paths: Iterable[str]) -> dict[int, str]:
    """Version -> path of every manifest among the paths."""
    manifests = {}
    for path in paths:
        folder, _, name = path.rpartition("/")
        stem = name.removesuffix(".manifest")
        if folder == f"{table}.lance/_versions" and stem != name and stem.isdigit():
            number = int(stem)
            manifests[_NEWEST_FIRST - number if len(stem) == 20 else number] = path
    return manifests


class Checksums:
    """Notes of one store, as one process reads and writes them."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._open_notes = 0
        self.unsynced: set[str] = set()

    def note(self, table: str, files: dict[str, int], late: bool = False) -> list[FileNote]:
        """Hash files (path -> version) and keep what they are."""
        notes = [
            FileNote(table, path, *self._place.checksum(path), version, late)
            for path, version in files.items()
        ]
        if notes:
            self._put(f"{table}-{max(files.values()):012d}", notes)
            self._open_notes += 1
            self.unsynced.update(files)
            self.unsynced.add(f"{table}.lance/_versions/latest_version_hint.json")
        if self._open_notes >= FOLD_AFTER:
            self.fold()
        return notes

    def known(self) -> dict[str, FileNote]:
        """All notes, by path."""
        journal, _ = read_journal(self._place)  # before the table: a fold may be moving them
        rows = self._files().to_table().to_pylist()
        return by_path(rows) | {note.path: note for notes in journal.values() for note in notes}

    def note_missing(self, table: str, dataset: Any) -> list[FileNote]:
        """Note the files of a version that have no note, marked `late`, and log it."""
        missing = self._unnoted(table, dataset)
        if missing:  # most likely another writer between its commit and its note
            time.sleep(_SETTLE_SECONDS)
            missing = self._unnoted(table, dataset)
        if not missing:
            return []
        log.warning(
            "%s: %s committed by a run that was killed before recording checksums; recorded now "
            "from the present bytes",
            table,
            "1 file was" if len(missing) == 1 else f"{len(missing):,} files were",
        )
        return self.note(table, missing, late=True)

    def _unnoted(self, table: str, dataset: Any) -> dict[str, int]:
        if table == "files":
            journal, _ = read_journal(self._place)
            noted = {note.path for name in journal for note in journal[name]}
        else:
            noted = set(self.known())
        return {path: at for path, at in version_files(table, dataset).items() if path not in noted}

    def fold(self) -> None:
        """Move the notes of all processes into the table `files`; repeating it changes nothing."""
        journal, _ = read_journal(self._place)
        moving = {name: notes for name, notes in journal.items() if not name.startswith("files-")}
        self._open_notes = 0
        if not moving:
            return
        rows = note_table(note for notes in moving.values() for note in notes)

        def insert() -> None:
            # A file has one note for ever, unless a repair removed it (a torn manifest) and was
            # killed before it could say so, and a writer took its name meanwhile.
            merge = self._files().merge_insert("key").when_not_matched_insert_all()
            merge.when_matched_update_all("source.xxh3 <> target.xxh3").execute(rows)

        committed("noting checksums", insert)
        self._merge_fragments()
        self.seal()
        for name in moving:
            self._place.delete(f"{FOLDER}/{name}")

    def seal(self, late: bool = False) -> None:
        """Note the files of the newest version of the table `files`; older seals go.

        Notes of older seals are copied, never made anew: a new hash would accept damage.
        """
        dataset = self._files()
        name = f"files-{dataset.version:012d}"
        journal, _ = read_journal(self._place)
        before = {n.path: n for stem in journal if stem.startswith("files-") for n in journal[stem]}
        existing = self._place.sizes("files.lance")
        now = {path: version for version, path in manifest_versions("files", existing).items()}
        now |= version_files("files", dataset)
        new = {path: version for path, version in now.items() if path not in before}
        notes = [note for path, note in before.items() if path in existing] + [
            FileNote("files", path, *self._place.checksum(path), version, late)
            for path, version in new.items()
        ]
        written = self._put(name, notes)
        self.unsynced.update(new)
        self._drop_seals(lambda other: other < name and not written.endswith(other))

    def unseal(self) -> None:
        """Delete all seals of the table `files`, before it is created again."""
        self._drop_seals(lambda other: True)

    def _drop_seals(self, which: Callable[[str], bool]) -> None:
        for path in self._place.sizes(FOLDER):
            name = path.rsplit("/", 1)[1]
            if name.startswith("files-") and which(name):
                self._place.delete(path)

    def forget(self, paths: Iterable[str]) -> None:
        """Drop the notes of files that were removed on purpose."""
        removed = sorted(set(paths))
        self.fold()
        for start in range(0, len(removed), 1000):
            keys = ", ".join(
                f"'{key_of(path.split('.lance/')[0], path)}'"
                for path in removed[start : start + 1000]
            )
            committed("forgetting checksums", lambda k=keys: self._files().delete(f"key IN ({k})"))
        self.seal()

    def _files(self) -> Any:
        import lance

        try:
            return lance.dataset(
                self._place.table_uri("files"), storage_options=self._place.options
            )
        except (OSError, ValueError) as error:
            raise unopened(self._place, "files", error) from error

    def _merge_fragments(self) -> None:
        dataset = self._files()
        if len(dataset.get_fragments()) > _MERGE_FRAGMENTS:
            try:
                dataset.optimize.compact_files()
            except OSError as error:
                if not lost_race(error):
                    raise
                log.info("the table files is being compacted by another writer")

    def _put(self, stem: str, notes: list[FileNote]) -> str:
        path = f"{FOLDER}/{stem}-{uuid.uuid4().hex[:8]}.json"
        entries = [asdict(note) for note in notes]
        text = json.dumps({"files": entries, "digest": digest_of(entries)})
        self._place.write(path, text.encode())
        self.unsynced.add(path)
        return path


def read_journal(place: Place) -> tuple[dict[str, list[FileNote]], list[str]]:
    """Notes not yet in the table `files`, by object name, and the paths of damaged objects."""
    journal: dict[str, list[FileNote]] = {}
    damaged = []
    for path in sorted(place.sizes(FOLDER)):
        if not path.endswith(".json"):
            continue  # half-written by a process that was killed; `clean` removes it
        try:
            content = json.loads(place.read(path))
            entries = content["files"]
            if content["digest"] != digest_of(entries):
                raise ValueError("digest differs")
            journal[path.rsplit("/", 1)[1]] = [FileNote(**entry) for entry in entries]
        except FileNotFoundError:  # folded into the table meanwhile
            continue
        except (ValueError, KeyError, TypeError):
            damaged.append(path)
    return journal, damaged


def by_path(rows: list[dict[str, Any]]) -> dict[str, FileNote]:
    """Rows of the table `files` as notes."""
    return {
        row["path"]: FileNote(
            row["table"],
            row["path"],
            row["size"],
            row["xxh3"],
            row["version"],
            bool(row["late"]),
        )
        for row in rows
    }


def note_table(notes: Iterable[FileNote]) -> pa.Table:
    """Notes as rows of the table `files`, each path once."""
    unique = {note.path: note for note in notes}.values()
    rows = [{"key": key_of(note.table, note.path), **asdict(note)} for note in unique]
    return pa.Table.from_pylist(rows, schema=FILES)
