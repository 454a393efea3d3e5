"""What every container hands on: numbered JSON values, and what could not become one.

A row is `(line, value)`: the physical line in line-based files, the record's number in arrays and
tables, both from 1; the value is what JSON can say, or a `Bad` where the bytes could not be read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MAX_RECORD_BYTES = 8_000_000
"""A single record over this many bytes is refused by its size, before it is parsed."""

EXCERPT_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Bad:
    """A record that could not be read; counts go by `reason` up to its first colon."""

    reason: str
    excerpt: str = ""


Row = tuple[int, Any]


def excerpt_of(raw: bytes | str) -> str:
    """The first 200 characters of `raw`, with anything UTF-8 cannot hold written as an escape."""
    if isinstance(raw, str):
        raw = raw[:EXCERPT_CHARACTERS].encode("utf-8", "backslashreplace")
    text = raw[: 4 * EXCERPT_CHARACTERS].decode("utf-8", "backslashreplace")
    return text[:EXCERPT_CHARACTERS].strip()


def oversize(size: int, head: bytes | str) -> Bad:
    """The refusal of a record of `size` bytes."""
    return Bad(f"record over 8 MB: {size:,} bytes", excerpt_of(head))


CUT_OFF = "cut off: the file ends inside this record"
NOT_UTF8 = "not UTF-8: --encoding latin-1 reads it if it is ISO-8859-1"
