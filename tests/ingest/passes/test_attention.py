"""The written backward of attention against attention spelled out in float64."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_models import tiny_backbone, tiny_conversations
from torch.nn.functional import scaled_dot_product_attention as attend

from coresetdb.ingest.models.batches import make_batch
from coresetdb.ingest.passes import cpu_backwards
from coresetdb.ingest.passes.cpu_backwards import WrittenAttention
from coresetdb.ingest.passes.forward import run_pass
from coresetdb.ingest.passes.gradient_reducers import GradientNorm
from coresetdb.ingest.passes.reducer import PassInputs


def tensors(batch, heads, groups, tokens, width=16, dtype=torch.bfloat16):
    """Queries, keys, values as models make them (B, T, H, d) and turn them, and a slope."""
    generator = torch.Generator().manual_seed(tokens)
    return [
        torch.randn(batch, tokens, each, width, generator=generator).to(dtype).transpose(1, 2)
        for each in (heads, groups, groups, heads)
    ]


def naive(q, k, v, slope, scale):
    """Gradients by q, k and v, a query at a time, in float64."""
    q, k, v = (each.double().detach().requires_grad_() for each in (q, k, v))
    shared = q.shape[1] // k.shape[1]
    total = torch.zeros((), dtype=torch.float64)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            for t in range(q.shape[2]):
                seen = k[b, h // shared, : t + 1] @ q[b, h, t] * scale
                output = seen.softmax(0) @ v[b, h // shared, : t + 1]
                total = total + output @ slope[b, h, t].double()
    return torch.autograd.grad(total, (q, k, v))


def differentiated(q, k, v, slope, **settings):
    q, k, v = (each.detach().requires_grad_() for each in (q, k, v))
    output = attend(q, k, v, **settings)
    return output.detach(), torch.autograd.grad(output, (q, k, v), slope)


def errors(found, expected):
    return [
        float((one.double() - other).norm() / other.norm())
        for one, other in zip(found, expected, strict=True)
    ]


@pytest.fixture
def taken(monkeypatch):
    """The lengths of rows whose attention got the written backward."""
    lengths: list[int] = []
    apply = cpu_backwards._Attention.apply

    def counted(query, *others):
        lengths.append(query.shape[2])
        return apply(query, *others)

    monkeypatch.setattr(cpu_backwards._Attention, "apply", counted)
    return lengths


@pytest.mark.parametrize(
    "shape",
    [(3, 4, 2, 37), (1, 4, 4, 20), (2, 2, 2, 2), (2, 6, 1, 33), (1, 2, 1, 90, 32)],
)
@pytest.mark.parametrize(
    "held, queries", [(1, 16), (cpu_backwards.SCORES_HELD, cpu_backwards.QUERIES)]
)
@pytest.mark.parametrize("keys_offset, values_offset", [(0, 0), (10, 0), (0, 3)])
def test_as_exact_as_torch_in_bfloat16(
    shape, held, queries, keys_offset, values_offset, taken, monkeypatch
):
    """With a common offset too, as biased projections give: it must cancel."""
    monkeypatch.setattr(cpu_backwards, "SCORES_HELD", held)
    monkeypatch.setattr(cpu_backwards, "QUERIES", queries)
    q, k, v, slope = tensors(*shape)
    k, v = k + keys_offset, v + values_offset
    scale = 0.3
    settings = dict(is_causal=True, scale=scale, enable_gqa=q.shape[1] != k.shape[1])
    with WrittenAttention():
        output, written = differentiated(q, k, v, slope, **settings)
    assert taken == [shape[3]]
    torchs_output, torchs = differentiated(q, k, v, slope, **settings)
    assert torch.equal(output, torchs_output)
    expected = naive(q, k, v, slope, scale)
    for one, other in zip(errors(written, expected), errors(torchs, expected), strict=True):
        assert one < 1.5 * other + 1e-3


def test_queries_without_a_gradient_are_skipped_in_rows_of_any_length(taken, monkeypatch):
    """As in the last layer where only the answer's tokens have one."""
    monkeypatch.setattr(cpu_backwards, "QUERIES", 16)
    monkeypatch.setattr(cpu_backwards, "LONGEST", 0)
    q, k, v, slope = tensors(2, 4, 2, 75)
    slope[0, :, :66] = 0
    slope[1, :, :70] = 0
    torchs = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    monkeypatch.setattr(cpu_backwards.torch.ops.aten, torchs.__name__, None, raising=False)
    with WrittenAttention():
        _, written = differentiated(q, k, v, slope, is_causal=True, enable_gqa=True)
    assert taken == [75]
    assert not written[0][:, :, :64].any() and written[0][:, :, 70:].all(3).any()
    assert max(errors(written, naive(q, k, v, slope, 1 / math.sqrt(16)))) < 1e-2


