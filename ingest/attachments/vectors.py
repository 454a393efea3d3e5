"""Vectors made elsewhere, as a feature: unit vectors of the rows, and of targets' examples.

What they mean is not known here: two files of one model are comparable because the user says so.
The recipe has the hash of the files and the declared model, and later files of the same model may
bring vectors for rows that have none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import pyarrow as pa

from ...schemas.errors import UsageError
from ...schemas.plain_text import count_of
from ...schemas.progress import Progress, Silence
from ...schemas.recipe import FINGERPRINT_KEY, VECTORS, Recipe
from ...schemas.scratch import ScratchFolder
from ...store.features import TABLES, features_of
from ...store.fill import fill_lock
from ...store.store import Store
from ..readers.in_memory import InMemory, sources_in
from ..readers.options import ReadOptions
from ..representations.attached import own_columns, vector_fields
from .attaching import Attached, attach, one_of_each
from .file_rows import FileRead, read_file
from .keys import KINDS, Entries, KeyKind, Keys, rows_with
from .names import check_attached_name, check_free_columns
from .vector_files import VectorFile, open_vectors

if TYPE_CHECKING:
    from ..sources import SourceData

ZERO, NOT_FINITE = "the vector is zero", "the vector is missing or not finite"
_REASONS = np.array([None, ZERO, NOT_FINITE], object)
SAME = 2e-3
"""Numbers of unit vectors that differ by less are the same: two runs of one model may."""


def add_vectors(
    store: Store,
    name: str,
    data: SourceData,
    options: ReadOptions,
    *,
    key: KeyKind = "id",
    key_column: str | None = None,
    column: str | None = None,
    rows: SourceData | None = None,
    model: str = "",
    progress: Progress | None = None,
    command: str = "",
) -> Attached:
    """Attach vectors to the rows of the pool that they are of, under a name for methods.

    Args:
        store: an open store.
        name: of the feature, and of the column of vectors.
        data: tables with a column of lists of numbers, a NumPy array, or an index of bergson.
        options: how the keys are read; `corpus` says whose ids those of the key `source_id` are.
        key, key_column: as for `annotate`.
        column: of the vectors; the only one of lists of numbers by default.
        rows: whose rows those of `data` are, in the same order, where it has no keys of its own.
        model: what made them, as the user declares it.
        progress: is told how far it is.
        command: kept in the table `runs`.

    Raises:
        UsageError: no row is meant, vectors of several lengths, a key is ambiguous or has two
            vectors, a name is taken, or it stands for vectors of another model.
        InputError: a file cannot be read.
        StoreBusyError: another process is filling columns, or maintains the store.
    """
    progress = progress or Silence()
    if key not in KINDS:
        raise UsageError(f"key {key!r}: choose from {', '.join(KINDS)}")
    if options.corpus is not None and key != "source_id":
        raise UsageError(f"--corpus goes with --key source_id, but the key is {key}: leave it out")
    there = features_of(store).get(name)
    if there is None or there.representation != VECTORS:
        check_attached_name(store, name, VECTORS)
    files = open_vectors(data, column)
    with ExitStack() as stack:
        vectors = stack.enter_context(UnitVectors())
        for file in files:
            vectors.take_in(file, progress)
        reads = [FileRead(key, key_column, ()) for _ in files]
        entries = _keys(files, rows, options, reads, vectors)
        stack.enter_context(fill_lock(store))
        recipe = _recipe(store, name, model, files, vectors.width)
        account = Attached(name, recipe.columns[:1], reads, keyed=np.unique(entries.rows))
        if key == "source_id":
            entries = one_of_each(entries, vectors, account, "key")
            entries = rows_with(store, entries, options.corpus)
        entries = one_of_each(entries, vectors, account, "key" if key != "source_id" else "row")
        vectors.names = recipe.columns
        fields = stored_fields(recipe)
        attach(store, recipe, fields, TABLES, entries, vectors, account, progress, command)
        account.notes = _notes(store, recipe)
    return account


def stored_fields(recipe: Recipe) -> list[pa.Field]:
    """The fields of vectors under the names that they have in the store."""
    renamed = own_columns(recipe)
    return [
        field.with_name(renamed[field.name]) for field in vector_fields(recipe.options["width"])
    ]


class UnitVectors:
    """Vectors taken in once, kept as unit vectors on the disk; a context manager.

    Attributes:
        width: numbers of a vector; 0 before the first.
        names: of the columns that `take` gives.
    """

    def __init__(self) -> None:
        self._folder = ScratchFolder()
        self._path = Path(self._folder.name) / "vectors"
        self._written: BinaryIO = self._path.open("wb")
        self._starts, self._files = [0], []
        self._norms: list[np.ndarray] = []
        self._why: list[np.ndarray] = []
        self.width = 0
        self.names: Sequence[str] = [field.name for field in vector_fields(1)]

    def __enter__(self) -> UnitVectors:
        return self

    def __exit__(self, *error: object) -> None:
        self._written.close()
        self._folder.cleanup()

    def __len__(self) -> int:
        return self._starts[-1]

    def take_in(self, file: VectorFile, progress: Progress) -> None:
        """Take in all vectors of a file.

        Raises:
            InputError, UsageError: as `VectorFile.batches`; or they are of another length.
        """
        for batch in file.batches():
            self.width = self.width or batch.shape[1]
            if batch.shape[1] != self.width:
                raise UsageError(
                    f"{file.file}: its vectors have {batch.shape[1]:,} numbers, and those before "
                    f"them {self.width:,}"
                )
            self._add(batch)
            if file.rows_read % 65_536 < len(batch):
                message = f"{count_of(file.rows_read, 'vector')} read"
                progress.learn(name=file.file, share=0.0, said=message)
        self._starts.append(self._starts[-1] + file.rows_read)
        self._files.append(file.file)
        self._written.flush()
        progress.say(f"{file.file}: {file.words}, {count_of(file.rows_read, 'vector')}")
        if not self.width:
            raise UsageError(f"{file.file}: there is no vector in it")

    def _add(self, batch: np.ndarray) -> None:
        norms = np.linalg.norm(batch.astype(np.float64), axis=1)
        finite = np.isfinite(norms) & (norms <= np.finfo(np.float32).max)
        why = np.where(finite, np.where(norms == 0, 1, 0), 2).astype(np.uint8)
        with np.errstate(all="ignore"):
            unit = (batch / norms[:, None]).astype(np.float16)
        unit[why > 0] = 0
        self._written.write(unit.tobytes())
        self._norms.append(norms.astype(np.float32))
        self._why.append(why)

    @property
    def without(self) -> Mapping[str, int]:
        """Reason -> how many vectors were refused for it."""
        every = np.concatenate([np.empty(0, np.uint8), *self._why])
        return {str(_REASONS[code]): int((every == code).sum()) for code in (1, 2)}

    def take(self, rows: np.ndarray) -> pa.Table:
        """Vector (float16), norm and reason of rows (n,), in that order."""
        self._norms = [np.concatenate([np.empty(0, np.float32), *self._norms])]
        self._why = [np.concatenate([np.empty(0, np.uint8), *self._why])]
        shape = (len(self), self.width)
        stored = (
            np.memmap(self._path, np.float16, "r", shape=shape) if len(self) else np.empty(shape)
        )
        why, norms = self._why[0][rows], self._norms[0][rows]
        flat = pa.array(np.ascontiguousarray(stored[rows]).ravel(), pa.float16())
        kind = vector_fields(self.width)[0].type
        gone = pa.array(why > 0)
        return pa.table(
            [
                pa.FixedSizeListArray.from_arrays(flat, type=kind, mask=gone),
                pa.array(norms, pa.float32(), mask=why > 0),
                pa.array(_REASONS[why].tolist(), pa.string()),
            ],
            names=list(self.names),
        )

    def place(self, row: int) -> str:
        """The file of a vector, and which of its vectors it is, from 1."""
        number = int(np.searchsorted(self._starts, row, "right")) - 1
        return f"{self._files[number]}:{row - self._starts[number] + 1}"

    def differ(self, ours: pa.Table, theirs: pa.Table) -> tuple[str, int] | None:
        """The first row whose unit vectors differ by more than rounding."""
        name = ours.column_names[0]
        left, right = (_matrix(each[name], self.width) for each in (ours, theirs))
        apart = np.abs(left - right).max(axis=1, initial=0) > SAME
        apart |= np.isnan(left).any(axis=1) != np.isnan(right).any(axis=1)
        return (name, int(np.argmax(apart))) if apart.any() else None

    def row_bytes(self) -> int:
        """Bytes of a vector."""
        return max(1, 2 * self.width)


def _matrix(column: pa.ChunkedArray, width: int) -> np.ndarray:
    """(n, d) float32, NaN where there is no vector."""
    there = np.asarray(column.is_valid())
    matrix = np.full((len(column), width), np.nan, np.float32)
    flat = column.drop_null().combine_chunks().flatten()
    matrix[there] = flat.to_numpy(zero_copy_only=False).reshape(-1, width)
    return matrix


def _keys(
    files: Sequence[VectorFile],
    rows: SourceData | None,
    options: ReadOptions,
    reads: Sequence[FileRead],
    vectors: UnitVectors,
) -> Entries:
    """The keys of the vectors, each with its number.

    Raises:
        UsageError: there is nothing that says whose they are, or it is of another length.
    """
    named = None if rows is None else _rows_file(rows)
    keys: list[Keys] = []
    numbers: list[np.ndarray] = []
    start = 0
    for file, read in zip(files, reads, strict=True):
        if named is not None and len(files) > 1:
            raise UsageError("--rows gives the keys of one file only: add the files one by one")
        entry = file.rows if named is None else named
        if entry is None:
            raise UsageError(
                f"{file.file} does not say which rows its vectors belong to: name a file with the "
                "keys (or the records) of these rows, in the same order, with --rows"
            )
        for row in read_file(entry, options, read):
            keys.append(row.keys)
            numbers.append(np.full(len(row.keys), start + row.number, np.int64))
        read.file, read.xxh3, read.size = file.file, file.xxh3, file.size
        if read.read != file.rows_read:
            raise UsageError(
                f"{_file_of(entry)} has {count_of(read.read, 'row')} and {file.file} "
                f"{count_of(file.rows_read, 'vector')}: give one vector for each row, in order"
            )
        start += file.rows_read
    entries = Entries.of(keys, numbers)
    if not len(entries):
        raise UsageError(f"{', '.join(file.file for file in files)}: no row has a key")
    return entries


def _file_of(entry: str | InMemory) -> str:
    return entry.name if isinstance(entry, InMemory) else entry


def _rows_file(rows: SourceData) -> str | InMemory:
    """What says whose vectors those of an array are: a file, data in memory, or an array of ids."""
    ids: Any = rows
    if isinstance(rows, str | Path) and str(rows).endswith(".npy"):
        ids = np.load(rows, allow_pickle=False)
    if isinstance(ids, np.ndarray):
        return InMemory("<ids>", [{"id": each} for each in ids.tolist()])
    if (
        isinstance(rows, list)
        and rows
        and all(isinstance(each, str) for each in rows[:2])
        and not (Path(str(rows[0])).exists())
    ):
        return InMemory("<ids>", [{"id": each} for each in rows])
    (entry, *others) = sources_in(rows)
    if others:
        raise UsageError("--rows names one file")
    return entry


def _recipe(store: Store, name: str, model: str, files: Sequence[VectorFile], width: int) -> Recipe:
    """The recipe of the vectors: the one that is there, if these continue it, or a new one.

    Raises:
        UsageError: other vectors have this name, or its columns are taken.
    """
    there = features_of(store).get(name)
    hashes = [file.xxh3 for file in files]
    if there is not None:
        return _continued(store, there, model, hashes, width)
    recipe = Recipe(
        VECTORS,
        1,
        {"name": name, "files": hashes, "width": width},
        {"model": model},
        columns=(name, f"{name}_norm", f"{name}_reason"),
    )
    check_free_columns(store, recipe.columns, f"Choose another name than {name!r} for the vectors")
    return recipe


def _continued(
    store: Store, there: Recipe, model: str, hashes: Sequence[str], width: int
) -> Recipe:
    name, before = there.feature, there.backbone["model"]
    removal = f"coresetdb feature remove {store.typed} {name}"
    if width != there.options["width"]:
        raise UsageError(
            f"{name} of {store.uri} has vectors of {there.options['width']:,} numbers, and the "
            f"file of {width:,}. Choose another name, or remove the old ones first: {removal}"
        )
    if model != before and not (list(hashes) == there.options["files"] and not model):
        raise UsageError(
            f"{name} of {store.uri} was made by {before or 'a model that was not declared'}, and "
            f"the file by {model or 'a model that is not declared'} (--model). Only vectors of one "
            f"model can be compared: choose another name, or remove the old ones first: {removal}"
        )
    if not before and list(hashes) != there.options["files"]:
        raise UsageError(
            f"{name} of {store.uri} comes from another file, and no --model says that one model "
            f"made both. Remove the old ones first, and add both with --model: {removal}"
        )
    return there


def _notes(store: Store, recipe: Recipe) -> tuple[str, ...]:
    """Which targets lack the vectors."""
    rows = store.dataset("targets").to_table(
        columns=["target"], filter=f"`{recipe.columns[0]}` IS NULL"
    )
    lacking = sorted(set(rows["target"].to_pylist()))
    if not lacking:
        return ()
    name = recipe.feature
    return (
        f"{count_of(len(lacking), 'target')} without {name} ({', '.join(lacking[:5])}). Add those "
        f"of its examples: coresetdb vectors add {store.typed} {name} FILE --target TARGET",
    )


def vectors_of_examples(
    store: Store, data_of: Mapping[str, SourceData], rows: Sequence[int], read: int
) -> dict[str, pa.Table]:
    """The vectors of a target's examples, under the columns of the store.

    Args:
        store: that has vectors of these names in its pool.
        data_of: name -> their vectors, one for each record of the target's files, in order.
        rows: the number of each example among the records, from 0.
        read: how many records there are.

    Returns:
        Name -> columns, in the order of the examples, marked with the recipe's fingerprint.

    Raises:
        UsageError: there is no such name, the vectors are of another length or not as many.
        InputError: a file cannot be read.
    """
    known = {
        name: recipe
        for name, recipe in features_of(store).items()
        if recipe.representation == VECTORS
    }
    tables: dict[str, pa.Table] = {}
    for name, data in data_of.items():
        if name not in known:
            raise UsageError(
                f"--vectors {name}=...: {store.uri} has no vectors of that name; it has "
                f"{', '.join(known) or 'none'}. Add those of the pool first: "
                f"coresetdb vectors add {store.typed} {name} FILE"
            )
        tables[name] = _of_examples(known[name], data, rows, read)
    return tables


def _of_examples(recipe: Recipe, data: SourceData, rows: Sequence[int], read: int) -> pa.Table:
    name, width = recipe.feature, recipe.options["width"]
    with UnitVectors() as vectors:
        for file in open_vectors(data):
            vectors.take_in(file, Silence())
        if len(vectors) != read:
            raise UsageError(
                f"--vectors {name}: {count_of(len(vectors), 'vector')} for "
                f"{count_of(read, 'record')} of the target: give one for each record, in order"
            )
        if vectors.width != width:
            raise UsageError(
                f"--vectors {name}: its vectors have {vectors.width:,} numbers, and those of the "
                f"pool {width:,}. Both must be made by the same model"
            )
        vectors.names = recipe.columns
        taken = vectors.take(np.asarray(rows, np.int64))
    marked = {FINGERPRINT_KEY: recipe.fingerprint.encode()}
    schema = pa.schema([field.with_metadata(marked) for field in stored_fields(recipe)])
    return taken.cast(schema)
