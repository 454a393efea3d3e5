"""A batch: rows of tokens as padded tensors, with what tells tokens from padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..conversations.encoding import Encoded
from .batching import Side, pad


@dataclass(frozen=True)
class Batch:
    """Rows as padded tensors on the backbone's device.

    Attributes:
        ids: (B, T) int64.
        mask: (B, T) bool, true at tokens and false at padding.
        response: (B, T) bool.
        positions: (B, T) int64, 1 .. T of each row's own tokens; 0 at padding before them.
    """

    rows: Sequence[Encoded]
    ids: torch.Tensor
    mask: torch.Tensor
    response: torch.Tensor
    positions: torch.Tensor


def make_batch(
    rows: Sequence[Encoded], padding_token: int, device: torch.device, side: Side = "right"
) -> Batch:
    """Pad rows to the longest of them."""
    ids = torch.from_numpy(pad([row.ids for row in rows], padding_token, side))
    mask = torch.from_numpy(pad([np.ones(len(row), dtype=bool) for row in rows], False, side))
    response = torch.from_numpy(pad([row.response for row in rows], False, side))
    mask = mask.to(device)
    return Batch(rows, ids.long().to(device), mask, response.to(device), mask.long().cumsum(1))
