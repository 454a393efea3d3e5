"""JSON records from a stream of chunks, one at a time and in bounded memory.

The C scanner of the standard library parses a value that lies whole in the buffer (nearly all do).
Only where it fails does a structural scan look for the end of the value: it was cut by the buffer,
or is broken (it is rejected, and reading goes on behind it), or is over the limit (its bytes are
counted and dropped, never parsed).

NaN and infinities, which pandas writes for missing numbers, are read as null and counted.
"""

from __future__ import annotations

import codecs
import json
import pickle
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from typing import Any, NoReturn, Protocol

from ...schemas.errors import InputError
from .decoding import (
    CUT_OFF,
    MAX_RECORD_BYTES,
    NOT_UTF8,
    BadRecord,
    Row,
    Unfinished,
    excerpt_of,
    oversize_record,
    split_lines,
)
from .remarks import NOT_FINITE, Remarks

SPACE = re.compile(r"[ \t\n\r]*")
OUTSIDE = re.compile(r'["{}\[\]]')
INSIDE = re.compile(r'["\\]')
SCALAR_END = re.compile(r"[,\]}\s]")
UNDECODED = re.compile("[\udc80-\udcff]")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
"""Strict JSON, as texts inside of records must be."""


class Decoder(Protocol):
    """What parses a value: `json.JSONDecoder`, or one that counts."""

    def decode(self, s: str) -> Any: ...
    def raw_decode(self, s: str, idx: int = 0) -> tuple[Any, int]: ...


class CountingDecoder:
    """Reads NaN and infinities as null, and counts those of values that were read whole."""

    def __init__(self, remarks: Remarks) -> None:
        self._remarks, self._found = remarks, 0
        self._decoder = json.JSONDecoder(parse_constant=self._count)

    def _count(self, name: str) -> None:
        self._found += 1

    def decode(self, s: str) -> Any:
        """As `json.JSONDecoder.decode`."""
        self._found = 0
        value = self._decoder.decode(s)
        return self._kept(value)

    def raw_decode(self, s: str, idx: int = 0) -> tuple[Any, int]:
        """As `json.JSONDecoder.raw_decode`."""
        self._found = 0
        value = self._decoder.raw_decode(s, idx)
        return self._kept(value)

    def _kept(self, value: Any) -> Any:
        if self._found:
            self._remarks.value_lost(NOT_FINITE, count=self._found)
        return value


