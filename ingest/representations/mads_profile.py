"""MADS with a target: how much a row's active neurons are those of the target's examples.

Source: NAG-based ranking, "Target-Oriented Pretraining Data Selection via Neuron-Activated Graph"
(arXiv 2604.15706). There the profile of a target has, in every layer, each neuron's share of the
activations of all its examples, and a row scores the sum of the shares of its own neurons, averaged
over the layers. With k neurons active in every layer this is the mean over the examples of the
share of their neurons that the row has too, which needs no layers:

    score(r) = 1/M sum_i  sum(w_n for n in A_r and E_i) / sum(w_n for n in E_i)

with w_n = 1. Ours is w_n = idf_n = log((N + 1) / (N_n + 1)), with N rows of the pool of which N_n
have the neuron: one that is active in most rows says little about a target. The counts are the
feature's background (query/background.py).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from ...store.catalog import Artifact
from .representation import Scorer

COLUMN = "mads"


def sets_of(examples: pa.Table) -> Artifact:
    """Return the sets of a target's examples: `units`, one set after the other, and `sizes` (M,).

    Args:
        examples: that have the feature, with `COLUMN`.
    """
    lists = examples[COLUMN].combine_chunks()
    units = lists.flatten().to_numpy(zero_copy_only=False).astype(np.int64)
    return Artifact({"units": units, "sizes": lists.value_lengths().to_numpy().astype(np.int64)})


def rows_with_units(parts: Iterable[pa.Table]) -> Artifact:
    """Return in how many rows of a sample each unit is active: `rows` (units,) int64.

    Args:
        parts: of rows that have the feature, with `COLUMN`.

    Returns:
        An artifact with the fact `sample`, the number of rows.
    """
    holding, rows = np.zeros(0, np.int64), 0
    for part in parts:
        units = part[COLUMN].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        counts = np.bincount(units, minlength=len(holding))
        counts[: len(holding)] += holding
        holding = counts.astype(np.int64)
        rows += part.num_rows
    return Artifact({"rows": holding}, {"sample": rows})


class ProfileScorer(Scorer):
    """Scores rows by a target's profile, in [0, 1] where all sets are of one size.

    Args:
        examples: as `sets_of` returns them.
        holding: of a sample of the pool, as `rows_with_units` returns it; None where all units
            weigh the same.
    """

    columns = (COLUMN,)

    def __init__(self, examples: Artifact, holding: Artifact | None) -> None:
        units, sizes = examples.arrays["units"], examples.arrays["sizes"]
        # The last one stands for all units above, which neither an example nor the sample has.
        width = max(int(units.max(initial=-1)) + 1, len(holding.arrays["rows"]) if holding else 0)
        width += 1
        self.idf = idf_of(holding, width)
        of_example = np.repeat(np.arange(len(sizes)), sizes)
        totals = np.bincount(of_example, self.idf[units], len(sizes))
        shares = np.where(totals > 0, 1 / np.where(totals > 0, totals, 1), 0.0) / len(sizes)
        self.examples = np.bincount(units, minlength=width)
        self.weights = np.bincount(units, shares[of_example] * self.idf[units], width)

    def scores(self, rows: pa.RecordBatch) -> np.ndarray:
        lists = rows.column(COLUMN)
        sizes = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        weights = self.weights[self.places(lists.flatten())]
        scores = np.zeros(len(lists))
        holding = sizes > 0
        starts = np.cumsum(sizes) - sizes
        if holding.any():  # a row's sum does not depend on the rows beside it
            scores[holding] = np.add.reduceat(weights, starts[holding])
        scores[~np.asarray(lists.is_valid())] = np.nan
        return scores.astype(np.float32)

    def places(self, units: pa.Array) -> np.ndarray:
        """Return where `idf`, `examples` and `weights` have each unit, (n,) int64."""
        return np.minimum(units.to_numpy(zero_copy_only=False), len(self.weights) - 1)


def idf_of(holding: Artifact | None, width: int) -> np.ndarray:
    """Return log((N + 1) / (N_n + 1)) of the first `width` units, (width,) float64; 1 for None."""
    if holding is None:
        return np.ones(width)
    counts = np.zeros(width)
    known = holding.arrays["rows"][:width]
    counts[: len(known)] = known
    return np.log((holding.facts["sample"] + 1) / (counts + 1))
