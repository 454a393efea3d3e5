"""Look for bytes in every file of a store, as they stand and as Lance reads them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import pyarrow as pa
from lance.file import LanceFileReader


def files_holding(store: str, needles: Sequence[bytes]) -> dict[str, list[bytes]]:
    """Path -> what of `needles` stands in its raw bytes, for every file below a local store."""
    found = {}
    for path in files_below(store):
        with open(path, "rb") as file:
            data = file.read()
        if held := [needle for needle in needles if needle in data]:
            found[path] = held
    return found


def decoded_bytes(store: str) -> bytes:
    """All buffers of all columns of every Lance data file and every shard, as Arrow has them.

    Data files are read whole, whether a version names them or not, deleted rows included.
    """
    return b"\n".join(_buffers(store))


def _buffers(store: str) -> Iterator[bytes]:
    for path in files_below(store):
        if "/data/" in path and path.endswith(".lance"):
            table = LanceFileReader(path).read_all().to_table()
        elif path.endswith(".arrow") and "/_fill/" in path:
            table = pa.ipc.open_stream(path).read_all()
        else:
            continue
        for column in table.columns:
            for chunk in column.chunks:
                yield from (buffer.to_pybytes() for buffer in chunk.buffers() if buffer)


def files_below(store: str) -> Iterator[str]:
    for folder, _, names in os.walk(store):
        yield from (os.path.join(folder, name) for name in names)
