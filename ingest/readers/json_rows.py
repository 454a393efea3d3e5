"""JSON records from a stream of chunks, one at a time and in bounded memory.

How a file lays out its records is detected from its first megabyte:

| layout | looks like |
|---|---|
| lines | one object a line (JSON Lines, whatever the name) |
| array | `[{...}, {...}]` |
| objects | pretty-printed objects one after another, or a single object |
| nested | `{"data": [{...}], ...}`: a list of objects below a key |
| columns | `{"instruction": [...], "output": [...]}` |

The C scanner of the standard library parses a value that lies whole in the buffer (nearly all do).
Only where it fails does a structural scan look for the end of the value: it was cut by the buffer,
or is broken (it is rejected, and reading goes on behind it), or is over the limit (its bytes are
counted and dropped, never parsed).
"""

from __future__ import annotations

import codecs
import json
import pickle
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

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

SPACE = re.compile(r"[ \t\n\r]*")
OUTSIDE = re.compile(r'["{}\[\]]')
INSIDE = re.compile(r'["\\]')
SCALAR_END = re.compile(r"[,\]}\s]")
UNDECODED = re.compile("[\udc80-\udcff]")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def why_invalid(error: Exception) -> str:
    """The reason why the parser could not read a record."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        return f"invalid JSON: {error.msg} (character {error.pos + 1})"
    return f"invalid JSON: {error}"


class JsonScanner:
    """A cursor over JSON text, which reads one value at a time or says why it is bad."""

    def __init__(self, chunks: Iterator[bytes], limit: int = MAX_RECORD_BYTES) -> None:
        self._chunks, self._limit = chunks, limit
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

    def value(self) -> Any | BadRecord:
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
            return DECODER.decode(text)
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


WINDOW_BYTES = 1 << 20
PROBED_LINES = 50
LIST_KEYS = ("data", "Instances", "rows", "records", "examples", "items", "instances", "train")
"""The keys that a list of records is looked for under first, in this order."""

SHARED_FACTS = ("Instances",)
"""Below these keys, each record also gets the plain values that stand beside the list."""


@dataclass(frozen=True)
class Layout:
    """`kind` as in the table above; for "nested" the key of the list, or `choices` of several."""

    kind: str
    key: str = ""
    choices: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """The layout in words, for the user."""
        return {
            "lines": "JSON Lines",
            "array": "JSON array",
            "objects": "JSON objects",
            "nested": f'JSON list below "{self.key}"',
            "columns": "JSON object of columns",
        }[self.kind]


def find_layout(
    head: bytes, whole: bool, list_key: str | None, is_record: Callable[[dict[str, Any]], bool]
) -> Layout | None:
    """The layout of a file that begins with `head`; None if it is not JSON.

    Args:
        whole: whether `head` is the whole file.
        list_key: the key that a user named with `--map records=KEY`.
        is_record: returns whether an object is itself a record of a known shape.
    """
    text = head.decode("utf-8", "surrogateescape").lstrip(" \t\r\n")
    first = text[:1]
    if first == "[":
        first_line, _, others = text.partition("\n")
        if others.lstrip(" \t\r\n").startswith("{") and _whole_value(first_line):
            return Layout("lines")
        return Layout("array")
    if first != "{":
        return Layout("lines") if _has_object_line(text) else None
    try:
        value, end = DECODER.raw_decode(text)
    except (ValueError, RecursionError):
        return _layout_of_unparsed(text, whole, list_key)
    behind = text[end:].strip(" \t\r\n")
    several = Layout("objects" if "\n" in text[:end] else "lines")
    if behind or not whole:
        return several
    members = {key: _kind_of_parsed(member) for key, member in value.items()}
    if list_key is None and value.keys().isdisjoint(SHARED_FACTS) and is_record(value):
        return several
    return _layout_of_members(members, list_key, complete=True) or several


def _layout_of_unparsed(text: str, whole: bool, list_key: str | None) -> Layout:
    """The layout of a file whose first object is broken, or larger than the window."""
    if _has_object_line(text):
        return Layout("lines")
    if not whole:
        layout = _layout_of_members(dict(_outline(text)), list_key, complete=False)
        if layout is not None:
            return layout
    first_line = text.partition("\n")[0].strip()
    return Layout("objects" if first_line == "{" or first_line.endswith(",") else "lines")


def _layout_of_members(
    members: dict[str, str], list_key: str | None, *, complete: bool
) -> Layout | None:
    """A list below a key, or columns, by the kinds of the members (see `_kind_of_parsed`)."""
    if list_key is not None:
        return Layout("nested", list_key)
    lists = [key for key, kind in members.items() if kind == "objects"]
    for key in LIST_KEYS:
        if key in lists or (key in members and members[key] == "empty"):
            return Layout("nested", key)
    if len(lists) == 1:
        return Layout("nested", lists[0])
    if len(lists) > 1:
        return Layout("nested", lists[0], tuple(lists))
    kinds = set(members.values())
    if members and (kinds <= {"values", "empty"} or kinds == {"indexed"}):
        return Layout("columns")
    return None if complete or "objects" not in kinds else Layout("objects")


def _kind_of_parsed(member: Any) -> str:
    """A list of "objects" or "values", an "empty" one, pandas' "indexed" column, or "one" value."""
    if isinstance(member, list):
        if not member:
            return "empty"
        return "objects" if isinstance(member[0], dict) else "values"
    if isinstance(member, dict) and "0" in member:
        return "indexed"
    return "one"


