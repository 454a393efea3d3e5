"""Whether the cosines of a target stand out from the noise of the sketch they are taken by.

The vectors of LESS are random sketches of gradients, and each half of a sketch (its even and its
odd places) is one too. A cosine is the sum of what the halves give, and their difference has the
noise of that sum and none of its signal; so the noise is measured and not assumed (it is about
1 / sqrt(dims)). The mean of M cosines has 1 / M of the variance only where the examples are
orthogonal, so it is measured likewise.

Rows are ranked by how their cosines with an example differ from row to row. Where the share s of
noise in that variance over a sample of the pool is above `MOST_NOISE`, a note says what to do: two
sketches of the same gradients then have scores that correlate by 1 - s, and of the best 5 % by one
less than half are among the best 5 % by the other (of two normal variables; measured, the figure of
docs/results.md is close). The cosines of the examples with one another are within the noise where
it is more than half of their mean square. Where many of them are negative, as those of short
answers are, whose sign says which word was right, a note names `sign=any`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..ingest.representations.registry import FeatureSpec
from ..schemas.errors import MissingFeatureError
from ..schemas.plain_text import count_of
from .features import Feature
from .methods import Method
from .queries import Queries, load_queries
from .scanning.fetch import sampled_vectors
from .snapshot import Snapshot

MOST_NOISE = 0.196
"""1 - r, where of two normal variables with correlation r half of the best 5 % are the same."""

SAMPLE_ROWS = 1000
LEAST_ROWS = 100
"""Fewer rows say too little about how cosines spread over the pool."""

HALF = 0.5
"""Of a mean square: with more noise than that there is less signal than noise."""

OPPOSITE = 0.25
"""Share of negative cosines above which the signed mean keeps less than half of the sizes."""


@dataclass(frozen=True)
class Spread:
    """How the cosines of sampled rows with a target's examples differ from row to row.

    Attributes:
        rows: sampled.
        noise: of one cosine, as a standard deviation.
        spread: of one cosine over the rows, likewise.
        share: of noise in the variance of one cosine over the rows.
        mean_share: of noise in the variance of the rows' mean cosines over the examples.
    """

    rows: int
    noise: float
    spread: float
    share: float
    mean_share: float


@dataclass(frozen=True)
class Likeness:
    """How alike a target's examples are.

    Attributes:
        mean: of their cosines with one another.
        size: root of the mean square of these.
        noise: of one of them, as a standard deviation.
        share: of noise in the mean square.
        opposite: share of the negative ones in the sum of their sizes; 0 where noise hides it.
    """

    mean: float
    size: float
    noise: float
    share: float
    opposite: float


def spread_over(examples: np.ndarray, rows: np.ndarray) -> Spread:
    """Measure the cosines of examples (M, d) with sampled rows (n, d), unit vectors."""
    cosines, gaps = _cosines(examples, rows)
    noise, variance = float(np.mean(gaps**2)), float(np.mean(cosines.var(axis=1)))
    mean_noise = float(np.mean(gaps.mean(axis=0) ** 2))
    mean_variance = float(cosines.mean(axis=0).var())
    return Spread(
        len(rows),
        noise**0.5,
        variance**0.5,
        _share(noise, variance),
        _share(mean_noise, mean_variance),
    )


def likeness_of(examples: np.ndarray) -> Likeness:
    """Measure the cosines of two or more examples (M, d), unit vectors, with one another."""
    cosines, gaps = (
        each[np.triu_indices(len(examples), 1)] for each in _cosines(examples, examples)
    )
    square, noise = float(np.mean(cosines**2)), float(np.mean(gaps**2))
    share, opposite = _share(noise, square), 0.0
    if share <= HALF:
        opposite = float(-np.minimum(cosines, 0).sum() / np.abs(cosines).sum())
    return Likeness(float(cosines.mean()), square**0.5, noise**0.5, share, opposite)


def _cosines(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return cosines, and by how much the halves of the sketch differ, (M, n) float64 each."""
    even, odd = (
        (one[:, half::2].astype(np.float32) @ other[:, half::2].astype(np.float32).T)
        for half in (0, 1)
    )
    return even.astype(np.float64) + odd, even.astype(np.float64) - odd


def _share(noise: float, whole: float) -> float:
    return min(noise / whole, 1.0) if whole > 0 else 1.0


def target_notes(snapshot: Snapshot, target: str) -> tuple[str, ...]:
    """Return sentences on the sketched features whose noise drowns a target."""
    notes = []
    for feature in snapshot.features.values():
        if feature.representation.sketch_dims:
            try:
                queries = load_queries(snapshot, target, feature)
            except MissingFeatureError:
                continue  # what the examples lack is said elsewhere
            notes += _notes(snapshot, feature, queries, "one")
    return tuple(notes)


