"""The prior of rows' variances against the definitions, by sums and by known draws."""

from __future__ import annotations

import math

import numpy as np
import pytest

from coresetdb.ingest.fits.member_noise import Prior, prior_of, relative_variances


def trigamma(x: float) -> float:
    n = np.arange(1_000_000)
    return float((1 / (x + n) ** 2).sum() + 1 / (x + len(n)))


def digamma(x: float) -> float:
    step = 1e-5
    return (math.lgamma(x + step) - math.lgamma(x - step)) / (2 * step)


@pytest.mark.parametrize("freedom", [1, 3, 7])
def test_the_moments_of_the_logarithms_are_met(freedom):
    variances = np.random.default_rng(0).lognormal(-3, 2.5, 200)
    prior = prior_of(variances, freedom)
    logs = np.log(variances)
    half, own = prior.freedom / 2, freedom / 2
    assert trigamma(half) + trigamma(own) == pytest.approx(logs.var(ddof=1), rel=1e-4)
    centre = math.log(prior.scale) - digamma(half) + math.log(half) + digamma(own) - math.log(own)
    assert centre == pytest.approx(logs.mean(), abs=1e-4)


@pytest.mark.parametrize("freedom", [1, 3])
def test_it_finds_what_variances_were_drawn_from(freedom):
    draw = np.random.default_rng(1)
    true = 0.02 * 6 / draw.chisquare(6, 500_000)
    prior = prior_of(true * draw.chisquare(freedom, 500_000) / freedom, freedom)
    assert prior.scale == pytest.approx(0.02, rel=0.05)
    assert prior.freedom == pytest.approx(6, rel=0.15)


def test_rows_that_do_not_differ_all_get_the_scale():
    prior = prior_of(np.full(400, 0.5), 3)
    assert math.isinf(prior.freedom)
    assert prior.shrunk(np.array([0.1, 9.0]), np.array([3, 3])).tolist() == [prior.scale] * 2
    assert Prior.from_dict(prior.as_dict()) == prior and prior.as_dict()["freedom"] is None


def test_shrinking_is_a_mean_weighted_by_degrees_of_freedom():
    prior = Prior(2.0, 4.0)
    found = prior.shrunk(np.array([8.0, 8.0, np.nan]), np.array([1, 12, 0]))
    assert found.tolist() == [(4 * 2 + 8) / 5, (4 * 2 + 12 * 8) / 16, 2.0]
    assert Prior.from_dict(prior.as_dict()) == prior


def test_variances_that_do_not_count():
    usable = np.array([0.5, 0.1, 0.2, 0.05])
    with_others = np.array([0.5, 0.0, 0.1, np.nan, 0.2, np.inf, 0.05])
    assert prior_of(with_others, 1) == prior_of(usable, 1)
    assert prior_of(np.array([0.5]), 1) == Prior(0.5, 0.0)
    assert prior_of(np.array([np.nan]), 1) == Prior(1.0, 0.0)


def test_variance_over_the_squared_mean():
    norms = np.array([[1.0, 3.0], [2.0, 2.0], [0.0, 0.0]])
    found = relative_variances(norms)
    assert found[:2].tolist() == [2.0 / 4.0, 0.0] and np.isnan(found[2])
