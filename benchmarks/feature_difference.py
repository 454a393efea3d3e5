"""How far features that were made differently are from one another."""

from __future__ import annotations

import numpy as np
import pyarrow as pa


def differences_by_column(one: pa.Table, other: pa.Table) -> dict[str, float]:
    """The largest norm-wise difference of a row, by column stored in floats without a gap.

    Args:
        one, other: tables with the same rows in the same order.

    Returns:
        Relative to the features of `other`.
    """
    largest = {}
    for field in other.schema:
        inner = getattr(field.type, "value_type", field.type)
        if not pa.types.is_floating(inner) or other[field.name].null_count:
            continue
        ours, theirs = (np.stack(each[field.name].to_numpy()) for each in (one, other))
        ours, theirs = (each.astype(float).reshape(len(each), -1) for each in (ours, theirs))
        lengths = np.linalg.norm(theirs, axis=1)
        distance = np.linalg.norm(ours - theirs, axis=1)[lengths > 0] / lengths[lengths > 0]
        largest[field.name] = float(np.max(distance, initial=0.0))
    return largest
