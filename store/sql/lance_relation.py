"""A table of a store as DuckDB scans it: columns and filters reach Lance, nothing is copied.

DuckDB asks a registered dataset for the columns and the filter it needs, and Lance reads just
those. Two things stand in the way. DuckDB refuses a dataset whose schema holds a float16 column,
even one that no query names: `Relation` leaves vectors out, `FeatureRelation` shows them as
float32, which float16 and codes become batch by batch while the scan runs. And Lance cannot take
every filter that DuckDB pushes down: whether a vector is null is then tested here, on what Lance
reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lance
import pyarrow as pa
import pyarrow.dataset as ds

from ...schemas.conversations import CONVERSATION
from ...schemas.errors import DamagedStoreError, QueryError, suggest
from ...schemas.stored_vectors import decoded_column, is_coded, width_of
from ..place import Place

IO_BUFFER_BYTES = 64 << 20  # Lance's default of 2 GiB is most of a query's memory limit
BATCH_BYTES = 8 << 20

ROW_COLUMNS = ("target", "id", "position")
"""What says of a vector whose it is; the rest of a row stands in `pool` and `targets`."""


class Relation(lance.LanceDataset):
    """A table without its vectors, for DuckDB: columns and filters are still pushed down.

    `io_stats_incremental()` tells the bytes that really were read.
    """

    def shows(self, field: pa.Field) -> bool:
        """Whether a stored column is one of the relation's."""
        return not (holds_float16(field.type) or is_coded(field.type))

    @property
    def stored_schema(self) -> pa.Schema:
        """What Lance has, the metadata of the columns with it."""
        return super().schema

    @property
    def schema(self) -> pa.Schema:
        """The stored schema less every column that the relation does not show."""
        return pa.schema([field for field in self.stored_schema if self.shows(field)])

    def scanner(self, columns: Any = None, filter: Any = None, *args: Any, **options: Any) -> Any:
        """Lance's scanner on the visible columns alone, with buffers that fit a memory limit."""
        options = {"io_buffer_size": IO_BUFFER_BYTES, "batch_size_bytes": BATCH_BYTES, **options}
        names = self.schema.names if columns is None else columns
        try:
            return super().scanner(names, filter, *args, **options)
        except pa.ArrowException:  # a filter that has no form for Lance, on a nested column
            asked = str(filter)
            read = names + [
                name for name in self.schema.names if name in asked and name not in names
            ]
            whole = super().scanner(read, None, *args, **options)
            return ds.Scanner.from_batches(
                whole.to_batches(), schema=whole.projected_schema, columns=names, filter=filter
            )


class FeatureRelation(Relation):
    """The vectors and lists of a table's features as float32; a row is known by its id.

    Nothing is materialised: a batch is cast or decoded when DuckDB asks for it.
    """

    def shows(self, field: pa.Field) -> bool:
        """Whether a column says whose the vector is, or is one that holds more than a number."""
        feature = pa.types.is_nested(field.type) and field.name not in CONVERSATION
        return feature or field.name in ROW_COLUMNS

    @property
    def schema(self) -> pa.Schema:
        """The columns shown, as `widened` has them."""
        return widened(super().schema)

    def scanner(self, *args: Any, **options: Any) -> WideningScanner:
        """The scanner of the stored columns, its batches widened as they come."""
        return WideningScanner(super().scanner(*args, **options))


class WideningScanner:
    """What DuckDB asks of a scanner, on top of another one."""

    def __init__(self, stored: Any) -> None:
        self._stored = stored
        self.projected_schema = widened(stored.projected_schema)

    def to_reader(self) -> pa.RecordBatchReader:
        """The rows, widened one batch at a time."""
        return pa.RecordBatchReader.from_batches(self.projected_schema, self._batches())

    def _batches(self) -> Iterator[pa.RecordBatch]:
        for batch in self._stored.to_reader():
            columns = [
                decoded_column(column) if is_coded(column.type) else column.cast(field.type)
                for column, field in zip(batch.columns, self.projected_schema, strict=True)
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=self.projected_schema)


def widened(schema: pa.Schema) -> pa.Schema:
    """The schema with float32 for float16 in lists of any depth, and for vectors of codes."""
    return pa.schema([pa.field(field.name, _shown(field.type)) for field in schema])


def _shown(type_: pa.DataType) -> pa.DataType:
    return pa.list_(pa.float32(), width_of(type_)) if is_coded(type_) else _wide(type_)


def _wide(type_: pa.DataType) -> pa.DataType:
    if pa.types.is_float16(type_):
        return pa.float32()
    if pa.types.is_fixed_size_list(type_):
        return pa.list_(_wide(type_.value_type), type_.list_size)
    if pa.types.is_list(type_):
        return pa.list_(_wide(type_.value_type))
    return type_


def holds_float16(type_: pa.DataType) -> bool:
    """Whether a type is float16 or contains it in a list, struct or map."""
    return pa.types.is_float16(type_) or any(
        holds_float16(type_.field(index).type) for index in range(type_.num_fields)
    )


def open_relation(place: Place, table: str, version: int | str | None = None) -> Relation:
    """One table of the store at `place`, newest or at a version number or tag.

    Raises:
        QueryError: the table has no such version.
        DamagedStoreError: the table cannot be opened.
    """
    uri = place.table_uri(table)
    try:
        return Relation(uri, version=version, storage_options=place.options)
    except (ValueError, OSError) as error:
        if version is not None:
            newest = open_relation(place, table)
            numbers = [known["version"] for known in newest.versions()]
            to_list = (
                f"coreset-NAME-pool is that of a coreset: coresetdb coreset list {place.typed}"
            )
            tags = suggest(str(version), newest.tags.list(), to_list)
            raise QueryError(
                f"{table} has no version {version!r}: its versions run from {numbers[0]} to "
                f"{numbers[-1]}; its tags: {tags}"
            ) from error
        raise DamagedStoreError(
            f"{uri} cannot be opened ({str(error).splitlines()[0]}); "
            f"run `coresetdb verify {place.typed}`"
        ) from error
