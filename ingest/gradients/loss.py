"""The derivative of each row's mean response loss by the final states, slice by slice.

Written out (softmax less one at the token) instead of differentiated: the logits of a slice are
gone before the next slice, and the backward through the body starts from the states.
"""

from __future__ import annotations

import torch

from ..models.backbone import Backbone, States
from ..models.batch import Batch


class LossDerivative:
    """Collects the derivative over slices of response tokens, then runs the backward."""

    def __init__(self, backbone: Backbone, batch: Batch, states: States, rows: torch.Tensor):
        """`rows` (n,) are the rows of all scored response tokens."""
        self._head = backbone.model.get_output_embeddings()
        self._from = states.hidden if states.logits is None else states.logits
        self._derivative = torch.zeros_like(self._from)
        self._plain = states.logits is None
        self._tokens = torch.bincount(rows, minlength=len(batch.rows))

    @torch.no_grad()
    def add(
        self, logits: torch.Tensor, targets: torch.Tensor, rows: torch.Tensor, places: torch.Tensor
    ) -> None:
        """Some response tokens: logits (n, V) float32, ids, rows, and columns they come from."""
        slope = logits.softmax(-1)
        slope[torch.arange(len(targets), device=targets.device), targets] -= 1
        slope = slope.to(self._derivative.dtype)
        each = slope @ self._head.weight if self._plain else slope
        mean = each.float() / self._tokens[rows, None]  # counts are not exact in bfloat16
        self._derivative[rows, places] = mean.to(each.dtype)

    def backward(self) -> None:
        """From the sum of the rows' mean losses to everything that asked for its gradient."""
        torch.autograd.backward([self._from], [self._derivative])
