"""The loss of learned tokens through a frozen output layer, and its derivative in the same pass."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch


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