def why_invalid(error: Exception) -> str:
    """The reason why the parser could not read a record."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        return f"invalid JSON: {error.msg} (character {error.pos + 1})"
    return f"invalid JSON: {error}"


class JsonScanner:
    """A cursor over JSON text, which reads one value at a time or says why it is bad."""

    def __init__(
        self,
        chunks: Iterator[bytes],
        limit: int = MAX_RECORD_BYTES,
        decoder: Decoder = DECODER,
    ) -> None:
        self._chunks, self._limit, self._decoder = chunks, limit, decoder
        self._decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
        self._text, self._at = "", 0
        self._end = 0  # of the last value that `_extent` found
        self._ended = self._undecoded = False

    def peek(self) -> str:
        """The next character that is not white space; "" at the end."""
        while True:
            match = SPACE.match(self._text, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def take(self, character: str) -> bool:
        """Step over `character` if it comes next; return whether it did."""
        if self.peek() != character:
            return False
        self._at += 1
        return True

    def rest(self) -> str:
        """What has been read from the cursor on."""
        return self._text[self._at :]

    def value(self) -> Any | BadRecord:
        """The value at the cursor (`peek` must have found one)."""
        start = self._at
        if self._text[start] not in '{["':  # a number may go on in the next chunk
            return self._measured_value()
        try:
            value, end = self._decoder.raw_decode(self._text, start)
        except (ValueError, RecursionError):
            return self._measured_value()
        if self._undecoded and UNDECODED.search(self._text, start, end):
            self._at = end
            return BadRecord(NOT_UTF8, excerpt_of(self._text[start:end]))
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

    def _measured_value(self) -> Any | BadRecord:
        """Find the end of the value, then parse it if it is whole and within the limit."""
        closed, size, head = self._extent()
        if size:
            return oversize_record(size, head)
        text = self._text[self._at : self._end]
        self._at = self._end
        if len(text) * 4 > self._limit:
            size = len(text.encode("utf-8", "surrogateescape"))
            if size > self._limit:
                return oversize_record(size, text[:1000])
        if not closed:
            return BadRecord(CUT_OFF, excerpt_of(text))
        if UNDECODED.search(text):
            return BadRecord(NOT_UTF8, excerpt_of(text))
        try:
            return self._decoder.decode(text)
        except (ValueError, RecursionError) as error:
            return BadRecord(why_invalid(error), excerpt_of(text))

    def _extent(self) -> tuple[bool, int, str]:
        """Whether the value is whole, its size if it was dropped, its head. Sets `_end`."""
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


SHARED_FACTS = ("Instances",)
"""Below these keys, each record also gets the plain values that stand beside the list."""

Fail = Callable[[str], None]
"""Called with the problem when a file ends before it should."""


def line_rows(chunks: Iterator[bytes], decoder: Decoder) -> Iterator[Row]:
    """One value a line, without blank lines; of several objects on a line, each is a record.

    A line with other values beside an object is rejected as a whole.
    """
    for number, line in split_lines(chunks):
        if isinstance(line, BadRecord):
            yield number, line
            continue
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError:
            yield number, BadRecord(NOT_UTF8, excerpt_of(line))
            continue
        try:
            yield number, decoder.decode(text)
        except json.JSONDecodeError as error:
            if not text.strip():
                continue
            if error.msg == "Extra data":
                for value in _glued(text, decoder):
                    yield number, value
            elif isinstance(line, Unfinished):
                yield number, BadRecord(CUT_OFF, excerpt_of(line))
            else:
                yield number, BadRecord(why_invalid(error), excerpt_of(line))
        except (ValueError, RecursionError) as error:
            yield number, BadRecord(why_invalid(error), excerpt_of(line))


def _glued(text: str, decoder: Decoder) -> list[Any]:
    """The objects on one line, or why the line is rejected."""
    values: list[Any] = []
    rest = text.strip()
    while rest:
        try:
            value, end = decoder.raw_decode(rest)
        except (ValueError, RecursionError):
            value, end = None, 0
        if not isinstance(value, dict):
            return [BadRecord("trailing text after the record", excerpt_of(text))]
        values.append(value)
        rest = rest[end:].lstrip()
    return values


def array_rows(scanner: JsonScanner, fail: Fail) -> Iterator[Row]:
    """The elements of an array (or of several arrays one after another)."""
    number = 1
    while scanner.take("["):
        for value in _elements(scanner, "]", fail):
            yield number, value
            number += 1
    yield from _trailing(scanner, number)


def object_rows(scanner: JsonScanner) -> Iterator[Row]:
    """Values one after another, with or without a comma or newline between them."""
    number = 1
    while scanner.peek():
        yield number, scanner.value()
        scanner.take(",")
        number += 1


def named_rows(scanner: JsonScanner, fail: Fail) -> Iterator[Row]:
    """The members of an object, records (or conversations) by their id."""
    scanner.take("{")
    number = 0
    for number, name in enumerate(_names(scanner, fail), 1):
        yield number, with_id(scanner.value(), name, number)
    yield from _trailing(scanner, number + 1)


def with_id(value: Any, label: str, number: int) -> Any:
    """A record with the label that it was found under, unless that only counts records.

    A list stays under the name LISTED, for the caller to name.
    """
    if label in ("", str(number), str(number - 1)):  # an index of pandas, from 0 or 1
        return value
    if isinstance(value, list):
        return {LISTED: value, "id": label}
    if not isinstance(value, dict):
        return value
    if "id" not in value:
        return {**value, "id": label}
    return value if str(value["id"]) == label else {**value, "label": label}


LISTED = "\0list"
"""Stands for the name of the column of a record that is a list."""


def nested_rows(scanner: JsonScanner, key: str, fail: Fail) -> Iterator[Row]:
    """The elements of the list (or the members of the object) below `key` in an object.

    For the keys of SHARED_FACTS, each element also gets the plain values that stand beside the
    list, before or after it: the elements wait in a temporary file until then.
    """
    scanner.take("{")
    facts: dict[str, Any] = {}
    waiting = Spool()
    number = 1
    for name in _names(scanner, fail):
        if name == key and scanner.take("["):
            for value in _elements(scanner, "]", fail):
                if key in SHARED_FACTS:
                    waiting.add(value)
                else:
                    yield number, value
                    number += 1
        elif name == key and scanner.take("{"):
            for label in _names(scanner, fail):
                yield number, with_id(scanner.value(), label, number)
                number += 1
        else:
            fact = scanner.value()
            if _is_plain(fact):
                facts[name] = fact
    for number, value in enumerate(waiting, start=1):
        yield number, {**facts, **value} if isinstance(value, dict) else value
    yield from _trailing(scanner, number + 1)


def column_rows(scanner: JsonScanner, file: str, fail: Fail) -> Iterator[Row]:
    """Rows of an object of columns; the columns wait in temporary files, not in memory.

    Raises:
        InputError: the columns differ in length or in their labels, or a member is not a column.
    """
    scanner.take("{")
    columns: dict[str, Spool] = {}
    labels: dict[str, Spool] = {}
    for name in _names(scanner, fail):
        column = columns[name] = Spool()
        if scanner.take("["):
            for value in _elements(scanner, "]", fail):
                column.add(value)
        elif scanner.take("{"):
            own = labels[name] = Spool()
            for label in _names(scanner, fail):
                own.add(label)
                column.add(scanner.value())
        else:
            raise InputError(
                file,
                f"it is an object of columns, but {name!r} is not a list",
                "Write it as JSON Lines",
            )
    if len({len(column) for column in columns.values()}) > 1:
        sizes = ", ".join(f"{name} {len(column)}" for name, column in columns.items())
        raise InputError(file, f"its columns differ in length ({sizes})", "Write it as JSON Lines")
    names = list(columns)
    every_label = zip_longest(*labels.values()) if labels else ()
    own_labels = (_only(own, labels, file) for own in every_label)
    for number, values in enumerate(zip(*columns.values(), strict=True), start=1):
        bad = next((value for value in values if isinstance(value, BadRecord)), None)
        row = bad or dict(zip(names, values, strict=True))
        yield number, with_id(row, next(own_labels, str(number)), number)
    yield from _trailing(scanner, max(map(len, columns.values()), default=0) + 1)


def _only(labels: tuple[str, ...], columns: dict[str, Spool], file: str) -> str:
    """The one label of a row of columns.

    Raises:
        InputError: its values have different labels.
    """
    if len(set(labels)) > 1:
        named = ", ".join(map(" ".join, zip(columns, map(str, labels), strict=True)))
        raise InputError(
            file, f"its columns have different labels ({named})", "Write it as JSON Lines"
        )
    return labels[0]


def split_rows(scanner: JsonScanner, file: str, fail: Fail) -> Iterator[Row]:
    """Rows of pandas' `orient="split"`: names in `columns`, rows of values in `data`.

    Raises:
        InputError: `columns` is no list.
    """
    scanner.take("{")
    names: list[str] = []
    labels, waiting = Spool(), Spool()
    for name in _names(scanner, fail):
        if name == "data" and scanner.take("["):
            for value in _elements(scanner, "]", fail):
                waiting.add(value)
            continue
        value = scanner.value()
        if name == "columns":
            if not isinstance(value, list):
                raise InputError(file, "its `columns` is not a list", "Write it as JSON Lines")
            names = [part if isinstance(part, str) else json.dumps(part) for part in value]
        elif name == "index" and isinstance(value, list):
            for label in value:
                labels.add(label if isinstance(label, str) else json.dumps(label))
    own_labels = iter(labels)
    number = 0
    for number, values in enumerate(waiting, start=1):
        label = next(own_labels, str(number))
        yield number, with_id(keyed(values, names), label, number)
    yield from _trailing(scanner, number + 1)


def keyed(values: Any, names: Sequence[str]) -> Any:
    """A list of values as an object, or why it is none."""
    if not isinstance(values, list):
        return values
    if len(values) != len(names):
        reason = f"wrong number of columns: {len(values)} instead of {len(names)}"
        return BadRecord(reason, excerpt_of(json.dumps(values)))
    return dict(zip(names, values, strict=True))


class Spool:
    """Values written to a temporary file and read back once, in order."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, value: Any) -> None:
        """Append one value."""
        pickle.dump(value, self._file, protocol=pickle.HIGHEST_PROTOCOL)
        self._count += 1

    def __iter__(self) -> Iterator[Any]:
        self._file.seek(0)
        for _ in range(self._count):
            yield pickle.load(self._file)
        self._file.close()