def selection_notes(
    snapshot: Snapshot, method: Method, feature: Feature | None, targets: Sequence[str]
) -> tuple[str, ...]:
    """Return sentences on the targets that drown in the noise of what a method compares."""
    if not (feature and feature.representation.sketch_dims and method.compares_queries):
        return ()
    if method.ignores_sign:
        return ()  # a square has another noise
    ranked_by = "mean" if method.options.get("by") == "mean" else "one"
    notes: list[str] = []
    for target in targets:
        queries = load_queries(snapshot, target, feature)
        own = _notes(snapshot, feature, queries, ranked_by)
        notes += [f"target {target}: {note}" for note in own]
    return tuple(notes)


def _notes(
    snapshot: Snapshot, feature: Feature, queries: Queries, ranked_by: Literal["one", "mean"]
) -> list[str]:
    assert feature.column is not None and queries.vectors is not None, "sketches are vectors"
    examples = queries.vectors
    sample = sampled_vectors(snapshot.pool, feature.column, feature.width, SAMPLE_ROWS)
    spread = spread_over(examples, sample.vectors) if len(sample) >= LEAST_ROWS else None
    likeness = likeness_of(examples) if len(examples) > 1 else None
    notes = []
    if likeness and likeness.share > HALF:
        notes.append(
            f"{feature.name}: the cosines of the examples with one another, {likeness.mean:.3f} on "
            f"average and {likeness.size:.3f} in size, lie within the noise of the sketch "
            f"({likeness.noise:.3f}): it shows nothing that they share"
        )
    if spread and _share_of(spread, ranked_by) > MOST_NOISE:
        notes.append(_drowned(feature, spread, ranked_by, len(examples)))
    if notes:
        notes = [f"{'. '.join(notes)}. {_advice(snapshot, feature, spread, ranked_by)}"]
    if likeness and likeness.opposite > OPPOSITE:
        notes.append(
            f"{feature.name}: the gradients of the examples point either way: of the sizes of "
            f"their cosines with one another {likeness.opposite:.0%} are negative, and most of "
            f"what rows have in common with them cancels. Try {feature.name}(sign=any)"
        )
    return notes


def _share_of(spread: Spread, ranked_by: str) -> float:
    return spread.share if ranked_by == "one" else spread.mean_share


def _drowned(feature: Feature, spread: Spread, ranked_by: str, examples: int) -> str:
    share, rows = _share_of(spread, ranked_by), count_of(spread.rows, "sampled row")
    if ranked_by == "mean":
        return (
            f"{feature.name}: of what tells the mean cosines of {rows} with the {examples:,} "
            f"examples apart, {share:.0%} is noise of the sketch, so that with another seed most "
            "of the best rows would be others"
        )
    return (
        f"{feature.name}: a cosine has a noise of {spread.noise:.3f} by the sketch of "
        f"{feature.recipe.options['dims']:,} numbers, and those of {rows} with an example spread "
        f"by {spread.spread:.3f}: {share:.0%} of that variance is noise, so that with another seed "
        "most of its best rows would be others"
    )


def _advice(
    snapshot: Snapshot,
    feature: Feature,
    spread: Spread | None,
    ranked_by: str,
) -> str:
    """Return a sentence on what to try, what helps first."""
    advice, command = [], f"coresetdb featurize {snapshot.store.typed}"
    if spread and (larger := _larger(feature, _share_of(spread, ranked_by))):
        dims, left = larger
        command += f" {_with_dims(feature, dims)}"
        advice.append(f"a larger sketch, which leaves about {left:.0%} noise ({command})")
    elif not spread and (dims := 4 * feature.recipe.options["dims"]) <= _most_dims(feature):
        advice.append(f"a larger sketch ({command} {_with_dims(feature, dims)})")
    if spread and ranked_by == "one" and spread.mean_share <= MOST_NOISE:
        advice.append(f"{feature.name}:top, by the mean cosine ({spread.mean_share:.0%})")
    others = [
        name
        for name, other in snapshot.features.items()
        if other.column and not other.representation.sketch_dims
    ]
    advice.append(f"another feature, such as {others[0] if others else 'rds'}")
    return f"Try {'; or '.join(advice)}"


def _larger(feature: Feature, share: float) -> tuple[int, float] | None:
    """Return the next size of the sketch with little enough noise, and its share; None for none."""
    dims, times = feature.recipe.options["dims"], 4
    while dims * times <= _most_dims(feature):
        left = share / (share + times * (1 - share))
        if left <= MOST_NOISE:
            return dims * times, left
        times *= 2
    return None


def _most_dims(feature: Feature) -> int:
    return (feature.representation.sketch_dims or (0, 0))[1]


def _with_dims(feature: Feature, dims: int) -> str:
    """Return a feature as `featurize` takes it, with another size, spelled out, of its sketch."""
    recipe, defaults = feature.recipe, feature.representation.defaults
    spec = FeatureSpec(recipe.representation, {**recipe.options, "dims": defaults["dims"]})
    return f"{spec}:dims={dims}"
