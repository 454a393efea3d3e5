"""Round-robin: queries take turns, each takes its most similar unused row.

k = N is a permutation, prefixes nest, counts per query differ by at most one. The best k rows of
every query always suffice: before its turn at most k - 1 rows are used up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..schemas.ids import codes_of
from .reductions import Lists, TopPerQuery
from .selector import Passes, Ranking, Selector, Task


def take_turns(lists: Sequence[np.ndarray], k: int) -> tuple[np.ndarray, np.ndarray]:
    """Merge ranked lists by turns, without repetition.

    Args:
        lists: the keys of every player's rows, best first, (n_i, 2) int64.
        k: how many rows to take; fewer are taken when the lists run out.

    Returns:
        The player and the place in its list of each pick, both (min(k, distinct),) int64.
    """
    codes, distinct = codes_of(np.concatenate(lists))
    ends = np.cumsum([len(rows) for rows in lists])[:-1]
    rows_of = [part.tolist() for part in np.split(codes, ends)]
    places = [0] * len(lists)
    used = bytearray(distinct)
    players: list[int] = []
    taken: list[int] = []
    waiting = list(range(len(lists)))
    while waiting and len(players) < k:
        still = []
        for player in waiting:
            rows, place = rows_of[player], places[player]
            while place < len(rows) and used[rows[place]]:
                place += 1
            places[player] = place + 1
            if place == len(rows):
                continue
            used[rows[place]] = 1
            players.append(player)
            taken.append(place)
            still.append(player)
            if len(players) == k:
                break
        waiting = still
    return np.array(players, np.int64), np.array(taken, np.int64)


def take_weighted_turns(
    lists: Sequence[np.ndarray],
    weights: Sequence[int],
    k: int,
    sizes: Sequence[np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Merge ranked lists in proportion to weights, without repetition.

    Every turn goes to the player with the lowest (size of its rows so far + half the size of its
    next unused row) / weight; ties go to the earlier player. With rows of size 1 that is Webster's
    apportionment (Sainte-Laguë's), and with equal weights `take_turns`; prefixes nest. Whole
    numbers are compared, so that no rounding decides a tie.

    Args:
        lists: the keys of every player's rows, best first, (n_i, 2) int64.
        weights: of the players, above 0.
        k: how many rows to take; fewer are taken when the lists run out.
        sizes: of every player's rows, (n_i,) int64; all 1 where there are none.

    Returns:
        The player and the place in its list of each pick, both (min(k, distinct),) int64.
    """
    codes, distinct = codes_of(np.concatenate(lists))
    ends = np.cumsum([len(rows) for rows in lists])[:-1]
    rows_of = [part.tolist() for part in np.split(codes, ends)]
    sizes_of = [size.tolist() for size in sizes] if sizes else [[1] * len(row) for row in rows_of]
    common = math.lcm(*weights)
    steps = [common // weight for weight in weights]
    places, had = [0] * len(lists), [0] * len(lists)
    used = bytearray(distinct)
    players: list[int] = []
    taken: list[int] = []
    while len(players) < k:
        turn, lowest = -1, 0
        for player, rows in enumerate(rows_of):
            place = places[player]
            while place < len(rows) and used[rows[place]]:
                place += 1
            places[player] = place
            if place < len(rows):
                middle = (2 * had[player] + sizes_of[player][place]) * steps[player]
                if turn < 0 or middle < lowest:
                    turn, lowest = player, middle
        if turn < 0:
            break
        place = places[turn]
        used[rows_of[turn][place]] = 1
        had[turn] += sizes_of[turn][place]
        players.append(turn)
        taken.append(place)
    return np.array(players, np.int64), np.array(taken, np.int64)


def in_turns(nearest: Lists, k: int) -> Ranking:
    """The first `k` rows that the queries take by turns from their lists."""
    assert nearest.scores is not None
    queries, places = take_turns(list(nearest.keys), k)
    return Ranking(nearest.keys[queries, places], nearest.scores[queries, places], queries)


def turns_bytes(task: Task) -> int:
    """Most bytes that the turns take: keys sorted to codes, the codes as lists of Python ints."""
    return task.queries * task.k * 100


def _passes(task: Task) -> Passes:
    (nearest,) = yield (TopPerQuery(task.k),)
    return in_turns(nearest, task.k)


SELECTOR = Selector(
    "round_robin",
    1,
    ("query_similarity",),
    _passes,
    turns_bytes,
    paper="Ivison et al. 2025",
    meaning="rows with {sees} closest to each of your examples",
)
