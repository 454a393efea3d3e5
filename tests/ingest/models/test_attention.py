"""Attention in blocks of queries equals its definition, forward and backward."""

from __future__ import annotations

import pytest
import torch
from helpers.tiny_models import ARCHITECTURES, tiny_backbone
from torch.nn.functional import scaled_dot_product_attention

from coresetdb.ingest.models import attention as module
from coresetdb.ingest.models.attention import AttentionInBlocks, causal_attention


def naive(query, key, value, scale):
    """Every pair of tokens, in float64, each head with keys of its own."""
    shared = query.shape[1] // key.shape[1]
    key, value = (each.repeat_interleave(shared, 1) for each in (key, value))
    scores = scale * query @ key.mT
    later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return scores.masked_fill(later, float("-inf")).softmax(-1) @ value


def distance(values, wanted):
    return float((values.detach().double() - wanted.detach()).norm() / wanted.detach().norm())


@pytest.mark.parametrize("tokens", (1, 5, 16, 17, 50))
@pytest.mark.parametrize("dtype, bound", [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("heads, groups, width", [(4, 4, 8), (6, 2, 8), (3, 1, 5)])
def test_equals_its_definition(tokens, dtype, bound, heads, groups, width, monkeypatch):
    """With and without shared keys, values of another width, one block and several."""
    monkeypatch.setattr(module, "QUERIES", 16)
    draw = torch.Generator().manual_seed(tokens)
    shapes = [(heads, 8), (groups, 8), (groups, width)]
    inputs = [torch.randn(3, n, tokens, size, generator=draw).to(dtype) for n, size in shapes]
    slope = torch.randn(3, heads, tokens, width, generator=draw).to(dtype)
    for scale in (None, 0.7):
        ours = [each.clone().requires_grad_() for each in inputs]
        output = causal_attention(*ours, scale)
        output.backward(slope)
        exact = [each.double().requires_grad_() for each in inputs]
        wanted = naive(*exact, 8**-0.5 if scale is None else scale)
        wanted.backward(slope.double())
        assert output.dtype == dtype and distance(output, wanted) < bound
        for one, other in zip(ours, exact, strict=True):
            if other.grad.norm() > 1e-9:  # with one token the weights are constant
                assert distance(one.grad, other.grad) < bound


def test_is_taken_for_plain_causal_attention_in_bfloat16_alone(monkeypatch):
    taken = []
    monkeypatch.setattr(
        module, "causal_attention", lambda q, *others, **options: taken.append(1) or q.clone()
    )
    query = torch.randn(2, 4, 6, 8, dtype=torch.bfloat16)
    few = query[:, :2]
    mask = torch.ones(6, 6, dtype=torch.bool)
    with AttentionInBlocks():
        scaled_dot_product_attention(query, query, query, is_causal=True)
        scaled_dot_product_attention(query, few, few, is_causal=True, enable_gqa=True, scale=1.0)
        assert len(taken) == 2
        scaled_dot_product_attention(query, query, query)
        scaled_dot_product_attention(query, query, query, attn_mask=mask)
        scaled_dot_product_attention(query, query, query, None, 0.0, True)
        scaled_dot_product_attention(query, key=query, value=query, is_causal=True)
        scaled_dot_product_attention(query, query, query, is_causal=True, dropout_p=0.5)
        scaled_dot_product_attention(query[:, :, :3], query, query, is_causal=True)
        scaled_dot_product_attention(*[query.float()] * 3, is_causal=True)
    scaled_dot_product_attention(query, query, query, is_causal=True)
    assert len(taken) == 2


MIXTURES = ("mixtral", "qwen3_moe")
"""In bfloat16 rounding sends some of their tokens to other experts, by either attention."""


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in MIXTURES])
def test_models_give_the_same_states_by_it(name, monkeypatch):
    """Rows padded at the end, in bfloat16: as near to float32 as by torch's attention."""
    backbone, exact = (tiny_backbone(name, dtype=dtype) for dtype in ("bfloat16", "float32"))
    ids = torch.arange(60).view(2, -1) % backbone.info.vocabulary
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[1, 20:] = False
    exact.model.load_state_dict(backbone.model.state_dict())

    def error() -> float:
        with torch.inference_mode():
            wanted = exact.states(ids, mask).hidden[mask].double()
            return distance(backbone.states(ids, mask).hidden[mask], wanted)

    blocks = error()
    monkeypatch.setattr(module, "_is_suitable", lambda *args, **kwargs: False)
    assert blocks < max(1.5 * error(), 1e-3) and blocks < 5e-2
