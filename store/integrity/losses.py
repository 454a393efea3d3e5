"""Losses that no repair can bring back, told by every later check until their owner accepts them.

A repair that takes damaged rows out of a small table, or steps back behind a torn manifest, leaves
tables that are sound and say nothing of what is gone. So it writes the loss into one small file
before it changes anything. A loss whose keys are all known is struck off once they are there again;
of what stood behind a torn manifest no key is known, and only `accept` ends it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from shlex import quote

from ...schemas.plain_text import count_of
from ..place import Place
from .sealed import read_sealed, write_sealed

PATH = "_losses.json"
NAMED = 20  # ids written out in a sentence; reports themselves hold all
_LAST_COMMITS = "what the last commits brought"

ADVICE = {
    "targets": "examples of targets are lost; type `coresetdb target add {uri} NAME FILE` again "
    "for those that `coresetdb target list {uri}` shows short",
    "scores": "scores are lost; compute them again where you need them",
    "coresets": "coresets are lost; type `coresetdb select {uri} ...` again",
    "artifacts": "fitted artifacts are lost: features that depend on them can be compared, but "
    "not extended; type `coresetdb init` for a new store to fit them again",
    "removed": "which rows were purged, and why and when others were removed, is no longer known; "
    "type `coresetdb remove {uri} ...` again for those that come back",
    "removed_rows": "removed rows are lost; ingest them again instead of restoring them",
    "runs": "the history of some ingestions is lost; the rows they brought are not",
    "evaluations": "measurements of studies are lost; `coresetdb evaluate run {uri} ...`, typed "
    "again, makes those that are missing",
    PATH: "the list of earlier losses is damaged, and what stood in it is not known",
}
"""Table -> what to type, or what its loss means: tables that nothing else tells to make again."""

_MADE_UP = ("removed",)
"""Tables whose keys a repair writes again from elsewhere, without all that stood beside them."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What one repair found to be lost for good from one table.

    Attributes:
        table: it was lost from.
        rows: how many; 0 where that is not known.
        keys: of the rows, as far as their files could still be read.
        files: the damaged ones, relative to the store.
        found_at: when (UTC, ISO 8601).
    """

    table: str
    rows: int
    keys: tuple[str, ...]
    files: tuple[str, ...]
    found_at: str

    def advice(self, uri: str) -> str:
        """What to type, or what it means; `uri` is the store's."""
        return ADVICE[self.table].format(uri=quote(uri))

    def sentence(self, uri: str) -> str:
        """What is lost, and what to do."""
        named = f" ({some_of(self.keys)})" if self.keys else ""
        count = f"{count_of(self.rows, 'row')}{named}" if self.rows else _LAST_COMMITS
        return f"{self.table}: {count}: {self.advice(uri)}"

    def is_back(self, keys: Callable[[str], set[str]]) -> bool:
        """Whether the table has every lost row again; `keys` gives those of a table."""
        all_known = bool(self.keys) and len(self.keys) >= self.rows
        return all_known and self.table not in _MADE_UP and keys(self.table) >= {*self.keys}


def some_of(ids: Sequence[str]) -> str:
    """The first ids of a list, and how many more there are."""
    rest = len(ids) - NAMED
    return ", ".join(ids[:NAMED]) + (f" and {rest:,} more" if rest > 0 else "")


def new_loss(table: str, rows: int, keys: Iterable[str], files: Iterable[str]) -> Loss:
    """A loss that was found just now."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Loss(table, rows, tuple(keys), tuple(files), now)


def read_losses(place: Place) -> list[Loss]:
    """The losses noted at `place`; of a damaged list, one that says so."""
    try:
        return [
            Loss(**{**loss, "keys": tuple(loss["keys"]), "files": tuple(loss["files"])})
            for loss in read_sealed(place, PATH) or ()
        ]
    except (ValueError, KeyError, TypeError):
        return [new_loss(PATH, 0, (), (PATH,))]


def note_losses(place: Place, found: Sequence[Loss]) -> None:
    """Add losses to those noted at `place`; one that was noted before a kill stays as it was."""
    noted = read_losses(place)
    known = {(loss.table, loss.files) for loss in noted}
    if fresh := [loss for loss in found if (loss.table, loss.files) not in known]:
        write_losses(place, [*noted, *fresh])


def write_losses(place: Place, losses: Sequence[Loss]) -> None:
    """Note these losses and no others; the file goes where there are none."""
    write_sealed(place, PATH, [asdict(loss) for loss in losses])
