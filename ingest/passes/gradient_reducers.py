"""Reducers of gradients: sketches and norms, per row."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import numpy as np
import torch

from ...store.catalog import Artifact
from ..models.batches import Batch
from .reducer import Reducer
from .weight_gradient import CountSketch, SketchSpec, WeightGradient

WHOLE_ENTRIES_CPU = 1 << 18

WHOLE_ENTRIES_ACCELERATOR = 1 << 24
"""Entries of whole gradients held at once. On a CPU they stay in the caches, 1 MB in float32:
with Adam's step, sketches of a rank of 128 take a third less time than from 64 MB."""

BETA_FIRST, BETA_SECOND, EPSILON = 0.9, 0.999, 1e-8
"""Of Adam's step in LESS."""


class SketchSum(Reducer):
    """The factored sketch of all weights together: column `sketch` (B, dims).

    Args:
        unit_parts: whether each weight's sketch is brought to unit length before the sum; one of
            length 0 stays 0.
    """

    def __init__(self, spec: SketchSpec, unit_parts: bool = False) -> None:
        self.sketch = spec
        self._spec, self._unit_parts = spec, unit_parts
        self._sum: torch.Tensor | None = None

    def gradient(self, gradient: WeightGradient) -> None:
        part = gradient.sketch(self._spec)
        if self._unit_parts:
            lengths = part.norm(dim=1, keepdim=True)
            part = part / lengths.where(lengths != 0, torch.ones_like(lengths))
        self._sum = part.clone() if self._sum is None else self._sum.add_(part)

    def columns(self) -> dict[str, np.ndarray]:
        assert self._sum is not None, "columns() was called before any gradient arrived"
        return {"sketch": self._sum.cpu().numpy()}


class LowRankSketch(Reducer):
    """The sketch of an adapter's exact gradients: column `sketch` (B, dims).

    Adam's step needs every entry, so whole gradients are computed: a weight at a time, and as many
    rows at a time as suit the device.

    Args:
        moments: the checkpoint whose optimiser's step is taken; None for plain gradients.
    """

    def __init__(self, batch: Batch, spec: SketchSpec, moments: Artifact | None) -> None:
        self._spec, self._moments = spec, moments
        self._sum = torch.zeros(len(batch.rows), spec.dims, device=batch.ids.device)

    def gradient(self, gradient: WeightGradient) -> None:
        size = gradient.deltas.shape[2] * gradient.input_size
        sketch = CountSketch(gradient.name, self._spec, size, gradient.deltas.device)
        step = None if self._moments is None else AdamStep(*moments_of(self._moments, gradient))
        for rows, values in in_parts(gradient):
            self._sum[rows] += sketch((step(values) if step else values).flatten(1))

    def columns(self) -> dict[str, np.ndarray]:
        return {"sketch": self._sum.cpu().numpy()}


class GradientNorm(Reducer):
    """Norm of the gradient of all weights together: column `norm` (B,).

    Args:
        spec: of the sketch that the norm is estimated from, by its weights' blocks; None for the
            exact norm.
        scales: weight -> what its gradient's squared norm is divided by; 1 for others.
    """

    def __init__(self, spec: SketchSpec | None, scales: Mapping[str, float] | None = None) -> None:
        self.sketch = spec
        self._scales = scales or {}
        self._squared: torch.Tensor | None = None

    def gradient(self, gradient: WeightGradient) -> None:
        if self.sketch is None:
            part = gradient.squared_norm()
        else:
            part = gradient.block(self.sketch).square().sum((1, 2))
        if gradient.name in self._scales:
            part = part / self._scales[gradient.name]
        self._squared = part.clone() if self._squared is None else self._squared + part

    def columns(self) -> dict[str, np.ndarray]:
        assert self._squared is not None, "columns() was called before any gradient arrived"
        return {"norm": self._squared.sqrt().cpu().numpy()}


class OneOfEachKind(Reducer):
    """Whole gradients of the first row: of weights that differ in numbers alone, the first to come.

    Attributes:
        values: name -> (out, in) float32.
    """

    def __init__(self) -> None:
        self.values: dict[str, torch.Tensor] = {}
        self._kinds: set[str] = set()

    def gradient(self, gradient: WeightGradient) -> None:
        kind = re.sub(r"\d+", "#", gradient.name)
        if kind not in self._kinds:
            self._kinds.add(kind)
            self.values[gradient.name] = gradient.values(slice(0, 1))[0]

    def columns(self) -> dict[str, np.ndarray]:
        return {}


class AdamStep:
    """Adam's next step for gradients of one weight: m' / sqrt(v' + 1e-8).

    m' = 0.9 m + 0.1 g and v' = 0.999 v + 0.001 g^2, without bias correction and with epsilon
    inside the root, as LESS has it (docs/methods.md, "less").
    """

    def __init__(self, first: torch.Tensor, second: torch.Tensor) -> None:
        """The moments m and v of the weight, (o, i) float32 each."""
        self._first = first.mul(BETA_FIRST)
        self._second = second.mul(BETA_SECOND).add_(EPSILON)

    def __call__(self, gradients: torch.Tensor) -> torch.Tensor:
        """Return the steps (B, o, i) for gradients (B, o, i), float32."""
        second = self._second.addcmul(gradients, gradients, value=1 - BETA_SECOND)
        return self._first.add(gradients, alpha=1 - BETA_FIRST).mul_(second.rsqrt_())


def in_parts(gradient: WeightGradient) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield whole gradients (b, o, i) float32 of a few rows at a time, with their rows."""
    entries = gradient.deltas.shape[2] * gradient.input_size
    cpu = gradient.deltas.device.type == "cpu"
    step = max(1, (WHOLE_ENTRIES_CPU if cpu else WHOLE_ENTRIES_ACCELERATOR) // entries)
    for start in range(0, len(gradient.deltas), step):
        rows = slice(start, start + step)
        yield rows, gradient.values(rows)


def moments_of(moments: Artifact, gradient: WeightGradient) -> tuple[torch.Tensor, torch.Tensor]:
    """Return Adam's first and second moment of a weight, (o, i) float32 each."""
    device = gradient.deltas.device
    first, second = (
        torch.from_numpy(moments.arrays[f"{gradient.name}.{which}"]).to(device)
        for which in ("m", "v")
    )
    return first, second
