"""Rows before a commit: their keys, the table's schema, checks of vectors, parts of a good size.

The first column of a table is its key. `key_of` makes one from several values, `offsets_of` finds
the places of keys in a table, `HeldKeys` the keys that a table holds.

The part that an insert-if-absent is given becomes the pages on disk, because Lance gathers it whole
before it writes, and so does each batch of what is appended. 8 MB of the widest vector keeps later
scans at full speed; pages of 50 MB make them 3 to 5 times slower, permanently. Lists of unequal
length scan alike from pages of 8 and of 100 MB (measured): their parts are limited by memory alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..schemas.canonical import DIGEST_BYTES, canonical_json, digest_of
from ..schemas.errors import StoreError
from ..schemas.ids import GrowingIdSet, keys_of
from ..schemas.stored_vectors import is_coded
from ..schemas.tables import literal


def key_of(*parts: Any) -> str:
    """Digest of the parts in order, as 32 hexadecimal digits (parts are JSON values)."""
    return digest_of(list(parts))


def keys_under(parts: Sequence[Any], last: Iterable[str | int]) -> list[str]:
    """`key_of(*parts, each)` of many, ten times as fast: they share what comes before.

    Args:
        last: row ids or whole numbers.
    """
    begun = canonical_json(list(parts)).removesuffix("]") + ","
    shared = hashlib.blake2b(begun.encode(), digest_size=DIGEST_BYTES)
    keys = []
    for each in last:
        own = shared.copy()
        own.update((f'"{each}"]' if isinstance(each, str) else f"{each}]").encode())
        keys.append(own.hexdigest())
    return keys


def key_column(schema: pa.Schema) -> str:
    """The column that identifies a row: the first of every table's schema."""
    return schema.names[0]


def offsets_of(dataset: Any, uri: str, table: str, keys: Sequence[str]) -> list[int]:
    """The place of each key in the order of the table; one given twice comes twice.

    Args:
        dataset: a Lance dataset of ours, at the version to read.
        uri, table: what it is, for the message.

    Raises:
        StoreError: some keys are not in that version; names the first of them.
    """
    wanted = pa.array(keys, pa.string())
    unique = wanted.unique()
    places = np.full(len(unique), -1, np.int64)
    at = 0
    for stretch in _stretches(dataset):
        found = _positions(stretch, unique)
        here = np.flatnonzero(found.is_valid().to_numpy())
        places[found.drop_null().to_numpy()] = at + here
        at += len(stretch)
    offsets = places[_positions(wanted, unique).to_numpy()]
    if (offsets < 0).any():
        missing = wanted.filter(pa.array(offsets < 0)).to_pylist()
        raise StoreError(
            f"{uri}: {len(missing)} of {len(keys)} rows are not in table {table} version "
            f"{dataset.version}; the first is {missing[0]}"
        )
    return offsets.tolist()


def row_keys(dataset: Any) -> np.ndarray:
    """The row ids of a table (see `schemas/ids.py`), (n, 2) int64, in its order."""
    parts = [keys_of(stretch) for stretch in _stretches(dataset)]
    return np.concatenate(parts) if parts else np.empty((0, 2), np.int64)


def _stretches(dataset: Any) -> Iterator[pa.ChunkedArray]:
    """The keys of a table in its order, `STRETCH_ROWS` or more at once."""
    batches: list[pa.Array] = []
    key = key_column(dataset.schema)
    for batch in dataset.scanner(
        columns=[key], scan_in_order=True, io_buffer_size=IO_BYTES
    ).to_batches():
        batches.append(batch.column(0))
        if sum(map(len, batches)) >= STRETCH_ROWS:
            yield pa.chunked_array(batches)
            batches = []
    if batches:
        yield pa.chunked_array(batches)


