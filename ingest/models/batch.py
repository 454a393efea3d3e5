"""A batch: rows of tokens as padded tensors, with what tells tokens from padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..conversations.encoding import Encoded
from .batching import Side, pad, plan_batches

if TYPE_CHECKING:
    from .backbone import Backbone


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

    def predicted(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows (n,) and places (n,) of the tokens that response tokens are predicted from.

        They are the tokens before them, which padding is not.
        """
        before = self.response[:, 1:] & self.mask[:, :-1]
        rows, places = before.nonzero(as_tuple=True)
        return rows, places


def batches_of(
    backbone: Backbone, rows: Sequence[Encoded], tokens_per_batch: int, side: Side = "right"
) -> Iterator[tuple[list[int], Batch]]:
    """Rows in batches for a backbone, each with the places its rows stood at; longest first."""
    multiple = backbone.width_multiple
    for members in plan_batches([len(row) for row in rows], tokens_per_batch, multiple):
        chosen = [rows[i] for i in members]
        yield members, make_batch(chosen, backbone.padding_token, backbone.device, side, multiple)


def make_batch(
    rows: Sequence[Encoded],
    padding_token: int,
    device: torch.device,
    side: Side = "right",
    multiple: int = 1,
) -> Batch:
    """Pad rows to the `padded_width` of the longest of them."""
    ids = torch.from_numpy(pad([row.ids for row in rows], padding_token, side, multiple))
    ones = [np.ones(len(row), dtype=bool) for row in rows]
    mask = torch.from_numpy(pad(ones, False, side, multiple))
    response = torch.from_numpy(pad([row.response for row in rows], False, side, multiple))
    mask = mask.to(device)
    return Batch(rows, ids.long().to(device), mask, response.to(device), mask.long().cumsum(1))
