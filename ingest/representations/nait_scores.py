"""NAIT's query side: a target's direction in every layer, and the scores of rows along them.

Rows are scored from their stored blocks and norms, without a model or torch. With A the summary
that `activation` names, of layer l (means or drifts), the direction v_l is of unit length:

* `pca`: the first principal component of the target's drifts, as the paper has it. These directions
  are an artifact, which can be applied to another store whose features were made the same way.
* `mean`: the mean of the target's drifts.
* `contrast`: the mean A of the target less that of the pool.

and a row's score is the sum over layers of

* `dot`: <A, v>, as the paper has it; layers count by the length of their activations, and the last
  one's is so long that it is nearly the whole score.
* `cosine`: <A, v> / |A|.
* `zscore`: <A, v>, standardised over a sample of the pool.
* `centred`: the cosine of v with A less the pool's mean A, divided by the number of layers.

The pool's mean is the feature's background (query/pool_statistics/background.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from ...schemas.errors import UsageError
from ...schemas.plain_text import count_of
from ...store.catalog import Artifact
from .representation import BACKGROUND, NOTES, REFUSED, Scorer

LEAST_EXAMPLES = 3
ADVISED_EXAMPLES = 16

ACTIVATIONS = {"mean": ("nait", "nait_norms"), "drift": ("nait_drift", "nait_drift_norms")}
COLUMNS = tuple(column for columns in ACTIVATIONS.values() for column in columns)
STEPS = 127
"""The number 1 in a block of int8: a unit vector's numbers are in steps of 1/127, without a scale
(measured: a scale for every layer keeps no more of the ranking)."""

DIRECTIONS = ("pca", "mean", "contrast")
SCORES = ("dot", "cosine", "zscore", "centred")


def needs_background(query_options: Mapping[str, Any]) -> bool:
    """Return whether a comparison with these options needs the pool's mean summaries."""
    return query_options["direction"] == "contrast" or query_options["score"] == "centred"


def in_steps(block: np.ndarray) -> np.ndarray:
    """Return numbers in [-1, 1] as int8 steps of 1/127."""
    return np.rint(block * np.float32(STEPS)).astype(np.int8)


def mean_summaries(parts: Iterable[pa.Table]) -> Artifact:
    """Return the mean of the stored summaries of some rows, block times norm.

    Args:
        parts: of rows that have the feature, with COLUMNS.

    Returns:
        `mean`, and `drift` where it is kept, (L, d') float32. Fact: `rows`.
    """
    sums: dict[str, Any] = {}
    rows = 0
    for part in parts:
        rows += part.num_rows
        for kind, (blocks, _) in ACTIVATIONS.items():
            if blocks in part.column_names:
                summaries = _blocks(part, kind) * _norms(part, kind)[:, :, None]
                sums[kind] = sums.get(kind, 0.0) + summaries.sum(axis=0, dtype=np.float64)
    return Artifact(
        {kind: (total / rows).astype(np.float32) for kind, total in sums.items()}, {"rows": rows}
    )


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
            f"nait(direction=pca): in {len(undetermined)} of {layers} layers ({named}) the "
            "examples do not tell which way the direction points. Add more examples, or examples "
            "more like each other"
        )
    return notes


class DirectionScorer(Scorer):
    """Scores rows along a target's directions, layer by layer.

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
        self._activation = activation
        _check("activation", activation, ACTIVATIONS)
        _check("direction", query_options["direction"], DIRECTIONS)
        _check("score", self._score, SCORES)
        self.columns = ACTIVATIONS[activation]
        directions = _directions(
            query_options["direction"], activation, target_artifact.arrays, artifacts
        )
        if self._score == "zscore":
            self._centre, self._scale = _spread(artifacts, activation, directions)
        if self._score == "centred":
            self._pool_mean = artifacts[BACKGROUND].arrays[activation]
            directions = unit(directions) / np.float32(len(directions))
        self._directions = directions

    def contributions(self, rows: pa.RecordBatch | pa.Table) -> np.ndarray:
        """Return (n, L) float32, each layer's term of the score; NaN without the feature."""
        blocks = _blocks(rows, self._activation)
        if self._score == "centred":
            norms = _norms(rows, self._activation)
            blocks = unit(blocks * norms[:, :, None] - self._pool_mean)
        terms = (blocks * self._directions).sum(axis=2)
        if self._score in ("dot", "zscore"):
            terms *= _norms(rows, self._activation)
        if self._score == "zscore":
            terms = (terms - self._centre) * self._scale
        return terms

    def scores(self, rows: pa.RecordBatch) -> np.ndarray:
        return self.contributions(rows).sum(axis=1)


def _directions(
    direction: str,
    activation: str,
    of_target: Mapping[str, np.ndarray],
    artifacts: Mapping[str, Artifact],
) -> np.ndarray:
    """Return the directions in the space in which the summaries are stored, (L, d') float32."""
    if direction == "contrast":
        return unit(of_target[activation] - artifacts[BACKGROUND].arrays[activation])
    bases = artifacts.get("nait-bases")
    if direction == "pca":
        directions = np.asarray(of_target["directions"], dtype=np.float32)
    else:
        directions = unit(of_target["drift"])
        if bases is None or activation == "drift":
            return directions
        directions = np.einsum("lkd,lk->ld", bases.arrays["drift"], directions)
    if bases is not None:
        directions = np.einsum("lkd,ld->lk", bases.arrays[activation], directions)
    return directions


def unit(vectors: np.ndarray) -> np.ndarray:
    """Return vectors (..., d) divided by their lengths; a zero stays zero."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(lengths == 0, np.float32(1), lengths)


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


def _norms(rows: pa.RecordBatch | pa.Table, kind: str) -> np.ndarray:
    """Return the norms of a kind of summary, (n, L) float32, NaN where a row has none."""
    column = _array(rows, ACTIVATIONS[kind][1])
    return _spread_out(column, column.flatten(), column.type.list_size)


def _blocks(rows: pa.RecordBatch | pa.Table, kind: str) -> np.ndarray:
    """Return the blocks of a kind of summary, (n, L, d') float32, NaN where a row has none."""
    blocks, norms = ACTIVATIONS[kind]
    layers = rows.schema.field(norms).type.list_size
    column = _array(rows, blocks)
    if pa.types.is_list(column.type):  # int8: a list of one vector a layer
        width = layers * column.type.value_type.list_size
        matrix = _spread_out(column, column.flatten().flatten(), width) / np.float32(STEPS)
    else:
        matrix = _spread_out(column, column.flatten(), column.type.list_size)
    return matrix.reshape(len(column), layers, -1)


def _array(rows: pa.RecordBatch | pa.Table, name: str) -> Any:
    column = rows.column(name)
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _spread_out(column: pa.Array, numbers: pa.Array, width: int) -> np.ndarray:
    """Return the numbers of the rows that are not null, row after row, as (n, width) float32."""
    matrix = np.full((len(column), width), np.nan, dtype=np.float32)
    present = np.asarray(column.is_valid())
    matrix[present] = numbers.to_numpy(zero_copy_only=False).reshape(-1, width)
    return matrix