class HeldKeys:
    """The keys that a table holds, in memory, read once from every fragment."""

    def __init__(self) -> None:
        self._keys = GrowingIdSet()
        self._fragments: dict[int, tuple[str, str | None]] = {}

    def refresh(self, dataset: Any) -> GrowingIdSet:
        """Read the keys of fragments that are new; all of them when rows went away or moved.

        Args:
            dataset: the newest version of the table; its key is a row id or a `key_of`.
        """
        fragments = {part.fragment_id: part for part in dataset.get_fragments()}
        now = {
            number: (part.metadata.files[0].path, part.deletion_file())
            for number, part in fragments.items()
        }
        if any(now.get(number) != mark for number, mark in self._fragments.items()):
            self._keys, self._fragments = GrowingIdSet(), {}
        fresh = [part for number, part in fragments.items() if number not in self._fragments]
        if fresh:
            key = key_column(dataset.schema)
            batches = dataset.scanner(
                columns=[key], fragments=fresh, io_buffer_size=IO_BYTES
            ).to_batches()
            self._keys.add_all(batch[key] for batch in batches)
        self._fragments = now
        return self._keys


def _positions(values: Any, among: pa.Array) -> Any:
    """Where each value stands in `among`; null where it does not."""
    return pc.index_in(values, value_set=among)  # pyright: ignore[reportAttributeAccessIssue]


IO_BYTES = 32 << 20
"""Of a table that Lance reads ahead where keys are looked through."""
STRETCH_ROWS = 1 << 18
"""Keys of a table that are looked through at once: 9 MB as text."""
PAGE_BYTES = 8 << 20
RAGGED_PAGE_BYTES = 32 << 20  # of texts and lists
COMMIT_ROWS = 10_000

_BITS: dict[int, tuple[type, int, int]] = {  # bytes: as integers, exponent bits, all but the sign
    2: (np.uint16, 0x7C00, 0x7FFF),
    4: (np.uint32, 0x7F800000, 0x7FFFFFFF),
}


def conform(table: str, rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """`rows` with the columns, order and types of `schema`; columns they lack become null.

    Lists of vectors and lists of the same numbers in a row become each other.

    Raises:
        StoreError: a column the table does not have, a type that does not fit, or no key.
    """
    unknown = [name for name in rows.column_names if name not in schema.names]
    if unknown:
        raise StoreError(
            f"table {table} has no column {unknown[0]!r}; it has {', '.join(schema.names)}"
        )
    columns = []
    for field in schema:
        if field.name not in rows.column_names:
            if not field.nullable:
                raise StoreError(f"rows for table {table} lack the column {field.name!r}")
            columns.append(pa.nulls(rows.num_rows, field.type))
            continue
        column = rows[field.name]
        if column.type != field.type:
            try:
                column = _cast(column, field.type)
            except pa.ArrowException as error:
                raise StoreError(
                    f"table {table}, column {field.name!r}: expected {field.type}, "
                    f"got {column.type} ({error})"
                ) from error
        if not field.nullable and column.null_count:
            raise StoreError(f"table {table}, column {field.name!r}: a row has no value there")
        columns.append(column)
    return pa.table(columns, schema=schema)


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    ours, theirs = _vector_width(column.type), _vector_width(kind)
    flat = kind if ours else column.type
    if bool(ours) == bool(theirs) or not (
        pa.types.is_list(flat) and pa.types.is_primitive(flat.value_type)
    ):
        return column.cast(kind)
    return pa.chunked_array([_regrouped(chunk, ours or 1, kind) for chunk in column.chunks], kind)


def _vector_width(kind: pa.DataType) -> int:
    """Of the vectors in a list; 0 for everything that is no list of vectors."""
    vectors = pa.types.is_list(kind) and pa.types.is_fixed_size_list(kind.value_type)
    return kind.value_type.list_size if vectors else 0


def _regrouped(lists: pa.ListArray, width: int, kind: pa.DataType) -> pa.ListArray:
    """Lists of `kind` of the same numbers, which stand in lists of vectors of `width` (1: flat)."""
    numbers = lists.flatten()
    if isinstance(numbers, pa.FixedSizeListArray):
        if numbers.null_count:
            raise pa.ArrowInvalid("a vector in a list is null")
        numbers = numbers.flatten()
    lengths = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False) * width
    step = _vector_width(kind)
    if step and (lengths % step).any():
        raise pa.ArrowInvalid(f"its lists are no multiples of {step} numbers")
    values = numbers.cast(kind.value_type.value_type if step else kind.value_type)
    if step:
        values = pa.FixedSizeListArray.from_arrays(values, type=kind.value_type)
    ends = np.concatenate([[0], lengths.cumsum(dtype=np.int64)]) // (step or 1)
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), values, kind, mask=lists.is_null())


