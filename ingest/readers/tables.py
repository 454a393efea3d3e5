"""Parquet, Arrow files and streams, Lance tables and `datasets` folders, row by row.

Values become JSON values (arrow_values.py). Columns of vectors are left out, and the user is told
so: fixed-size lists of floats, and lists of floats that all have the same length of 16 or more.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as pq
import xxhash

from ...schemas.errors import InputError
from .arrow_values import distinct_names, json_values, shares_its_bytes, text_bytes
from .decoding import MAX_RECORD_BYTES, Row, oversize_record
from .folders import DAMAGED, data_files
from .locations import REMOTE_ERRORS, is_remote, open_random
from .remarks import Remarks

BATCH_BYTES = 8 << 20
BATCH_ROWS = 1024
PARQUET_MAGIC = b"PAR1"
ARROW_MAGIC = b"ARROW1"
STREAM_MAGIC = b"\xff\xff\xff\xff"
VECTOR_WIDTH = 16
"""Lists of floats of the same length are vectors from this length on."""


class Table(ABC):
    """A source of record batches: its kind in words, its schema, and how many rows it has.

    Attributes:
        schema: of all columns.
        left_out: the columns of vectors, which `batches` lacks.
        columns: all others.
    """

    def __init__(self, words: str, schema: pa.Schema, rows: int | None) -> None:
        self.words, self.schema, self.rows = words, schema, rows
        self.share = 0.0  # of the rows read so far, for progress
        self.left_out = [field.name for field in schema if _is_vector(field.type)]
        self.columns = [field.name for field in schema if field.name not in self.left_out]
        self._lists = [field.name for field in schema if _is_list_of_floats(field.type)]

    @abstractmethod
    def batches(self) -> Iterator[pa.RecordBatch]:
        """Batches of at most 1,024 rows of `columns`."""

    def read_only(self, names: Collection[str]) -> None:
        """Let `batches` have these columns alone, vectors or not; before the first batch."""
        self.columns = [name for name in self.schema.names if name in names]
        self.left_out = [name for name in self.schema.names if name not in names]

    def leave_out_vectors(self) -> None:
        """Look at the first rows, and leave out lists of floats that all have one great length."""
        try:
            first = next(self.batches(), None) if self._lists else None
        except REMOTE_ERRORS:
            return  # said when the rows are read
        if first is None:
            return
        for name in self._lists:
            values = first.column(first.schema.names.index(name)).to_pylist()
            lengths = {len(row) for row in values if row is not None}
            if len(lengths) == 1 and first.num_rows > 1 and lengths.pop() >= VECTOR_WIDTH:
                self.left_out.append(name)
                self.columns.remove(name)


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
                kept = [
                    index
                    for index, name in enumerate(batch.schema.names)
                    if name not in self.left_out
                ]
                for start in range(0, batch.num_rows, BATCH_ROWS):
                    yield batch.slice(start, BATCH_ROWS).select(kept)


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
        files = data_files(path)
        return ArrowTable("datasets folder", [open_random(file) for file in files]), files
    except (*DAMAGED, pa.ArrowException) as error:
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


def table_rows(table: Table, remarks: Remarks) -> Iterator[Row]:
    """Rows as JSON objects; one over 8 MB is refused."""
    number = 1
    for batch in table.batches():
        if table.rows:
            table.share = number / table.rows
        names = distinct_names(batch.schema.names)
        callbacks = [partial(remarks.value_lost, column=name) for name in names]
        fat = batch.nbytes > MAX_RECORD_BYTES
        for start in range(0, batch.num_rows, 1 if fat else BATCH_ROWS):
            part = batch.slice(start, 1) if fat else batch
            size = _own_bytes(part) if fat else 0
            if size > MAX_RECORD_BYTES:  # refused before its values are made
                yield number, oversize_record(size, "")
                number += 1
                continue
            columns = [
                json_values(values, on_null)
                for values, on_null in zip(part.columns, callbacks, strict=True)
            ]
            for values in zip(*columns, strict=True):
                row = dict(zip(names, values, strict=True))
                size = text_bytes(row) if fat else 0
                yield number, oversize_record(size, "") if size > MAX_RECORD_BYTES else row
                number += 1
    table.share = 1.0


def _own_bytes(part: pa.RecordBatch) -> int:
    """The bytes of a row in the columns whose slices have a size of their own."""
    return sum(values.nbytes for values in part.columns if not shares_its_bytes(values.type))


def _is_vector(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    return pa.types.is_fixed_size_list(kind) and pa.types.is_floating(kind.value_type)


def _is_list_of_floats(kind: pa.DataType) -> bool:
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_list_view)
    return any(is_list(kind) for is_list in lists) and pa.types.is_floating(kind.value_type)


def digest_of_digests(digests: list[str]) -> str:
    """One xxh3 (64 bits, hexadecimal) for a source of several files."""
    return xxhash.xxh3_64_hexdigest("\n".join(digests).encode())


def is_seekable_here(file: str, compression: str) -> bool:
    """Whether pyarrow may read `file` in place (otherwise it is copied to a temporary file)."""
    return not compression and (is_remote(file) or Path(file).is_file())
