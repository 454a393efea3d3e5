"""Finished shards of a late feature, kept beside the tables until their fragments are filled.

A fragment can only be filled whole, and a large one takes hours. What is made meanwhile is put here
every few seconds, as Arrow streams under `_fill/<fingerprint>/`, known by row id: a kill, a
compaction or a lost race costs nothing that stands here. A shard's name holds the xxh3 of its
bytes; one that differs is thrown away and made again.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from ..schemas.recipe import Recipe
from . import rows as incoming
from .place import Place

FOLDER = "_fill"
_OPEN_SHARDS = 4  # of at most a few thousand rows each; a fragment asks for them in order

log = logging.getLogger(__name__)


@dataclass
class _Shard:
    path: str
    ids: pa.Array
    gone: np.ndarray  # (rows,) bool: forgotten


class Shards:
    """The shards of one recipe.

    Args:
        place: of the store.
        recipe: whose columns they hold.
        pool: the schema that declares these columns.
    """

    def __init__(self, place: Place, recipe: Recipe, pool: pa.Schema) -> None:
        self._place, self.recipe = place, recipe
        self._folder = f"{FOLDER}/{recipe.fingerprint}"
        self.schema = pa.schema([pool.field("id"), *(pool.field(c) for c in recipe.columns)])
        self._shards: list[_Shard] = []
        self._open: OrderedDict[str, pa.Table] = OrderedDict()
        self._ids = pa.array([], pa.string())
        self._starts = np.zeros(1, np.int64)
        self._next = 0
        for path in sorted(place.sizes(self._folder)):
            self._take_up(path)
        self._index()

    def __len__(self) -> int:
        return sum(int((~shard.gone).sum()) for shard in self._shards)

    @property
    def ids(self) -> pa.Array:
        """Of the rows that are held, as far as their shards are."""
        return self._ids

    def put(self, rows: pa.Table) -> None:
        """Keep rows: a column `id` and the recipe's columns.

        Raises:
            StoreError: a column does not fit, or a vector is not sound.
        """
        fitting = incoming.conform("pool", rows.select(self.schema.names), self.schema)
        incoming.check_vectors("pool", fitting, "id")
        self._add(_write(self._place, self._folder, self._next, fitting), fitting)
        self._index()

    def positions(self, ids: pa.Array) -> np.ndarray:
        """Where each id stands among all shards' rows, (len(ids),) int64; -1 where it does not."""
        found = pc.index_in(ids, value_set=self._ids)  # pyright: ignore[reportAttributeAccessIssue]
        return found.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)

    def take(self, positions: np.ndarray) -> pa.Table:
        """The recipe's columns of the rows at `positions` (none of them -1), in that order."""
        shard_of = np.searchsorted(self._starts, positions, "right") - 1
        parts, order = [self.schema.empty_table()], []
        for number in np.unique(shard_of):
            mine = np.flatnonzero(shard_of == number)
            rows = self._read(self._shards[number])
            parts.append(rows.take(pa.array(positions[mine] - self._starts[number])))
            order.append(mine)
        back = np.argsort(np.concatenate(order)) if order else np.empty(0, np.int64)
        return pa.concat_tables(parts).take(pa.array(back)).select(list(self.recipe.columns))

    def forget(self, ids: pa.Array) -> None:
        """Let go of rows that stand in the pool; a shard none of whose rows is left is removed."""
        positions = self.positions(ids)
        positions = positions[positions >= 0]
        shard_of = np.searchsorted(self._starts, positions, "right") - 1
        for number in np.unique(shard_of):
            shard = self._shards[number]
            shard.gone[positions[shard_of == number] - self._starts[number]] = True
            if shard.gone.all():
                self._open.pop(shard.path, None)
                self._place.delete(shard.path)
        self._shards = [shard for shard in self._shards if not shard.gone.all()]
        self._index()

    def clear(self) -> None:
        """Remove what is left: rows that are no longer in the pool."""
        for shard in self._shards:
            self._place.delete(shard.path)
        self._shards = []
        self._open.clear()
        self._index()
        self._place.remove_empty(self._folder)

    def row_bytes(self) -> int:
        """Bytes of the widest column of a row, as the shards have them (at least 1)."""
        if not self._shards:
            return incoming.bytes_per_row(self.schema)
        rows = self._read(self._shards[0])
        return max(1, max(column.nbytes for column in rows.columns) // max(1, rows.num_rows))

    def _take_up(self, path: str) -> None:
        if path.endswith(".arrow"):
            rows = self._parsed(path)
            if rows is not None:
                self._add(path, rows.select(["id"]))
                return
            log.warning("%s: a shard is not what was written; its rows are made again", path)
        self._place.delete(path)  # broken, or half-written by a process that was killed

    def _add(self, path: str, rows: pa.Table) -> None:
        ids = rows["id"].combine_chunks()
        self._shards.append(_Shard(path, ids, np.zeros(len(ids), bool)))
        self._next = max(self._next, int(path.rsplit("/", 1)[1].partition("-")[0]) + 1)

    def _index(self) -> None:
        ids = [shard.ids for shard in self._shards]
        self._ids = pa.concat_arrays(ids) if ids else pa.array([], pa.string())
        self._starts = np.cumsum([0, *(len(each) for each in ids)])

    def _read(self, shard: _Shard) -> pa.Table:
        if shard.path not in self._open:
            rows = self._parsed(shard.path)
            if rows is None:
                raise OSError(f"{shard.path}: the shard changed under us")
            self._open[shard.path] = rows
            while len(self._open) > _OPEN_SHARDS:
                self._open.popitem(last=False)
        self._open.move_to_end(shard.path)
        return self._open[shard.path]

    def _parsed(self, path: str) -> pa.Table | None:
        data = self._place.read(path)
        told = path.rsplit("-", 1)[-1].removesuffix(".arrow")
        if xxhash.xxh3_64_hexdigest(data) != told:
            return None
        rows = pa.ipc.open_stream(data).read_all()
        return rows if rows.schema.equals(self.schema) else None


def remove_foreign_shards(place: Place, fingerprints: Sequence[str]) -> None:
    """Remove shards of recipes that are not among those named; nobody may be filling."""
    for path in place.sizes(FOLDER):
        parts = path.split("/")
        if len(parts) == 3 and len(parts[1]) == 32 and parts[1] not in fingerprints:
            place.delete(path)
            place.remove_empty(f"{FOLDER}/{parts[1]}")


def forget_rows(place: Place, ids: pa.Array) -> None:
    """Write shards of any recipe that hold rows with these ids again, without them.

    What a killed process left half-written goes as well; nobody may be filling.
    """
    for path in sorted(place.sizes(FOLDER)):
        parts = path.split("/")
        if len(parts) != 3 or len(parts[1]) != 32:
            continue
        if not path.endswith(".arrow"):
            place.delete(path)
            continue
        try:
            rows = pa.ipc.open_stream(place.read(path)).read_all()
        except pa.ArrowInvalid:  # broken: its rows are made again
            place.delete(path)
            continue
        held = pc.is_in(rows["id"], value_set=ids)  # pyright: ignore[reportAttributeAccessIssue]
        left = rows.filter(pc.invert(held))  # pyright: ignore[reportAttributeAccessIssue]
        if left.num_rows == rows.num_rows:
            continue
        if left.num_rows:
            _write(place, f"{FOLDER}/{parts[1]}", int(parts[2].partition("-")[0]), left)
        place.delete(path)
        place.remove_empty(f"{FOLDER}/{parts[1]}")


def _write(place: Place, folder: str, number: int, rows: pa.Table) -> str:
    """Write a shard; its path tells its number and the xxh3 of its bytes."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    data = sink.getvalue().to_pybytes()
    path = f"{folder}/{number:08d}-{xxhash.xxh3_64_hexdigest(data)}.arrow"
    place.write(path, data)
    return path
