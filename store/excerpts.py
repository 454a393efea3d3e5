"""Find excerpts of rejected records that show something of a text, however they are written.

An excerpt is the beginning of a line of a file: JSON with its escapes, a row of a table, plain
text. Both sides are compared by their letters and digits after NFKC and case folding, with the
escapes of JSON read and as they stand. A run of `RUN` of them in common is a find; what is shorter
than that has to be there as a whole. No words are looked for, as Chinese or Thai has no spaces.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

RUN = 12
"""Letters and digits in a row that two texts have in common by more than chance."""

_SHORTEST, _SHORTEST_ASCII = 2, 4
_NO_WORD = re.compile(r"[\W_]+")
_UNICODE = re.compile(r"(?:\\u[0-9a-fA-F]{4})+")
_CONTROL = re.compile(r"\\[ntrbf]")
_QUOTED = re.compile(r'\\(["\\/])')
_BETWEEN = re.compile(r'[\n\t"|,;]+')
_NESTED = 3  # JSON in a string of JSON, as the arguments of a tool call


def excerpts_showing(excerpts: Sequence[str], texts: Iterable[str]) -> set[int]:
    """The numbers of the excerpts that show one of the texts, or a part of it.

    Args:
        excerpts: all held in memory.
        texts: read once, one after another.
    """
    runs: dict[str, set[int]] = defaultdict(set)
    values: dict[str, set[int]] = defaultdict(set)
    widths = {RUN}
    for number, excerpt in enumerate(excerpts):
        for form in _forms(excerpt):
            letters = _letters(form)
            if not _tells(letters):
                continue
            widths.add(min(RUN, len(letters)))
            for run in _runs(letters, min(RUN, len(letters))):
                runs[run].add(number)
            for value in _BETWEEN.split(form):
                values[_letters(value)].add(number)
    found: set[int] = set()
    for text in texts:
        for form in _forms(text):
            letters = _letters(form)
            if len(letters) < RUN and _tells(letters):
                found |= values.get(letters, set())
            for width in widths:
                for run in runs.keys() & _runs(letters, width):
                    found |= runs[run]
    return found


def _forms(text: str) -> Iterator[str]:
    """The text as it stands, and with the escapes of JSON read, one level after another."""
    yield text
    for _ in range(_NESTED):
        read = _without_escapes(text)
        if read == text:
            return
        yield read
        text = read


def _without_escapes(text: str) -> str:
    if "\\" not in text:
        return text
    # A backslash that is escaped itself begins no other escape, at this level.
    parts = text.split("\\\\")
    return "\\".join(
        _QUOTED.sub(r"\1", _CONTROL.sub("\n", _UNICODE.sub(_characters, part))) for part in parts
    )


def _characters(escapes: re.Match[str]) -> str:
    units = bytes.fromhex(escapes.group().replace("\\u", ""))
    return units.decode("utf-16-be", "ignore")


def _letters(text: str) -> str:
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return _NO_WORD.sub("", folded)


def _tells(letters: str) -> bool:
    """Whether this is enough to be somebody's words: "4" and "yes" stand in many records."""
    return len(letters) >= (_SHORTEST_ASCII if letters.isascii() else _SHORTEST)


def _runs(letters: str, width: int) -> set[str]:
    return {letters[at : at + width] for at in range(len(letters) - width + 1)}