def test_long_rows_get_torchs(taken, monkeypatch):
    monkeypatch.setattr(cpu_backwards, "LONGEST", 32)
    monkeypatch.setattr(cpu_backwards, "QUERIES", 16)
    tensors_ = tensors(2, 4, 2, 75)
    settings = dict(is_causal=True, enable_gqa=True)
    with WrittenAttention():
        _, found = differentiated(*tensors_, **settings)
    assert taken == [75]
    assert all(map(torch.equal, found, differentiated(*tensors_, **settings)[1]))


def test_one_token_sees_itself_alone(taken):
    q, k, v, slope = tensors(5, 2, 2, 1)
    with WrittenAttention():
        _, (dq, dk, dv) = differentiated(q, k, v, slope, is_causal=True)
    assert taken == [1]
    assert torch.equal(dv, slope)
    assert float(dq.abs().max()) < 0.1 and float(dk.abs().max()) < 0.1


def test_scores_too_large_for_an_exponential(taken):
    q, k, v, slope = tensors(2, 2, 2, 12)
    with WrittenAttention():
        _, found = differentiated(100 * q, k, v, slope, is_causal=True)
    assert taken == [12]
    assert all(bool(each.isfinite().all()) for each in found)
    expected = naive(100 * q, k, v, slope, 1 / math.sqrt(16))
    assert max(errors(found[2:], expected[2:])) < 1e-2


@pytest.mark.parametrize(
    "what",
    [
        *("float32", "everything seen", "a mask", "keys for all", "wider values"),
        "no gradient asked for",
    ],
)
def test_anything_else_is_torchs(what, taken):
    dtype = torch.float32 if what == "float32" else torch.bfloat16
    q, k, v, slope = tensors(1, 2, 2, 9, dtype=dtype)
    if what == "wider values":
        v, slope = torch.cat([v, v], -1), torch.cat([slope, slope], -1)
    if what == "keys for all":  # torch spreads them over the batch
        q, slope = q.expand(2, -1, -1, -1), slope.expand(2, -1, -1, -1)
    settings: dict = {"is_causal": what not in ("everything seen", "a mask")}
    if what == "a mask":
        settings["attn_mask"] = torch.ones(9, 9, dtype=torch.bool).tril_()
    if what == "no gradient asked for":
        with WrittenAttention():
            found = attend(q, k, v, **settings)
        assert torch.equal(found, attend(q, k, v, **settings))
    else:
        with WrittenAttention():
            found = differentiated(q, k, v, slope, **settings)
        expected = differentiated(q, k, v, slope, **settings)
        assert torch.equal(found[0], expected[0])
        assert all(map(torch.equal, found[1], expected[1]))
    assert not taken


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox"])
def test_gradient_norms_of_a_model_in_bfloat16(architecture, taken, monkeypatch):
    backbone = tiny_backbone(architecture, "bfloat16")
    rows = [row for row in backbone.encode_all(tiny_conversations()) if row.response_tokens]

    def norms():
        reducer = GradientNorm(None)
        batch = make_batch(rows, backbone.padding_token, backbone.device)
        run_pass(backbone, batch, [(PassInputs(gradients=True), reducer)])
        return reducer.columns()["norm"]

    written = norms()
    assert len(taken) == backbone.info.layers
    monkeypatch.setattr(cpu_backwards, "_suits", lambda *args, **kwargs: False)
    torchs = norms()
    assert len(taken) == backbone.info.layers
    assert written == pytest.approx(torchs, rel=3e-2)
