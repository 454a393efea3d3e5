"""What selectors ask for beside the scan: the vectors of some rows, or columns of all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ..selectors.keys import KeySet, id_order, ids_of, keys_of
from ..selectors.needs import Columns, RowColumns, RowVectors, Vectors
from .eligible_rows import Scanned, eligible_batches
from .features import Feature
from .scan import block_rows, read_ahead

if TYPE_CHECKING:
    import lance

_ROWS_PER_BATCH = 1 << 14
_SCALAR_BYTES = 32
_BYTES_PER_TAKE = 64 << 20


def fetcher(
    dataset: lance.LanceDataset, feature: Feature | None
) -> Callable[[Vectors | Columns, KeySet | None], RowVectors | RowColumns]:
    """Answers `Vectors` (of the feature's column) and `Columns` at the dataset's version."""

    def fetch(need: Vectors | Columns, eligible: KeySet | None) -> RowVectors | RowColumns:
        if isinstance(need, Columns):
            return _columns(dataset, need.names, eligible)
        assert feature is not None and feature.column is not None, "refused by its name otherwise"
        if need.keys is None:
            return _all_vectors(dataset, feature.column, feature.width, eligible)
        return _vectors_of(dataset, feature.column, feature.width, need.keys)

    return fetch


def _columns(
    dataset: lance.LanceDataset, names: tuple[str, ...], eligible: KeySet | None
) -> RowColumns:
    keys: list[np.ndarray] = [np.empty((0, 2), np.int64)]
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    read = ["id", *names]
    for own, batch in eligible_batches(
        dataset, read, eligible, Scanned(), batch_rows=_ROWS_PER_BATCH, row_bytes=_SCALAR_BYTES
    ):
        keys.append(own)
        for name in names:
            parts[name].append(_array(batch.column(name)))
    found = np.concatenate(keys)
    order = id_order(found)
    columns = {
        name: np.concatenate(each)[order] if each else np.empty(0) for name, each in parts.items()
    }
    return RowColumns(found[order], columns)


def _array(column: pa.Array) -> np.ndarray:
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return column.to_numpy(zero_copy_only=False)
    return column.cast(pa.float64()).to_numpy(zero_copy_only=False)


def _all_vectors(
    dataset: lance.LanceDataset, column: str, width: int, eligible: KeySet | None
) -> RowVectors:
    rows = dataset.count_rows() if eligible is None else len(eligible)
    keys, vectors = np.empty((rows, 2), np.int64), np.empty((rows, width), np.float16)
    filled = 0
    batches = eligible_batches(
        dataset,
        ["id", column],
        eligible,
        Scanned(),
        batch_rows=block_rows(width),
        row_bytes=2 * width,
    )
    for own, batch in read_ahead(batches):
        feature = batch.column(column)
        there = slice(filled, filled + len(own) - feature.null_count)
        keys[there] = own[np.asarray(feature.is_valid())]
        vectors[there] = feature.flatten().to_numpy().reshape(-1, width)
        filled = there.stop
    order = id_order(keys[:filled])
    return RowVectors(keys[order], vectors[order])


def _vectors_of(
    dataset: lance.LanceDataset, column: str, width: int, keys: np.ndarray
) -> RowVectors:
    """By one scan of the ids for where the rows stand, then by taking them."""
    places = _places(dataset, keys)
    matrix = np.empty((len(keys), width), np.float16)
    step = max(1, _BYTES_PER_TAKE // (2 * width))
    for start in range(0, len(keys), step):
        part = places[start : start + step]
        order = np.argsort(part)  # Lance takes in the order of the table fastest
        taken = dataset.take(part[order].tolist(), columns=[column])[column].combine_chunks()
        matrix[start + order] = np.array(taken.flatten()).reshape(-1, width)
    return RowVectors(keys, matrix)


def _places(dataset: lance.LanceDataset, keys: np.ndarray) -> np.ndarray:
    """Where each row of `keys` stands in the order of the table, (n,) int64."""
    wanted = KeySet(keys)
    found: list[np.ndarray] = []
    places: list[np.ndarray] = []
    at = 0
    for batch in dataset.scanner(columns=["id"], scan_in_order=True).to_batches():
        own = keys_of(batch.column("id"))
        here = np.flatnonzero(wanted.contains(own))
        found.append(own[here])
        places.append(at + here)
        at += len(own)
    there, where = np.concatenate(found), np.concatenate(places)
    if len(there) != len(keys):
        lost = set(ids_of(keys)) - set(ids_of(there))
        raise AssertionError(f"rows of the pool are gone: {sorted(lost)[:3]}")
    result = np.empty(len(keys), np.int64)
    result[id_order(keys)] = where[id_order(there)]
    return result