def _outline(text: str) -> Iterator[tuple[str, str]]:
    """Names and kinds of the members of an object that does not end within the window."""
    scanner = JsonScanner(iter([text.encode("utf-8", "surrogateescape")]))
    scanner.take("{")
    while scanner.peek() == '"':
        key = scanner.value()
        if isinstance(key, BadRecord) or not scanner.take(":"):
            return
        opening = scanner.peek()
        if opening == "[":
            scanner.take("[")
            inner = scanner.peek()
            yield key, "objects" if inner == "{" else "empty" if inner == "]" else "values"
            while scanner.peek() not in ("]", ""):
                scanner.value()
                scanner.take(",")
            scanner.take("]")
        else:
            value = scanner.value()
            if isinstance(value, BadRecord):
                if opening == "{" and value.excerpt[1:].lstrip().startswith('"0"'):
                    yield key, "indexed"
                return
            yield key, _kind_of_parsed(value)
        if not scanner.take(","):
            return


def _whole_value(line: str) -> bool:
    try:
        DECODER.decode(line)
    except (ValueError, RecursionError):
        return False
    return True


def _has_object_line(text: str) -> bool:
    """Whether one of the first lines is an object by itself."""
    lines = [line for line in text.split("\n", 4 * PROBED_LINES) if line.strip()][:PROBED_LINES]
    return any(line.lstrip().startswith("{") and _whole_value(line) for line in lines)


Fail = Callable[[str], None]
"""Called with the problem when a file ends before it should."""


def line_rows(chunks: Iterator[bytes]) -> Iterator[Row]:
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
            yield number, DECODER.decode(text)
        except json.JSONDecodeError as error:
            if not text.strip():
                continue
            if error.msg == "Extra data":
                for value in _glued(text):
                    yield number, value
            elif isinstance(line, Unfinished):
                yield number, BadRecord(CUT_OFF, excerpt_of(line))
            else:
                yield number, BadRecord(why_invalid(error), excerpt_of(line))
        except (ValueError, RecursionError) as error:
            yield number, BadRecord(why_invalid(error), excerpt_of(line))


def _glued(text: str) -> list[Any]:
    """The objects on one line, or why the line is rejected."""
    values: list[Any] = []
    rest = text.strip()
    while rest:
        try:
            value, end = DECODER.raw_decode(rest)
        except (ValueError, RecursionError):
            value, end = None, 0
        if not isinstance(value, dict):
            return [BadRecord("trailing text after the record", excerpt_of(text))]
        values.append(value)
        rest = rest[end:].lstrip()
    return values


def array_rows(chunks: Iterator[bytes], fail: Fail) -> Iterator[Row]:
    """The elements of an array (or of several arrays one after another)."""
    scanner = JsonScanner(chunks)
    number = 1
    while scanner.take("["):
        for value in _elements(scanner, "]", fail):
            yield number, value
            number += 1
    yield from _trailing(scanner, number)


def object_rows(chunks: Iterator[bytes]) -> Iterator[Row]:
    """Values one after another, with or without a comma or newline between them."""
    scanner = JsonScanner(chunks)
    number = 1
    while scanner.peek():
        yield number, scanner.value()
        scanner.take(",")
        number += 1


def nested_list_rows(chunks: Iterator[bytes], key: str, fail: Fail) -> Iterator[Row]:
    """The elements of the list below `key` in the one object of a file.

    For the keys of SHARED_FACTS, each element also gets the plain values that stand beside the
    list, before or after it: the elements wait in a temporary file until then.
    """
    scanner = JsonScanner(chunks)
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
        else:
            fact = scanner.value()
            if _is_plain(fact):
                facts[name] = fact
    for number, value in enumerate(waiting, start=1):
        yield number, {**facts, **value} if isinstance(value, dict) else value
    yield from _trailing(scanner, number + 1)


def column_rows(chunks: Iterator[bytes], file: str, fail: Fail) -> Iterator[Row]:
    """Rows of an object of columns; the columns wait in temporary files, not in memory.

    Raises:
        InputError: the columns differ in length, or a member is not a column.
    """
    scanner = JsonScanner(chunks)
    scanner.take("{")
    columns: dict[str, Spool] = {}
    for name in _names(scanner, fail):
        column = columns[name] = Spool()
        if scanner.take("["):
            for value in _elements(scanner, "]", fail):
                column.add(value)
        elif scanner.take("{"):
            for _ in _names(scanner, fail):
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
    for number, values in enumerate(zip(*columns.values(), strict=True), start=1):
        bad = next((value for value in values if isinstance(value, BadRecord)), None)
        yield number, bad or dict(zip(names, values, strict=True))


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
