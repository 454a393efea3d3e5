"""Incremental JSON: one value at a time from chunks of bytes, in bounded memory.

The C scanner of the standard library parses a value that lies whole in the buffer (nearly all do).
Only where it fails does a structural scan look for the value's end: that value was cut by the
buffer, or is broken (it is refused and reading goes on behind it), or is over the limit (its bytes
are counted and dropped, never parsed).
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from .rows import CUT_OFF, MAX_RECORD_BYTES, NOT_UTF8, Bad, excerpt_of, oversize

SPACE = re.compile(r"[ \t\n\r]*")
OUTSIDE = re.compile(r'["{}\[\]]')
INSIDE = re.compile(r'["\\]')
SCALAR_END = re.compile(r"[,\]}\s]")
UNDECODED = re.compile("[\udc80-\udcff]")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def why_invalid(error: Exception) -> str:
    """The reason for a record the parser refused."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        return f"invalid JSON: {error.msg} (character {error.pos + 1})"
    return f"invalid JSON: {error}"


class JsonScanner:
    """A cursor over JSON text. `peek` skips blanks; `value` reads one value or says what is bad."""

    def __init__(self, chunks: Iterator[bytes], limit: int = MAX_RECORD_BYTES) -> None:
        self._chunks, self._limit = chunks, limit
        self._decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
        self._text, self._at = "", 0
        self._end = 0  # of the value last measured
        self._ended = self._undecoded = False

    def peek(self) -> str:
        """The next character that is no white space, or "" at the end."""
        while True:
            match = SPACE.match(self._text, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def take(self, character: str) -> bool:
        """Step over `character` if it comes next."""
        if self.peek() != character:
            return False
        self._at += 1
        return True

    def value(self) -> Any | Bad:
        """The value at the cursor (`peek` must have found one)."""
        start = self._at
        if self._text[start] not in '{["':  # a number may go on in the next chunk
            return self._measured_value()
        try:
            value, end = DECODER.raw_decode(self._text, start)
        except (ValueError, RecursionError):
            return self._measured_value()
        if self._undecoded and UNDECODED.search(self._text, start, end):
            self._at = end
            return Bad(NOT_UTF8, excerpt_of(self._text[start:end]))
        self._at = end
        return value

    def _more(self) -> bool:
        while not self._ended:
            chunk = next(self._chunks, None)
            self._ended = chunk is None
            text = self._decode(chunk or b"", chunk is None)
            if text:
                try:
                    text.encode("utf-8")
                except UnicodeEncodeError:
                    self._undecoded = True
                self._text, self._at = self._text[self._at :] + text, 0
                return True
        return False

    def _measured_value(self) -> Any | Bad:
        """Find the end of the value first, then parse it, if it is whole and within the limit."""
        closed, size, head = self._extent()
        if size:
            return oversize(size, head)
        text = self._text[self._at : self._end]
        self._at = self._end
        if len(text) * 4 > self._limit:
            size = len(text.encode("utf-8", "surrogateescape"))
            if size > self._limit:
                return oversize(size, text[:1000])
        if not closed:
            return Bad(CUT_OFF, excerpt_of(text))
        if UNDECODED.search(text):
            return Bad(NOT_UTF8, excerpt_of(text))
        try:
            return DECODER.decode(text)
        except (ValueError, RecursionError) as error:
            return Bad(why_invalid(error), excerpt_of(text))

    def _extent(self) -> tuple[bool, int, str]:
        """Whether the value closes, its bytes if they had to be dropped, its head. Sets `_end`."""
        first = self._text[self._at]
        scalar = first not in '{["'
        inside, depth, index = False, 0, self._at
        dropped, head = 0, ""
        if scalar:
            index += 1
        while True:
            mark = (SCALAR_END if scalar else INSIDE if inside else OUTSIDE).search(
                self._text, index
            )
            if mark is None:
                pending = len(self._text) - self._at
                ahead = max(0, index - len(self._text))  # an escape at the very end
                if pending > self._limit or dropped:
                    gone = self._text[self._at :]
                    head = head or gone[:1000]
                    dropped += len(gone.encode("utf-8", "surrogateescape"))
                    self._at, pending = len(self._text), 0
                if not self._more():
                    self._end = len(self._text)
                    self._at = self._end if dropped else self._at
                    return scalar, dropped, head
                index = self._at + pending + ahead
                continue
            character, index = mark.group(), mark.end()
            if scalar:
                index -= 1
            elif character == "\\":
                index += 1
                continue
            elif character == '"':
                inside = not inside
            else:
                depth += 1 if character in "{[" else -1
            if scalar or (not inside and depth <= 0):
                self._end = index
                if dropped:
                    gone = self._text[self._at : index]
                    dropped += len(gone.encode("utf-8", "surrogateescape"))
                    self._at = index
                return True, dropped, head
