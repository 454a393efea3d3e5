"""Counts and sums of groups of a table's rows, with a batch of them in memory at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import pyarrow as pa

if TYPE_CHECKING:
    import lance

Aggregation: TypeAlias = tuple[str, Literal["count", "sum"]]
"""A column, and what is made of it: the "count" of the rows that have a value, or the "sum" of
those."""

_BATCH_ROWS = 1 << 16
_MOST_GROUPS = 1 << 18
"""Of several batches, before those that are the same become one."""


def grouped(
    dataset: lance.LanceDataset,
    by: Sequence[str],
    aggregations: Sequence[Aggregation] = (),
) -> list[dict[str, Any]]:
    """The groups of a table's rows, as `pyarrow.TableGroupBy.aggregate` names what it gives.

    Args:
        by: columns whose values make a group.
        aggregations: of each group.

    Returns:
        A row for each group: its values of `by`, and `<column>_count` or `<column>_sum`, None for
        a sum of nothing.
    """
    keys, names = list(by), [f"{column}_{kind}" for column, kind in aggregations]
    columns = list(dict.fromkeys([*by, *(column for column, _ in aggregations)]))
    parts: list[pa.Table] = []
    for batch in dataset.scanner(columns=columns, batch_size=_BATCH_ROWS).to_batches():
        parts.append(pa.table(batch).group_by(keys).aggregate(list(aggregations)))
        if sum(part.num_rows for part in parts) > _MOST_GROUPS:
            parts = [_merged(parts, keys, names)]
    return _merged(parts, keys, names).to_pylist() if parts else []


def _merged(parts: list[pa.Table], keys: list[str], names: list[str]) -> pa.Table:
    whole = pa.concat_tables(parts).group_by(keys).aggregate([(name, "sum") for name in names])
    return whole.rename_columns({f"{name}_sum": name for name in names})
