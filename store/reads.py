"""Reading a table: what Lance says of a damaged or unreachable file becomes a sentence.

Lance checks little of what it reads. A page that is not what was written ends in an Arrow error, an
I/O error or a panic, from whichever call happens to touch it. The methods of a dataset by which
this package reads are wrapped one by one, so that the dataset stays what others expect.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..schemas.errors import CoresetDBError
from ..schemas.plain_text import said_by_lance
from .place import Place, unopened

if TYPE_CHECKING:
    import lance

_READS = ("to_table", "count_rows", "take")
_SCANNER_READS = ("to_table", "count_rows")


def guarded(dataset: lance.LanceDataset, place: Place, table: str) -> lance.LanceDataset:
    """The same dataset, whose reads raise DamagedStoreError (or StoreError) where Lance fails."""

    @contextmanager
    def reading() -> Iterator[None]:
        try:
            yield
        except CoresetDBError:
            raise
        except (OSError, pa.ArrowException) as error:
            raise unopened(place, table, error, "cannot be read") from error
        except BaseException as error:
            if said_by_lance(error):  # a panic inside Lance is no Exception
                raise unopened(place, table, error, "cannot be read") from error
            raise

    def wrapped(read: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(read)
        def guarded_read(*arguments: Any, **keywords: Any) -> Any:
            with reading():
                return read(*arguments, **keywords)

        return guarded_read

    def guard_scanner(scanner: Any) -> Any:
        whole = scanner.to_batches

        def to_batches(*arguments: Any, **keywords: Any) -> Iterator[pa.RecordBatch]:
            with reading():
                yield from whole(*arguments, **keywords)

        for name in _SCANNER_READS:
            setattr(scanner, name, wrapped(getattr(scanner, name)))
        scanner.to_batches = to_batches
        return scanner

    make_scanner = dataset.scanner

    @functools.wraps(make_scanner)
    def scanner(*arguments: Any, **keywords: Any) -> Any:
        return guard_scanner(make_scanner(*arguments, **keywords))

    for name in _READS:
        setattr(dataset, name, wrapped(getattr(dataset, name)))
    dataset.scanner = scanner
    return dataset