def distinct(rows: pa.Table, key: str, keep: Literal["first", "last"]) -> pa.Table:
    """The first or last row of every key, in the order they came."""
    place: dict[str, int] = {}
    for position, value in enumerate(rows[key].to_pylist()):
        if keep == "last" or value not in place:
            place[value] = position
    if len(place) == rows.num_rows:
        return rows
    return rows.take(pa.array(sorted(place.values()), pa.int64()))


def delete_second_rows(dataset: Any, keys: Iterable[str]) -> int:
    """Delete all but the first row of each key, in one commit; return how many rows those are."""
    key = key_column(dataset.schema)
    asked = f"{key} IN ({', '.join(map(literal, keys))})"
    stored = dataset.scanner([key], asked, with_row_id=True).to_table()
    first = distinct(stored, key, "first")["_rowid"].to_pylist()
    second = sorted(set(stored["_rowid"].to_pylist()).difference(first))
    if second:
        dataset.delete(f"_rowid IN ({', '.join(map(str, second))})")
    return len(second)


def check_vectors(table: str, rows: pa.Table, key: str) -> None:
    """Refuse vectors that are not finite or all zero: they would vanish from searches unseen.

    Raises:
        StoreError: names the first such row and its column.
    """
    for field in rows.schema:
        kind = field.type
        if not pa.types.is_fixed_size_list(kind):
            continue
        if not is_coded(kind) and not pa.types.is_floating(kind.value_type):
            continue
        if kind.value_type.bit_width == 64:
            raise StoreError(
                f"table {table}, column {field.name!r}: vectors must be float16 or float32"
            )
        present = rows[field.name].is_valid().to_numpy()
        values = rows[field.name].drop_null().combine_chunks().flatten()
        numbers = values.to_numpy(zero_copy_only=False).reshape(-1, kind.list_size)
        if is_coded(kind):  # codes of 2 bits have no zero
            sound = numbers.any(axis=1) | pa.types.is_uint8(kind.value_type)
        else:
            whole, exponent, magnitude = _BITS[kind.value_type.bit_width // 8]
            bits = numbers.view(whole)
            finite = ((bits & exponent) != exponent).all(axis=1)
            sound = finite & ((bits & magnitude) != 0).any(axis=1)
        if not sound.all():
            row = int(np.flatnonzero(present)[np.argmin(sound)])
            raise StoreError(
                f"table {table}, row {rows[key][row].as_py()}, column {field.name!r}: the vector "
                "holds NaN or an infinity, or is all zero. Leave it null and give the reason "
                "instead"
            )


def parts(rows: pa.Table) -> Iterator[pa.Table]:
    """`rows` in even parts of COMMIT_ROWS rows at most, every column within its page's bytes."""
    if not rows.num_rows:
        return
    pages = max(
        column.nbytes
        / (PAGE_BYTES if pa.types.is_fixed_size_list(column.type) else RAGGED_PAGE_BYTES)
        for column in rows.columns
    )
    most = min(COMMIT_ROWS, int(rows.num_rows / max(pages, 1e-9)))
    yield from (part.combine_chunks() for part in _even(rows, most))


def commits(rows: pa.Table) -> Iterator[pa.Table]:
    """`rows` in even parts of COMMIT_ROWS rows at most."""
    yield from _even(rows, COMMIT_ROWS)


def _even(rows: pa.Table, most: int) -> Iterator[pa.Table]:
    """`rows` in parts of at most so many, none much smaller than another."""
    count = max(1, -(-rows.num_rows // max(most, 1)))
    step = max(1, -(-rows.num_rows // count))
    for start in range(0, rows.num_rows, step):
        yield rows.slice(start, step)


def bytes_per_row(schema: pa.Schema) -> int:
    """Bytes of the widest fixed-size column of a row (at least 1)."""
    return max(
        (
            field.type.list_size * field.type.value_type.bit_width // 8
            for field in schema
            if pa.types.is_fixed_size_list(field.type)
        ),
        default=1,
    )
