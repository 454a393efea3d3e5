"""NAIT's query side: a target's direction in every layer, and the scores of rows along them.

Rows are scored from their stored blocks and norms, without a model or torch. The directions are an
artifact: they can be exported, applied to another store whose features were made the same way, and
compared with those of other targets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from ...schemas.errors import UsageError
from ...schemas.plain_text import count_of
from ...store.catalog import Artifact
from .representation import NOTES, REFUSED, Scorer

LEAST_EXAMPLES = 3
ADVISED_EXAMPLES = 16

ACTIVATIONS = {"mean": ("nait", "nait_norms"), "drift": ("nait_drift", "nait_drift_norms")}
SCORES = ("dot", "cosine", "zscore")


def directions_of(drifts: np.ndarray) -> Artifact:
    """Return the first principal component of a target's drifts in every layer.

    Args:
        drifts: of the examples that have one, (n, L, d) float32.

    Returns:
        `directions` (L, d) float32, of unit norm (zero where all drifts of a layer agree), with the
        sign that makes the mean drift's component positive. Facts: `examples`; `explained`, the
        share of variance per layer; `undetermined`, layers where that component is below its
        standard error, so that the sign is unreliable; `notes`. For fewer than three examples the
        fact `refused` says why there is no direction.
    """
    count = len(drifts)
    if count < LEAST_EXAMPLES:
        return Artifact(
            {},
            {
                "examples": count,
                REFUSED: f"a direction needs at least {LEAST_EXAMPLES} examples with content "
                f"({ADVISED_EXAMPLES} or more are better), and this target has {count}. Add the "
                "target again with more examples, or use another method",
            },
        )
    directions = np.zeros(drifts.shape[1:], dtype=np.float64)
    undetermined: list[int] = []
    explained: list[float] = []
    for layer, of_layer in enumerate(drifts.astype(np.float64).swapaxes(0, 1)):
        mean = of_layer.mean(axis=0)
        _, values, right = np.linalg.svd(of_layer - mean, full_matrices=False)
        spread = float(values @ values)
        if values[0] <= 1e-9 * np.linalg.norm(of_layer):
            undetermined.append(layer)
            explained.append(0.0)
            continue
        projected = of_layer @ right[0]
        sign = 1.0 if projected.mean() >= 0 else -1.0
        if abs(projected.mean()) < projected.std(ddof=1) / np.sqrt(count):
            undetermined.append(layer)
        directions[layer] = sign * right[0]
        explained.append(float(values[0] ** 2) / spread)
    facts: dict[str, Any] = {
        "examples": count,
        "explained": explained,
        "undetermined": undetermined,
        NOTES: _notes(count, undetermined, len(directions)),
    }
    return Artifact({"directions": directions.astype(np.float32)}, facts)


def _notes(count: int, undetermined: list[int], layers: int) -> list[str]:
    notes = []
    if count < ADVISED_EXAMPLES:
        notes.append(
            f"nait: the target has {count_of(count, 'example')}; the direction is stable from "
            f"{ADVISED_EXAMPLES} on"
        )
    if undetermined:
        named = ", ".join(map(str, undetermined))
        notes.append(
            f"nait: in {len(undetermined)} of {layers} layers ({named}) the examples do not tell "
            "which way the direction points. Add more examples, or examples more like each other"
        )
    return notes


class DirectionScorer(Scorer):
    """Scores rows along a target's directions: sum over layers of <A, v>.

    Raises:
        UsageError: the target has too few examples, or the statistics that zscore takes were not
            fitted.
    """

    def __init__(
        self,
        target_artifact: Artifact,
        artifacts: Mapping[str, Artifact],
        query_options: Mapping[str, Any],
    ) -> None:
        if REFUSED in target_artifact.facts:
            raise UsageError(f"nait: {target_artifact.facts[REFUSED]}")
        activation, self._score = query_options["activation"], query_options["score"]
        _check("activation", activation, ACTIVATIONS)
        _check("score", self._score, SCORES)
        self.columns = ACTIVATIONS[activation]
        directions = np.asarray(target_artifact.arrays["directions"], dtype=np.float32)
        if bases := artifacts.get("nait-bases"):
            directions = np.einsum("lkd,ld->lk", bases.arrays[activation], directions)
        self._directions = directions
        if self._score == "zscore":
            self._centre, self._scale = _spread(artifacts, activation, directions)

    def contributions(self, rows: pa.RecordBatch | pa.Table) -> np.ndarray:
        """Return (n, L) float32, each layer's term of the score; NaN without the feature."""
        blocks = _matrix(rows, self.columns[0]).reshape(rows.num_rows, *self._directions.shape)
        terms = (blocks * self._directions).sum(axis=2)
        if self._score != "cosine":
            terms *= _matrix(rows, self.columns[1])
        if self._score == "zscore":
            terms = (terms - self._centre) * self._scale
        return terms

    def scores(self, rows: pa.RecordBatch) -> np.ndarray:
        return self.contributions(rows).sum(axis=1)


def _check(name: str, value: Any, known: Any) -> None:
    if value not in known:
        raise UsageError(f"nait: {name}={value}: choose from {', '.join(known)}")


def _spread(
    artifacts: Mapping[str, Artifact], kind: str, directions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and inverse deviation of <A, v> over the pool per layer, (L,) float32 each."""
    fitted = artifacts.get("nait-statistics")
    if fitted is None:
        raise UsageError(
            "nait: score=zscore needs the pool's statistics, which this store has not fitted. "
            "Use score=dot or score=cosine, or make the feature as nait:zscore=true"
        )
    centre = np.einsum("ld,ld->l", fitted.arrays[f"{kind}_mean"], directions)
    covariance = fitted.arrays[f"{kind}_covariance"].astype(np.float64)
    variance = np.einsum("ld,lde,le->l", directions, covariance, directions)
    flat = variance <= 0  # every row of the sample scores the same there
    scale = np.where(flat, 0.0, 1.0 / np.sqrt(np.where(flat, 1.0, variance)))
    return centre, scale.astype(np.float32)


def _matrix(rows: pa.RecordBatch | pa.Table, name: str) -> np.ndarray:
    """Return a fixed-size list column as (n, d) float32, NaN where it is null."""
    column = rows.column(name)
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    matrix = np.full((len(column), column.type.list_size), np.nan, dtype=np.float32)
    present = np.asarray(column.is_valid())
    flat = column.flatten().to_numpy(zero_copy_only=False)  # leaves out the space of null rows
    matrix[present] = flat.reshape(-1, column.type.list_size)
    return matrix
