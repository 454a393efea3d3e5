"""What a reader of rows is told by the user, and what it asks the importers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Header = Callable[[Sequence[str], Sequence[str]], list[str] | None]
"""From the first two rows of a delimited file to its column names, or None without header."""


@dataclass(frozen=True)
class Hints:
    """What a reader is told by the user, and what it asks the importers.

    Attributes:
        encoding, unescape: as in `ReadOptions`.
        list_key: the key of the list of records in a JSON document, if the user named it.
        plain_text: whether text without columns is read line by line.
        is_record: returns whether an object is itself a record of a known shape.
        are_turns: returns whether a list is a conversation, turn by turn.
        header: returns the column names of a delimited file from its first two rows.
        names: returns the column names of a table without header, from its width.
    """

    encoding: str | None
    list_key: str | None
    plain_text: bool
    unescape: bool
    is_record: Callable[[dict[str, Any]], bool]
    are_turns: Callable[[list[Any]], bool]
    header: Header
    names: Callable[[int], list[str]]
