"""The loss of learned tokens through a frozen output layer, and its derivative in the same pass."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from ..ingest.models.backbone import Backbone, padded_width
from ..ingest.models.batches import batch_cost, plan_batches, tokens_per_batch

IGNORED = -100
"""The label of a token that is not learned, as torch's cross entropy takes it."""


class _FrozenHeadLoss(torch.autograd.Function):
    """Sum of -log p over tokens; see `frozen_head_loss`."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        head: torch.nn.Linear,
        targets: torch.Tensor,
        parts: Iterable[slice],
    ) -> torch.Tensor:
        derivative = torch.empty_like(hidden)
        total = torch.zeros((), device=hidden.device)
        for part in parts:
            log_p = head(hidden[part]).float().log_softmax(-1)
            at_target = targets[part, None]
            total -= log_p.gather(1, at_target).sum()
            slope = log_p.exp_()
            slope.scatter_add_(1, at_target, -torch.ones_like(at_target, dtype=slope.dtype))
            derivative[part] = slope.to(derivative.dtype) @ head.weight
        ctx.save_for_backward(derivative)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (derivative,) = ctx.saved_tensors
        return grads[0].to(derivative.dtype) * derivative, None, None, None


def frozen_head_loss(
    hidden: torch.Tensor, head: torch.nn.Linear, targets: torch.Tensor, parts: Iterable[slice]
) -> torch.Tensor:
    """Return the sum of -log p of tokens, differentiable in the states alone.

    Logits exist for one part at a time and once: the derivative by the states, softmax less the
    target times the head's weights, is taken while they are there, so nothing is computed again.

    Args:
        hidden: (n, H) final states that predict the tokens.
        head: the output layer, whose weights are not trained.
        targets: (n,) int64, the tokens.
        parts: slices that cover 0 to n.

    Returns:
        () float32.
    """
    return _FrozenHeadLoss.apply(hidden, head, targets, parts)


def loss_of_step(
    backbone: Backbone, ids: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, int]:
    """Return the loss of a step's rows, summed over learned tokens, and the number of these.

    Logits are made where a token is learned, and nowhere else. Rows that differ in length go
    through the model in several batches where that costs less than their padding.

    Args:
        backbone: with a frozen output layer.
        ids: (B, T) int64, padded on the right.
        mask: (B, T) bool, true at tokens.
        labels: (B, T) int64, the tokens that are learned, `IGNORED` elsewhere.

    Returns:
        () float32, differentiable in the weights that are trained, and a count.
    """
    head = backbone.model.get_output_embeddings()
    multiple, tokens = backbone.width_multiple, tokens_per_batch(backbone.device)
    lengths = mask.sum(1)
    loss, count = torch.zeros((), device=ids.device), 0
    for rows in plan_batches(lengths.tolist(), tokens, batch_cost(backbone, tokens), multiple):
        width = padded_width(int(lengths[rows].max()), multiple)
        states = backbone.states(ids[rows, :width], mask[rows, :width])
        following = labels[rows, 1:width]
        learned = following != IGNORED
        targets = following[learned]
        parts = backbone.logit_slices(len(targets))
        loss = loss + frozen_head_loss(states.hidden[:, :-1][learned], head, targets, parts)
        count += len(targets)
    return loss, count
