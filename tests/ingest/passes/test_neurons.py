"""Activations handed over by the pass against their definition, on every architecture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.naive_neurons import naive_neurons
from helpers.tiny_models import ARCHITECTURES, tiny_backbone, tiny_conversations
from helpers.watcher import Watcher
from torch import nn

from coresetdb.ingest.models.batches import make_batch
from coresetdb.ingest.passes.feed_forward import feed_forwards, neuron_hooks
from coresetdb.ingest.passes.forward import run_pass
from coresetdb.ingest.passes.reducer import PassInputs
from coresetdb.schemas.errors import BackboneError

EXPERTS = ("mixtral", "qwen3_moe")


class Kept(Watcher):
    """All activations of a batch as (B, T, units of all layers), NaN where there is none."""

    def __init__(self, batch):
        self.shape, self.parts, self.gradients = tuple(batch.ids.shape), [], 0

    def gradient(self, gradient):
        self.gradients += 1

    def neurons(self, part):
        self.parts.append(part)

    def whole(self):
        total = self.parts[-1].start + self.parts[-1].units
        values = torch.full((self.shape[0] * self.shape[1], total), torch.nan)
        for part in self.parts:
            first = part.start + part.offset
            columns = slice(first, first + part.values.shape[-1])
            if part.tokens is None:
                values[:, columns] = part.values.flatten(0, 1)
            else:
                values[part.tokens, columns] = part.values
        return values.reshape(*self.shape, total)


def read(backbone, rows, side="right"):
    batch = make_batch(rows, backbone.padding_token, backbone.device, side)
    kept = Kept(batch)
    run_pass(backbone, batch, [(PassInputs(neurons=True), kept)])
    return batch, kept


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_equal_their_definition(architecture, side):
    backbone = tiny_backbone(architecture)
    rows = backbone.encode_all(tiny_conversations())
    batch, kept = read(backbone, rows, side)
    values = kept.whole()
    for index, row in enumerate(rows):
        expected = np.concatenate(naive_neurons(backbone.model, row.ids), axis=1)
        got = values[index][batch.mask[index]].numpy()
        assert (np.isnan(got) == np.isnan(expected)).all()
        error = np.nan_to_num(got - expected)
        assert np.linalg.norm(error) < 1e-4 * np.linalg.norm(np.nan_to_num(expected))


@pytest.mark.parametrize("architecture", EXPERTS)
def test_experts_of_our_own_give_what_the_models_give(architecture):
    backbone = tiny_backbone(architecture)
    (row,) = backbone.encode_all(tiny_conversations()[:1])
    ids = torch.tensor(row.ids.tolist())[None]
    with torch.no_grad():
        expected = backbone.model(ids).logits
        with neuron_hooks(backbone.model, [Kept(make_batch([row], 0, ids.device))], ids):
            got = backbone.model(ids).logits
        again = backbone.model(ids).logits
    assert (got - expected).norm() < 1e-4 * expected.norm()
    assert torch.equal(again, expected)  # the model is left as it was


@pytest.mark.parametrize("architecture", ["llama", "mixtral"])
@pytest.mark.parametrize("checkpointing", [True, False])
def test_a_backward_for_others_tells_nothing_twice(architecture, checkpointing):
    backbone = tiny_backbone(architecture)
    rows = backbone.encode_all(tiny_conversations()[:3])
    batch, once = read(backbone, rows)
    kept = Kept(batch)
    needs = PassInputs(neurons=True, gradients=True)
    run_pass(backbone, batch, [(needs, kept)], checkpointing=checkpointing)
    assert kept.gradients > 0
    assert len(kept.parts) == len(once.parts)
    assert not any(part.values.requires_grad for part in kept.parts)
    got, expected = kept.whole()[batch.mask], once.whole()[batch.mask]
    assert torch.allclose(got, expected, atol=1e-5, equal_nan=True)


def test_units_are_counted_through_layers_and_experts():
    model = tiny_backbone("mixtral").model
    assert [(part.start, part.units, part.width) for part in feed_forwards(model)] == [
        (0, 4 * 48, 48),
        (4 * 48, 4 * 48, 48),
    ]


def test_a_shared_expert_stands_beside_the_others():
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "qwen2_moe",
        vocab_size=64,
        hidden_size=16,
        intermediate_size=24,
        moe_intermediate_size=8,
        shared_expert_intermediate_size=12,
        num_experts=4,
        num_experts_per_tok=2,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        mlp_only_layers=[1],
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    parts = feed_forwards(model)
    assert sorted((each.layer, each.width, each.experts) for each in parts) == [
        (0, 8, 4),
        (0, 12, 0),
        (1, 24, 0),
    ]
    assert [part.start for part in parts] == [0, 0, 44]
    ids = torch.arange(6)[None]
    kept = Kept(type("Ids", (), {"ids": ids}))
    with torch.no_grad():
        expected = model(ids).logits
        with neuron_hooks(model, [kept], ids):
            assert torch.allclose(model(ids).logits, expected, atol=1e-5)
    routed = (~kept.whole()[0].isnan()).sum(1)
    assert routed.tolist() == [12 + 2 * 8 + 24] * 6


def test_flat_inputs_and_other_names():
    """OPT flattens the batch before its feed-forward network and calls it fc2."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "opt",
        vocab_size=64,
        hidden_size=16,
        ffn_dim=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        word_embed_proj_dim=16,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    ids = torch.arange(12).reshape(2, 6) + 3
    kept = Kept(type("Ids", (), {"ids": ids}))
    with torch.no_grad(), neuron_hooks(model, [kept], ids):
        model(ids)
    assert [tuple(part.values.shape) for part in kept.parts] == [(2, 6, 24)] * 2
    assert (kept.whole() >= 0).all()  # the output of relu


def test_unknown_experts_are_refused_by_name():
    class Strange(nn.Module):
        def __init__(self):
            super().__init__()
            self.bank = nn.Parameter(torch.zeros(2, 3, 3))

    model = tiny_backbone("llama").model
    layers = model.base_model.layers
    kept = layers[0].mlp
    layers[0].mlp = Strange()
    try:
        with pytest.raises(BackboneError, match=r"llama: the experts in mlp are of no known form"):
            feed_forwards(model)
    finally:
        layers[0].mlp = kept
