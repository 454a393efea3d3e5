"""The backward of causal attention on a CPU, written out for short rows in bfloat16.

There torch's own takes most of its time preparing blocks: at 2,048 tokens in rows of 128 it needs
18 ms a layer of the built-in proxy and the products written out 5 ms (in a first form, which
kept scores less exactly and was as fast over a whole pass); at 704 they meet. In
float32 torch's is the faster one throughout, so it stays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

LONGEST = 512
"""Tokens of a row up to which the written backward is taken."""
SCORES_HELD = 1 << 20
"""Attention scores made at once: 2 MB in bfloat16, which stay in the caches."""


class ShortRowsBackward(TorchFunctionMode):
    """Inside the block attention that will be differentiated gets the written backward.

    Its forward is torch's. The backward makes the scores again, less what their softmax is divided
    by, so that those that count are near 0 where bfloat16 is exact; the softmax and its derivative
    sum in float32.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is scaled_dot_product_attention and _suits(*args, **kwargs):
            query, key, value = args
            scale = kwargs.get("scale") or query.shape[-1] ** -0.5
            return _Attention.apply(query, key, value, scale)
        return func(*args, **kwargs)


def _suits(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor | None = None,
    *others: Any,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **rest: Any,
) -> bool:
    return (
        value is not None
        and not others  # what else there is has a name
        and is_causal
        and attn_mask is None
        and not dropout_p
        and query.device.type == "cpu"
        and query.dtype == torch.bfloat16
        and query.ndim == 4
        and query.shape[2] <= LONGEST
        and query.shape[0] == key.shape[0]
        and query.shape[2:] == key.shape[2:]
        and key.shape == value.shape
        and torch.is_grad_enabled()
        and query.requires_grad
    )


class _Attention(torch.autograd.Function):
    """Causal attention of queries (B, H, T, d), keys and values (B, G, T, d).

    Heads G divide H: each key serves H / G queries next to each other.
    """

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        output, divisor = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, is_causal=True, scale=scale
        )
        ctx.save_for_backward(query, key, value, divisor.to(query.dtype))
        ctx.scale = scale
        return output

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, divisor = ctx.saved_tensors
        (slope,) = slopes
        batch, heads, tokens, _ = query.shape
        groups = batch * key.shape[1]
        shared = heads // key.shape[1]

        def by_group(values: torch.Tensor) -> torch.Tensor:
            return values.reshape(groups, -1, values.shape[-1])

        q, k, v, d = by_group(query), by_group(key), by_group(value), by_group(slope)
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        less = by_group(divisor[..., None]).neg()
        later = torch.ones(tokens, tokens, dtype=torch.bool).triu_(1)
        step = max(1, SCORES_HELD // (shared * tokens * tokens))
        for start in range(0, groups, step):
            some = slice(start, start + step)
            scores = torch.baddbmm(less[some], q[some], k[some].mT, alpha=ctx.scale)
            scores.view(-1, shared, tokens, tokens).masked_fill_(later, float("-inf"))
            weights = scores.softmax(-1)
            torch.bmm(weights.mT, d[some], out=dv[some])
            # In one step, in float32: over the keys it sums to zero, and parts of it would not.
            change = torch.bmm(d[some], v[some].mT)
            change = torch.ops.aten._softmax_backward_data(change, weights, -1, weights.dtype)
            torch.bmm(change, k[some], out=dq[some])
            torch.bmm(change.mT, q[some], out=dk[some])
        dq.mul_(ctx.scale)
        dk.mul_(ctx.scale)
        return dq.view_as(query), dk.view_as(key), dv.view_as(value), None
