"""Passes whose last feed-forward network runs at some tokens give what whole passes give."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from helpers.tiny_adapters import random_adapter
from helpers.tiny_models import ARCHITECTURES, tiny_backbone, tiny_conversations
from helpers.watcher import Watcher

from coresetdb.ingest.fits import lora
from coresetdb.ingest.fits.lora import LoraTraining
from coresetdb.ingest.models.anatomy import forward_replaced
from coresetdb.ingest.models.batches import make_batch
from coresetdb.ingest.passes import forward, token_skipping
from coresetdb.ingest.passes.forward import run_pass
from coresetdb.ingest.passes.gradient_reducers import GradientNorm
from coresetdb.ingest.passes.reducer import PassInputs
from coresetdb.ingest.passes.token_skipping import final_states_only_at, last_feed_forward

EXPERTS = ("mixtral", "qwen3_moe")


def rows_of(backbone):
    return [row for row in backbone.encode_all(tiny_conversations()) if row.response_tokens]


def a_batch(backbone, side="right"):
    return make_batch(rows_of(backbone), backbone.padding_token, backbone.device, side)


@pytest.fixture
def always(monkeypatch):
    """Skip tokens however few can be skipped; lists how many the last network saw."""
    seen: list[int] = []
    run = token_skipping._running_at

    def counted(module, shape, at, count):
        seen.append(len(at))
        return run(module, shape, at, count)

    monkeypatch.setattr(token_skipping, "MOST_TOKENS", 2.0)
    monkeypatch.setattr(token_skipping, "_running_at", counted)
    return seen


def run_all_tokens(monkeypatch):
    for module in (forward, token_skipping):
        monkeypatch.setattr(module, "final_states_only_at", lambda *args: nullcontext())


class Kept(Watcher):
    """The final states, or what the logits are."""

    def hidden(self, states):
        self.states = states.clone()

    def logits(self, logits, targets, rows):
        self.scores = logits.clone()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_which_network_is_the_last_is_found_by_trying(architecture):
    name = last_feed_forward(tiny_backbone(architecture))
    if architecture in EXPERTS:
        assert name is None
    else:
        last = tiny_backbone(architecture).info.layers - 1
        assert name is not None and f".{last}." in name and name.endswith("mlp")


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("dtype, bound", [("float32", 1e-5), ("bfloat16", 3e-2)])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradients_and_logits(architecture, dtype, bound, side, always, monkeypatch):
    backbone = tiny_backbone(architecture, dtype)
    batch, adapter = a_batch(backbone, side), random_adapter(backbone)
    last_feed_forward(backbone)  # tried once per model
    always.clear()

    def found():
        norm, kept = GradientNorm(None), Kept()
        run_pass(
            backbone,
            batch,
            [(PassInputs(gradients=True), norm), (PassInputs(logits=True), kept)],
            adapter,
        )
        return norm.columns()["norm"], kept.scores

    norms, scores = found()
    assert always == ([] if architecture in EXPERTS else [len(batch.predicted()[0])])
    run_all_tokens(monkeypatch)
    whole_norms, whole_scores = found()
    assert norms == pytest.approx(whole_norms, rel=bound)
    assert (scores - whole_scores).norm() < bound * whole_scores.norm()


@pytest.mark.parametrize(
    "needs", [PassInputs(logits=True, hidden=True), PassInputs(gradients=True)]
)
def test_whoever_looks_elsewhere_sees_everything(needs, always):
    """Final states of all tokens, and gradients of the network's own weights."""
    backbone = tiny_backbone()
    last_feed_forward(backbone)
    always.clear()
    reducer = GradientNorm(None) if needs.gradients else Kept()
    run_pass(backbone, a_batch(backbone), [(PassInputs(logits=True), Kept()), (needs, reducer)])
    assert not always


def test_not_where_most_tokens_are_read():
    backbone = tiny_backbone()
    batch = a_batch(backbone)
    rows, places = torch.ones_like(batch.mask).nonzero(as_tuple=True)
    module = backbone.model.get_submodule(last_feed_forward(backbone))
    with final_states_only_at(backbone, batch.ids.shape, rows, places):
        assert "forward" not in vars(module)
    with final_states_only_at(backbone, batch.ids.shape, rows[:3], places[:3]):
        assert "forward" in vars(module)
    assert "forward" not in vars(module)


def test_an_adapter_is_trained_to_the_same_numbers(always, monkeypatch):
    backbone = tiny_backbone()
    last_feed_forward(backbone)
    always.clear()
    training = LoraTraining(4, 8, 0.0, 2, 1e-3, 0.1, 3, seed=0)

    def trained():
        artifacts = []

        def keep(epoch, artifact):
            artifacts.append(artifact)
            return artifact

        lora.train(backbone, rows_of(backbone), training, None, keep, lambda *_: None)
        return artifacts[-1]

    some = trained()
    assert always
    run_all_tokens(monkeypatch)
    whole = trained()
    assert some.facts["loss"] == pytest.approx(whole.facts["loss"], rel=1e-5)
    for name, array in whole.arrays.items():
        found = torch.from_numpy(some.arrays[name])
        assert torch.allclose(found, torch.from_numpy(array), rtol=1e-3, atol=1e-6), name


def test_a_forward_that_another_library_put_there_comes_back():
    module = torch.nn.Identity()
    with forward_replaced(module, lambda states: -states):
        with forward_replaced(module, lambda states: 2 * states):
            assert module(torch.ones(1)) == 2
        assert module(torch.ones(1)) == -1
    assert "forward" not in vars(module) and module(torch.ones(1)) == 1
