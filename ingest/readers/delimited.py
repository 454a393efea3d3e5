"""CSV and TSV: the delimiter is detected, quoted fields may span lines, broken rows are rejected.

Tab-separated files rarely follow CSV's quoting: there quotes are text, unless the first part of
the file holds a quoted field with a tab, a newline or a doubled quote in it.
"""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .decoding import MAX_RECORD_BYTES, NOT_UTF8, BadRecord, Row, excerpt_of, split_lines

NAMES = {
    "\t": "tab-separated values",
    ",": "CSV",
    ";": "CSV with semicolons",
    "|": "CSV with bars",
}
"""What files are called, by their delimiter."""

DELIMITERS = tuple(NAMES)
UNTERMINATED = BadRecord("unterminated quote")
PROBED_ROWS = 50
PROBED_BYTES = 1 << 18

ESCAPE = re.compile(r"\\([ntr\\])")
ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}

csv.field_size_limit(max(csv.field_size_limit(), MAX_RECORD_BYTES + 1))


@dataclass(frozen=True)
class Dialect:
    """How rows are cut: the delimiter, and whether quotes enclose fields or are text."""

    delimiter: str
    quoted: bool = True

    @property
    def words(self) -> str:
        """The dialect in words, for the user."""
        name = NAMES[self.delimiter]
        return name if self.quoted else f"{name}, quotes are text"


def find_dialect(head: bytes) -> Dialect | None:
    """The dialect of a file that begins with `head`; None where no delimiter gives two columns.

    The delimiter is the one with which most of the first 50 rows have as many columns as the
    first, then the one with more columns.
    """
    head = head[:PROBED_BYTES]
    best: tuple[float, int, Dialect] | None = None
    for delimiter in DELIMITERS:
        for quoted in (True, False) if delimiter == "\t" else (True,):
            dialect = Dialect(delimiter, quoted)
            share, width = _evenness(head, dialect)
            if width >= 2 and (best is None or (share, width) > best[:2]):
                best = share, width, dialect
    if best is None:
        return None
    return Dialect("\t", _quotes_by_rule(head)) if best[2].delimiter == "\t" else best[2]


def _evenness(head: bytes, dialect: Dialect) -> tuple[float, int]:
    """The share of the first rows as wide as the first one, and that width."""
    rows: list[list[str]] = []
    for _, cells in cut_rows(iter([head]), dialect):
        if isinstance(cells, list):
            rows.append(cells)
        if len(rows) > PROBED_ROWS:
            break
    rows = rows[:-1] if len(rows) > 1 else rows  # the last may be cut by the window
    if not rows:
        return 0.0, 0
    width = len(rows[0])
    return sum(len(row) == width for row in rows) / len(rows), width


def _quotes_by_rule(head: bytes) -> bool:
    """Whether a tab-separated file quotes as CSV does."""
    quoted, _ = _evenness(head, Dialect("\t", quoted=True))
    literal, _ = _evenness(head, Dialect("\t", quoted=False))
    doubled = re.search(rb'(?:^|\t|\n)"[^"\t\n]*""(?:[^"\t\n]|"")*"(?=\t|\r?\n|$)', head)
    return quoted > literal or (quoted == literal and doubled is not None)


def cut_rows(
    chunks: Iterator[bytes], dialect: Dialect, limit: int = MAX_RECORD_BYTES
) -> Iterator[tuple[int, list[str] | BadRecord]]:
    """The number of the first line, and the cells, of every row that is not blank.

    A quote that is never closed, or is closed by a quote in a later row, spoils the line it opens
    on; reading goes on with the next line.
    """
    lines = split_lines(chunks, limit)
    again: deque[bytes | BadRecord] = deque()  # lines to read again after an open quote
    number = 0
    while True:
        line = _next_line(again, lines)
        if line is None:
            return
        number += 1
        if isinstance(line, BadRecord):
            yield number, line
            continue
        if not dialect.quoted or b'"' not in line:
            if line.strip() or (dialect.delimiter == "\t" and b"\t" in line):
                yield number, _cells(line, dialect)
            continue
        parts = [line]
        size = len(line)
        is_open = _open_after(line, dialect, inside=False)
        while is_open and size <= limit:
            more = _next_line(again, lines)
            if more is None:
                break
            if isinstance(more, BadRecord):
                again.appendleft(more)
                break
            parts.append(more)
            size += len(more) + 1
            is_open = _open_after(more, dialect, inside=True)
        cells = UNTERMINATED if is_open else _cells(b"\n".join(parts), dialect)
        if isinstance(cells, BadRecord) and cells.reason != NOT_UTF8:
            yield number, BadRecord(cells.reason, excerpt_of(line))
            again.extendleft(reversed(parts[1:]))
        else:
            yield number, cells
            number += len(parts) - 1


def _next_line(
    again: deque[bytes | BadRecord], lines: Iterator[tuple[int, bytes | BadRecord]]
) -> bytes | BadRecord | None:
    """The next line, from those to be read again first; None at the end."""
    if again:
        return again.popleft()
    item = next(lines, None)
    return None if item is None else item[1]


def keyed_rows(
    rows: Iterator[tuple[int, list[str] | BadRecord]], columns: Sequence[str]
) -> Iterator[Row]:
    """Rows as objects; one with too few or too many cells is rejected."""
    width = len(columns)
    for number, cells in rows:
        if isinstance(cells, BadRecord):
            yield number, cells
        elif len(cells) != width:
            reason = f"wrong number of columns: {len(cells)} instead of {width}"
            yield number, BadRecord(reason, excerpt_of(" | ".join(cells)))
        else:
            yield number, dict(zip(columns, cells, strict=True))


def unescaped_rows(rows: Iterator[Row]) -> Iterator[Row]:
    """Rows with \\n, \\t, \\r and \\\\ in their cells replaced by what they stand for."""
    for number, value in rows:
        if isinstance(value, dict):
            value = {
                name: ESCAPE.sub(lambda match: ESCAPED[match.group(1)], cell)
                for name, cell in value.items()
            }
        yield number, value


def _cells(line: bytes, dialect: Dialect) -> list[str] | BadRecord:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        return BadRecord(NOT_UTF8, excerpt_of(line))
    text = text.removesuffix("\r")
    if not dialect.quoted or '"' not in text:
        return text.split(dialect.delimiter)
    try:
        return next(csv.reader([text], delimiter=dialect.delimiter, strict=True))
    except csv.Error as error:
        return BadRecord(f"malformed quotes: {error}", excerpt_of(line))


def _open_after(line: bytes, dialect: Dialect, *, inside: bool) -> bool:
    """Whether a quoted field is open at the end of `line`, given whether one was at its start."""
    delimiter = dialect.delimiter.encode()
    at, end = 0, len(line)
    while True:
        if inside:
            at = line.find(b'"', at)
            if at < 0:
                return True
            if line[at + 1 : at + 2] == b'"':
                at += 2
                continue
            at, inside = at + 1, False
        elif line[at : at + 1] == b'"' and (at == 0 or line[at - 1 : at] == delimiter):
            at, inside = at + 1, True
            continue
        at = line.find(delimiter, at)
        if at < 0:
            return False
        at += 1
        if at > end:
            return False
