"""Data that is in memory already: rows as dicts, Arrow tables, data frames, a `datasets.Dataset`.

It can be read any number of times. Tables and frames are recognised by Arrow's C stream interface
and a dataset by its class, so neither polars nor datasets is imported for it. Values are converted
as those of table files are (arrow_values.py).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from ...schemas.errors import UsageError
from .arrow_values import jsonable, text_bytes
from .decoding import MAX_RECORD_BYTES, BadRecord, Row, oversize_record
from .opening import Opened, open_table_rows
from .remarks import Remarks
from .tables import BATCH_ROWS, Table

ACCEPTED = (
    "a file, folder, glob or address, several of them, a list of dicts, an Arrow table, "
    "a polars DataFrame or a datasets.Dataset"
)


@dataclass(frozen=True, eq=False)
class InMemory:
    """Rows in memory, as a source.

    Attributes:
        name: what stands for the name of a file, such as `<list>` or `<polars.DataFrame>`.
        data: a list or tuple of rows, an Arrow table, or a dataset.
    """

    name: str
    data: Any

    def open(self) -> Opened:
        """The rows, from the first on."""
        if isinstance(self.data, list | tuple):
            remarks = Remarks()
            rows = _rows_of(self.data, remarks)
            return Opened(self.name, rows, ["in memory"], [], None, remarks=remarks)
        if isinstance(self.data, pa.Table):
            table, size = _ArrowRows(self.data), self.data.nbytes
        else:
            table, size = _DatasetRows(self.data), self.data.data.nbytes
        return open_table_rows(self.name, table, [], size)


def sources_in(data: Any) -> list[str | InMemory]:
    """The paths and the data that a user names as what to read.

    Raises:
        UsageError: something is neither; the message names what is accepted.
    """
    if isinstance(data, list | tuple) and data and not any(map(_is_row, data)):
        return [_source(item) for item in data]
    return [_source(data)]


def is_in_memory(file: str) -> bool:
    """Whether the name of a source stands for data that was in memory."""
    return file.startswith("<") and file.endswith(">")


def _source(data: Any) -> str | InMemory:
    name = f"<{type(data).__module__.partition('.')[0]}.{type(data).__qualname__}>"
    if _is_from_datasets(data, "Dataset"):
        return InMemory(name, data)
    if _is_from_datasets(data, "DatasetDict", "IterableDatasetDict"):
        splits = ", ".join(map(repr, data))
        raise UsageError(f"{name} has several splits ({splits}). Give one, as in dataset['train']")
    if hasattr(data, "__arrow_c_stream__"):
        try:
            return InMemory(name, pa.RecordBatchReader.from_stream(data).read_all())
        except (TypeError, ValueError, pa.ArrowException) as error:
            raise UsageError(f"{name} is not a table ({error}). Give {ACCEPTED}") from error
    if isinstance(data, list | tuple) and (not data or any(map(_is_row, data))):
        return InMemory("<list>", data)
    path = os.fspath(data) if isinstance(data, str | os.PathLike) else None
    if isinstance(path, str):
        return path
    advice = {
        "dict": "Give rows as a list of dicts",
        "LazyFrame": "Give frame.collect()",
        "IterableDataset": "Give a list of its rows, or the files themselves",
    }.get(type(data).__name__, f"Give {ACCEPTED}")
    raise UsageError(f"cannot read {name.removeprefix('<builtins.').strip('<>')} data. {advice}")


def _is_row(item: Any) -> bool:
    return isinstance(item, Mapping) and not _is_from_datasets(item, "DatasetDict")


def _is_from_datasets(data: Any, *classes: str) -> bool:
    """Whether data is of one of these classes of the package `datasets`."""
    package = sys.modules.get("datasets")
    kinds = tuple(kind for name in classes if (kind := getattr(package, name, None)))
    return isinstance(data, kinds)


def _rows_of(data: Sequence[Any], remarks: Remarks) -> Iterator[Row]:
    """Rows as JSON objects; one over 8 MB is rejected."""
    for number, item in enumerate(data, 1):
        try:
            value: Any = item
            if isinstance(item, Mapping):
                value = {
                    str(name): jsonable(own, partial(remarks.value_lost, column=str(name)))
                    for name, own in item.items()
                }
            else:
                value = jsonable(item, remarks.value_lost)
            size = text_bytes(value)
        except RecursionError:
            yield number, BadRecord("nested too deeply", "")
            continue
        yield number, oversize_record(size, "") if size > MAX_RECORD_BYTES else value


class _ArrowRows(Table):
    """An Arrow table."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        super().__init__("in memory", table.schema, table.num_rows)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """As `Table.batches`."""
        kept = [i for i, name in enumerate(self._table.column_names) if name not in self.left_out]
        yield from self._table.select(kept).to_batches(BATCH_ROWS)


class _DatasetRows(Table):
    """A `datasets.Dataset`, with its selections and its order."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset.with_format("arrow")
        super().__init__("in memory", dataset.features.arrow_schema, len(dataset))

    def batches(self) -> Iterator[pa.RecordBatch]:
        """As `Table.batches`."""
        for table in self._dataset.select_columns(self.columns).iter(BATCH_ROWS):
            yield from table.to_batches()
