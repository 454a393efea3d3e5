"""What damage took and nobody has brought back yet, kept in one small file until it is.

Repair takes damaged rows out of the newest version before they are made again. From there on no
table shows the loss: whatever happens in between (a kill, a source that is gone), this file does.
It carries a digest of itself. Deleting it is how an owner accepts the loss.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from ..schemas.canonical import digest_of
from .place import Place
from .report import LostRow

PATH = "_lost.json"


@dataclass(frozen=True)
class Owed:
    """Rows to be brought back.

    Attributes:
        rows: places they, or the lists of places, can be read again from.
        unnamed: how many rows of the pool are lost that no place names.
        expected: rows of the pool once all are back.
        torn: the file is there, but is not what was written.
    """

    rows: Sequence[LostRow] = ()
    unnamed: int = 0
    expected: int = 0
    torn: bool = False

    def __bool__(self) -> bool:
        return bool(self.rows or self.unnamed or self.torn)

    def short(self, rows: int, missing: int) -> int:
        """Unnamed rows still lost, of a pool that has `rows` and lacks `missing` named ones."""
        return min(self.unnamed, max(0, self.expected - rows - missing))


def read_owed(place: Place) -> Owed:
    """What is owed at `place`."""
    try:
        content = json.loads(place.read(PATH))
        facts = content["owed"]
        if content["digest"] != digest_of(facts):
            raise ValueError("digest differs")
        rows = [LostRow(**row) for row in facts["rows"]]
        return Owed(rows, facts["unnamed"], facts["expected"])
    except FileNotFoundError:
        return Owed()
    except (ValueError, KeyError, TypeError):
        return Owed(torn=True)


def write_owed(place: Place, owed: Owed) -> None:
    """Keep what is owed, on disk; nothing owed leaves no file."""
    if not owed:
        place.delete(PATH)
        return
    facts = {
        "rows": [asdict(row) for row in owed.rows],
        "unnamed": owed.unnamed,
        "expected": owed.expected,
    }
    text = json.dumps({"owed": facts, "digest": digest_of(facts)}, ensure_ascii=False)
    place.write(PATH, text.encode())
    place.sync([PATH])
