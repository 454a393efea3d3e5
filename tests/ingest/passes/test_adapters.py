"""Adapters applied by hooks, and in place of peft's layers, against peft's own model."""

from __future__ import annotations

import pytest
import torch
from helpers.tiny_adapters import in_peft, random_adapter
from helpers.tiny_models import ARCHITECTURES, tiny_backbone, tiny_conversations

from coresetdb.ingest.models.anatomy import attention_projections
from coresetdb.ingest.models.batches import make_batch
from coresetdb.ingest.passes.adapters import adapter_applied, low_rank_modules, peft_in_model_dtype
from coresetdb.schemas.errors import BackboneError


def a_batch(backbone):
    rows = backbone.encode_all(tiny_conversations())
    return make_batch(rows, backbone.padding_token, backbone.device)


def run(model, batch):
    with torch.no_grad():
        logits = model(input_ids=batch.ids, attention_mask=batch.mask.long()).logits
    return logits.float()[batch.mask]


def error(found, expected):
    """Of the median token: in bfloat16 rounding sends some to another expert."""
    return ((found - expected).norm(dim=-1) / expected.norm(dim=-1)).median()


@pytest.mark.parametrize("dtype, bound", [("float32", 1e-5), ("bfloat16", 3e-2)])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_equals_peft(architecture, dtype, bound):
    backbone = tiny_backbone(architecture, dtype)
    adapter, batch = random_adapter(backbone), a_batch(backbone)
    bare = run(backbone.model, batch)
    with adapter_applied(backbone.model, adapter) as modules:
        dressed = run(backbone.model, batch)
    expected = run(in_peft(backbone, adapter), batch)
    assert error(dressed, expected) < bound
    assert error(bare, expected) > 0.1
    if dtype == "float32":
        assert (dressed - expected).norm() / expected.norm() < bound
    assert list(modules) == attention_projections(backbone.model)
    assert torch.equal(run(backbone.model, batch), bare)


def test_an_adapter_is_placed_once_and_then_used_by_passes_with_and_without_gradients():
    backbone = tiny_backbone()
    adapter, batch = random_adapter(backbone), a_batch(backbone)
    with torch.inference_mode(), adapter_applied(backbone.model, adapter) as first:
        run(backbone.model, batch)
    with adapter_applied(backbone.model, adapter) as second:
        states = backbone.model.get_input_embeddings()(batch.ids).requires_grad_()
        backbone.model(inputs_embeds=states).logits.sum().backward()
    assert states.grad is not None and states.grad.any()
    assert second is first
    assert low_rank_modules(backbone.model, random_adapter(backbone, 1)) is not first


def test_an_adapter_for_another_model_is_refused():
    adapter = random_adapter(tiny_backbone("llama"))
    with pytest.raises(BackboneError, match="was made for a module"):
        low_rank_modules(tiny_backbone("gpt2").model, adapter)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("dtype, bound", [("float32", 1e-5), ("bfloat16", 3e-2)])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_peft_layers_in_the_models_dtype_equal_peft(architecture, dtype, bound, trained):
    backbone = tiny_backbone(architecture, dtype)
    batch = a_batch(backbone)
    bare = run(backbone.model, batch)
    model = in_peft(backbone, random_adapter(backbone))
    expected = run(model, batch)
    with peft_in_model_dtype(model, trained):
        found = run(model, batch)
    assert error(found, expected) < bound
    assert error(bare, expected) > 0.1
    assert torch.equal(run(model, batch), expected)


@pytest.mark.parametrize("dtype, least", [("float32", 0.99999), ("bfloat16", 0.98)])
def test_gradients_through_peft_layers_are_pefts_and_keep_their_dtype(dtype, least):
    backbone = tiny_backbone(dtype=dtype)
    batch = a_batch(backbone)
    model = in_peft(backbone, random_adapter(backbone))
    weights = [weight for name, weight in model.named_parameters() if "lora_" in name]

    def gradients():
        logits = model(input_ids=batch.ids, attention_mask=batch.mask.long()).logits
        loss = logits.float()[batch.mask].logsumexp(-1).sum()
        return torch.autograd.grad(loss, weights)

    expected = gradients()
    with peft_in_model_dtype(model, trained=False):
        found = gradients()
    for weight, ours, pefts in zip(weights, found, expected, strict=True):
        assert weight.dtype == ours.dtype == torch.float32
        assert torch.cosine_similarity(ours.flatten(), pefts.flatten(), dim=0) > least