def _elements(scanner: JsonScanner, closing: str, fail: Fail) -> Iterator[Any]:
    """Values up to `closing`; a missing or a doubled comma is overlooked."""
    while True:
        character = scanner.peek()
        if character == closing:
            scanner.take(closing)
            return
        if not character:
            fail("the file ends before its list is closed")
            return
        if not scanner.take(","):
            yield scanner.value()


def _names(scanner: JsonScanner, fail: Fail) -> Iterator[str]:
    """The names of the members of an object; the caller reads the value of each."""
    while True:
        character = scanner.peek()
        if character == "}":
            scanner.take("}")
            return
        if scanner.take(","):
            continue
        name = scanner.value() if character == '"' else None
        if not isinstance(name, str) or not scanner.take(":") or not scanner.peek():
            fail("the file ends or breaks inside its outer object")
            return
        yield name


def _trailing(scanner: JsonScanner, number: int) -> Iterator[Row]:
    """A `BadRecord` for each value behind the end of the document."""
    while scanner.peek():
        value = scanner.value()
        text = value.excerpt if isinstance(value, BadRecord) else json.dumps(value)
        yield number, BadRecord("trailing text after the document", excerpt_of(text))
        number += 1


def _is_plain(value: Any) -> bool:
    """Text, a number, a truth value or null, or a list of these."""
    if isinstance(value, list):
        return all(isinstance(item, str | int | float | None) for item in value)
    return isinstance(value, str | int | float | None)
