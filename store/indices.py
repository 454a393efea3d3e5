"""Vector indices of the pool: which there are, building one, taking in new rows, dropping one.

An index belongs to one vector column and is known by its name, which says what it is:
`rds__ivf_rq_256` is a Lance IVF_RQ index of 256 partitions. Rows that came after it was built are
found all the same, since Lance compares those one by one, only slower; `extend` takes them in.

Whoever drops an index that is to be made again notes its column in the pool's metadata first
(`owe`), and strikes it off once it is there (`strike_off`), so a process that is killed in between
leaves word of it. Note and index stand in the versions of one table: where damage takes its newest
version, both are again as they were before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    import lance

    from .store import Store

_OWED = "coresetdb:index-to-make:"
"""Begins keys of the pool's metadata that name columns whose index was dropped..."""
_NOTED = "dropped"
_THEIRS = "dropped: another tool's"
"""... and their values; of an index that another tool made the key names the index itself."""

_BITS = 4  # of every number; with 1 the index orders rows so roughly that too many must be read
_NAME = re.compile(r"(?P<column>.+)__(?P<kind>ivf_[a-z]+)_(?P<partitions>\d+)")


@dataclass(frozen=True)
class VectorIndex:
    """An index of the pool at one version.

    Attributes:
        column: whose vectors it holds.
        kind: as Lance calls it.
        partitions: the vectors are divided into.
        rows: of the fragments it covers, those without a vector included.
        outside: rows of other fragments.
        parts: names of its folders under `_indices/`.
    """

    column: str
    kind: str
    partitions: int
    rows: int
    outside: int
    parts: tuple[str, ...]

    @property
    def name(self) -> str:
        """As Lance knows it."""
        return f"{self.column}__{self.kind.lower()}_{self.partitions}"


def indices_of(dataset: lance.LanceDataset) -> dict[str, VectorIndex]:
    """Column -> the index of it, at the dataset's version; others than ours are left out."""
    rows = {part.fragment_id: part.count_rows() for part in dataset.get_fragments()}
    covered: dict[str, tuple[set[int], list[str]]] = {}
    for list_index in dataset.list_indices():
        fragments, parts = covered.setdefault(list_index["name"], (set(), []))
        fragments |= set(list_index["fragment_ids"]) & rows.keys()
        parts.append(str(list_index["uuid"]))
    found: dict[str, VectorIndex] = {}
    for name, (fragments, parts) in covered.items():
        if match := _NAME.fullmatch(name):
            inside = sum(rows[number] for number in fragments)
            index = VectorIndex(
                match["column"],
                match["kind"].upper(),
                int(match["partitions"]),
                inside,
                sum(rows.values()) - inside,
                tuple(sorted(parts)),
            )
            # Of two, the process that put one in place of the other was killed in between.
            other = found.get(index.column)
            if other is None or (other.rows, other.partitions) < (index.rows, index.partitions):
                found[index.column] = index
    return found


def column_of(name: str) -> str | None:
    """The column of an index of ours; None where the name is not one of ours."""
    match = _NAME.fullmatch(name)
    return match["column"] if match else None


def described(index: VectorIndex) -> dict[str, Any]:
    """An index as a plain row, for people and programs."""
    return {
        "index of": index.column,
        "kind": index.kind,
        "partitions": index.partitions,
        "rows": index.rows,
        "rows outside": index.outside,
    }


def build(store: Store, column: str, kind: str, centroids: pa.FixedSizeListArray) -> None:
    """Index a vector column by its cosines, in place of an index it has.

    Args:
        store: an open store.
        column: of the pool, fixed-size lists of float16 (d).
        kind: IVF_RQ (d a multiple of 8) or IVF_SQ.
        centroids: of the partitions, (partitions, d) of the column's type.

    Raises:
        StoreError: other writers were quicker every time, or the disk is full.
    """
    new = VectorIndex(column, kind, len(centroids), 0, 0, ())
    options: dict[str, Any] = {"num_bits": _BITS} if kind == "IVF_RQ" else {}

    def create(dataset: lance.LanceDataset) -> None:
        dataset.create_index(
            column,
            kind,
            name=new.name,
            metric="cosine",
            num_partitions=new.partitions,
            ivf_centroids=centroids,
            replace=True,
            **options,
        )

    store.change("pool", f"indexing {column}", create)
    drop_others(store, new)


def extend(store: Store, index: VectorIndex) -> None:
    """Take rows in that came after an index was built, as one more part of the same partitions.

    Lance would merge the parts as well, and with them partitions of less than about 16,000 rows,
    which undoes the index of a small pool (measured: 256 became 4).

    Raises:
        StoreError: as `build`.
    """
    store.change(
        "pool",
        f"extending the index of {index.column}",
        lambda dataset: dataset.optimize.optimize_indices(
            index_names=[index.name], num_indices_to_merge=0
        ),
    )


def drop(store: Store, index: VectorIndex) -> None:
    """Remove an index; its files go when the versions that name them are cleaned away."""
    strike_off(store, [index.column])
    drop_others(store, index)
    _drop(store, index.column, index.name)


def drop_others(store: Store, index: VectorIndex) -> None:
    """Remove what is left of earlier indices of the same column."""
    names = {each["name"] for each in store.dataset("pool").list_indices()} - {index.name}
    for name in sorted(names):
        if column_of(name) == index.column:
            _drop(store, index.column, name)


def _drop(store: Store, column: str, name: str) -> None:
    store.change(
        "pool", f"dropping the index of {column}", lambda dataset: dataset.drop_index(name)
    )


def owed(pool: lance.LanceDataset) -> list[str]:
    """Columns whose index was dropped and is to be made again; names of others' indices."""
    return sorted(_notes(pool))


def owed_by_others(pool: lance.LanceDataset) -> list[str]:
    """Those names among `owed` that are of indices that another tool made."""
    return sorted(name for name, noted in _notes(pool).items() if noted == _THEIRS)


def owe(store: Store, columns: Iterable[str], others: Iterable[str] = ()) -> None:
    """Note, before they are dropped, indices that are to be made again.

    Args:
        columns: of ours.
        others: names of those that another tool made.
    """
    noted = _notes(store.dataset("pool"))
    facts: dict[str, str | None] = {_OWED + name: _THEIRS for name in others if name not in noted}
    facts |= note_of(column for column in columns if noted.get(column) != _NOTED)
    _note(store, facts, "noting indices to be made again")


def note_of(columns: Iterable[str]) -> dict[str, str | None]:
    """What `owe` adds to the pool's metadata for indices of ours."""
    return {_OWED + column: _NOTED for column in columns}


def _notes(pool: lance.LanceDataset) -> dict[str, str]:
    facts = {key.decode(): value.decode() for key, value in (pool.schema.metadata or {}).items()}
    return {key.removeprefix(_OWED): facts[key] for key in facts if key.startswith(_OWED)}


def strike_off(store: Store, names: Iterable[str]) -> None:
    """Forget that indices were dropped: they are there again, or never will be."""
    done = sorted(set(names) & set(owed(store.dataset("pool"))))
    _note(store, {_OWED + name: None for name in done}, "striking off indices that were made again")


def _note(store: Store, facts: Mapping[str, str | None], what: str) -> None:
    if facts:
        store.change("pool", what, lambda pool: pool.update_schema_metadata(dict(facts)))
        store.sync()
