"""What `verify` found and `repair` did, as data and as lines of text; the record of lost rows.

Repair takes damaged rows out of the newest version before they are made again. From then on no
table shows the loss, whatever happens in between (a kill, a source that is gone): one small file in
the store does, until the rows are back. It also keeps the damages that a repair has taken in hand,
until it ends, so that one that was killed is known and the next one says what was lost. It carries
a digest of itself. Accepting the loss (`repair.accept`) deletes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from shlex import quote
from typing import Any

from ...schemas.plain_text import LinesResult, count_of
from ..place import Place
from .facts import Contradiction
from .losses import NAMED, Loss, some_of
from .sealed import read_sealed, write_sealed


@dataclass(frozen=True, slots=True)
class LostRow:
    """One place a lost row can be read again from.

    An id seen in several places comes once for each. `line` 0 and an empty id: the list of what
    stood in this file is lost, the whole file has to be read again.

    Attributes:
        run: that read the place; it knows how (None where that is not known).
        unnamed: of a whole file: rows of the pool may be lost whose ids no list names.
    """

    id: str
    corpus: str
    file: str
    line: int
    run: str | None = None
    unnamed: bool = False


@dataclass(frozen=True, slots=True)
class Damage:
    """One file that is not what was written.

    Attributes:
        path: relative to the store.
        kind: "missing", "size", "bytes", or "unreadable" (no checksum was ever noted, and a
            process of its own could not read it).
        what: "manifest", "data", "deletions", "index", "tag", "checksums" or "list of lost rows".
        version: of a manifest.
        fragment: of data and deletions.
        rows: how many rows of the newest version stand in it.
        keys: of those rows, as far as the file could still be read (not for the pool: see
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
        rows = f", {count_of(self.rows, 'row')}" if self.rows else ""
        return f"{self.table}: {self.what} {self.path}: {self.detail}{rows}{where}"


@dataclass
class Report(LinesResult):
    """The state of a store. `ok` speaks of the newest version of every table.

    Attributes:
        checked_files, checked_bytes: files compared with their checksums: manifests of all
            versions, files of the newest ones and of tagged ones; in full every file there is.
        lost: rows that damage took, now or before an earlier repair, and that are not back yet.
        unnamed_rows: rows of the pool among them that no list of sources names.
        pending: places of rows that were seen but are not in the pool: an ingestion runs right
            now or was interrupted. No damage; looked for in full only.
        deleted: ids of those whose ingestion had ended: they were in the pool, and something other
            than coresetdb deleted them.
        interrupted: damages that a repair had taken in hand when it was stopped; they need not
            show in the files any more.
        contradictions: between tables; looked for in full only, where no file is damaged.
        losses: that repairs could not make good, and nobody has accepted yet; what is there is
            sound, so `ok` does not speak of them.
        accepted: losses that were accepted just before.
    """

    uri: str
    full: bool
    versions: dict[str, int] = field(default_factory=dict)
    checked_files: int = 0
    checked_bytes: int = 0
    damages: list[Damage] = field(default_factory=list)
    lost: list[LostRow] = field(default_factory=list)
    unnamed_rows: int = 0
    pending: list[LostRow] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    interrupted: list[Damage] = field(default_factory=list)
    contradictions: list[Contradiction] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    accepted: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    orphans: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether the newest versions are what was written, and nothing is lost from them."""
        return not (self._damaged or self._missing or self.interrupted)

    @property
    def _damaged(self) -> bool:
        return any(damage.newest for damage in self.damages)

    @property
    def _missing(self) -> bool:
        return bool(self.lost or self.unnamed_rows or self.contradictions)

    @property
    def lost_ids(self) -> list[str]:
        """Ids of the pool rows that damage took, each once."""
        return lost_row_ids(self.lost)

    @property
    def pending_ids(self) -> list[str]:
        """Ids that were seen but are not in the pool, each once."""
        return lost_row_ids(self.pending)

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        losses = [{**asdict(loss), "advice": loss.advice(self.uri)} for loss in self.losses]
        return {"ok": self.ok, **asdict(self), "losses": losses}

    def lines(self) -> list[str]:
        """The same as text, one fact a line."""
        depth = "contents" if self.full else "sizes and manifests"
        lines = [str(damage) for damage in self.damages]
        if self.interrupted:
            lines.append(
                f"a repair was stopped before its end; `coresetdb verify {quote(self.uri)} "
                "--repair` finishes it. It was at:"
            )
            lines += [f"  {damage}" for damage in self.interrupted]
        if ids := self.lost_ids:
            lines.append(f"pool: {count_and_verb(len(ids), 'row')} lost: {some_of(ids)}")
            named = [row for row in self.lost if row.id]
            lines += [
                f"  {row.id} from {row.corpus} {row.file}:{row.line}" for row in named[:NAMED]
            ]
        if self.unnamed_rows:
            lines.append(
                f"pool: {count_and_verb(self.unnamed_rows, 'row')} lost, "
                "and the lists that named them are damaged"
            )
        lines += [
            f"{row.file} ({row.corpus}): the list of its rows is lost; the whole file has to be "
            "read again"
            for row in self.lost
            if not row.id
        ]
        if self.deleted:
            store = quote(self.uri)
            lines.append(
                f"{count_and_verb(len(self.deleted), 'row')} no longer in the pool, and not by "
                f"`coresetdb remove`: {some_of(self.deleted)}. Ingesting again and `coresetdb "
                f"verify {store} --repair` bring them back; to keep them out: `coresetdb remove "
                f"{store} --ids FILE`, or --corpus NAME"
            )
        gone = set(self.deleted)
        if ids := [row for row in self.pending_ids if row not in gone]:
            lines.append(
                f"{count_and_verb(len(ids), 'row')} listed as seen, but not in the pool "
                "(an ingestion is running or was interrupted): ingest again, or run "
                f"`coresetdb verify {quote(self.uri)} --repair`"
            )
        if self.late:
            lines.append(
                f"{count_of(len(self.late), 'file')} had no checksum (the run was killed before "
                "recording it); recorded now from the present bytes"
            )
        if self.orphans:
            lines.append(
                f"{count_of(len(self.orphans), 'file')} of killed runs "
                f"({sum(self.orphans.values()):,} bytes) "
                f"{'belongs' if len(self.orphans) == 1 else 'belong'} to no version; "
                f"`coresetdb compact {quote(self.uri)}` removes "
                f"{'it' if len(self.orphans) == 1 else 'them'}"
            )
        lines += [
            f"{contradiction}; `coresetdb verify {quote(self.uri)} --repair` mends it, or says "
            "what to do"
            for contradiction in self.contradictions
        ]
        lines += self.notes
        lines += [f"accepted that this is lost: {sentence}" for sentence in self.accepted]
        lines += [
            f"lost for good, as a repair found on {loss.found_at}: {loss.sentence(self.uri)}"
            for loss in self.losses
        ]
        if self.losses:
            lines.append(f"to accept it: {accept_command(self.uri)}")
        state = "sound, with losses" if self.losses else "sound"
        state = state if self.ok else "DAMAGED" if self._damaged else "A REPAIR IS NOT FINISHED"
        if self._missing and not self._damaged:
            lost = self.lost or self.unnamed_rows
            state = "ROWS ARE MISSING" if lost else "TABLES CONTRADICT EACH OTHER"
        lines.append(
            f"{self.uri}: {state} ({depth} of {count_of(self.checked_files, 'file')} checked, "
            f"{self.checked_bytes:,} bytes)"
        )
        return lines


@dataclass
class Repair(LinesResult):
    """What repair did: what it found, did, brought back, and had to leave.

    Attributes:
        reread: whether the sources of lost rows were read again at all.
        unread: files that could not be read again, or not wholly, and why.
        not_remade: coresets whose members could not be chosen again, and why.
    """

    found: Report
    actions: list[str] = field(default_factory=list)
    restored: list[str] = field(default_factory=list)
    reread: bool = False
    unread: dict[str, str] = field(default_factory=dict)
    not_remade: dict[str, str] = field(default_factory=dict)
    unrepaired: list[str] = field(default_factory=list)
    after: Report | None = None

    @property
    def ok(self) -> bool:
        """Whether the newest versions are sound again and nothing is missing from them."""
        return not self.unrepaired and self.after is not None and self.after.ok

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "ok": self.ok,
            "found": self.found.as_dict(),
            "actions": self.actions,
            "restored": self.restored,
            "unread": self.unread,
            "unrepaired": self.unrepaired,
            "after": self.after.as_dict() if self.after else None,
        }

    def lines(self) -> list[str]:
        """The same as text, one fact a line."""
        lines = [*self.found.lines(), *self.actions]
        if self.restored:
            lines.append(
                f"{count_and_verb(len(self.restored), 'row')} back: {some_of(self.restored)}"
            )
        lines += [f"NOT repaired: {line}" for line in self.unrepaired]
        if self.after and (last := self.after.lines()[-1]) not in lines:
            lines.append(last)
        return lines


def accept_command(uri: str) -> str:
    """What to type so that a loss is named no more."""
    return f"coresetdb verify {quote(uri)} --accept"


def lost_row_ids(rows: Sequence[LostRow]) -> list[str]:
    """The ids of lost rows, each once, in their order."""
    return list(dict.fromkeys(row.id for row in rows if row.id))


def count_and_verb(number: int, noun: str) -> str:
    """A number, its noun and the verb: "1 row is", "2 rows are"."""
    return f"{count_of(number, noun)} {'is' if number == 1 else 'are'}"


PATH = "_lost.json"


@dataclass(frozen=True)
class LostRows:
    """The record of rows that damage took and that are not back yet.

    Attributes:
        rows: places they, or the lists of places, can be read again from.
        unnamed: how many rows of the pool are lost that no place names.
        expected: rows of the pool once all are back.
        counted: files of the pool whose rows are among these, and which a repair may not have taken
            out yet.
        damages: that a repair has taken in hand and not seen to its end.
        torn: the file is there, but is not what was written.
    """

    rows: Sequence[LostRow] = ()
    unnamed: int = 0
    expected: int = 0
    counted: Sequence[str] = ()
    damages: Sequence[Damage] = ()
    torn: bool = False

    def __bool__(self) -> bool:
        return bool(self.rows or self.unnamed or self.damages or self.torn)

    def still_unnamed(self, rows: int, missing: int) -> int:
        """Unnamed rows still lost, of a pool that has `rows` and lacks `missing` named ones."""
        return min(self.unnamed, max(0, self.expected - rows - missing))


def read_lost(place: Place) -> LostRows:
    """The lost rows recorded at `place`."""
    try:
        facts = read_sealed(place, PATH)
        if facts is None:
            return LostRows()
        rows = [LostRow(**row) for row in facts["rows"]]
        damages = [
            Damage(**{**damage, "keys": tuple(damage["keys"]), "tags": tuple(damage["tags"])})
            for damage in facts.get("damages", ())
        ]
        counted = tuple(facts.get("counted", ()))
        return LostRows(rows, facts["unnamed"], facts["expected"], counted, tuple(damages))
    except (ValueError, KeyError, TypeError):
        return LostRows(torn=True)


def write_lost(place: Place, recorded: LostRows) -> None:
    """Record lost rows on disk; the file goes where there are none."""
    facts = {
        "rows": [asdict(row) for row in recorded.rows],
        "unnamed": recorded.unnamed,
        "expected": recorded.expected,
        "counted": list(recorded.counted),
        "damages": [asdict(damage) for damage in recorded.damages],
    }
    write_sealed(place, PATH, facts if recorded else None)
