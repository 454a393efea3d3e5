"""JSON records from a stream of chunks, for each layout of json_layout.py, in constant memory."""

from __future__ import annotations

import json
import pickle
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from ...schemas.errors import InputError
from .json_layout import SHARED_FACTS
from .json_scan import DECODER, JsonScanner, why_invalid
from .lines import Unfinished, split_lines
from .rows import CUT_OFF, NOT_UTF8, Bad, Row, excerpt_of

Fail = Callable[[str], None]
"""Called with the problem when a file ends before it should."""


def line_rows(chunks: Iterator[bytes]) -> Iterator[Row]:
    """One value a line. Blank lines are skipped; objects glued on one line are each a record.

    A line is refused as a whole when anything but objects stands on it.
    """
    for number, line in split_lines(chunks):
        if isinstance(line, Bad):
            yield number, line
            continue
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError:
            yield number, Bad(NOT_UTF8, excerpt_of(line))
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
                yield number, Bad(CUT_OFF, excerpt_of(line))
            else:
                yield number, Bad(why_invalid(error), excerpt_of(line))
        except (ValueError, RecursionError) as error:
            yield number, Bad(why_invalid(error), excerpt_of(line))


def _glued(text: str) -> list[Any]:
    """The objects that stand on one line without a newline between them, or one refusal."""
    values: list[Any] = []
    rest = text.strip()
    while rest:
        try:
            value, end = DECODER.raw_decode(rest)
        except (ValueError, RecursionError):
            value, end = None, 0
        if not isinstance(value, dict):
            return [Bad("trailing text after the record", excerpt_of(text))]
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


def below_rows(chunks: Iterator[bytes], key: str, fail: Fail) -> Iterator[Row]:
    """The elements of the list below `key` of the file's one object.

    For the keys of SHARED_FACTS each element also gets the texts, numbers and lists of such that
    stand beside the list, wherever they stand: the elements wait in a temporary file until then.
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
        InputError: the columns differ in length, or a member is no column.
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
                f"it is an object of columns, but {name!r} is no list",
                "Write it as JSON Lines",
            )
    if len({len(column) for column in columns.values()}) > 1:
        sizes = ", ".join(f"{name} {len(column)}" for name, column in columns.items())
        raise InputError(file, f"its columns differ in length ({sizes})", "Write it as JSON Lines")
    names = list(columns)
    for number, values in enumerate(zip(*columns.values(), strict=True), start=1):
        bad = next((value for value in values if isinstance(value, Bad)), None)
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
    """The member names of the object entered; the caller reads each member's value."""
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
    """What follows the end of the document is refused value by value."""
    while scanner.peek():
        value = scanner.value()
        text = value.excerpt if isinstance(value, Bad) else json.dumps(value)
        yield number, Bad("trailing text after the document", excerpt_of(text))
        number += 1


def _is_plain(value: Any) -> bool:
    """Text, a number, a truth value or null, or a list of these."""
    if isinstance(value, list):
        return all(isinstance(item, str | int | float | None) for item in value)
    return isinstance(value, str | int | float | None)
