"""Parquet, Arrow files and streams, Lance tables and `datasets` folders, row by row.

Values without a form in JSON are converted: times to ISO 8601 text, durations to seconds, decimals
to text, bytes to text where they are UTF-8 and to base64 where not, NaN and infinities to null.
Columns of embedding vectors (fixed-size lists of floats) are left out, and the user is told so.
"""

from __future__ import annotations

import base64
import datetime
import json
import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as pq
import xxhash

from ...schemas.errors import InputError
from .decoding import MAX_RECORD_BYTES, Row, oversize_record
from .locations import is_remote, open_random

BATCH_BYTES = 8 << 20
BATCH_ROWS = 1024
PARQUET_MAGIC = b"PAR1"
ARROW_MAGIC = b"ARROW1"
STREAM_MAGIC = b"\xff\xff\xff\xff"


class Table:
    """A source of record batches: its kind in words, its schema, and how many rows it has.

    `columns` are those that are read, and may be changed before the first batch.
    """

    def __init__(self, words: str, schema: pa.Schema, rows: int | None) -> None:
        self.words, self.schema, self.rows = words, schema, rows
        self.share = 0.0  # of the rows read so far, for progress
        self.left_out = [field.name for field in schema if _is_vector(field.type)]
        self.columns = [field.name for field in schema if field.name not in self.left_out]

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Batches of at most 1,024 rows of `columns`."""
        raise NotImplementedError


class ParquetTable(Table):
    """A Parquet file, decoded a slice of a row group at a time."""

    def __init__(self, source: Any) -> None:
        # pre_buffer would hold a whole row group in memory
        self._file = pq.ParquetFile(source, pre_buffer=False, buffer_size=1 << 20)
        super().__init__("Parquet", self._file.schema_arrow, self._file.metadata.num_rows)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """As `Table.batches`; fewer rows where rows are fat."""
        meta = self._file.metadata
        size = sum(meta.row_group(group).total_byte_size for group in range(meta.num_row_groups))
        rows = max(1, min(BATCH_ROWS, BATCH_BYTES * max(1, meta.num_rows) // max(1, size)))
        yield from self._file.iter_batches(rows, columns=self.columns, use_threads=False)


class ArrowTable(Table):
    """Arrow IPC files or streams, one after another (a `datasets` folder is several)."""

    def __init__(self, words: str, sources: list[Any]) -> None:
        self._sources = sources
        with self._reader(sources[0]) as reader:
            schema = reader.schema
        super().__init__(words, schema, None)

    @staticmethod
    def _reader(source: Any) -> Any:
        source.seek(0)
        is_file = source.read(len(ARROW_MAGIC)) == ARROW_MAGIC
        source.seek(0)
        return ipc.open_file(source) if is_file else ipc.open_stream(source)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """As `Table.batches`."""
        for place, source in enumerate(self._sources):
            self.share = place / len(self._sources)
            reader = self._reader(source)
            if isinstance(reader, ipc.RecordBatchFileReader):
                batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
            else:
                batches = iter(reader)
            for batch in batches:
                for start in range(0, batch.num_rows, BATCH_ROWS):
                    yield batch.slice(start, BATCH_ROWS).select(self.columns)


class LanceTable(Table):
    """A Lance table at its newest version."""

    def __init__(self, path: str) -> None:
        import lance

        self._dataset = lance.dataset(path)
        super().__init__("Lance table", self._dataset.schema, self._dataset.count_rows())

    def batches(self) -> Iterator[pa.RecordBatch]:
        """As `Table.batches`."""
        yield from self._dataset.scanner(
            columns=self.columns, batch_size=BATCH_ROWS, scan_in_order=True
        ).to_batches()


def open_folder(folder: str) -> tuple[Table, list[str]]:
    """A Lance table or `datasets` folder, and the data files whose bytes it consists of.

    Raises:
        InputError: the folder cannot be opened as what it looks like.
    """
    path = Path(folder)
    try:
        if folder.rstrip("/").endswith(".lance"):
            files = sorted(str(file) for file in path.rglob("*.lance") if file.is_file())
            return LanceTable(folder), files
        files = _datasets_files(path)
        return ArrowTable("datasets folder", [open_random(file) for file in files]), files
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise InputError(folder, f"cannot be opened ({error})", "Check that it is whole") from error


def open_table(head: bytes, source: Any, file: str) -> Table:
    """The table in a seekable source that begins with `head`.

    Raises:
        InputError: it is damaged, or of a version that pyarrow cannot read.
    """
    try:
        if head.startswith(PARQUET_MAGIC):
            return ParquetTable(source)
        words = "Arrow file" if head.startswith(ARROW_MAGIC) else "Arrow stream"
        return ArrowTable(words, [source])
    except (OSError, ValueError, pa.ArrowException) as error:
        name = "Parquet" if head.startswith(PARQUET_MAGIC) else "Arrow"
        raise InputError(
            file, f"the {name} file cannot be opened ({error})", "Fetch or write it again"
        ) from error


def is_table(head: bytes) -> bool:
    """Whether the first bytes are those of Parquet or Arrow."""
    return head.startswith((PARQUET_MAGIC, ARROW_MAGIC, STREAM_MAGIC))


def table_rows(table: Table) -> Iterator[Row]:
    """Rows as JSON objects. A row over 8 MB is refused before its values are made."""
    number = 1
    for batch in table.batches():
        if table.rows:
            table.share = number / table.rows
        batch = batch.cast(pa.schema([_readable(field) for field in batch.schema]), safe=False)
        plain = [not _needs_care(field.type) for field in batch.schema]
        fat = batch.nbytes > MAX_RECORD_BYTES
        for start in range(0, batch.num_rows, 1 if fat else BATCH_ROWS):
            part = batch.slice(start, 1) if fat else batch
            if fat and part.nbytes > MAX_RECORD_BYTES:
                yield number, oversize_record(part.nbytes, "")
                number += 1
                continue
            columns = [
                values.to_pylist() if is_plain else [jsonable(v) for v in values.to_pylist()]
                for values, is_plain in zip(part.columns, plain, strict=True)
            ]
            for values in zip(*columns, strict=True):
                yield number, dict(zip(batch.schema.names, values, strict=True))
                number += 1
    table.share = 1.0


def jsonable(value: Any) -> Any:
    """`value` as a JSON value (see the head of this file)."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, bytes):
        with suppress(UnicodeDecodeError):
            return value.decode("utf-8")
        return base64.b64encode(value).decode("ascii")
    if type(value).__name__ in ("NaTType", "NAType"):  # pandas' nulls
        return None
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if hasattr(value, "tolist"):  # NumPy's scalars and arrays
        return jsonable(value.tolist())
    return str(value)


