"""When an answer that a model wrote is right."""

from __future__ import annotations

import re
from collections.abc import Sequence

_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")
_EDGES = " \t\r\n.,;:!?\"'`*_()[]{}"


def is_right(written: str, accepted: Sequence[str]) -> bool:
    """Return whether a text is one of the accepted answers.

    Where an accepted answer is a number, the last number of the text counts, as after a chain of
    thought; otherwise text and answer must be the same but for case, white space, and quotes and
    punctuation at the ends.
    """
    for answer in accepted:
        number = as_number(answer)
        if number is None:
            if normalised(written) == normalised(answer):
                return True
        elif (last := last_number(written)) is not None and abs(last - number) <= 1e-6 * max(
            1.0, abs(number)
        ):
            return True
    return False


def as_number(text: str) -> float | None:
    """Return the number that a text is, with or without a currency or per cent sign; else None."""
    bare = text.strip().strip("$€£%").strip()
    return _value(bare) if _NUMBER.fullmatch(bare) else None


def last_number(text: str) -> float | None:
    """Return the last number in a text, None where there is none."""
    found = _NUMBER.findall(text)
    return _value(found[-1]) if found else None


def _value(number: str) -> float:
    return float(number.replace(",", ""))


def normalised(text: str) -> str:
    """Return a text in small letters, white space as single spaces, bare of its edges."""
    return " ".join(text.casefold().split()).strip(_EDGES)
