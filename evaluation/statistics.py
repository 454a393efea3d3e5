"""Statistics of a study: differences between arms with intervals, and what could be detected.

An arm is trained with several seeds and measured on the same items every time, so a difference of
two arms is paired by item, and its uncertainty has two sources: which items the evaluation happens
to have, and how a training happens to go. The bootstrap draws both anew: items once for both arms,
seeds for each arm by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 10_000
LEVEL = 0.95

POWER_QUANTILE = 0.8416
"""The normal quantile of a power of 80 %."""

LEVEL_QUANTILE = 1.96


@dataclass(frozen=True)
class Difference:
    """The difference of two arms in the mean of a metric, first less second.

    Attributes:
        estimate: of the difference.
        low, high: ends of the 95 % interval.
        p: two-sided p-value, by the share of draws beyond zero, at least 1 / draws.
    """

    estimate: float
    low: float
    high: float
    p: float

    @property
    def shown(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0


def paired_bootstrap(
    first: np.ndarray, second: np.ndarray, seed: int = 0, draws: int = DRAWS
) -> Difference:
    """Return the difference of two arms with its interval.

    Args:
        first, second: (S, N) and (S', N) float64, a row for each seed, a column for each item; the
            items are the same. An arm that was not trained has one row.
        seed: of the draws.
        draws: how many.
    """
    random = np.random.default_rng(seed)
    items = first.shape[1]
    # Weights of items are multinomial counts, so a draw is a product instead of a copy.
    weights = random.multinomial(items, np.full(items, 1 / items), size=draws) / items
    differences = _drawn_mean(first, weights, random) - _drawn_mean(second, weights, random)
    low, high = np.quantile(differences, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    beyond = min(np.mean(differences <= 0), np.mean(differences >= 0))
    p = min(1.0, max(2 * float(beyond), 1 / draws))
    return Difference(float(first.mean() - second.mean()), float(low), float(high), p)


def _drawn_mean(values: np.ndarray, weights: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return (draws,) means of an arm over drawn seeds and items."""
    seeds, draws = len(values), len(weights)
    chosen = random.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws) / seeds
    return ((weights @ values.T) * chosen).sum(axis=1)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values adjusted for how many there are, by Holm's step-down method (1979)."""
    ordered = sorted(p_values, key=lambda name: p_values[name])
    adjusted: dict[str, float] = {}
    highest = 0.0
    for place, name in enumerate(ordered):
        highest = max(highest, min(1.0, (len(ordered) - place) * p_values[name]))
        adjusted[name] = highest
    return adjusted


def detectable_difference(spread: float, items: int, seeds: int, correlation: float = 0.5) -> float:
    """Return the smallest difference that a study finds in four of five cases.

    Args:
        spread: standard deviation of the metric over items.
        items, seeds: of the study; the variance between seeds, unknown before any was trained, is
            left out, so this is the least that it can be.
        correlation: between two arms over items.
    """
    if not items:
        return float("nan")
    error = spread * np.sqrt(2 * (1 - correlation) / items)
    return float((LEVEL_QUANTILE + POWER_QUANTILE) * error)


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Return Spearman's rank correlation; NaN for fewer than three pairs, or no variation."""
    if len(first) < 3:
        return float("nan")
    one, other = _ranks(np.asarray(first)), _ranks(np.asarray(second))
    if not one.std() or not other.std():
        return float("nan")
    return float(np.corrcoef(one, other)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return ranks, those of ties their mean."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[places]
