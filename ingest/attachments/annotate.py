"""Annotate: columns of a file, such as a judge's scores, become typed columns of the pool.

An annotation has a name, and a recipe with the hash of its files. Later files may bring values for
rows that have none; what stands in the pool is never replaced.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from ...schemas.canonical import canonical_json
from ...schemas.errors import UsageError
from ...schemas.plain_text import count_of
from ...schemas.progress import Progress, Silence
from ...schemas.recipe import ANNOTATION, Recipe
from ...store.features import features_of
from ...store.fill import fill_lock
from ...store.store import Store
from ..readers.dataset_names import corpus_of
from ..readers.in_memory import InMemory
from ..readers.options import ReadOptions
from ..representations.attached import annotation_fields
from ..sources import find_sources
from .attaching import Attached, attach, one_of_each
from .file_rows import FileRead, read_file
from .keys import KINDS, Entries, KeyKind, Keys, rows_with
from .names import check_attached_name, check_free_columns, notes_on_names
from .typed_values import NUMBER, TEXT, WHOLE, TypedValues, column_names

if TYPE_CHECKING:
    from ..sources import SourceData

NO_VALUE = "no value in the file"
SAID_EVERY = 20_000


def annotate(
    store: Store,
    data: SourceData,
    options: ReadOptions,
    *,
    key: KeyKind = "id",
    key_column: str | None = None,
    columns: Sequence[str] | None = None,
    prefix: str = "",
    name: str | None = None,
    texts: Collection[str] = (),
    progress: Progress | None = None,
    command: str = "",
) -> Attached:
    """Attach columns of files to the rows of the pool that they are about.

    Args:
        store: an open store.
        data: files, or data in memory, as `ingest` reads them.
        options: how to read them; `corpus` says whose ids those of the key `source_id` are.
        key: `id` joins by row ids, `source_id` by the ids that sources gave their rows, `messages`
            by content: each record is read as a conversation.
        key_column: that holds the key; by default `id`, or the usual names of a source's own id.
        columns: to take (`a.b` reaches into objects); by default all but the key and the
            conversation.
        prefix: of the names in the pool.
        name: of the annotation; by default the prefix, or the name of the first file.
        texts: columns that are taken as text, whatever they hold.
        progress: is told how far it is.
        command: kept in the table `runs`.

    Raises:
        UsageError: no row is meant, a column mixes kinds, a key is ambiguous or has two values, or
            a name is taken.
        InputError: a file cannot be read.
        StoreBusyError: another process is filling columns, or maintains the store.
    """
    progress = progress or Silence()
    if key not in KINDS:
        raise UsageError(f"key {key!r}: choose from {', '.join(KINDS)}")
    if options.corpus is not None and key != "source_id":
        raise UsageError(f"--corpus goes with --key source_id, but the key is {key}: leave it out")
    sources = find_sources(data)
    wanted = None if columns is None else tuple(dict.fromkeys(columns))
    reads = [FileRead(key, key_column, wanted) for _ in sources]
    name = name or _name(prefix, sources)
    with ExitStack() as stack:
        values = stack.enter_context(TypedValues(texts))
        entries = _read(sources, options, reads, values, progress)
        kinds = values.kinds()
        if not len(entries):
            raise UsageError(
                f"{', '.join(read.file for read in reads)}: no row with a key and values"
            )
        stack.enter_context(fill_lock(store))
        prefix = prefix or _prefix_of(store, name)
        stored = dict(column_names(list(kinds), prefix))
        kind_of = {stored[column]: kind for column, kind in kinds.items()}
        recipe = _recipe(store, name, prefix, key, reads, kind_of)
        settled = recipe.options["columns"]
        for column, kind in kinds.items():
            if (kind, settled[stored[column]]) == (WHOLE, NUMBER):
                values.check_exact(column)
        typed = _Annotations(
            values, {column: settled[stored[column]] for column in kinds}, stored, recipe
        )
        account = Attached(name, recipe.columns[:-1], reads, keyed=np.unique(entries.rows))
        if key == "source_id":
            entries = one_of_each(entries, typed, account, "key")
            entries = rows_with(store, entries, options.corpus)
        entries = one_of_each(entries, typed, account, "key" if key != "source_id" else "row")
        account.notes = notes_on_names(store, recipe)
        fields = annotation_fields(recipe)
        attach(store, recipe, fields, ["pool"], entries, typed, account, progress, command)
    return account


def _read(
    sources: Sequence[str | InMemory],
    options: ReadOptions,
    reads: Sequence[FileRead],
    values: TypedValues,
    progress: Progress,
) -> Entries:
    """Read all files; their keys, with the rows they have in `values`."""
    keys: list[Keys] = []
    rows: list[np.ndarray] = []
    for entry, read in zip(sources, reads, strict=True):
        content = xxhash.xxh3_64()
        for row in read_file(entry, options, read):
            keys.append(row.keys)
            rows.append(np.full(len(row.keys), len(values), np.int64))
            values.add(row.place, row.values, row.as_text)
            if isinstance(entry, InMemory):
                written = canonical_json(dict(row.values)).encode("utf-8", "surrogatepass")
                content.update(row.keys.tobytes() + written)
            if len(keys) >= SAID_EVERY:
                keys, rows = [np.concatenate(keys)], [np.concatenate(rows)]
                message = f"{count_of(len(values), 'row')} read"
                progress.learn(name="reading", share=0.0, said=message)
        read.xxh3 = read.xxh3 or content.hexdigest()
        progress.say(f"{read.file}: {read.decision}")
    return Entries.of(keys, rows)


def _name(prefix: str, found: Sequence[str | InMemory]) -> str:
    if prefix:
        return prefix.rstrip("_") or prefix
    first = found[0]
    stem = corpus_of(first.name if isinstance(first, InMemory) else first)
    return re.sub(r"\W+", "_", stem, flags=re.ASCII).strip("_") or "annotation"


def _prefix_of(store: Store, name: str) -> str:
    """The prefix of an annotation that is there; empty for any other name."""
    recipe = features_of(store).get(name)
    return recipe.options.get("prefix", "") if recipe and recipe.attached else ""


def _recipe(
    store: Store,
    name: str,
    prefix: str,
    key: KeyKind,
    reads: Sequence[FileRead],
    columns: Mapping[str, str],
) -> Recipe:
    """The recipe of an annotation: the one that is there, if the file continues it, or a new one.

    Raises:
        UsageError: the name or a column is taken, or the annotation has other columns.
    """
    there = features_of(store).get(name)
    if there is not None and there.representation == ANNOTATION:
        return _continued(store, there, columns)
    check_attached_name(store, name, "annotation")
    missing = f"{name}_missing"
    if missing.casefold() in map(str.casefold, columns):
        raise UsageError(
            f"annotation {name!r}: its column {missing!r} says which rows have no value, and the "
            "file has one of that name. Choose another name with --name"
        )
    recipe = Recipe(
        ANNOTATION,
        1,
        {
            "name": name,
            "prefix": prefix,
            "key": key,
            "files": [read.xxh3 for read in reads],
            "columns": dict(columns),
        },
        columns=(*columns, missing),
        stored_dtype="",
    )
    check_free_columns(
        store,
        recipe.columns,
        "Choose other names with --prefix, or the columns to take with --columns",
    )
    return recipe


def _continued(store: Store, recipe: Recipe, columns: Mapping[str, str]) -> Recipe:
    there: Mapping[str, str] = recipe.options["columns"]
    name = recipe.feature
    if recipe.made_by:
        raise UsageError(
            f"annotation {name!r} of {store.uri} is the result of coresetdb {recipe.made_by}. "
            "Choose another name with --name"
        )
    advice = (
        "Give the new values a name of their own (--prefix, --name), or remove the old ones: "
        f"coresetdb annotation remove {store.typed} {name}"
    )
    for column, kind in columns.items():
        if column not in there:
            raise UsageError(
                f"the annotation {name} has the columns {', '.join(there)}, and not {column!r}. "
                + advice
            )
        if kind != there[column] and (kind, there[column]) != (WHOLE, NUMBER):
            raise UsageError(
                f"column {column!r} of the annotation {name} holds {there[column]}s, and the file "
                f"has {kind}s. {advice}"
                + (f"; or take it as text: --text {column}" if there[column] == TEXT else "")
            )
    return recipe


class _Annotations:
    """The values of files as the recipe's columns.

    Args:
        values: under the names of the files.
        kinds: what the pool's columns hold, by these names.
        stored: name in the files -> column of the pool.
    """

    def __init__(
        self,
        values: TypedValues,
        kinds: Mapping[str, str],
        stored: Mapping[str, str],
        recipe: Recipe,
    ) -> None:
        self._values, self._kinds, self._stored, self._recipe = values, kinds, stored, recipe
        self._fields = annotation_fields(recipe)[:-1]

    def __len__(self) -> int:
        return len(self._values)

    def take(self, rows: np.ndarray) -> pa.Table:
        """The recipe's columns of rows; those that the files lack are null."""
        taken = self._values.take(rows, self._kinds)
        name_in_file = {self._stored[name]: name for name in self._kinds}
        columns = [
            taken[name_in_file[field.name]]
            if field.name in name_in_file
            else pa.nulls(len(taken), field.type)
            for field in self._fields
        ]
        empty = np.ones(len(taken), bool)
        for column in columns:
            empty &= np.asarray(column.is_null())
        reasons = pc.if_else(pa.array(empty), NO_VALUE, None)  # pyright: ignore[reportAttributeAccessIssue]
        return pa.table([*columns, reasons.cast(pa.string())], names=list(self._recipe.columns))

    def place(self, row: int) -> str:
        """Where a row of the files stands."""
        return self._values.place(row)

    def differ(self, ours: pa.Table, theirs: pa.Table) -> tuple[str, int] | None:
        """The first column and row that differ, the reason apart."""
        for name in ours.column_names[:-1]:
            left, right = ours[name].to_pylist(), theirs[name].to_pylist()
            if len(left) == 1:
                left = left * len(right)
            for row, (one, other) in enumerate(zip(left, right, strict=True)):
                if one != other:
                    return name, row
        return None

    def row_bytes(self) -> int:
        """Bytes of the widest column of a row: texts may be long."""
        return 256 if TEXT in self._kinds.values() else 8
