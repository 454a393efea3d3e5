"""Coverage against plain greedy: every row's gain, from the definition, at every pick."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coresetdb.query.scanning.reducers import planned_memory
from coresetdb.schemas.ids import ids_of
from coresetdb.selectors import coverage, lazy_greedy
from coresetdb.selectors.reductions import RowSets
from coresetdb.selectors.registry import selectors
from coresetdb.selectors.selector import Task

G = {
    "sqrt": lambda count, cap: math.sqrt(count),
    "log1p": lambda count, cap: math.log1p(count),
    "capped": lambda count, cap: min(count, cap),
    "binary": lambda count, cap: min(count, 1),
}


def value(chosen, sets, weights, g, cap):
    """F(S) as docs/selectors.md writes it."""
    counts: dict[int, int] = {}
    for row in chosen:
        for unit in sets[row]:
            counts[unit] = counts.get(unit, 0) + 1
    return sum(weights.get(unit, 1.0) * G[g](count, cap) for unit, count in counts.items())


def plain_greedy(sets, k, g="sqrt", cap=10, weights=None):
    """Of all rows left the one with the largest gain, the first of equals; gains to 1e-9."""
    weights = weights or {}
    counts = dict.fromkeys(itertools.chain(*sets), 0)
    left, picks = list(range(len(sets))), []
    while left and len(picks) < k:
        worth = {
            unit: weights.get(unit, 1.0) * (G[g](count + 1, cap) - G[g](count, cap))
            for unit, count in counts.items()
        }
        gains = [round(math.fsum(worth[unit] for unit in sets[row]), 9) for row in left]
        best = left[gains.index(max(gains))]
        picks.append((best, max(gains)))
        left.remove(best)
        for unit in sets[best]:
            counts[unit] += 1
    return picks


def random_sets(generator, rows, units, size):
    """Sets of about `size` of `units`, some units far more often than others."""
    odds = 1.0 / np.arange(1, units + 1)
    return [
        sorted(
            generator.choice(
                units, min(int(size), units), replace=False, p=odds / odds.sum()
            ).tolist()
        )
        for size in generator.poisson(size, rows)
    ]


def row_sets(sets, order=None):
    """The sets as a scan brings them; row i has the i-th id, whatever the order they come in."""
    order = range(len(sets)) if order is None else order
    keys = np.array([[0, row] for row in order], np.int64).reshape(-1, 2)
    sizes = [len(sets[row]) for row in order]
    units = [unit for row in order for unit in sets[row]]
    return RowSets(
        keys, np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]), np.array(units, np.int32)
    )


def run(sets, k, order=None, units=None, **options):
    """[(row, gain)] as the selector answers."""
    selector = selectors()["coverage"]
    chosen = {key: option.default for key, option in selector.options.items()} | options
    passes = selector.passes(Task(0, len(sets), k, 0, chosen, 8, units))
    next(passes)
    try:
        passes.send((row_sets(sets, order),))
    except StopIteration as end:
        ranking = end.value
    rows = [int(text[16:], 16) ^ (1 << 63) for text in ids_of(ranking.keys)]
    return list(zip(rows, ranking.scores.tolist(), strict=True))


def assert_same(got, expected):
    assert [row for row, _ in got] == [row for row, _ in expected]
    assert [gain for _, gain in got] == pytest.approx([gain for _, gain in expected], abs=1e-5)


@pytest.fixture
def narrow(monkeypatch):
    """A shortlist of a few rows, so that small pools go through many of them."""
    monkeypatch.setattr(lazy_greedy, "_LISTED", 5)
    monkeypatch.setattr(lazy_greedy, "_FIRST_ROWS", 2)
    monkeypatch.setattr(lazy_greedy, "_MOST_AT_ONCE", 3)
    monkeypatch.setattr(coverage, "_UNITS_AT_ONCE", 20)


@pytest.mark.parametrize("g", list(G))
def test_equals_plain_greedy(narrow, g):
    for number in range(30):
        generator = np.random.default_rng(number)
        rows = int(generator.integers(1, 60))
        sets = random_sets(generator, rows, int(generator.integers(1, 40)), 5)
        k = int(generator.choice([1, rows // 2 + 1, rows, rows + 3]))
        got = run(sets, k, generator.permutation(rows), g=g, cap=3)
        assert_same(got, plain_greedy(sets, k, g, 3))


def test_equals_plain_greedy_on_a_pool_with_the_usual_shortlist():
    sets = random_sets(np.random.default_rng(0), 800, 200, 12)
    assert_same(run(sets, 120), plain_greedy(sets, 120))


def test_the_score_is_what_the_row_adds():
    sets = random_sets(np.random.default_rng(1), 30, 20, 4)
    got = run(sets, 30)
    for place, (row, gain) in enumerate(got):
        before = [each for each, _ in got[:place]]
        added = value([*before, row], sets, {}, "sqrt", 0) - value(before, sets, {}, "sqrt", 0)
        assert gain == pytest.approx(added, abs=1e-5)


def test_rare_units_count_more_by_idf(narrow):
    for number in range(20):
        sets = random_sets(np.random.default_rng(number), 40, 15, 4)
        held = {unit: sum(unit in each for each in sets) for unit in range(15)}
        weights = {unit: math.log(len(sets) / count) for unit, count in held.items() if count}
        assert_same(run(sets, 40, weights="idf"), plain_greedy(sets, 40, weights=weights))


def test_only_units_of_the_target_count(narrow):
    sets = random_sets(np.random.default_rng(2), 40, 15, 4)
    weights = {unit: float(unit in (1, 4, 9)) for unit in range(15)}
    got = run(sets, 40, weights="target", units=np.array([1, 4, 9, 500]))
    assert_same(got, plain_greedy(sets, 40, weights=weights))


@settings(max_examples=100)
@given(
    st.lists(st.sets(st.integers(0, 12), max_size=6).map(sorted), min_size=1, max_size=25),
    st.sampled_from(list(G)),
    st.data(),
)
def test_properties(sets, g, data):
    k = data.draw(st.integers(1, len(sets) + 2))
    order = data.draw(st.permutations(range(len(sets))))
    picks = run(sets, k, order, g=g)
    assert_same(picks, plain_greedy(sets, k, g))
    rows = [row for row, _ in picks]
    assert len(rows) == len(set(rows)) == min(k, len(sets))
    shorter = data.draw(st.integers(1, k))
    assert run(sets, shorter, g=g) == picks[:shorter]
    gains = [gain for _, gain in picks]
    assert gains == sorted(gains, reverse=True)


def test_degenerate_pools():
    assert run([[]], 1) == [(0, 0.0)]
    assert run([[], [3], []], 3) == [(1, 1.0), (0, 0.0), (2, 0.0)]
    same = [[1, 2]] * 200
    assert [row for row, _ in run(same, 150)] == list(range(150))
    assert [row for row, _ in run(same, 150, g="binary")] == list(range(150))
    assert run([], 5) == []


@pytest.mark.parametrize("g", list(G))
def test_the_rise_is_that_of_g_and_never_grows(g):
    counts = np.arange(200_000)
    rise = coverage.gain_tables(g, 7)(counts)
    few = [G[g](count + 1, 7) - G[g](count, 7) for count in range(50)]
    assert np.allclose(rise[:50], few, rtol=1e-12)
    assert (np.diff(rise) <= 0).all()


def test_greedy_beats_random_codes_of_equal_density():
    """A control: what greedy gains on real structure it cannot on noise."""
    generator = np.random.default_rng(3)
    groups = [[10 * group + unit for unit in range(10)] for group in range(20)]
    sets = [groups[int(integer)] for integer in generator.integers(0, 20, 300)]
    noise = [sorted(generator.choice(200, 10, replace=False).tolist()) for _ in sets]
    covered = [sum(gain for _, gain in run(codes, 20, g="binary")) for codes in (sets, noise)]
    at_random = len(set(itertools.chain(*sets[:20])))
    assert covered[0] == 200 > covered[1] and covered[0] > at_random


def test_memory_grows_with_rows_and_sets():
    small, wide = (
        planned_memory(selectors()["coverage"], Task(0, 10**6, 10, set_size=size))
        for size in (40, 4000)
    )
    assert 10**6 * 40 * 4 < small < 10**9
    assert wide > 16 << 30
