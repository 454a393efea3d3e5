"""What the ingestion job asks of a source of records."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from ...schemas.errors import InputError
from ...schemas.instruction import Record, Reject
from ..reading.read_options import ReadOptions


class Source(Protocol):
    """Records of one file, read once from its beginning.

    `decision` says in words how the file is read. `size` is that of the file in bytes (None where
    it cannot be known), `bytes_read` how much of it has been read so far; `xxh3` and `fault` (why
    a file broke half-way) hold after the last record.
    """

    @property
    def file(self) -> str: ...
    @property
    def corpus(self) -> str: ...
    @property
    def decision(self) -> str: ...
    @property
    def format(self) -> str: ...
    @property
    def options(self) -> ReadOptions: ...
    @property
    def size(self) -> int | None: ...
    @property
    def bytes_read(self) -> int: ...
    @property
    def xxh3(self) -> str: ...
    @property
    def fault(self) -> InputError | None: ...

    def __iter__(self) -> Iterator[Record | Reject]: ...
    def finish(self) -> None:
        """Close the file, whether or not it was read to its end; `xxh3` and `fault` hold then."""
        ...
