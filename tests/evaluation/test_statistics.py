"""Intervals cover what they should, against naive draws; Holm and Spearman as in the textbooks."""

import math

import numpy as np
import pytest

from coresetdb.evaluation.statistics import (
    detectable_difference,
    holm,
    paired_bootstrap,
    spearman,
)


def naive_bootstrap(first, second, draws, seed):
    """Draw items for both and seeds for each, one draw at a time."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        items = random.integers(first.shape[1], size=first.shape[1])
        one = first[random.integers(len(first), size=len(first))][:, items]
        other = second[random.integers(len(second), size=len(second))][:, items]
        found.append(one.mean() - other.mean())
    return np.quantile(found, [0.025, 0.975])


@pytest.mark.parametrize("seeds", [(3, 3), (1, 3), (1, 1)])
def test_the_interval_is_that_of_a_naive_bootstrap(seeds):
    random = np.random.default_rng(1)
    item = random.normal(size=60)
    first = item + 0.5 + random.normal(scale=0.3, size=(seeds[0], 60))
    second = item + random.normal(scale=0.3, size=(seeds[1], 60))
    difference = paired_bootstrap(first, second)
    assert difference.estimate == pytest.approx(first.mean() - second.mean())
    low, high = naive_bootstrap(first, second, 4000, 2)
    assert difference.low == pytest.approx(low, abs=0.02)
    assert difference.high == pytest.approx(high, abs=0.02)
    assert difference.shown and difference.p < 0.01


def test_arms_that_are_alike_are_told_apart_about_once_in_twenty():
    shown = 0
    for trial in range(200):
        random = np.random.default_rng(trial)
        item = random.normal(size=50)
        first, second = (item + random.normal(scale=0.5, size=(1, 50)) for _ in range(2))
        shown += paired_bootstrap(first, second, seed=trial, draws=500).shown
    assert 2 <= shown <= 24


def test_equal_arms_differ_by_nothing():
    difference = paired_bootstrap(np.ones((3, 9)), np.ones((3, 9)))
    assert (difference.estimate, difference.p, difference.shown) == (0.0, 1.0, False)


def test_holm_is_that_of_the_textbook():
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    expected = {"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06}
    assert adjusted == pytest.approx(expected)
    assert holm({}) == {}


def test_spearman_is_that_of_scipy():
    from scipy.stats import spearmanr

    random = np.random.default_rng(0)
    for _ in range(5):
        first, second = random.integers(0, 6, size=(2, 12))
        assert spearman(first, second) == pytest.approx(spearmanr(first, second).statistic)
    assert math.isnan(spearman([1, 2], [1, 2])) and math.isnan(spearman([1, 1, 1], [1, 2, 3]))


def test_a_detectable_difference_is_found_in_four_of_five_studies():
    items, spread, correlation = 80, 0.4, 0.5
    size = detectable_difference(spread, items, 1, correlation)
    random, found = np.random.default_rng(0), 0
    for trial in range(120):
        shared = random.normal(scale=spread * correlation**0.5, size=items)
        own = random.normal(scale=spread * (1 - correlation) ** 0.5, size=(2, items))
        first, second = shared + own
        found += paired_bootstrap(first[None] + size, second[None], trial, 400).shown
    assert 0.68 < found / 120 < 0.92
