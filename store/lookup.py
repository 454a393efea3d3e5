"""Where rows stand in a table, found by their keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..schemas.errors import StoreError
from .keys import key_column


def offsets_of(dataset: Any, uri: str, table: str, keys: Sequence[str]) -> list[int]:
    """The place of each key in the order of the table; one given twice comes twice.

    Args:
        dataset: a Lance dataset of ours, at the version to read.
        uri, table: what it is, for the message.

    Raises:
        StoreError: some keys are not in that version; names the first of them.
    """
    wanted = pa.array(keys, pa.string())
    there = dataset.to_table(columns=[key_column(dataset.schema)])[0]
    offsets = np.flatnonzero(_positions(there, wanted).is_valid().to_numpy())
    order = _positions(wanted, there.take(pa.array(offsets)).combine_chunks())
    if order.null_count:
        missing = wanted.filter(order.is_null()).to_pylist()
        raise StoreError(
            f"{uri}: {len(missing)} of {len(keys)} rows are not in table {table} version "
            f"{dataset.version}; the first is {missing[0]}"
        )
    return offsets[order.to_numpy()].tolist()


def _positions(values: Any, among: pa.Array) -> Any:
    """Where each value stands in `among`; null where it does not."""
    return pc.index_in(values, value_set=among)  # pyright: ignore[reportAttributeAccessIssue]
