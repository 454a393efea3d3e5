"""The gradient of each row's loss by one weight, as the sum over tokens it is."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from .sketch import SketchSpec, count_sketch, fold

CACHED_VALUES = 1 << 18
"""Entries of gradients whose squares are summed at once: 1 MB in float32."""


@dataclass
class WeightGradient:
    """Per row: the sum over tokens of output gradient (o,) times input (i,), never made in whole
    unless asked for.

    What several reducers ask for is made once. It lives as long as the call that hands it over.

    Attributes:
        name: of the weight's module; `<module>.A` and `<module>.B` for the two of an adapter.
        deltas: (B, T, o), gradient of the row's loss by the module's output, 0 at padding.
        inputs: (B, T, i), 0 at padding; None where every reader asked for a sketch.
        folded: the inputs folded for each sketch asked for.
    """

    name: str
    deltas: torch.Tensor
    inputs: torch.Tensor | None
    folded: dict[SketchSpec, torch.Tensor] = field(default_factory=dict)
    _blocks: dict[SketchSpec, torch.Tensor] = field(default_factory=dict)
    _sketches: dict[SketchSpec, torch.Tensor] = field(default_factory=dict)
    _squared_norm: torch.Tensor | None = None

    @property
    def input_size(self) -> int:
        return self._whole_inputs().shape[2]

    def values(self, rows: slice = slice(None)) -> torch.Tensor:
        """(B, o, i) float32, in the weight's usual orientation (out, in)."""
        return self.deltas[rows].float().transpose(1, 2) @ self._whole_inputs()[rows].float()

    def squared_norm(self) -> torch.Tensor:
        """(B,) float32, exact: over the tokens' inner products where that is less work."""
        if self._squared_norm is None:
            inputs, deltas = self._whole_inputs(), self.deltas
            tokens, outer, inner = deltas.shape[1], deltas.shape[2], inputs.shape[2]
            if tokens * (outer + inner) < outer * inner:
                deltas, inputs = deltas.float(), inputs.float()
                products = (deltas @ deltas.transpose(1, 2)) * (inputs @ inputs.transpose(1, 2))
                # A sum of squares; rounding may leave a tiny negative number.
                self._squared_norm = products.sum((1, 2)).clamp(min=0)
            else:
                # A few rows at a time stay in the caches.
                step = max(1, CACHED_VALUES // (outer * inner))
                parts = [slice(row, row + step) for row in range(0, len(deltas), step)]
                each = [self.values(rows).square().sum((1, 2)) for rows in parts]
                self._squared_norm = torch.cat(each)
        return self._squared_norm

    def block(self, spec: SketchSpec) -> torch.Tensor:
        """(B, k_o, k_i) float32: both sides folded; its squared norm estimates the gradient's."""
        if spec not in self._blocks:
            deltas = fold(self.deltas, spec.sides[0], f"deltas of {self.name}", spec.seed)
            if spec not in self.folded:
                self.folded[spec] = folded_inputs(self._whole_inputs(), self.name, spec)
            self._blocks[spec] = deltas.transpose(1, 2) @ self.folded[spec]
        return self._blocks[spec]

    def sketch(self, spec: SketchSpec) -> torch.Tensor:
        """(B, dims) float32: this weight's share of the sketch, which is the sum over weights."""
        if spec not in self._sketches:
            self._sketches[spec] = count_sketch(self.block(spec).flatten(1), self.name, spec)
        return self._sketches[spec]

    def _whole_inputs(self) -> torch.Tensor:
        assert self.inputs is not None, (
            "a reducer that wants more than its sketch must not name one"
        )
        return self.inputs


def folded_inputs(inputs: torch.Tensor, name: str, spec: SketchSpec) -> torch.Tensor:
    """(B, T, k_i) float32: the input side of a weight's sketch."""
    return fold(inputs, spec.sides[1], f"inputs of {name}", spec.seed)
