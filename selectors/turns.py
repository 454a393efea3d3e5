"""Groups of rows that take turns: which turn of its group each row has."""

from __future__ import annotations

import numpy as np


def turns_of(groups: np.ndarray) -> np.ndarray:
    """How many rows of its group stand before each row, (n,) int64 -> (n,) int64."""
    order = np.argsort(groups, kind="stable")
    sizes = np.bincount(groups)
    turns = np.empty(len(groups), np.int64)
    turns[order] = np.arange(len(groups)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return turns
