"""Losses that no repair can bring back, told by every later check until their owner accepts them.

A repair that takes damaged rows out of a small table, or steps back behind a torn manifest, leaves
tables that are sound and say nothing of what is gone. So it writes the loss into one small file
before it changes anything. A loss whose keys are all known is struck off once they are there again;
of what stood behind a torn manifest no key is known, and only `accept` ends it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from ...schemas.canonical import digest_of
from ...schemas.plain_text import count_of
from ..place import Place

PATH = "_losses.json"
_NAMED = 20
_LAST_COMMITS = "what the last commits brought"


@dataclass(frozen=True, slots=True)
class Loss:
    """What one repair found to be lost for good from one table.

    Attributes:
        table: it was lost from.
        rows: how many; 0 where that is not known.
        keys: of the rows, as far as their files could still be read.
        files: the damaged ones, relative to the store.
        advice: what to type, or what it means.
        found_at: when (UTC, ISO 8601).
    """

    table: str
    rows: int
    keys: tuple[str, ...]
    files: tuple[str, ...]
    advice: str
    found_at: str

    @property
    def sentence(self) -> str:
        """What is lost, and what to do."""
        named = f" ({', '.join(self.keys[:_NAMED])})" if self.keys else ""
        count = f"{count_of(self.rows, 'row')}{named}" if self.rows else _LAST_COMMITS
        return f"{self.table}: {count}: {self.advice}"

    def is_back(self, keys: Callable[[str], set[str]]) -> bool:
        """Whether the table has every lost row again; `keys` gives those of a table."""
        return bool(self.keys) and len(self.keys) >= self.rows and keys(self.table) >= {*self.keys}


def new_loss(table: str, rows: int, keys: Iterable[str], files: Iterable[str], advice: str) -> Loss:
    """A loss that was found just now."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Loss(table, rows, tuple(keys), tuple(files), advice, now)


def read_losses(place: Place) -> list[Loss]:
    """The losses noted at `place`; of a damaged list, one that says so."""
    try:
        content = json.loads(place.read(PATH))
        if content["digest"] != digest_of(content["losses"]):
            raise ValueError("digest differs")
        return [
            Loss(**{**loss, "keys": tuple(loss["keys"]), "files": tuple(loss["files"])})
            for loss in content["losses"]
        ]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError):
        advice = "the list of earlier losses is damaged, and what stood in it is not known"
        return [new_loss(PATH, 0, (), (PATH,), advice)]


def note_losses(place: Place, found: Sequence[Loss]) -> None:
    """Add losses to those noted at `place`; one that was noted before a kill stays as it was."""
    noted = read_losses(place)
    known = {(loss.table, loss.files) for loss in noted}
    if fresh := [loss for loss in found if (loss.table, loss.files) not in known]:
        write_losses(place, [*noted, *fresh])


def write_losses(place: Place, losses: Sequence[Loss]) -> None:
    """Note these losses and no others; the file goes where there are none."""
    if not losses:
        place.delete(PATH)
        return
    facts = [asdict(loss) for loss in losses]
    text = json.dumps({"losses": facts, "digest": digest_of(facts)}, ensure_ascii=False)
    place.write(PATH, text.encode())
    place.sync([PATH])
