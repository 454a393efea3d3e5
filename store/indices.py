"""Vector indices of the pool: which there are, building one, taking in new rows, dropping one.

An index belongs to one vector column and is known by its name, which says what it is:
`rds__ivf_rq_256` is a Lance IVF_RQ index of 256 partitions. Rows that came after it was built are
found all the same, since Lance compares those one by one, only slower; `extend` takes them in.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    import lance

    from .store import Store

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
    found = {}
    for name, (fragments, parts) in covered.items():
        if match := _NAME.fullmatch(name):
            inside = sum(rows[number] for number in fragments)
            found[match["column"]] = VectorIndex(
                match["column"],
                match["kind"].upper(),
                int(match["partitions"]),
                inside,
                sum(rows.values()) - inside,
                tuple(sorted(parts)),
            )
    return found


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
    old = indices_of(store.dataset("pool")).get(column)
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
    if old and old.name != new.name:
        store.change("pool", f"indexing {column}", lambda dataset: dataset.drop_index(old.name))


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
    store.change(
        "pool",
        f"dropping the index of {index.column}",
        lambda dataset: dataset.drop_index(index.name),
    )
