"""Greedy choice where gains only fall: a row is evaluated again only if it may be the best now.

The last known gain of a row is an upper bound of its gain now (Minoux 1978). Rows of the highest
bounds are evaluated, many at a time because products of matrices are cheap that way, until the best
of them was evaluated since the last pick. The order is that of plain greedy: gains are whole
numbers, and of equals the first row goes first.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

_LISTED = 4096
_FIRST_ROWS = 32
_MOST_AT_ONCE = 128


def lazy_greedy(
    bounds: np.ndarray,
    k: int,
    gains: Callable[[np.ndarray], np.ndarray],
    take: Callable[[int], None],
) -> tuple[np.ndarray, np.ndarray]:
    """The first `k` rows in greedy order, and the gain of each, both (k,) int64.

    Args:
        bounds: (n,) int64, at least each row's gain, which is never below zero; -1 for rows that
            are not to be taken, at most n - k of them. Overwritten.
        gains: returns the gain of some rows (m,) now, (m,) int64.
        take: called with every pick.
    """
    seen = np.full(len(bounds), -1)  # the pick before which a row was last evaluated
    listed, outside = _most_promising(bounds)
    picks, won = np.empty(k, np.int64), np.empty(k, np.int64)
    for pick in range(k):
        size = _FIRST_ROWS
        while True:
            place = int(bounds[listed].argmax())  # of equals the first
            row, bound = int(listed[place]), int(bounds[listed[place]])
            if (-bound, row) > outside:
                listed, outside = _most_promising(bounds)
            elif seen[row] == pick or not bound:
                break
            else:
                rows = _to_evaluate(listed, bounds[listed], seen[listed] == pick, size)
                bounds[rows], seen[rows] = gains(rows), pick
                size = min(2 * size, _MOST_AT_ONCE)
        if not bound:  # nothing adds anything: the rest keeps its order
            rest = np.flatnonzero(bounds == 0)[: k - pick]
            picks[pick:], won[pick:] = rest, 0
            break
        picks[pick], won[pick] = row, bound
        bounds[row] = -1
        take(row)
    return picks, won


def _most_promising(bounds: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """The rows of the highest bounds, ascending; (-bound, row) of the best that is left out."""
    if len(bounds) <= _LISTED:
        return np.arange(len(bounds)), (1, len(bounds))
    edge = -np.partition(-bounds, _LISTED)[_LISTED]
    inside = bounds > edge
    equal = np.flatnonzero(bounds == edge)
    room = _LISTED - int(inside.sum())
    inside[equal[:room]] = True
    return np.flatnonzero(inside), (-int(edge), int(equal[room]))


def _to_evaluate(rows: np.ndarray, bounds: np.ndarray, known: np.ndarray, size: int) -> np.ndarray:
    """At most `size` rows that may win this pick and are not yet evaluated for it, best first."""
    may_win = ~known & (bounds >= bounds[known].max(initial=0))
    rows, bounds = rows[may_win], bounds[may_win]
    if len(rows) <= size:
        return rows
    return rows[np.argpartition(-bounds, size - 1)[:size]]
