"""Vectors in files: a column of lists in any table, a NumPy array, or an index of bergson.

An array says nothing of its rows: another file has their keys, in the same order. An index of
bergson is a folder with the rows as a `datasets` folder (`data.hf`), the sizes of its parts
(`info.json`) and all gradients in one array (`gradients.bin`), or several such folders.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import xxhash

from ...schemas.errors import InputError, UsageError
from ..readers.in_memory import InMemory
from ..readers.locations import can_be_read_again, is_remote
from ..readers.opening import Opened
from ..readers.options import ReadOptions
from ..readers.tables import digest_of_digests
from ..sources import find_sources
from .file_rows import open_plainly

if TYPE_CHECKING:
    from ..sources import SourceData

BATCH = 1024
USUAL_COLUMNS = ("embedding", "embeddings", "vector", "vectors", "emb")
INFO, GRADIENTS, ROWS = "info.json", "gradients.bin", "data.hf"
READ_BYTES = 1 << 24


@dataclass
class VectorFile:
    """One source of vectors; iterate over `batches` once.

    Attributes:
        file: path, or what stands for data in memory.
        words: what it is, for the user.
        rows: what gives the keys of its rows in the same order; None where it has none.
        xxh3: of all its bytes; holds after the last batch.
        rows_read: how many vectors there were.
    """

    file: str
    words: str
    rows: str | InMemory | None
    size: int | None = None
    xxh3: str = ""
    rows_read: int = 0
    _batches: Iterator[np.ndarray] = field(default_factory=lambda: iter(()), repr=False)

    def batches(self) -> Iterator[np.ndarray]:
        """The vectors in parts, (n, d) float32; a row of NaN where there is none.

        Raises:
            InputError: the file breaks off.
            UsageError: a vector has another length than the first.
        """
        for batch in self._batches:
            self.rows_read += len(batch)
            yield batch


def open_vectors(data: SourceData, column: str | None = None) -> list[VectorFile]:
    """Open what a user names as vectors.

    Args:
        data: files, folders, or data in memory.
        column: that holds the vectors of a table; the only one of lists of numbers by default.

    Raises:
        InputError: it cannot be read.
        UsageError: it has no such column, or several that may be meant.
    """
    if isinstance(data, str | Path) and not is_remote(str(data)) and (Path(data) / INFO).is_file():
        return [_bergson(Path(data))]
    if isinstance(data, str | Path) and _shards(Path(data)):
        return [_bergson(shard) for shard in _shards(Path(data))]
    if isinstance(data, np.ndarray):
        return [_array(data, f"<numpy.{type(data).__name__}>", "array in memory")]
    return [_open(entry, column) for entry in find_sources(data)]


def _open(entry: str | InMemory, column: str | None) -> VectorFile:
    if isinstance(entry, str) and entry.endswith(".npy"):
        try:
            array = np.load(entry, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise InputError(entry, f"it is no NumPy array ({error})", "Save it again") from error
        return _array(array, entry, "NumPy array", [Path(entry)])
    if isinstance(entry, str) and not can_be_read_again(entry):
        raise UsageError(
            f"{entry}: vectors are read from a file, not from standard input or a pipe"
        )
    opened = open_plainly(entry, ReadOptions())
    if opened.table is not None:
        return _table(opened, entry, column)
    return _objects(opened, entry, column)


def _table(opened: Opened, entry: str | InMemory, column: str | None) -> VectorFile:
    assert opened.table is not None
    schema = opened.table.schema
    lists = [each.name for each in schema if _holds_vectors(each.type)]
    name = _the_column(opened.file, column, lists, schema.names)
    opened.table.read_only([name])
    file = VectorFile(opened.file, f"{opened.words[0]}, column {name}", entry, opened.size)

    def batches() -> Iterator[np.ndarray]:
        assert opened.table is not None
        width, number = 0, 0
        for batch in opened.table.batches():
            vectors = _from_arrow(batch[name], width, f"{opened.file}:{number + 1}")
            width, number = vectors.shape[1] or width, number + len(vectors)
            yield vectors
        file.xxh3 = opened.finish()
        if opened.fault:
            raise opened.fault

    file._batches = batches()
    return file


def _objects(opened: Opened, entry: str | InMemory, column: str | None) -> VectorFile:
    """Vectors in JSON Lines and the like, one a row."""
    file = VectorFile(opened.file, ", ".join(opened.words), entry, opened.size)

    def batches() -> Iterator[np.ndarray]:
        name, width, rows, first = column, 0, [], 1
        for line, value in opened.rows:
            row = value if isinstance(value, dict) else {}
            if name is None and row:
                lists = [key for key, own in row.items() if _is_vector(own)]
                name = _the_column(opened.file, None, lists, list(row))
            rows.append(row.get(name))
            if len(rows) == BATCH:
                vectors = _from_lists(rows, width, f"{opened.file}:{first}")
                width, rows, first = vectors.shape[1] or width, [], line + 1
                yield vectors
        if rows:
            yield _from_lists(rows, width, f"{opened.file}:{first}")
        file.xxh3 = opened.finish()
        if opened.fault:
            raise opened.fault

    file._batches = batches()
    return file


def _array(
    array: np.ndarray,
    file: str,
    words: str,
    paths: Sequence[Path] = (),
    rows: str | InMemory | None = None,
    widened: bool = False,
) -> VectorFile:
    """An array of two dimensions, on the disk or in memory.

    Args:
        paths: of the files it is read from.
        rows: that give the keys.
        widened: whether its numbers are bfloat16, as uint16.
    """
    if array.ndim != 2 or not (widened or array.dtype.kind in "fiu"):
        raise InputError(
            file,
            f"it is an array of {array.ndim} dimensions of {array.dtype}",
            "Vectors are an array of rows and columns of numbers",
        )
    shape = f"{len(array):,} x {array.shape[1]:,} {'bfloat16' if widened else array.dtype}"
    size = sum(path.stat().st_size for path in paths) if paths else None
    source = VectorFile(file, f"{words}, {shape}", rows, size)

    def batches() -> Iterator[np.ndarray]:
        step = max(1, min(BATCH, READ_BYTES // max(1, 4 * array.shape[1])))
        for start in range(0, len(array), step):
            part = array[start : start + step]
            if widened:
                yield (part.astype(np.uint32) << 16).view(np.float32)
            else:
                with np.errstate(over="ignore"):  # an infinity is told as such
                    yield part.astype(np.float32)
        digests = [_hash(path) for path in paths]
        source.xxh3 = digest_of_digests(digests) if len(digests) > 1 else "".join(digests)
        if not paths:
            source.xxh3 = xxhash.xxh3_64_hexdigest(np.ascontiguousarray(array).data)

    source._batches = batches()
    return source


def _bergson(folder: Path) -> VectorFile:
    try:
        info = json.loads((folder / INFO).read_text(encoding="utf-8"))
        # Older indices give a structured type, whose fields are all of one kind.
        kind = info.get("base_dtype") or info["dtype"]["formats"][0].rpartition(")")[2]
        shape = (int(info["num_grads"]), sum(map(int, info["grad_sizes"].values())))
        per_token = bool(info.get("attribute_tokens"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(
            str(folder / INFO),
            f"it does not describe an index of bergson ({type(error).__name__}: {error})",
            "Give the folder that `bergson build` wrote",
        ) from error
    if per_token:
        raise InputError(
            str(folder),
            "it has the gradients of every token, and a row has one vector",
            "Build the index without token gradients",
        )
    widened = kind == "bfloat16"
    path = folder / GRADIENTS
    try:
        array = np.memmap(path, np.uint16 if widened else np.dtype(kind), "r", shape=shape)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            str(path),
            f"it cannot be read as {shape[0]:,} x {shape[1]:,} {kind} ({error})",
            "Copy the index again",
        ) from error
    rows = str(folder / ROWS) if (folder / ROWS).is_dir() else None
    return _array(array, str(folder), "index of bergson", [folder / INFO, path], rows, widened)


def _shards(folder: Path) -> list[Path]:
    """The parts of an index of bergson that was written by several processes, in their order."""
    if is_remote(str(folder)) or not folder.is_dir():
        return []
    return sorted(
        each for each in folder.iterdir() if "shard" in each.name and (each / INFO).is_file()
    )


def _the_column(file: str, wanted: str | None, lists: Sequence[str], columns: Sequence[str]) -> str:
    if wanted is not None:
        if wanted not in columns:
            raise UsageError(
                f"{file} has no column {wanted!r}; its columns are {', '.join(columns)}"
            )
        return wanted
    if len(lists) == 1:
        return lists[0]
    usual = [name for name in USUAL_COLUMNS if name in lists]
    if usual:
        return usual[0]
    if not lists:
        raise UsageError(
            f"{file} has no column of lists of numbers; its columns are {', '.join(columns)}"
        )
    raise UsageError(
        f"{file} has several columns of vectors ({', '.join(lists)}): name one, --column"
    )


def _holds_vectors(kind: pa.DataType) -> bool:
    if not (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    ):
        return False
    return pa.types.is_floating(kind.value_type)


def _is_vector(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(number, int | float) and not isinstance(number, bool) for number in value
        )
    )


def _from_arrow(column: pa.Array, width: int, place: str) -> np.ndarray:
    """Lists as (n, d) float32; NaN for a row that is null, or has a null in it."""
    kind = column.type
    fixed = pa.types.is_fixed_size_list(kind)
    if not (fixed or pa.types.is_list(kind) or pa.types.is_large_list(kind)) or not (
        pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)
    ):
        raise UsageError(f"{place}: the column is of type {kind}, not of lists of numbers")
    there = np.asarray(column.is_valid())
    present = column.filter(pa.array(there))
    lengths = np.full(len(present), kind.list_size) if fixed else present.value_lengths().to_numpy()
    width = _width_of(lengths, width, place)
    numbers = present.flatten().cast(pa.float32())
    vectors = np.full((len(column), width), np.nan, np.float32)
    vectors[there] = numbers.to_numpy(zero_copy_only=False).reshape(-1, width)
    return vectors


def _from_lists(rows: Sequence[Any], width: int, place: str) -> np.ndarray:
    there = np.array([_is_vector_with_gaps(row) for row in rows])
    lengths = np.array(
        [len(row) for row, is_there in zip(rows, there, strict=True) if is_there], int
    )
    width = _width_of(lengths, width, place)
    vectors = np.full((len(rows), width), np.nan, np.float32)
    for number in np.flatnonzero(there).tolist():
        vectors[number] = [math.nan if each is None else each for each in rows[number]]
    return vectors


def _is_vector_with_gaps(value: Any) -> bool:
    """Whether a value is a list of numbers; NaN and infinities come as null."""
    return isinstance(value, list) and all(
        each is None or (isinstance(each, int | float) and not isinstance(each, bool))
        for each in value
    )


def _width_of(lengths: np.ndarray, width: int, place: str) -> int:
    width = width or (int(lengths[0]) if len(lengths) else 0)
    other = np.flatnonzero(lengths != width)
    if len(other):
        raise UsageError(
            f"{place} and the rows after it: a vector has {lengths[other[0]]:,} numbers, and the "
            f"first one has {width:,}"
        )
    return width


def _hash(path: Path) -> str:
    digest = xxhash.xxh3_64()
    with path.open("rb") as file:
        while chunk := file.read(READ_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
