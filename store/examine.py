"""Comparing the files of one table with their notes.

Manifests are always hashed, and only sound ones are opened in this process. From the newest sound
manifest follow the files the table needs; they are compared by size, or by hash when asked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from .checksums import FileNote, manifest_versions
from .isolated import Reader
from .place import Place
from .report import Damage


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
        elif note is not None:
            problem = _compare(place, state, note, sizes[need.path], full)
        elif need.size is not None and need.size != sizes[need.path]:
            problem = ("size", f"{sizes[need.path]} bytes, written were {need.size}")
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
    told = {damage.path for damage in state.damages} | set(state.files)
    for path, note in notes.items():
        if note.table != state.table or path in told or path.endswith(".manifest"):
            continue
        problem = ("missing", "the file is gone")
        if path in sizes:
            problem = _compare(place, state, note, sizes[path], full=True)
        if problem:
            state.damages.append(
                Damage(state.table, path, problem[0], _what(path), problem[1], newest=False)
            )


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


def _compare(
    place: Place, state: State, note: FileNote, size: int, full: bool
) -> tuple[str, str] | None:
    state.checked[note.path] = size
    if size != note.size:
        return "size", f"{size} bytes, written were {note.size}"
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
    assert state.version is not None
    dataset = _open(place, state.table, state.version)
    parts = [part for part in dataset.get_fragments() if part.fragment_id in state.sound_fragments]
    if not parts:
        return dataset.schema.empty_table().select(columns)
    return dataset.scanner(columns=columns, fragments=parts).to_table()
