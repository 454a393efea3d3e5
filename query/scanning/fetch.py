"""Fetch what selectors need in addition to a scan: vectors of some rows, or columns of all."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ...schemas.errors import UsageError
from ...schemas.ids import IdSet, id_order, ids_of, keys_of
from ...schemas.stored_vectors import vectors_of
from ...selectors.reductions import (
    Columns,
    Fetched,
    Lists,
    RowColumns,
    RowVectors,
    SampledVectors,
    Shuffled,
)
from ..features import Feature
from .reducers import reducer_for
from .rows import Scanned, eligible_batches, read_ahead
from .vectors import block_rows, scan_ids

if TYPE_CHECKING:
    import lance

_ROWS_PER_BATCH = 1 << 14
_SCALAR_BYTES = 32
_BYTES_PER_TAKE = 64 << 20
SAMPLE_SEED = 0
"""Of the draw of rows that stand for the whole pool."""


def fetcher(
    dataset: lance.LanceDataset, feature: Feature | None
) -> Callable[[Fetched, IdSet | None], RowVectors | RowColumns]:
    """Answers what is fetched at the dataset's version, vectors of the feature's column.

    The answer raises UsageError for a column that the pool does not have.
    """

    def fetch(need: Fetched, eligible: IdSet | None) -> RowVectors | RowColumns:
        if isinstance(need, Columns):
            check_columns(dataset, need)
            return _columns(dataset, need.names, eligible)
        assert feature is not None and feature.column is not None, "refused by its name otherwise"
        if isinstance(need, SampledVectors):
            return sampled_vectors(dataset, feature.column, feature.width, need.rows)
        if need.keys is None:
            return _all_vectors(dataset, feature.column, feature.width, eligible)
        return _vectors_of(dataset, feature.column, feature.width, need.keys)

    return fetch


def check_columns(dataset: lance.LanceDataset, need: Columns) -> None:
    """Refuse columns that are not there or hold something else than is asked for.

    Raises:
        UsageError: names the column, and those that would do.
    """
    known = [field.name for field in dataset.schema if _is_number(field.type)]
    if not need.numeric:
        known += [field.name for field in dataset.schema if _is_text(field.type)]
    for name in need.names:
        if name not in known:
            kind = "numeric column" if need.numeric else "column of numbers or text"
            raise UsageError(
                f"the pool has no {kind} {name!r}; it has {', '.join(known)}. "
                "coresetdb featurize adds those of a representation, and coresetdb annotate those "
                "of a file"
            )


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _columns(
    dataset: lance.LanceDataset, names: tuple[str, ...], eligible: IdSet | None
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
    if _is_text(column.type):
        return column.to_numpy(zero_copy_only=False)
    return column.cast(pa.float64()).to_numpy(zero_copy_only=False)


def _all_vectors(
    dataset: lance.LanceDataset, column: str, width: int, eligible: IdSet | None
) -> RowVectors:
    rows = dataset.count_rows() if eligible is None else len(eligible)
    keys, vectors = np.empty((rows, 2), np.int64), np.empty((rows, width), np.float16)
    filled, missing = 0, 0
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
        vectors[there] = vectors_of(feature)
        filled = there.stop
        missing += feature.null_count
    order = id_order(keys[:filled])
    return RowVectors(keys[order], vectors[order], missing)


def sampled_vectors(dataset: lance.LanceDataset, column: str, width: int, rows: int) -> RowVectors:
    """Return the vectors of `rows` rows, or of all that have one, in the order of their draw.

    A row's place in the draw depends on its id alone.
    """
    total, drawn = dataset.count_rows(), 2 * rows
    while True:
        shuffle = reducer_for(Shuffled(drawn, SAMPLE_SEED), slice(0, 0))
        scan_ids(dataset, [shuffle])
        answer = shuffle.result()
        assert isinstance(answer, Lists), "rows in an order are a list"
        (keys,) = answer.keys
        found = _vectors_of(dataset, column, width, keys)
        if len(found) >= rows or drawn >= total:
            return RowVectors(found.keys[:rows], found.vectors[:rows])
        drawn *= 4  # many rows lack the feature


def _vectors_of(
    dataset: lance.LanceDataset, column: str, width: int, keys: np.ndarray
) -> RowVectors:
    """By one scan of the ids for where the rows stand, then by taking them."""
    places = _places(dataset, keys)
    matrix = np.empty((len(keys), width), np.float16)
    present = np.ones(len(keys), bool)
    step = max(1, _BYTES_PER_TAKE // (2 * width))
    for start in range(0, len(keys), step):
        part = places[start : start + step]
        order = np.argsort(part)  # Lance takes in the order of the table fastest
        taken = dataset.take(part[order].tolist(), columns=[column])[column].combine_chunks()
        here = np.asarray(taken.is_valid())
        present[start + order[~here]] = False
        matrix[start + order[here]] = vectors_of(taken)
    if present.all():
        return RowVectors(keys, matrix)
    return RowVectors(keys[present], matrix[present], int((~present).sum()))


def _places(dataset: lance.LanceDataset, keys: np.ndarray) -> np.ndarray:
    """Where each row of `keys` stands in the order of the table, (n,) int64."""
    wanted = IdSet(keys)
    found: list[np.ndarray] = [np.empty((0, 2), np.int64)]
    places: list[np.ndarray] = [np.empty(0, np.int64)]
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
