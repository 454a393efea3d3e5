"""How far the members of an ensemble disagree about a row, and a steadier estimate of it.

The variance of a few numbers is a poor estimate: of two it has one degree of freedom. Rows share a
prior, a scaled inverse chi-squared distribution of their true variances, which is fitted once on
held-out rows; a row's own variance is then moved towards its scale, the further the fewer degrees
of freedom it has.

Source: Smyth 2004, "Linear models and empirical Bayes methods for assessing differential expression
in microarray experiments", section 6 (limma's `squeezeVar`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Prior:
    """What is known of the variances of rows before any is looked at.

    Attributes:
        scale: of the variances, s0 squared; above zero.
        freedom: degrees of freedom that it counts for, d0; infinite where rows do not differ.
    """

    scale: float
    freedom: float

    def shrunk(self, variances: np.ndarray, freedom: np.ndarray) -> np.ndarray:
        """Return (d0 s0^2 + d s^2) / (d0 + d), (N,) float64.

        Args:
            variances: (N,), s squared; of no meaning where d is 0.
            freedom: (N,), d, from 0.
        """
        if math.isinf(self.freedom):
            return np.full(len(variances), self.scale)
        own = np.where(freedom > 0, variances * freedom, 0.0)
        return (self.freedom * self.scale + own) / (self.freedom + freedom)

    def as_dict(self) -> dict[str, float | None]:
        """JSON values; None for infinitely many degrees of freedom."""
        return {
            "scale": self.scale,
            "freedom": None if math.isinf(self.freedom) else self.freedom,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Prior:
        """What `as_dict` made."""
        freedom = values["freedom"]
        return cls(values["scale"], math.inf if freedom is None else freedom)


def relative_variances(norms: np.ndarray) -> np.ndarray:
    """Return the variance of each row over its squared mean, (N,) float64.

    Args:
        norms: (N, m) of m members, at least two; the variance has m - 1 degrees of freedom.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return norms.var(axis=1, ddof=1) / norms.mean(axis=1) ** 2


def prior_of(variances: np.ndarray, freedom: int) -> Prior:
    """Return the prior under which variances of rows are as spread as they are.

    By the mean and the variance of z = log s^2: d0 solves trigamma(d0 / 2) = Var z -
    trigamma(d / 2), and log s0^2 = mean z - digamma(d / 2) + digamma(d0 / 2) + log(d / d0).

    Args:
        variances: (N,), s squared; those that are not finite or not above zero do not count.
        freedom: of each, d, at least 1.

    Returns:
        Where fewer than two count, one of no weight: their mean (or 1) with no degree of freedom.
    """
    usable = variances[np.isfinite(variances) & (variances > 0)].astype(np.float64)
    if len(usable) < 2:
        return Prior(float(usable.mean()) if len(usable) else 1.0, 0.0)
    logs = np.log(usable)
    spread = float(logs.var(ddof=1)) - _trigamma(freedom / 2)
    centre = float(logs.mean()) - _digamma(freedom / 2) + math.log(freedom / 2)
    if spread <= 0:
        return Prior(math.exp(centre), math.inf)
    half = _inverse_trigamma(spread)
    return Prior(math.exp(centre + _digamma(half) - math.log(half)), 2 * half)


_ASYMPTOTIC = 10.0
"""From here the expansions below are exact to 1e-12."""


def _digamma(x: float) -> float:
    """Return the derivative of log gamma at x > 0, by recurrence and asymptotic expansion."""
    total = 0.0
    while x < _ASYMPTOTIC:
        total -= 1 / x
        x += 1
    y = 1 / x**2
    series = y * (1 / 12 - y * (1 / 120 - y * (1 / 252 - y * (1 / 240 - y * (1 / 132)))))
    return total + math.log(x) - 0.5 / x - series


def _trigamma(x: float) -> float:
    """Return the derivative of digamma at x > 0, alike."""
    total = 0.0
    while x < _ASYMPTOTIC:
        total += 1 / x**2
        x += 1
    y = 1 / x**2
    series = y * (1 / 6 - y * (1 / 30 - y * (1 / 42 - y * (1 / 30 - y * (5 / 66)))))
    return total + 1 / x + y / 2 + series / x


def _inverse_trigamma(value: float) -> float:
    """Return x > 0 with trigamma(x) = value, by bisection of its logarithm."""
    low, high = math.log(1e-8), math.log(1e8)  # trigamma falls
    for _ in range(200):
        middle = (low + high) / 2
        if _trigamma(math.exp(middle)) > value:
            low = middle
        else:
            high = middle
    return math.exp((low + high) / 2)
