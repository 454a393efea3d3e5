"""What NAIT may have to learn from a sample of the pool: a basis per layer, and its spread.

Bases: layers of a large model are kept in the leading right singular vectors of the sample's
summaries, one basis for means and one for drifts. They are uncentred, so that a stored block is a
linear function of the summary and no constant of the score is lost.

Statistics, for score=zscore: mean and covariance of the stored summaries of every layer. With them
the mean and the deviation over the pool of <A, v> are known for every direction v to come.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ...schemas.errors import UsageError
from ..conversations.encoding import Encoded
from ..fits.artifacts import Artifact
from ..fits.fit import Fit, Fitting

if TYPE_CHECKING:
    from ..fits.fit import Sample

SAMPLE_ROWS = 1024
"""Eight times the width of a basis; of Llama-2-7B its summaries take 1 GB."""


class Bases(Fit):
    """Artifact `nait-bases`: `mean` and `drift` (L, d', d) float32 with orthonormal rows.

    d' is `width`, or what sample and layer have at most. Facts: rows, and the share of the
    sample's energy kept per kind and layer.
    """

    name = "nait-bases"

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = {name: options[name] for name in ("neuron", "tokens", "width", "seed")}

    def spec(self) -> dict[str, Any]:
        return {**self._options, "version": 1, "rows": SAMPLE_ROWS}

    def outputs(self) -> tuple[str, ...]:
        return (self.name,)

    def sample_rows(self, total: int) -> int:
        return min(total, SAMPLE_ROWS)

    def run(self, fitting: Fitting) -> None:
        if self.name in fitting.kept:
            return
        found = _sampled(self.name, fitting, self._options, None)
        arrays: dict[str, np.ndarray] = {}
        kept: dict[str, list[float]] = {}
        for kind, summaries in found.items():
            layers = [_leading(each, self._options["width"]) for each in summaries.swapaxes(0, 1)]
            arrays[kind] = np.stack([basis for basis, _ in layers])
            kept[kind] = [share for _, share in layers]
        rows = len(found["mean"])
        fitting.keep(self.name, Artifact(arrays, {"rows": rows, "kept": kept}))
        fitting.tell(1.0, f"keeps {np.mean([*kept['mean'], *kept['drift']]):.1%} of the energy")


class Statistics(Fit):
    """Artifact `nait-statistics`: `<kind>_mean` (L, d') and `<kind>_covariance` (L, d', d')."""

    name = "nait-statistics"

    def __init__(self, options: Mapping[str, Any], bases: Bases | None) -> None:
        self._options = {name: options[name] for name in ("neuron", "tokens", "seed")}
        self._bases = bases

    def spec(self) -> dict[str, Any]:
        return {**self._options, "version": 1, "rows": SAMPLE_ROWS}

    def outputs(self) -> tuple[str, ...]:
        return (self.name,)

    def sample_rows(self, total: int) -> int:
        return min(total, SAMPLE_ROWS)

    def needs(self) -> tuple[Fit, ...]:
        return () if self._bases is None else (self._bases,)

    def run(self, fitting: Fitting) -> None:
        if self.name in fitting.kept:
            return
        bases = fitting.kept[self._bases.name].arrays if self._bases else None
        arrays: dict[str, np.ndarray] = {}
        for kind, summaries in _sampled(self.name, fitting, self._options, bases).items():
            mean = summaries.mean(axis=0, dtype=np.float64)
            centred = summaries - mean.astype(np.float32)
            arrays[f"{kind}_mean"] = mean.astype(np.float32)
            arrays[f"{kind}_covariance"] = np.einsum("nld,nle->lde", centred, centred) / (
                len(summaries) - 1
            )
        fitting.keep(self.name, Artifact(arrays))
        fitting.tell(1.0, "spread of every layer")


def _sampled(
    fit: str, fitting: Fitting, options: Mapping[str, Any], bases: Mapping[str, np.ndarray] | None
) -> dict[str, np.ndarray]:
    """Summaries of the sample's usable rows, kind -> (n, L, d')."""
    from .nait_summaries import summaries_of

    fitting.tell(0.0, f"activations of {len(fitting.sample.instructions):,} rows")
    rows = _usable(fitting, fitting.sample, options["tokens"])
    if len(rows) < 2:
        raise UsageError(
            f"{fit}: {len(rows)} of the sample's {len(fitting.sample.instructions):,} rows have "
            f"{options['tokens']} tokens. Ingest a corpus with at least two such rows"
        )
    return summaries_of(fitting.backbone, rows, options, bases)


def _usable(fitting: Fitting, sample: Sample, tokens: str) -> list[Encoded]:
    encoded = fitting.backbone.encode_all(sample.instructions)
    rows = [row for row in encoded if isinstance(row, Encoded) and row.content.any()]
    return [row for row in rows if tokens != "response" or row.response_tokens]


def _leading(vectors: np.ndarray, width: int) -> tuple[np.ndarray, float]:
    """The first `width` right singular vectors of (n, d), and their share of the energy.

    Of each sign the one whose largest entry is positive.
    """
    import torch

    _, values, right = torch.linalg.svd(torch.from_numpy(vectors), full_matrices=False)
    basis = right[:width].numpy()
    largest = np.abs(basis).argmax(axis=1)
    basis = basis * np.sign(basis[np.arange(len(basis)), largest])[:, None]
    energy = values.double().numpy() ** 2
    return np.ascontiguousarray(basis, dtype=np.float32), float(
        energy[:width].sum() / energy.sum() if energy.sum() else 1.0
    )