def _is_vector(kind: pa.DataType) -> bool:
    return pa.types.is_fixed_size_list(kind) and pa.types.is_floating(kind.value_type)


def _readable(field: pa.Field) -> pa.Field:
    """The field without dictionaries, views, and nanoseconds, which Python lacks."""
    return field.with_type(_readable_type(field.type))


def _readable_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _readable_type(kind.value_type)
    if pa.types.is_string_view(kind):  # a slice of it has the size of the whole
        return pa.large_string()
    if pa.types.is_binary_view(kind):
        return pa.large_binary()
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        return pa.timestamp("us", kind.tz)
    if pa.types.is_duration(kind) and kind.unit == "ns":
        return pa.duration("us")
    if pa.types.is_time64(kind) and kind.unit == "ns":
        return pa.time64("us")
    if pa.types.is_struct(kind):
        return pa.struct([_readable(kind.field(index)) for index in range(kind.num_fields)])
    if pa.types.is_large_list(kind):
        return pa.large_list(_readable(kind.value_field))
    if pa.types.is_list(kind):
        return pa.list_(_readable(kind.value_field))
    return kind


def _needs_care(kind: pa.DataType) -> bool:
    """Whether values of this type, or what they hold, may need `jsonable`."""
    if kind.num_fields:
        return any(_needs_care(kind.field(index).type) for index in range(kind.num_fields))
    return not (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_null(kind)
    )


def _datasets_files(path: Path) -> list[str]:
    """The Arrow files of a `datasets` folder, in the order that state.json lists."""
    state = path / "state.json"
    if state.is_file():
        listed = json.loads(state.read_text(encoding="utf-8")).get("_data_files")
        if listed:
            return [str(path / entry["filename"]) for entry in listed]
    return sorted(str(file) for file in path.glob("*.arrow"))


def digest_of_digests(digests: list[str]) -> str:
    """One xxh3 (64 bits, hexadecimal) for a source of several files."""
    return xxhash.xxh3_64_hexdigest("\n".join(digests).encode())


def is_seekable_here(file: str, compression: str) -> bool:
    """Whether pyarrow may read `file` in place (otherwise it is copied to a temporary file)."""
    return not compression and (is_remote(file) or Path(file).is_file())
