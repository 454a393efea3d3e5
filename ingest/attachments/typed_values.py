"""Values of a file as typed columns: whole numbers, numbers, truth values or texts, never a mix.

A file is read once and its values are kept in parts on the disk, since only its end shows whether a
column of whole numbers has a fraction. In CSV and TSV everything is text, so what a value is shows
in how it is written.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ...schemas.canonical import canonical_json
from ...schemas.errors import UsageError
from ...schemas.plain_text import count_of
from ...schemas.scratch import ScratchFolder
from ..representations.attached import TYPES

PART_ROWS = 16_384
PART_BYTES = 32 << 20

WHOLE, NUMBER, TRUTH, TEXT = "whole number", "number", "truth value", "text"
NESTED = "list or object"

_WHOLE = re.compile(r"[+-]?(0|[1-9]\d*)")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_TRUTHS = {"true": True, "false": False}
_INT64 = 1 << 63
_INT64_CHARACTERS = 20
_EXACT = 1 << 53  # up to here float64 has every whole number


def kind_of_value(value: Any) -> str:
    """What a JSON value that is not null is.

    Raises:
        OverflowError: a whole number has more than 64 bits.
    """
    if isinstance(value, bool):
        return TRUTH
    if isinstance(value, int):
        if not -_INT64 <= value < _INT64:
            raise OverflowError
        return WHOLE
    if isinstance(value, float):
        return NUMBER
    return TEXT if isinstance(value, str) else NESTED


def parsed_text(text: str) -> Any:
    """The number or truth value that a text stands for, None for an empty one; else the text.

    `007` is text, as numbers do not begin so, and `nan` is no value.

    Raises:
        OverflowError: no type of `TYPES` holds all digits of a large number.
    """
    bare = text.strip()
    if not bare or bare.lower() == "nan":
        return None
    if _WHOLE.fullmatch(bare):
        if len(bare) > _INT64_CHARACTERS:
            raise OverflowError
        return int(bare)
    if _NUMBER.fullmatch(bare) and not re.match(r"[+-]?0\d", bare):
        number = float(bare)
        large = math.isfinite(number) and abs(number) >= _EXACT and "e" not in bare.lower()
        if large and Decimal(bare) != Decimal(number):
            raise OverflowError
        return number if math.isfinite(number) else text
    return _TRUTHS.get(bare.lower(), text)


class TypedValues:
    """Rows of values, taken in once and given back as typed columns; a context manager.

    Args:
        texts: columns whose values are all taken as text, whatever they are.
    """

    def __init__(self, texts: Collection[str] = ()) -> None:
        self._texts = set(texts)
        self._folder = ScratchFolder()
        self._parts: list[Path] = []
        self._starts = [0]
        self._rows: list[tuple[str, Mapping[str, Any]]] = []
        self._bytes = 0
        self._open: tuple[int, pa.Table] | None = None
        # Column -> kind -> the first place and value of it, and how many there are.
        self._seen: dict[str, dict[str, list[Any]]] = {}
        # Column -> the first place and value of a whole number that float64 may lack.
        self._inexact: dict[str, tuple[str, int]] = {}

    def __enter__(self) -> TypedValues:
        return self

    def __exit__(self, *error: object) -> None:
        self._folder.cleanup()

    def __len__(self) -> int:
        return self._starts[-1] + len(self._rows)

    @property
    def columns(self) -> list[str]:
        """The columns that had a value, or were there and had none, in the order they came."""
        return list(self._seen)

    def add(self, place: str, values: Mapping[str, Any], as_text: Collection[str] = ()) -> None:
        """Take a row in.

        Args:
            place: where it stands, for errors ("scores.csv:17").
            values: column -> a JSON value.
            as_text: columns whose numbers are written as text.

        Raises:
            UsageError: a number is too large for any type, or a text is not Unicode.
        """
        row: dict[str, Any] = {}
        for name, value in values.items():
            seen = self._seen.setdefault(name, {})
            if isinstance(value, float) and not math.isfinite(value):
                value = None
            try:
                if value is not None and name in self._texts:
                    value = _in_words(value)
                elif isinstance(value, str) and name in as_text:
                    value = parsed_text(value)
                if value is None:
                    continue
                kind = kind_of_value(value)
            except OverflowError:
                raise UsageError(
                    f"{place}: column {name!r} holds a number of more digits than 64 bits keep "
                    f"({_shown(value)}). Take the column as text: --text {name}"
                ) from None
            except ValueError:
                raise UsageError(
                    f"{place}: column {name!r} holds a whole number of thousands of digits. Write "
                    "it as text in the data"
                ) from None
            if isinstance(value, str):
                _check_unicode(value, place, name)
            elif kind == WHOLE and isinstance(value, int) and abs(value) > _EXACT:
                self._inexact.setdefault(name, (place, value))
            first = seen.setdefault(kind, [place, value, 0])
            first[2] += 1
            row[name] = float(value) if kind == NUMBER else value
            self._bytes += len(value) if isinstance(value, str) else 8
        self._rows.append((place, row))
        if len(self._rows) >= PART_ROWS or self._bytes >= PART_BYTES:
            self.write_part()

    def write_part(self) -> None:
        """Put the rows taken in so far on the disk."""
        if not self._rows:
            return
        self._check_mixes()
        path = Path(self._folder.name) / f"{len(self._parts)}.arrow"
        names, rows = self.columns, [row for _, row in self._rows]
        arrays = [
            pa.array([row.get(name) for row in rows], self._type_so_far(name)) for name in names
        ]
        places = pa.array([place for place, _ in self._rows], pa.string())
        # Named by their numbers, since names of files may be anything.
        table = pa.table([places, *arrays], names=["place", *map(str, range(len(names)))])
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table)
        self._parts.append(path)
        self._starts.append(self._starts[-1] + len(rows))
        self._rows, self._bytes = [], 0

    def kinds(self) -> dict[str, str]:
        """What each column holds, a key of `TYPES`.

        Raises:
            UsageError: a column mixes kinds, holds lists or objects, or has no value at all.
        """
        self.write_part()
        if len(self) and not self.columns:
            raise UsageError("the file has no column to take beside the key and the conversation")
        kinds = {name: self._kind(name) for name in self.columns}
        empty = [name for name, kind in kinds.items() if kind is None]
        if empty:
            raise UsageError(
                f"{', '.join(empty)}: no row has a value there. Name the columns to take with "
                "--columns"
            )
        return {name: kind for name, kind in kinds.items() if kind}

    def place(self, row: int) -> str:
        """Where a row stands."""
        part, table = self._part_of(row)
        return table["place"][row - self._starts[part]].as_py()

    def take(self, rows: np.ndarray, columns: Mapping[str, str]) -> pa.Table:
        """Columns (name -> a key of `TYPES`) of rows (n,), in that order, null without a value."""
        schema = pa.schema([pa.field(name, TYPES[kind]) for name, kind in columns.items()])
        number_of = {name: str(number) for number, name in enumerate(self.columns)}
        part_of = np.searchsorted(self._starts, rows, "right") - 1
        parts, order = [schema.empty_table()], [np.empty(0, np.int64)]
        for number in np.unique(part_of):
            mine = np.flatnonzero(part_of == number)
            _, table = self._part(int(number))
            taken = table.take(pa.array(rows[mine] - self._starts[number]))
            arrays = [_column(taken, number_of[field.name], field.type) for field in schema]
            parts.append(pa.table(arrays, schema=schema))
            order.append(mine)
        back = np.argsort(np.concatenate(order), kind="stable")
        return pa.concat_tables(parts).take(pa.array(back))

    def _part_of(self, row: int) -> tuple[int, pa.Table]:
        return self._part(int(np.searchsorted(self._starts, row, "right")) - 1)

    def _part(self, number: int) -> tuple[int, pa.Table]:
        if self._open is None or self._open[0] != number:
            with pa.memory_map(str(self._parts[number])) as source:
                self._open = number, pa.ipc.open_stream(source).read_all()
        return self._open

    def _type_so_far(self, name: str) -> pa.DataType:
        kind = self._kind(name)
        return TYPES[kind] if kind else pa.null()

    def _kind(self, name: str) -> str | None:
        kinds = self._seen[name].keys()
        if {WHOLE, NUMBER} >= kinds:
            return NUMBER if NUMBER in kinds else WHOLE if kinds else None
        return next(iter(kinds))

    def check_exact(self, name: str) -> None:
        """Refuse a column of whole numbers as numbers, if that may change one of them.

        Raises:
            UsageError: names the first, and its place.
        """
        if name in self._inexact:
            place, value = self._inexact[name]
            raise UsageError(
                f"{place}: column {name!r} holds {value}, and the column has fractions: a "
                "number with fractions keeps 53 bits, so that its last digits may be lost. Take "
                f"the column as text: --text {name}"
            )

    def _check_mixes(self) -> None:
        for name, seen in self._seen.items():
            if NESTED in seen:
                place, value, _ = seen[NESTED]
                raise UsageError(
                    f"{place}: column {name!r} holds a list or object ({_shown(value)}). Name the "
                    f"columns to take with --columns{_inside(name, value)}, or take it as text: "
                    f"--text {name}"
                )
            if NUMBER in seen:
                self.check_exact(name)
            kinds = dict(seen)
            if WHOLE in kinds and NUMBER in kinds:
                kinds.pop(WHOLE)
            if len(kinds) > 1:
                mixture = " and ".join(
                    f"{count_of(count, kind)} ({_shown(value)} at {place})"
                    for kind, (place, value, count) in kinds.items()
                )
                raise UsageError(
                    f"column {name!r} mixes {mixture}. Correct the file, leave the column out with "
                    f"--columns, or take all of it as text: --text {name}"
                )


def _column(table: pa.Table, name: str, kind: pa.DataType) -> Any:
    if name not in table.column_names:
        return pa.nulls(len(table), kind)
    return table[name].cast(kind)


def _check_unicode(text: str, place: str, column: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{place}: column {column!r} holds a text that is not Unicode: its character "
            f"{error.start + 1}, {text[error.start]!a}, is half of a surrogate pair. "
            "Replace it, for example with text.encode('utf-8', 'replace').decode()"
        ) from None


def _in_words(value: Any) -> str:
    return value if isinstance(value, str) else canonical_json(value)


def _shown(value: Any) -> str:
    with suppress(ValueError, RecursionError):
        text = canonical_json(value)
        return text if len(text) <= 40 else f"{text[:37]}..."
    return "..."


def _inside(name: str, value: Any) -> str:
    return (
        f" ({name}.{next(iter(value))} reaches inside)" if isinstance(value, dict) and value else ""
    )


def column_names(names: Sequence[str], prefix: str) -> Iterator[tuple[str, str]]:
    """Each column of a file with the name it gets in the pool: letters, digits and underscores.

    Names that begin with an underscore are left to Lance (`_rowid`, `_distance`, ...).

    Raises:
        UsageError: two get the same name (SQL knows no upper and lower case), or one has none.
    """
    taken: dict[str, str] = {}
    for name in names:
        stored = re.sub(r"[^A-Za-z0-9_]+", "_", prefix + name)
        if re.search("[\ud800-\udfff]", prefix + name):
            raise UsageError(f"the name of column {prefix + name!r} is not Unicode: rename it")
        if not name.strip():
            raise UsageError(
                f"a column of the file has no name. Name those to take with --columns "
                f"({', '.join(each for each in names if each.strip())})"
            )
        if not re.fullmatch(r"[A-Za-z]\w*", stored):
            raise UsageError(
                f"column {name!r} would be {stored!r} in the pool, and a name begins with a "
                "letter: give a --prefix that does"
            )
        other = taken.setdefault(stored.casefold(), name)
        if other != name:
            raise UsageError(
                f"columns {other!r} and {name!r} would both be {stored!r} in the pool. Rename one, "
                "or name those to take with --columns"
            )
        yield name, stored
