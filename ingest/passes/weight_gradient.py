"""The gradient of each row's loss by one weight, as a sum over tokens, and sketches of it.

A sketch is a few numbers whose inner products are, on average, those of the gradients. Everything
random is a hash of the weight's name and the seed, so that a gradient has the same sketch on every
device, in every batch and in every version of torch. `docs/methods.md`, "less", has the measured
noise.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch

HASHES_KEPT = 4096
DEFAULT_DIMS = 2048

BLOCK_ENTRIES = 1 << 18
"""Entries of gradients whose squares are summed at once: 1 MB in float32."""


@dataclass(frozen=True)
class SketchSpec:
    """Which sketch: `dims` numbers a row, drawn by `seed`."""

    dims: int = DEFAULT_DIMS
    seed: int = 0

    @property
    def sides(self) -> tuple[int, int]:
        """Widths to which a weight's output and input sides are folded before the product.

        Their product is 4 dims. The output gradients of a row lie in fewer directions than its
        inputs, so folding them makes more noise, and their side is twice as wide.
        """
        inner = max(1, round(math.sqrt(2 * self.dims)))
        return 2 * inner, inner

    def refines(self, other: SketchSpec) -> bool:
        """Whether what is folded by this one needs only sums to be folded by the other."""
        times, left = divmod(self.sides[1], other.sides[1])
        return self.seed == other.seed and times > 1 and not left


@dataclass
class WeightGradient:
    """Per row: the sum over tokens of output gradient (o,) times input (i,), computed on demand.

    What several reducers need is computed once. It lives as long as the call that passes it on.

    Attributes:
        name: of the weight's module; `<module>.A` and `<module>.B` for the two of an adapter.
        deltas: (B, T, o), gradient of the row's loss by the module's output, 0 at padding.
        inputs: (B, T, i), 0 at padding; None where every reducer needs only a sketch.
        folded: the inputs folded for sketches that reducers need, but for those that others refine.
        width: i, where the inputs are None.
    """

    name: str
    deltas: torch.Tensor
    inputs: torch.Tensor | None
    folded: dict[SketchSpec, torch.Tensor] = field(default_factory=dict)
    width: int = 0
    _blocks: dict[SketchSpec, torch.Tensor] = field(default_factory=dict)
    _sketches: dict[SketchSpec, torch.Tensor] = field(default_factory=dict)
    _squared_norm: torch.Tensor | None = None

    @property
    def input_size(self) -> int:
        return self._whole_inputs().shape[2]

    def values(self, rows: slice = slice(None)) -> torch.Tensor:
        """Return (B, o, i) float32, in the weight's usual orientation (out, in)."""
        return self.deltas[rows].float().transpose(1, 2) @ self._whole_inputs()[rows].float()

    def squared_norm(self) -> torch.Tensor:
        """Return (B,) float32, exact, from the tokens' inner products where that is less work."""
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
                step = max(1, BLOCK_ENTRIES // (outer * inner))
                parts = [slice(row, row + step) for row in range(0, len(deltas), step)]
                sums = [self.values(rows).square().sum((1, 2)) for rows in parts]
                self._squared_norm = torch.cat(sums)
        return self._squared_norm

    def block(self, spec: SketchSpec) -> torch.Tensor:
        """Return (B, k_o, k_i) float32, both sides folded; its norm estimates the gradient's."""
        if spec not in self._blocks:
            finer = next((other for other in self.folded if other.refines(spec)), None)
            self._blocks[spec] = (
                self._product(spec) if finer is None else self._refolded(finer, spec)
            )
        return self._blocks[spec]

    def _product(self, spec: SketchSpec) -> torch.Tensor:
        deltas = fold(self.deltas, spec.sides[0], f"deltas of {self.name}", spec.seed)
        if spec not in self.folded:
            self.folded[spec] = folded_inputs(self._whole_inputs(), self.name, spec)
        return (deltas.transpose(1, 2) @ self.folded[spec]).float()

    def _refolded(self, finer: SketchSpec, spec: SketchSpec) -> torch.Tensor:
        """Return the block of a sketch from that of a finer one, instead of from every token."""
        (outer, inner), name = spec.sides, self.name
        width = self.width or self.input_size
        block = refold(self.block(finer), width, inner, f"inputs of {name}", spec.seed)
        block = block.transpose(1, 2)
        size = self.deltas.shape[2]
        return refold(block, size, outer, f"deltas of {name}", spec.seed).transpose(1, 2)

    def sketch(self, spec: SketchSpec) -> torch.Tensor:
        """Return (B, dims) float32, this weight's part of the sketch, a sum over weights."""
        if spec not in self._sketches:
            self._sketches[spec] = count_sketch(self.block(spec).flatten(1), self.name, spec)
        return self._sketches[spec]

    def _whole_inputs(self) -> torch.Tensor:
        assert self.inputs is not None, (
            "a reducer that needs whole gradients must not name a sketch"
        )
        return self.inputs


def joined(parts: Sequence[WeightGradient]) -> WeightGradient:
    """Return the gradient of a weight that was applied several times, which is the sum of all."""
    inputs = [part.inputs for part in parts if part.inputs is not None]
    return WeightGradient(
        parts[0].name,
        torch.cat([part.deltas for part in parts], 1),
        torch.cat(inputs, 1) if inputs else None,
        {spec: torch.cat([part.folded[spec] for part in parts], 1) for spec in parts[0].folded},
        parts[0].width,
    )


def folded_inputs(inputs: torch.Tensor, name: str, spec: SketchSpec) -> torch.Tensor:
    """Return (B, T, k_i), the input side of a weight's sketch, in the dtype that `fold` gives."""
    return fold(inputs, spec.sides[1], f"inputs of {name}", spec.seed)


def fold(values: torch.Tensor, width: int, key: str, seed: int) -> torch.Tensor:
    """Count-sketch the last axis: random signs, then sums by position modulo `width`, in float32.

    It reads the values once, where a projection would multiply them with a matrix. Values no wider
    than `width` are returned as they are.

    Args:
        values: (B, T, n).

    Returns:
        (B, T, min(n, width)): of bfloat16 values the sums rounded to bfloat16, whose products are
        four times as fast; float32 of all others, as float16 could overflow.
    """
    size = values.shape[-1]
    dtype = values.dtype if values.dtype == torch.bfloat16 else torch.float32
    if size <= width:
        return values.to(dtype)
    values, signs = values.float(), _signs(key, seed, size, values.device)
    folded = values[..., :width] * signs[:width]
    for start in range(width, size, width):
        part = slice(start, start + width)
        folded[..., : size - start].addcmul_(values[..., part], signs[part])
    return folded.to(dtype)


def refold(values: torch.Tensor, size: int, width: int, key: str, seed: int) -> torch.Tensor:
    """Fold on what `fold` has made of `size` numbers with a multiple of `width`.

    Args:
        values: (..., n), as they came out of it; n = size where they were narrow enough to stay.
    """
    if values.shape[-1] == size:
        return fold(values, width, key, seed)
    return values.unflatten(-1, (-1, width)).sum(-2)  # a position modulo a multiple, modulo width


class CountSketch:
    """Adds every number, with a random sign, to a random one of `dims` (Charikar et al. 2002).

    Inner products are unbiased, with standard deviation about |x| |y| / sqrt(dims).
    """

    def __init__(self, key: str, spec: SketchSpec, size: int, device: torch.device) -> None:
        """
        Args:
            key: hashed together with the seed, such as a weight's name.
            size: how many numbers are sketched.
        """
        places, self._signs = _hashes(key, spec, size, device)
        # Kept in 32 bits, used in 64: the CPU's kernel for 32 is ten times slower.
        self._places, self._dims = places.long(), spec.dims

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Return (B, dims) float32 for values (B, size) float32."""
        sketch = values.new_zeros(len(values), self._dims)
        return sketch.index_add_(1, self._places, values * self._signs)


def count_sketch(values: torch.Tensor, key: str, spec: SketchSpec) -> torch.Tensor:
    """Return the `CountSketch` (B, dims) of values (B, n)."""
    return CountSketch(key, spec, values.shape[1], values.device)(values)


@lru_cache(HASHES_KEPT)
def _hashes(
    key: str, spec: SketchSpec, size: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    words = np.frombuffer(_bytes(f"places of {key}", spec.seed, 4 * size), dtype="<u4")
    places = (words % np.uint32(spec.dims)).astype(np.int32)
    return torch.from_numpy(places).to(device), _signs(f"entries of {key}", spec.seed, size, device)


@lru_cache(HASHES_KEPT)
def _signs(key: str, seed: int, size: int, device: torch.device) -> torch.Tensor:
    drawn = np.frombuffer(_bytes(f"signs of {key}", seed, -(-size // 8)), dtype=np.uint8)
    bits = np.unpackbits(drawn, count=size).astype(np.float32)
    return torch.from_numpy(1 - 2 * bits).to(device)


def _bytes(key: str, seed: int, count: int) -> bytes:
    # A cryptographic hash never changes; random generators of libraries may.
    return hashlib.shake_256(f"{seed} {key}".encode()).digest(count)
