"""The backward of causal attention on a CPU, written out in bfloat16.

In short rows torch's own takes most of its time preparing blocks: at 2,048 tokens in rows of 128
it needs 20 ms a layer of the built-in proxy and the products written out 5 ms; at 704 they need 15
and 13, and in rows of 1,024 torch's is the faster one. In the last layer of a model that answers
shortly most queries have no gradient, and their blocks are skipped, which torch does not do. In
float32 torch's is the faster one throughout, so it stays.

RMS norms on a CPU with a backward of one kernel.

As models write them (cast, square, mean, root, two products, and autograd's backward of each) a
norm of 2,048 tokens of the built-in proxy takes 3.2 ms of forward and backward in bfloat16, and
1.3 ms so; the forward gives the same numbers up to rounding.

What is differentiated faster than autograd does it, in one block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from ..models.anatomy import forward_replaced

LONGEST = 768
"""Tokens of a row up to which the written backward is taken for all queries."""
QUERIES = 256
"""Of a row whose scores are made at once: less of what comes after them is made and dropped."""
SCORES_HELD = 1 << 20
"""Attention scores made at once: 2 MB in bfloat16, which stay in the caches."""


class WrittenAttention(TorchFunctionMode):
    """Inside the block attention that will be differentiated gets the written backward, where it
    is the faster one.

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
        ctx.save_for_backward(query, key, value, output, divisor)
        ctx.scale = scale
        return output

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, output, divisor = ctx.saved_tensors
        (slope,) = slopes
        blocks = _blocks_with_gradients(slope)
        if query.shape[2] <= LONGEST or 2 * len(blocks) * QUERIES <= query.shape[2]:
            found = _attention_backward(slope, query, key, value, divisor, ctx.scale, blocks)
        else:
            found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                slope, query, key, value, output, divisor, 0.0, True, scale=ctx.scale
            )
        return *found, None


def _blocks_with_gradients(slope: torch.Tensor) -> list[tuple[int, int]]:
    """First and end of the blocks of queries whose slopes (B, H, T, d) are not all 0."""
    tokens = slope.shape[2]
    if tokens <= QUERIES:
        return [(0, tokens)]
    moved = (slope != 0).any(3).any(1).any(0)
    edges = [(start, min(tokens, start + QUERIES)) for start in range(0, tokens, QUERIES)]
    return [(start, end) for start, end in edges if bool(moved[start:end].any())]


