"""The written RMS norm against the formula in float64, and against models' own."""

from __future__ import annotations

import pytest
import torch
from tiny_models import tiny_backbone, tiny_conversations
from torch import nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from coresetdb.ingest.models.batches import make_batch
from coresetdb.ingest.passes import cpu_backwards, forward
from coresetdb.ingest.passes.cpu_backwards import written_norms
from coresetdb.ingest.passes.forward import run_pass
from coresetdb.ingest.passes.gradient_reducers import GradientNorm
from coresetdb.ingest.passes.reducer import PassInputs


@pytest.fixture
def taken(monkeypatch):
    """Shapes of the states that went through the written norm."""
    shapes: list[torch.Size] = []
    apply = cpu_backwards._Norm.apply

    def counted(states, *others):
        shapes.append(states.shape)
        return apply(states, *others)

    monkeypatch.setattr(cpu_backwards._Norm, "apply", counted)
    return shapes


def a_norm(dtype, kind=LlamaRMSNorm, epsilon=1e-3):
    draw = torch.Generator().manual_seed(0)
    module = kind(24, epsilon)
    module.weight = nn.Parameter(torch.rand(24, generator=draw) + 0.5, requires_grad=False)
    return module.to(dtype)


def differentiated(module, states, slope):
    states = states.detach().requires_grad_()
    output = module(states)
    return output.detach(), torch.autograd.grad(output, states, slope)[0]


def error(found, expected):
    return float((found.double() - expected).detach().norm() / expected.detach().norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1, 0.01])  # where epsilon counts
@pytest.mark.parametrize("turned", [False, True])
def test_as_exact_as_autograd(dtype, size, turned, taken):
    draw = torch.Generator().manual_seed(1)
    states, slope = (torch.randn(3, 5, 2, 24, generator=draw) for _ in range(2))
    states, slope = (size * states).to(dtype), slope.to(dtype)
    if turned:  # as slopes come back from attention
        slope = slope.transpose(1, 2).contiguous().transpose(1, 2)
    module = a_norm(dtype)
    with written_norms(module):
        output, found = differentiated(module, states, slope)
    assert taken == [states.shape]
    own_output, own = differentiated(module, states, slope)

    exact = states.double().requires_grad_()
    scaled = exact * (exact.square().mean(-1, keepdim=True) + 1e-3).rsqrt()
    expected_output = scaled * module.weight.double()
    (expected,) = torch.autograd.grad(expected_output, exact, slope.double())
    assert error(output, expected_output) <= 1.01 * error(own_output, expected_output) + 1e-7
    assert error(found, expected) < 1.25 * error(own, expected) + 1e-7


@pytest.mark.parametrize("what", ["adds 1 to its weight", "trained", "another epsilon"])
def test_other_norms_stay_as_they_are(what, taken):
    kind = GemmaRMSNorm if what == "adds 1 to its weight" else LlamaRMSNorm
    module = a_norm(torch.float32, kind)
    if what == "trained":
        module.weight.requires_grad_()
    if what == "another epsilon":
        module.eps = 1.0
    with written_norms(module):
        module(torch.ones(2, 24))
    assert not taken


def test_a_norm_is_itself_again_after_the_block(taken):
    module = a_norm(torch.float32)
    with pytest.raises(ZeroDivisionError), written_norms(module):
        raise ZeroDivisionError
    module(torch.ones(2, 24))
    assert not taken and "forward" not in vars(module)


@pytest.mark.parametrize(
    "architecture, per_layer, after", [("llama", 2, 1), ("qwen3", 4, 1), ("gpt2", 0, 0)]
)
def test_gradient_norms_of_a_model(architecture, per_layer, after, taken, monkeypatch):
    backbone = tiny_backbone(architecture)
    rows = [row for row in backbone.encode_all(tiny_conversations()) if row.response_tokens]
    batch = make_batch(rows, backbone.padding_token, backbone.device)

    def gradient_norms():
        reducer = GradientNorm(None)
        run_pass(backbone, batch, [(PassInputs(gradients=True), reducer)])
        return reducer.columns()["norm"]

    written = gradient_norms()
    assert len(taken) == per_layer * backbone.info.layers + after
    monkeypatch.setattr(forward, "written_norms", lambda model: torch.enable_grad())
    assert gradient_norms() == pytest.approx(written, rel=1e-5)
    assert len(taken) == per_layer * backbone.info.layers + after
