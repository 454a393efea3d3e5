"""Batches of about equal work: rows sorted by length, as many as fit a budget of padded tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Side = Literal["right", "left"]

PARTS = 16
"""Wide batches are a number of these parts of the next power of two wide."""


def plan_batches(
    lengths: Sequence[int], tokens_per_batch: int, multiple: int = 1
) -> list[list[int]]:
    """Indices of rows, longest first, in batches of at most `tokens_per_batch` padded tokens.

    A row longer than the budget is a batch by itself. The longest come first so that too little
    memory shows at once.

    Args:
        multiple: of the widths the batches will be padded to (see `padded_width`).
    """
    batches: list[list[int]] = []
    widest = 0
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        if not batches or (len(batches[-1]) + 1) * widest > tokens_per_batch:
            batches.append([])
            widest = padded_width(max(1, lengths[index]), multiple)
        batches[-1].append(index)
    return batches


def padded_width(longest: int, multiple: int) -> int:
    """The width of a batch whose longest row has so many tokens.

    With a multiple above 1 it is one of few: a multiple of that, and in wide batches of a sixteenth
    of the next power of two.
    """
    if multiple > 1:
        power = 1 << max(0, longest - 1).bit_length()
        multiple = max(multiple, power // PARTS)
    return -(-longest // multiple) * multiple


def pad(
    rows: Sequence[NDArray], value: int | bool, side: Side = "right", multiple: int = 1
) -> NDArray:
    """(B, T) array of rows of unequal length, filled up with `value` on `side`.

    T is the `padded_width` of the longest.
    """
    width = padded_width(max(map(len, rows)), multiple)
    padded = np.full((len(rows), width), value, dtype=rows[0].dtype)
    for line, row in zip(padded, rows, strict=True):
        if side == "right":
            line[: len(row)] = row
        else:
            line[width - len(row) :] = row
    return padded
