"""What an error says of the names that are there."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_NAMED = 10
"""Up to so many names an error lists them all."""

_ALIKE = 3


def among(wanted: str, there: Iterable[str], to_list: str) -> str:
    """The names that are there, for an error that says that `wanted` is not one of them.

    Args:
        wanted: what was asked for.
        there: all names.
        to_list: the command that lists them.

    Returns:
        All of a few ("none yet" where there is none); of many those that look most like it or
        else the first ones, how many there are, and `to_list`.
    """
    names = sorted(there)
    if len(names) <= _NAMED:
        return ", ".join(names) or "none yet"
    close = get_close_matches(wanted, names, _ALIKE) or names[:_ALIKE]
    return f"{', '.join([*close, '...'])} ({len(names):,} in all; {to_list})"
