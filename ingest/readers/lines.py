"""Bytes to lines, split on the byte \\n alone, never holding more than one record's limit."""

from __future__ import annotations

from collections.abc import Iterator

from .rows import MAX_RECORD_BYTES, Bad, oversize


class Unfinished(bytes):
    """The last line of a file that does not end in a newline: it may be cut off."""


def split_lines(
    chunks: Iterator[bytes], limit: int = MAX_RECORD_BYTES
) -> Iterator[tuple[int, bytes | Bad]]:
    """Number and content of every line, without its \\n; a line over `limit` bytes is a `Bad`.

    U+2028, U+2029 and U+0085 break no line. Numbers count from 1.
    """
    number, rest = 1, b""
    head, dropped = b"", 0
    for chunk in chunks:
        if dropped:
            end = chunk.find(b"\n")
            dropped += len(chunk) if end < 0 else end
            if end < 0:
                continue
            yield number, oversize(dropped, head)
            number, dropped, chunk = number + 1, 0, chunk[end + 1 :]
        lines = chunk.split(b"\n")
        lines[0] = rest + lines[0]
        rest = lines.pop()
        for line in lines:
            yield number, line if len(line) <= limit else oversize(len(line), line)
            number += 1
        if len(rest) > limit:
            head, dropped, rest = rest[:1000], len(rest), b""
    if dropped:
        yield number, oversize(dropped, head)
    elif rest:
        yield number, Unfinished(rest)