def _attention_backward(
    slope: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    divisor: torch.Tensor,
    scale: float,
    blocks: list[tuple[int, int]],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients by queries, keys and values, of the queries in some blocks of tokens."""
    batch, heads, tokens, width = query.shape
    groups = batch * key.shape[1]
    shared = heads // key.shape[1]
    q, d = (each.reshape(groups, shared, tokens, width) for each in (query, slope))
    k, v = (each.reshape(groups, tokens, width) for each in (key, value))
    less = divisor.neg().to(query.dtype).reshape(groups, shared, tokens, 1)
    dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    later = torch.ones(QUERIES, QUERIES, dtype=torch.bool).triu_(1)
    for start, end in blocks:
        count = end - start
        step = max(1, SCORES_HELD // (shared * count * end))
        for first in range(0, groups, step):
            some = slice(first, first + step)
            qs, ds, ls = (each[some, :, start:end].flatten(1, 2) for each in (q, d, less))
            ks, vs = k[some, :end], v[some, :end]
            scores = torch.baddbmm(ls, qs, ks.mT, alpha=scale)
            own = scores.view(-1, shared, count, end)[..., start:]
            own.masked_fill_(later[:count, :count], float("-inf"))
            weights = scores.softmax(-1)
            dv[some, :end].baddbmm_(weights.mT, ds)
            # In one step, in float32: over the keys it sums to zero, and parts of it would not.
            change = torch.bmm(ds, vs.mT)
            change = torch.ops.aten._softmax_backward_data(change, weights, -1, weights.dtype)
            dq[some, :, start:end] = torch.bmm(change, ks).view(-1, shared, count, width)
            dk[some, :end].baddbmm_(change.mT, qs)
    dq.mul_(scale)
    dk.mul_(scale)
    return dq.view_as(query), dk.view_as(key), dv.view_as(value)


_EPSILONS = ("variance_epsilon", "eps")
_FOUND: WeakKeyDictionary[nn.Module, list[tuple[nn.Module, float]]] = WeakKeyDictionary()
"""Of a model: the norms that can be written so, with their epsilons."""


@contextmanager
def written_norms(model: nn.Module) -> Iterator[None]:
    """Inside the block the model's RMS norms get the written backward, where they are such norms.

    Those are on a CPU and frozen, and give what the formula gives: tried, not looked up, as some
    add 1 to their weight.
    """
    if model not in _FOUND:
        _FOUND[model] = [
            (module, epsilon)
            for module in model.modules()
            if (epsilon := _epsilon(module)) is not None
        ]
    with ExitStack() as replaced:
        for module, epsilon in _FOUND[model]:
            replaced.enter_context(forward_replaced(module, _norm_backward(module, epsilon)))
        yield


def _norm_backward(module: nn.Module, epsilon: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda states: _Norm.apply(states, module.weight, epsilon)


@torch.inference_mode()
def _epsilon(module: nn.Module) -> float | None:
    """Epsilon of a frozen RMS norm on a CPU; None of any other module."""
    weight: Any = getattr(module, "weight", None)
    found = [value for n in _EPSILONS if isinstance(value := getattr(module, n, None), float)]
    if (
        not type(module).__name__.endswith("RMSNorm")
        or not isinstance(weight, torch.Tensor)
        or weight.ndim != 1
        or weight.requires_grad
        or weight.device.type != "cpu"
        or len(found) != 1
        or list(module.children())
    ):
        return None
    (epsilon,) = found
    # Once of usual size, once so small that epsilon counts.
    tries = torch.arange(1.0, 2 * len(weight) + 1).sin().view(2, -1).to(weight.dtype)
    tries[1] *= epsilon**0.5
    expected, given = module(tries), _scaled(tries, weight, epsilon)[0]
    same = torch.allclose(given.float(), expected.float(), rtol=1e-2, atol=1e-6)
    return epsilon if same and given.dtype == expected.dtype else None


def _scaled(
    states: torch.Tensor, weight: torch.Tensor, epsilon: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The norm's output (..., D), and one over the root mean square (..., 1) float32."""
    length = torch.linalg.vector_norm(states, dim=-1, keepdim=True, dtype=torch.float32)
    scale = length.square_().div_(states.shape[-1]).add_(epsilon).rsqrt_()
    return (states.float() * scale).to(states.dtype).mul_(weight), scale


class _Norm(torch.autograd.Function):
    """weight * x / sqrt(mean(x^2) + epsilon) over the last dimension; the weight is frozen."""

    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, weight: torch.Tensor, epsilon: float
    ) -> torch.Tensor:
        output, scale = _scaled(states, weight, epsilon)
        ctx.save_for_backward(states, weight, scale)
        return output

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        states, weight, scale = ctx.saved_tensors
        (slope,) = slopes
        # The backward of a layer norm whose mean is 0, less the part that comes by the mean.
        back, _, _ = torch.ops.aten.native_layer_norm_backward(
            slope,
            states,
            [states.shape[-1]],
            torch.zeros_like(scale),
            scale,
            weight.float(),
            None,
            [True, False, False],
        )
        by_mean = (slope @ weight)[..., None].float() * (scale / states.shape[-1])
        return back.add_(by_mean.to(back.dtype)), None, None


@contextmanager
def fast_backwards(model: nn.Module) -> Iterator[None]:
    """Inside the block a forward leaves the written backwards of attention and of norms."""
    with WrittenAttention(), written_norms(model):
        yield
