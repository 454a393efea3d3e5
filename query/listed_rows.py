"""Rows that a file names by their ids: ids alone, or with what another tool says of each.

Plain text with an id a line; a JSON list of ids or objects, or an object with a list `ids`, as a
manifest has; JSON Lines; CSV and TSV with a header; Parquet.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pyarrow as pa

from ..schemas.errors import InputError, NoSuchFileError
from ..schemas.plain_text import count_of

STANDARD_INPUT = "-"
LONGEST_CELL = 1 << 30  # of a CSV file, in characters: texts stand beside the ids
_LONGEST_SHOWN = 80
_ID = re.compile(r"[0-9a-f]{32}")
_ADVICE = (
    "Give ids of 32 hexadecimal digits: one a line, a JSON list, or a column {column} of JSON "
    "Lines, CSV, TSV or Parquet"
)


@dataclass(frozen=True)
class ListedRow:
    """A row that a file names.

    Attributes:
        facts: what the file says of it, by column.
    """

    id: str
    facts: Mapping[str, Any]


def read_listed_rows(file: str, column: str = "id") -> list[ListedRow]:
    """Read which rows a file names.

    Args:
        file: its path, or `-` for standard input.
        column: that has the ids, where there are columns.

    Raises:
        NoSuchFileError: there is none.
        InputError: it has no ids, or one that is none; names the line or entry.
    """
    advice = _ADVICE.format(column=column)
    try:
        rows = list(_rows_of(file, column))
    except FileNotFoundError as error:
        raise NoSuchFileError(file, "there is no such file", "Check its name") from error
    except (OSError, ValueError, RecursionError, csv.Error, pa.ArrowException) as error:
        raise InputError(file, f"no ids can be read from it ({error})", advice) from error
    if not rows:
        raise InputError(file, "it holds no ids", advice)
    return [
        ListedRow(checked_id(file, number, row[column], advice), row)
        for number, row in enumerate(rows, start=1)
    ]


def checked_id(source: str, number: int, value: Any, advice: str = "") -> str:
    """Return an id in small letters.

    Raises:
        InputError: it is none; names its place.
    """
    text = value.strip().lower() if isinstance(value, str) else ""
    if not _ID.fullmatch(text):
        shown = repr(value)
        shown = shown if len(shown) <= _LONGEST_SHOWN else f"{shown[:_LONGEST_SHOWN]}..."
        advice = advice or _ADVICE.format(column="id")
        raise InputError(source, f"entry {number}: {shown} is no row id", advice)
    return text


def _rows_of(file: str, column: str) -> Iterator[Mapping[str, Any]]:
    """Yield what a file says of each row; every one has the column."""
    if file.endswith((".parquet", ".pq")):
        import pyarrow.parquet as pq

        parquet = pq.ParquetFile(file)
        names = parquet.schema_arrow.names
        if column not in names:
            raise ValueError(f"it has no column {column!r}, but: {', '.join(names)}")
        wanted = [name for name in (column, "rank", "score") if name in names]
        for batch in parquet.iter_batches(columns=wanted):
            yield from batch.to_pylist()
    elif file == STANDARD_INPUT:
        yield from _rows_of_text(sys.stdin, column)
    else:
        with open(file, encoding="utf-8-sig", newline="") as text:
            yield from _rows_of_text(text, column)


def _rows_of_text(text: Iterable[str], column: str) -> Iterator[Mapping[str, Any]]:
    lines = enumerate((line.rstrip("\r\n") for line in text), start=1)
    number, first = next(((at, line) for at, line in lines if line.strip()), (0, ""))
    if not number:
        return
    rest = chain([(number, first)], lines)
    start = first.lstrip()[:1]
    tab = "\t" if "\t" in first else ","
    if start == "[" or (start == "{" and not _is_object_of_a_row(first, column)):
        yield from _rows_of_json(json.loads("\n".join(line for _, line in rest)), column)
    elif start == "{":
        yield from _rows_of_objects(rest, column)
    elif column in next(csv.reader([first], delimiter=tab), []):
        yield from _rows_of_cells((line for _, line in rest), tab, number, column)
    else:
        yield from ({column: line} for _, line in rest if line.strip())


def _is_object_of_a_row(line: str, column: str) -> bool:
    """Whether a line is an object by itself, and not a whole document that holds a list."""
    try:
        found = json.loads(line)
    except ValueError:
        return False
    return column in found or not isinstance(found.get("ids"), list)


def _rows_of_objects(lines: Iterable[tuple[int, str]], column: str) -> Iterator[Mapping[str, Any]]:
    for number, line in lines:
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number} is no JSON: {error}") from error
        if not isinstance(row, dict) or column not in row:
            has = f", but: {', '.join(row)}" if isinstance(row, dict) and row else ""
            raise ValueError(f"line {number} is no JSON object with a field {column}{has}")
        yield row


def _rows_of_json(value: Any, column: str) -> Iterator[Mapping[str, Any]]:
    """Yield the entries of a list of ids or objects, or of the list `ids` of an object."""
    if isinstance(value, dict):
        value = value.get("ids", value.get(column))
    if not isinstance(value, list):
        raise ValueError("it is neither a list nor an object with a list `ids`")
    for number, each in enumerate(value, start=1):
        row = each if isinstance(each, dict) else {column: each}
        if column not in row:
            raise ValueError(f"entry {number} has no {column!r}, but: {', '.join(row) or 'none'}")
        yield row


def _rows_of_cells(
    lines: Iterable[str], delimiter: str, first: int, column: str
) -> Iterator[Mapping[str, Any]]:
    """Yield rows of cells; the lines begin with the header, which is line `first` of the file."""
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_CELL))
    rows = csv.reader(lines, delimiter=delimiter)
    header = next(rows)
    at = header.index(column)
    while True:
        number = first + rows.line_num
        try:
            row = next(rows, None)
        except csv.Error as error:
            raise ValueError(f"line {number} is no CSV: {error}") from error
        if row is None:
            return
        if not any(cell.strip() for cell in row):
            continue
        if at >= len(row):
            cells = count_of(len(row), "cell")
            raise ValueError(f"line {number} has {cells}, and {column} is column {at + 1}")
        yield dict(zip(header, row, strict=False))
