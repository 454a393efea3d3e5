"""Rows of a file with the keys that say what they are about, and the values to attach.

Files are read as `ingest` reads them: any container, compressed or not, or data in memory. With the
key `messages` each record goes through the importers, so that equal content has the id it has in
the pool; a record of several conversations is about all of them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np

from ...schemas.canonical import canonical_json
from ...schemas.errors import InputError, UsageError
from ...schemas.ids import ID_DIGITS, keys_of
from ...schemas.instruction import Reject
from ..importers.importer import ID_FIELDS, MISSING, reach
from ..readers.arrow_values import distinct_names
from ..readers.decoding import BadRecord
from ..readers.hints import Hints
from ..readers.in_memory import InMemory
from ..readers.opening import Opened, open_rows
from ..readers.options import ReadOptions
from ..sources import open_source
from .keys import KeyKind, Keys, digests_of

KEY_BATCH = 1024
_HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True)
class KeyedRow:
    """A row of a file.

    Attributes:
        place: "file:line".
        number: of the row, from 0.
        keys: (k, 2) int64, of everything it is about; none where it has no key.
        values: column -> JSON value.
        as_text: columns whose numbers are written as text.
    """

    place: str
    number: int
    keys: Keys
    values: Mapping[str, Any]
    as_text: Collection[str] = ()


@dataclass
class FileRead:
    """A file that is read, once: iterate over it, then look at what became of it.

    Attributes:
        key: what its rows are known by.
        key_column: that holds the key; None for the usual names.
        columns: to take; None for all but the key.
        file, size, decision: path or address, bytes, and how it is read.
        xxh3, fault: hold after the last row, as those of a source.
        read: rows so far; unreadable ones count.
        unreadable: why rows could not be read -> how many.
        without_key: rows that have none.
    """

    key: KeyKind
    key_column: str | None = None
    columns: tuple[str, ...] | None = None
    file: str = ""
    size: int | None = None
    xxh3: str = ""
    fault: InputError | None = None
    decision: str = ""
    read: int = 0
    without_key: int = 0
    unreadable: Counter[str] = field(default_factory=Counter)


def read_file(entry: str | InMemory, options: ReadOptions, into: FileRead) -> Iterator[KeyedRow]:
    """Yield the rows of a file that have a key, and account for all others in `into`.

    Raises:
        InputError: it cannot be opened, or read to its end.
        UsageError: it has no column for the key, or a key is not what it should be.
    """
    rows = (
        _by_content(entry, options, into)
        if into.key == "messages"
        else _by_column(entry, options, into)
    )
    yield from rows
    if into.fault:
        raise into.fault


def _by_content(entry: str | InMemory, options: ReadOptions, into: FileRead) -> Iterator[KeyedRow]:
    source = open_source(entry, options)
    into.file, into.size, into.decision = source.file, source.size, source.decision
    for line, items in groupby(source, key=lambda item: item.line):
        number, into.read = into.read, into.read + 1
        ids: list[str] = []
        fields: dict[str, Any] = {}
        for item in items:
            if isinstance(item, Reject):
                into.unreadable[item.reason.partition(":")[0]] += 1
            else:
                ids.append(item.instruction.id)
                fields = json.loads(item.metadata)
        if ids:
            place = f"{source.file}:{line}"
            values = _chosen(fields, into)
            as_text = [name for name in values if source.numbers_are_text(name)]
            yield KeyedRow(place, number, keys_of(ids), values, as_text)
    into.xxh3, into.fault = source.xxh3, source.fault


def _by_column(entry: str | InMemory, options: ReadOptions, into: FileRead) -> Iterator[KeyedRow]:
    opened = open_plainly(entry, options)
    into.file, into.size, into.decision = opened.file, opened.size, ", ".join(opened.words)
    if opened.table is not None:
        names = list(distinct_names(opened.table.schema.names))
        into.key_column = into.key_column or _key_column(names, into.key, opened.file)
        if into.columns is not None:  # what is not taken is not decoded
            tops = {into.key_column, *into.columns, *(name.split(".")[0] for name in into.columns)}
            opened.table.read_only(tops)
    for line, value in opened.rows:
        into.read += 1
        place = f"{opened.file}:{line}"
        if isinstance(value, BadRecord) or not isinstance(value, dict):
            reason = value.reason if isinstance(value, BadRecord) else "not an object"
            into.unreadable[reason.partition(":")[0]] += 1
            continue
        column = into.key_column = into.key_column or _key_column(value, into.key, place)
        keys = _keys(reach(value, column), into.key, place, column)
        if not len(keys):
            into.without_key += 1
            continue
        others = {name: own for name, own in value.items() if name != column}
        values = _chosen(others, into)
        as_text = [name for name in values if opened.numbers_are_text(name)]
        yield KeyedRow(place, into.read - 1, keys, values, as_text)
    into.xxh3, into.fault = opened.finish(), opened.fault


def open_plainly(entry: str | InMemory, options: ReadOptions) -> Opened:
    """Open a file whose rows need not be conversations; a `.txt` has a key a line.

    Raises:
        InputError: it cannot be opened.
    """
    if isinstance(entry, InMemory):
        return entry.open()
    hints = Hints(
        encoding=options.encoding,
        list_key=options.mapping.get("records"),
        plain_text=entry.lower().endswith(".txt"),
        unescape=options.unescape,
        is_record=lambda record: True,
        are_turns=lambda turns: False,
        header=lambda first, second: list(distinct_names(first)),
        names=lambda width: [str(number) for number in range(1, width + 1)],
    )
    return open_rows(entry, hints)


def _key_column(columns: Collection[str], key: KeyKind, place: str) -> str:
    candidates = ("id",) if key == "id" else ("source_id", *ID_FIELDS)
    if list(columns) == ["text"]:  # a file of keys
        return "text"
    for name in candidates:
        if name in columns:
            return name
    raise UsageError(
        f"{place}: no column {' or '.join(candidates)} to join by; its columns are "
        f"{', '.join(columns)}. Name the one with the key: --key-column COLUMN"
    )


def _keys(value: Any, key: KeyKind, place: str, column: str) -> Keys:
    if value is MISSING or value is None or value == "":
        return np.empty((0, 2), np.int64)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UsageError(
            f"{place}: {column} is {canonical_json(value)}; a key is text or a whole number"
        )
    if key == "source_id":
        if isinstance(value, str) and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise UsageError(
                    f"{place}: {column} is {value!a}, which is not Unicode: correct the key, or "
                    "leave the row out"
                ) from None
        return digests_of([str(value)])
    row_id = value.lower() if isinstance(value, str) else ""
    if len(row_id) == ID_DIGITS and _HEX.issuperset(row_id):
        return keys_of([row_id])
    raise UsageError(
        f"{place}: {column} is {value!r}, and a row id has {ID_DIGITS} hexadecimal digits. Ids "
        "that a source gave its rows are joined with --key source_id"
    )


def _chosen(fields: Mapping[str, Any], into: FileRead) -> Mapping[str, Any]:
    """The values to take, each under the name it was asked for."""
    if into.columns is None:
        return fields
    values = {name: reach(dict(fields), name) for name in into.columns}
    return {name: None if value is MISSING else value for name, value in values.items()}
