"""Causal attention on a CPU in bfloat16, as matrix products over blocks of queries.

Torch's own kernel spends most of its time preparing small blocks, above all in the backward: 14
rows of 144 tokens with 9 heads of 64 take it 50 ms forward and backward, the products 10 ms, and
2 rows of 1,024 tokens 106 and 47 ms (AVX512-bf16, one thread). In float32 the two differ little,
and torch's keeps no weights for the backward, so it stays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

QUERIES = 128
"""Most queries of a block. Smaller blocks multiply less of what is masked, and are more calls."""


class AttentionInBlocks(TorchFunctionMode):
    """Inside the block, `scaled_dot_product_attention` is computed here where that is faster.

    Its numbers differ by rounding: weights are rounded to bfloat16 before they meet the values.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is scaled_dot_product_attention and len(args) == 3:  # what else there is has a name
            if _is_suitable(*args, **kwargs):
                return causal_attention(*args, scale=kwargs.get("scale"))
        return func(*args, **kwargs)


def in_blocks(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether plain causal attention is computed in blocks there."""
    return device.type == "cpu" and dtype == torch.bfloat16


def _is_suitable(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> bool:
    """Return whether a call is plain causal attention of whole rows, and belongs here."""
    return (
        is_causal
        and attn_mask is None
        and not dropout_p
        and in_blocks(query.device, query.dtype)
        and query.ndim == 4
        and query.shape[2] == key.shape[2]
        and query.shape[1] % key.shape[1] == 0
        and key.shape[:3] == value.shape[:3]
    )


def causal_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None = None
) -> torch.Tensor:
    """Return the attention of every token to itself and those before it.

    Args:
        query: (B, H, T, d).
        key: (B, G, T, d); G divides H, and each of its heads serves H / G queries in a row.
        value: (B, G, T, v).
        scale: of the inner products; 1 / sqrt(d) by default.

    Returns:
        (B, H, T, v) in the queries' dtype.
    """
    rows, heads, tokens, width = query.shape
    groups, shared = rows * key.shape[1], heads // key.shape[1]
    queries = query.reshape(groups, shared, tokens, width)
    keys, values = key.reshape(groups, tokens, width), value.reshape(groups, tokens, -1)
    factor = float(width**-0.5 if scale is None else scale)
    step = -(-tokens // -(-tokens // QUERIES))
    blocks = []
    for start in range(0, tokens, step):
        end = min(tokens, start + step)
        # Queries that share keys are one matrix, so that no key is copied.
        block = queries[:, :, start:end].reshape(groups, -1, width)
        later = block.new_full((end - start, end), float("-inf")).triu_(start + 1)
        scores = torch.baddbmm(later.repeat(shared, 1), block, keys[:, :end].mT, alpha=factor)
        attended = torch.bmm(scores.softmax(-1), values[:, :end])
        blocks.append(attended.view(rows, heads, end - start, -1).transpose(1, 2))
    return torch.cat(blocks, 1).transpose(1, 2)
