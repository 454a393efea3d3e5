"""What `verify` found and `repair` did, as data and as lines for a person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

_NAMED = 20  # ids written out in `lines`; the report itself holds all


@dataclass(frozen=True, slots=True)
class LostRow:
    """One place a lost row can be read again from.

    An id seen in several places comes once for each. `line` 0 and an empty id: it is not known
    which rows of this file are lost, the whole file has to be read again.
    """

    id: str
    corpus: str
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class Damage:
    """One file that is not what was written.

    Attributes:
        path: relative to the store.
        kind: "missing", "size", "bytes", or "unreadable" (no checksum was ever noted, and a
            process of its own could not read it).
        what: "manifest", "data", "deletions", "index", "tag" or "checksums".
        version: of a manifest.
        fragment: of data and deletions.
        rows: how many rows of the newest version stand in it.
        keys: of those rows, as far as the file still told them (not for the pool: see
            `Report.lost`).
        newest: whether the newest version needs it; else only older versions do.
        tags: tagged versions that need it.
    """

    table: str
    path: str
    kind: str
    what: str
    detail: str
    version: int | None = None
    fragment: int | None = None
    rows: int = 0
    keys: tuple[str, ...] = ()
    newest: bool = True
    tags: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = "" if self.newest else " (only old versions need it)"
        if self.tags:
            where = f" (tagged versions need it: {', '.join(self.tags)})"
        rows = f", {self.rows} rows" if self.rows else ""
        return f"{self.table}: {self.what} {self.path}: {self.detail}{rows}{where}"


@dataclass
class Report:
    """The state of a store. `ok` speaks of the newest version of every table."""

    uri: str
    full: bool
    versions: dict[str, int] = field(default_factory=dict)
    checked_files: int = 0
    checked_bytes: int = 0
    damages: list[Damage] = field(default_factory=list)
    lost: list[LostRow] = field(default_factory=list)
    unnamed_rows: int = 0
    late: list[str] = field(default_factory=list)
    orphans: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every file of the newest versions is what was written."""
        return not any(damage.newest for damage in self.damages)

    @property
    def lost_ids(self) -> list[str]:
        """Ids of the pool rows that damage took, each once."""
        return list(dict.fromkeys(row.id for row in self.lost if row.id))

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"ok": self.ok, **asdict(self)}

    def lines(self) -> list[str]:
        """For a person, one fact a line."""
        depth = "contents" if self.full else "sizes and manifests"
        told = [str(damage) for damage in self.damages]
        if self.lost:
            ids = self.lost_ids
            told.append(f"pool: {len(ids)} rows are lost: {_some(ids)}")
            told += [
                f"  {row.id or 'whole file'} from {row.corpus} {row.file}:{row.line}"
                for row in self.lost[:_NAMED]
            ]
        if self.unnamed_rows:
            told.append(f"pool: {self.unnamed_rows} lost rows stand in no healthy list of sources")
        if self.late:
            told.append(
                f"{len(self.late)} files had no checksum (their run died before noting it) and "
                "were noted as they stand"
            )
        if self.orphans:
            told.append(
                f"{len(self.orphans)} files of killed runs, {sum(self.orphans.values())} bytes, "
                "belong to no version; `coresetdb compact` removes them"
            )
        told += self.notes
        state = "sound" if self.ok else "DAMAGED"
        told.append(
            f"{self.uri}: {state} ({self.checked_files} files, {self.checked_bytes} bytes, "
            f"{depth} checked)"
        )
        return told


@dataclass
class Repair:
    """What repair did: what it found, did, brought back, and had to leave."""

    found: Report
    actions: list[str] = field(default_factory=list)
    restored: list[str] = field(default_factory=list)
    unrepaired: list[str] = field(default_factory=list)
    after: Report | None = None

    @property
    def ok(self) -> bool:
        """Whether the newest versions are sound again and nothing is missing from them."""
        return not self.unrepaired and self.after is not None and self.after.ok

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "ok": self.ok,
            "found": self.found.as_dict(),
            "actions": self.actions,
            "restored": self.restored,
            "unrepaired": self.unrepaired,
            "after": self.after.as_dict() if self.after else None,
        }

    def lines(self) -> list[str]:
        """For a person, one fact a line."""
        told = [*self.found.lines(), *self.actions]
        if self.restored:
            told.append(f"{len(self.restored)} rows are back: {_some(self.restored)}")
        told += [f"NOT repaired: {line}" for line in self.unrepaired]
        if self.after:
            told.append(self.after.lines()[-1])
        return told


def _some(ids: Sequence[str]) -> str:
    rest = len(ids) - _NAMED
    return ", ".join(ids[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
