"""Token states in a few bytes: unit states in a basis, int8 with a scale per token (METHODS 1)."""

from __future__ import annotations

import numpy as np
import torch

from ..columns import ragged
from ..models.batch import Batch
from ..representations.representation import Reducer

LARGEST = 127
"""Of a code; -128 is not used, so that a code and its negative are equally far from zero."""


def unit_states(batch: Batch, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """States (n, d) float32 of the batch's tokens, row after row, and their lengths (n, 1).

    They are not divided yet: whoever projects them divides fewer numbers afterwards.
    """
    own = states[batch.mask].float()
    return own, own.norm(dim=1, keepdim=True)


def quantise(projected: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes (n, r) int8 and scales (n,) float32 with codes * scale about `projected`.

    The greatest number of a token has code 127 or -127, so no number is off by more than half a
    scale. A token of zeros has scale 0.
    """
    scales = projected.abs().amax(1) / LARGEST
    inverse = torch.where(scales > 0, 1 / scales, 0.0)
    return (projected * inverse[:, None]).round().to(torch.int8), scales


class Codes(Reducer):
    """Codes, scales and kept energy of every token of a batch.

    Args:
        basis: (d, r) float32 with orthonormal columns.
    """

    def __init__(self, batch: Batch, basis: np.ndarray) -> None:
        self._batch, self._basis = batch, basis
        self._columns: dict[str, np.ndarray] = {}

    def hidden(self, states: torch.Tensor) -> None:
        own, lengths = unit_states(self._batch, states)
        projected = own @ torch.from_numpy(self._basis).to(own.device) / lengths
        energy = projected.square().sum(1)
        codes, scales = quantise(projected)
        usable = torch.isfinite(lengths[:, 0]) & (lengths[:, 0] > 0)
        ends = np.cumsum([len(row) for row in self._batch.rows])[:-1]
        for name, values in {
            "codes": codes,
            "scales": scales,
            "energy": energy,
            "usable": usable,
        }.items():
            self._columns[name] = ragged(np.split(values.cpu().numpy(), ends))

    def columns(self) -> dict[str, np.ndarray]:
        """Object arrays (B,): codes (T, r) int8, scales, energy (T,) float32, usable (T,)."""
        return self._columns
