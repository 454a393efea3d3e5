"""Rows as unit vectors whose cosines are exact, so that nothing can change a choice made by them.

A stored vector is normalised in float64 and its numbers are rounded to whole multiples of 2^-25;
products are then multiples of 2^-50, and sums of them fit the 53 bits of a float64 whole. So a
cosine has one value, whatever the order of summation, the shape of the product, the number of
threads or the BLAS; it lies within 1e-7 of the true one. Cosines are compared as whole `STEPS`: a
row and its copy agree wholly, and rows that agree to about 1e-6 tie.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

STEPS = float(1 << 20)
"""Cosines are rounded to this part of one."""

_GRID = float(1 << 25)
_BLOCK_BYTES = 16 << 20


def unit_vectors(vectors: np.ndarray) -> torch.Tensor:
    """Vectors (n, d) float16, none zero, as unit vectors (n, d) float64 on the grid."""
    import torch

    exact = torch.from_numpy(vectors).double()
    exact /= exact.square().sum(dim=1, keepdim=True).sqrt()  # squares of float16 sum exactly too
    return exact.mul_(_GRID).round_().div_(_GRID)


def mean_direction(vectors: np.ndarray) -> torch.Tensor:
    """The mean of the rows' unit vectors, as a unit vector (1, d) float64; zero if they cancel."""
    import torch

    total = torch.zeros(1, vectors.shape[1], dtype=torch.float64)
    for part in blocks(len(vectors), vectors.shape[1]):
        total += unit_vectors(vectors[part]).sum(dim=0, keepdim=True)
    if total.any():
        total /= math.sqrt(math.fsum(total.square()[0].tolist()))
    return total.mul_(_GRID).round_().div_(_GRID)


def steps(cosines: torch.Tensor) -> torch.Tensor:
    """Cosines float64 as whole `STEPS`, still float64; changed in place."""
    return cosines.mul_(STEPS).round_()


def blocks(rows: int, width: int) -> Iterator[slice]:
    """Consecutive slices of `rows` rows of `width` float64 numbers, about 16 MB each."""
    size = max(1, _BLOCK_BYTES // (8 * width))
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))
