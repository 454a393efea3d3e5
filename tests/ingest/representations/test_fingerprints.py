"""Saliency, attention maps and classes of a target's examples, and TRIM's edge cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import trim_reference as reference
from helpers.tiny_models import tiny_backbone, tiny_conversations
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM

from coresetdb.ingest.conversations.tokenization import Encoded
from coresetdb.ingest.featurizer import Featurizer
from coresetdb.ingest.representations.registry import feature_spec, parse_features, recipe_for
from coresetdb.ingest.representations.trim_basis import OUTPUT
from coresetdb.ingest.representations.trim_fingerprints import (
    Saliency,
    attention_hooks,
    fingerprints,
    nearest_classes,
)
from coresetdb.schemas.errors import BackboneError
from coresetdb.schemas.instruction import Instruction
from coresetdb.store.catalog import Artifact


def uniform(tokens: int) -> torch.Tensor:
    """A causal map (1, 1, T, T) in which every token looks at all before it alike."""
    seen = torch.ones(tokens, tokens).tril()
    return (seen / seen.sum(1, keepdim=True))[None, None]


def alpha_of(weights: torch.Tensor, kept, window=None) -> np.ndarray:
    saliency = Saliency(np.asarray(kept))
    saliency.add(weights, window)
    return saliency.alpha()


def test_uniform_attention_is_constant_for_both_saliencies():
    assert alpha_of(uniform(12), range(12)).tolist() == [1.0] * 12
    # Among the kept tokens it is uniform too.
    assert alpha_of(uniform(12), [1, 4, 5, 9]).tolist() == [1.0] * 4


def test_a_single_token_weighs_one():
    assert alpha_of(uniform(3), [2]).tolist() == [1.0]


def test_rows_are_renormalised_over_kept_tokens():
    weights = torch.rand(1, 3, 9, 9).tril()
    weights[..., 0] += 50  # an attention sink in front
    weights /= weights.sum(-1, keepdim=True)
    kept = [2, 3, 5, 8]
    expected = reference.alphas([weights[0].double().numpy()], kept)
    assert np.allclose(alpha_of(weights, kept), expected, atol=1e-4)


def test_a_row_that_attends_to_template_tokens_alone_counts_as_uniform():
    weights = uniform(4).clone()
    weights[0, 0, 2] = torch.tensor([1.0, 0, 0, 0])
    blind = alpha_of(weights, [1, 2, 3])
    assert blind.tolist() == alpha_of(uniform(4), [1, 2, 3]).tolist()


def test_a_window_bounds_what_a_token_sees():
    seen = torch.ones(8, 8).tril() * torch.ones(8, 8).triu(-2)
    local = (seen / seen.sum(1, keepdim=True))[None, None]
    assert alpha_of(local, range(8), window=3).tolist() == [1.0] * 8
    assert alpha_of(local, range(8)).tolist() != [1.0] * 8


def test_a_class_whose_weights_are_all_zero_is_not_seen(monkeypatch):
    backbone = tiny_backbone()
    row = backbone.encode(Instruction.from_turns(("user", "abca")))
    kept = row.ids[row.content].tolist()
    a, b, c = kept[:3]
    assert kept == [a, b, c, a]
    monkeypatch.setattr(Saliency, "alpha", lambda self: np.array([0.0, 0.0, 0.5, 1.0]))
    found = fingerprints(backbone, [row], layers=4)
    assert found.classes.tolist() == sorted([a, c])
    monkeypatch.setattr(Saliency, "alpha", lambda self: np.zeros(4))
    assert fingerprints(backbone, [row], layers=4).vectors.shape == (0, 32)


def test_layers_beyond_the_models_are_all_it_has_and_one_is_the_last():
    backbone = tiny_backbone()
    row = backbone.encode(tiny_conversations()[0])
    model = AutoModelForCausalLM.from_pretrained(
        backbone.info.folder, attn_implementation="eager"
    ).eval()
    for layers in (1, 2, 9):
        found = fingerprints(backbone, [row], layers)
        expected = reference.fingerprints(model, [row], layers)
        for token, vector in zip(found.classes.tolist(), found.vectors, strict=True):
            assert np.linalg.norm(vector - expected[token]) < 1e-3


def test_several_examples_add_up_and_their_order_does_not_matter():
    backbone = tiny_backbone("gpt2")
    rows = [backbone.encode(tiny_conversation) for tiny_conversation in tiny_conversations()]
    one, other = fingerprints(backbone, rows, 4), fingerprints(backbone, rows[::-1], 4)
    assert np.array_equal(one.classes, other.classes)
    assert np.allclose(one.vectors, other.vectors, atol=1e-6)


def test_nearest_classes_by_the_cosine_of_embeddings():
    model = tiny_backbone("gpt_neox").model
    classes = np.array([3, 50, 51, 200, 319], dtype=np.int32)
    nearest = nearest_classes(model, classes)
    assert nearest.dtype == np.int32 and len(nearest) == model.config.vocab_size
    for token in range(0, model.config.vocab_size, 7):
        assert classes[nearest[token]] == reference.nearest(model, token, classes.tolist())
    assert classes[nearest[classes]].tolist() == classes.tolist()


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox", "mixtral", "cohere"])
def test_maps_are_read_and_the_model_left_as_it_was(architecture):
    backbone = tiny_backbone(architecture)
    model = backbone.model
    row = backbone.encode(tiny_conversations()[0])
    ids = torch.tensor(row.ids.tolist())[None]
    before = model.config._attn_implementation
    assert before != "eager"
    maps: list[torch.Tensor] = []
    with torch.inference_mode():
        plain = backbone.states(ids, torch.ones_like(ids, dtype=torch.bool)).hidden
        with attention_hooks(model, 1, lambda weights, window: maps.append(weights)):
            eager = backbone.states(ids, torch.ones_like(ids, dtype=torch.bool)).hidden
        again = backbone.states(ids, torch.ones_like(ids, dtype=torch.bool)).hidden
    assert model.config._attn_implementation == before
    assert len(maps) == 1 and maps[0].shape == (1, 4, len(row), len(row))
    assert torch.allclose(maps[0].sum(-1), torch.ones(1), atol=1e-5)
    assert torch.allclose(plain, eager, atol=1e-4) and torch.equal(plain, again)
    assert not any(module._forward_hooks for module in model.modules())
    assert not model.base_model._forward_pre_hooks


def test_the_model_is_left_as_it_was_after_a_failure():
    model = tiny_backbone().model
    before = model.config._attn_implementation
    with pytest.raises(ZeroDivisionError), attention_hooks(model, 2, lambda weights, window: None):
        raise ZeroDivisionError
    assert model.config._attn_implementation == before
    assert not any(module._forward_hooks for module in model.modules())


def test_a_model_without_maps_is_refused_by_name():
    config = AutoConfig.for_model(
        "mamba", vocab_size=64, hidden_size=16, num_hidden_layers=2, state_size=4, time_step_rank=2
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(BackboneError, match=r"mamba: 2 of the last 2 layers give no attention"):
        with torch.inference_mode(), attention_hooks(model, 4, lambda weights, window: None):
            model.base_model(input_ids=torch.arange(5)[None])


class Squares(TorchDispatchMode):
    """Counts tensors of at least heads x T x T numbers whose last two sizes are T."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads, self.found = heads, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        for each in output if isinstance(output, tuple | list) else [output]:
            if isinstance(each, torch.Tensor) and each.ndim >= 3:
                tokens = each.shape[-1]
                square = each.shape[-2] == tokens and tokens > 100
                self.found += square and each.numel() >= self.heads * tokens * tokens
        return output


def test_the_pools_passes_make_no_attention_map_and_a_targets_do():
    backbone = tiny_backbone()
    width, heads = backbone.info.hidden_size, 4
    rows = [Instruction.from_turns(("user", "sky " * n), ("assistant", "blue")) for n in (120, 130)]
    basis = Artifact({"basis": np.eye(width, dtype=np.float32)[:, :8]})
    recipe = recipe_for(feature_spec("trim"), backbone.info, {OUTPUT: basis}, {OUTPUT: "digest"})
    others = parse_features("rds,losses", backbone.info)
    featurizer = Featurizer(backbone, [recipe, *others], artifacts={"digest": basis})
    with Squares(heads) as pool:
        features = featurizer.compute(rows)
    lengths = [len(each) for each in features.encoded if isinstance(each, Encoded)]
    assert len(lengths) == 2 and min(lengths) > 100  # no other size can be that large
    assert pool.found == 0
    with Squares(heads) as target:
        fingerprints(backbone, [backbone.encode(rows[0])], layers=1)
    assert target.found > 0
