"""The warm-up against a plain loop over peft and torch, killed and resumed, kept in a store."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from helpers.tiny_adapters import run, same
from helpers.tiny_models import ARCHITECTURES, tiny_backbone, tiny_conversations

from coresetdb.ingest.fits.fit import Fitting, Sample
from coresetdb.ingest.fits.lora import LoraTraining, WarmUp
from coresetdb.ingest.models.backbone import Backbone
from coresetdb.ingest.models.describe import BackboneConfig
from coresetdb.ingest.representations import registry
from coresetdb.schemas.errors import UsageError
from coresetdb.schemas.instruction import Instruction
from coresetdb.store.catalog import Artifact, find_artifact, keep_artifact, load_artifact
from coresetdb.store.store import Store

SMALL = WarmUp(epochs=2, rank=4, alpha=8, dropout=0.0, learning_rate=1e-2, batch=4, seed=3)


def naive(fit: WarmUp, backbone, rows, start: Artifact) -> dict[str, Artifact]:
    """The same training row by row: peft's own model, torch's AdamW, autograd."""
    import peft

    encoded = [row for row in backbone.encode_all(rows) if row.response[1:].any()]
    conv = backbone.info.model_type == "gpt2"
    config = peft.LoraConfig(
        r=fit.rank,
        lora_alpha=fit.alpha,
        lora_dropout=0.0,
        target_modules=start.facts["modules"],
        fan_in_fan_out=conv,
        task_type="CAUSAL_LM",
    )
    model = peft.get_peft_model(copy.deepcopy(backbone.model), config).eval()
    parameters = {}
    for name in start.facts["modules"]:
        layer = model.base_model.model.get_submodule(name)
        parameters[f"{name}.A"] = layer.lora_A["default"].weight
        parameters[f"{name}.B"] = layer.lora_B["default"].weight
    with torch.no_grad():
        for key, parameter in parameters.items():
            parameter.copy_(torch.tensor(start.arrays[key]))
    optimizer = torch.optim.AdamW(parameters.values(), betas=(0.9, 0.999), weight_decay=0.0)
    per_epoch = math.ceil(len(encoded) / fit.batch)
    steps, step, found = fit.epochs * per_epoch, 0, {}
    rising = math.ceil(0.03 * steps)
    for epoch in range(1, fit.epochs + 1):
        order = np.random.default_rng([fit.seed, epoch]).permutation(len(encoded))
        losses, rates = [], []
        for members in np.array_split(order, per_epoch):
            share = (step + 1) / rising if step < rising else (steps - step) / (steps - rising)
            optimizer.param_groups[0]["lr"] = fit.learning_rate * share
            rates.append(fit.learning_rate * share)
            optimizer.zero_grad()
            for index in members:
                row = encoded[index]
                ids = torch.tensor(row.ids, dtype=torch.long)
                logits = model(input_ids=ids[None]).logits[0, :-1].float()
                answers = torch.tensor(row.response[1:])
                nll = -logits.log_softmax(-1)[torch.arange(len(ids) - 1), ids[1:]]
                loss = nll[answers].mean()
                (loss / len(members)).backward()
                losses.append(loss.item())
            total = sum(parameter.grad.square().sum() for parameter in parameters.values()).sqrt()
            for parameter in parameters.values():
                parameter.grad *= min(1.0, 1.0 / (total + 1e-6))
            optimizer.step()
            step += 1
        arrays = {key: parameter.detach().numpy().copy() for key, parameter in parameters.items()}
        for key, parameter in parameters.items():
            arrays[f"{key}.m"] = optimizer.state[parameter]["exp_avg"].numpy().copy()
            arrays[f"{key}.v"] = optimizer.state[parameter]["exp_avg_sq"].numpy().copy()
        facts = {"loss": np.mean(losses), "learning_rate": np.mean(rates), "step": step}
        found[f"warm-up/{epoch}"] = Artifact(arrays, facts)
    return found


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "builtin"])
def test_equals_a_plain_loop(architecture):
    backbone = (
        Backbone.load(BackboneConfig("builtin", "cpu", "float32"))
        if architecture == "builtin"
        else tiny_backbone(architecture)
    )
    rows = tiny_conversations()
    untrained = WarmUp(epochs=1, rank=4, alpha=8, dropout=0.0, learning_rate=0.0, seed=3)
    start = run(untrained, backbone, rows)[0]["warm-up/1"]
    made, _ = run(SMALL, backbone, rows)
    for name, expected in naive(SMALL, backbone, rows, start).items():
        artifact = made[name]
        assert artifact.facts["loss"] == pytest.approx(expected.facts["loss"], rel=1e-4)
        assert artifact.facts["learning_rate"] == pytest.approx(expected.facts["learning_rate"])
        assert artifact.facts["step"] == expected.facts["step"]
        assert artifact.facts["scaling"] == 2.0
        assert artifact.arrays.keys() == expected.arrays.keys()
        for key in expected.arrays:
            assert artifact.arrays[key].dtype == np.float32
        # Adam divides by what may be nearly nothing, so single entries may differ: norms do not.
        for part in ("A", "B", "A.m", "A.v", "B.m", "B.v"):
            found, right = (
                np.concatenate([each.arrays[f"{m}.{part}"].ravel() for m in start.facts["modules"]])
                for each in (artifact, expected)
            )
            assert relative(found, right) < 1e-3, part
    losses = [made[name].facts["loss"] for name in SMALL.outputs()]
    assert losses[1] < losses[0]


@pytest.mark.parametrize(
    "architecture, ends",
    [
        ("llama", {"q_proj", "k_proj", "v_proj", "o_proj"}),
        ("gpt2", {"c_attn", "c_proj"}),
        ("gpt_neox", {"query_key_value", "dense"}),
        ("qwen3_moe", {"q_proj", "k_proj", "v_proj", "o_proj"}),
    ],
)
def test_attention_projections_are_adapted_and_start_from_nothing(architecture, ends):
    backbone = tiny_backbone(architecture)
    untrained = WarmUp(epochs=1, rank=4, alpha=8, learning_rate=0.0)
    start = run(untrained, backbone, tiny_conversations())[0]["warm-up/1"]
    modules = start.facts["modules"]
    assert {name.rpartition(".")[2] for name in modules} == ends
    assert all("attn" in name or "attention" in name for name in modules)
    assert len(modules) == len(ends) * backbone.info.layers
    for name in modules:
        a, b = start.arrays[f"{name}.A"], start.arrays[f"{name}.B"]
        assert not b.any()
        assert 0.8 / math.sqrt(a.shape[1]) < np.abs(a).max() <= 1 / math.sqrt(a.shape[1])
    assert not np.array_equal(start.arrays[f"{modules[0]}.A"], start.arrays[f"{modules[-1]}.A"])


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "cohere"])
def test_the_model_is_left_as_it_was(architecture):
    backbone = tiny_backbone(architecture)
    model = backbone.model
    weights = {name: weight.clone() for name, weight in model.named_parameters()}
    modules = dict(model.named_modules())
    attributes = set(vars(model))
    generator = torch.get_rng_state()
    run(WarmUp(epochs=1, rank=4, alpha=8, learning_rate=1e-2), backbone, tiny_conversations())
    assert torch.equal(torch.get_rng_state(), generator)
    assert set(vars(model)) == attributes
    assert dict(model.named_modules()) == modules
    assert not any(module.training for module in model.modules())
    for name, weight in model.named_parameters():
        assert torch.equal(weight, weights[name]) and not weight.requires_grad
        assert weight.grad is None


def test_killed_in_the_third_epoch_it_ends_with_the_same_numbers(tmp_path):
    backbone, rows = tiny_backbone(), tiny_conversations()
    fit = WarmUp(rank=4, alpha=8, learning_rate=1e-2, batch=4)  # with dropout, four epochs
    whole, told = run(fit, backbone, rows)
    begun, _ = run(fit, backbone, rows, stop_after="warm-up/2")
    assert list(begun) == ["warm-up/1", "warm-up/2"]
    torch.manual_seed(99)  # what the process draws besides does not matter
    store = Store.create(str(tmp_path / "pool"), {}, [], [])
    asked = fit.digest(backbone.info.identity)
    for name, artifact in begun.items():
        keep_artifact(store, asked, name, artifact)
    again = {}
    for name in begun:
        content = find_artifact(store, asked, name)
        assert content is not None
        again[name] = load_artifact(store, content, name)
        assert same(again[name], whole[name])
    resumed, told_later = run(fit, backbone, rows, again)
    assert tuple(resumed) == fit.outputs() == tuple(whole)
    assert all(same(resumed[name], whole[name]) for name in whole)
    assert told_later == [each for each in told if each[0] > 0.5]
    assert run(fit, backbone, rows, whole)[1] == []


def test_training_goes_on_from_what_another_process_was_quicker_to_keep():
    backbone, rows = tiny_backbone(), tiny_conversations()
    theirs, _ = run(SMALL, backbone, rows)
    other = WarmUp(**{**vars(SMALL), "seed": 4})
    kept: dict[str, Artifact] = {}

    def keep(name: str, artifact: Artifact) -> Artifact:
        kept[name] = theirs[name] if name == "warm-up/1" else artifact
        return kept[name]

    sample = Sample([row.id for row in rows], rows, len(rows))
    other.run(Fitting(backbone, sample, {}, keep, lambda fraction, sentence: None))
    resumed, _ = run(other, backbone, rows, {"warm-up/1": theirs["warm-up/1"]})
    assert same(kept["warm-up/2"], resumed["warm-up/2"])


def test_a_model_in_bfloat16_has_an_adapter_in_float32():
    rows = tiny_conversations()
    exact, rounded = (
        run(SMALL, tiny_backbone("llama", dtype), rows)[0]["warm-up/2"]
        for dtype in ("float32", "bfloat16")
    )
    assert {array.dtype for array in rounded.arrays.values()} == {np.dtype("float32")}
    assert rounded.facts["loss"] == pytest.approx(exact.facts["loss"], rel=0.02)
    for key in (name for name in exact.arrays if name.endswith(".B")):
        assert relative(rounded.arrays[key], exact.arrays[key]) < 0.2


def test_seed_and_sample_decide():
    backbone, rows = tiny_backbone(), tiny_conversations()
    fit = WarmUp(epochs=1, rank=4, alpha=8, learning_rate=1e-2, batch=4)
    name = "warm-up/1"
    first = run(fit, backbone, rows)[0][name]
    assert same(first, run(fit, backbone, rows)[0][name])
    reseeded = WarmUp(epochs=1, rank=4, alpha=8, learning_rate=1e-2, batch=4, seed=1)
    assert not same(first, run(reseeded, backbone, rows)[0][name])
    assert fit.digest({}) != reseeded.digest({})


def test_rows_without_an_answer_are_left_out_and_the_rest_is_named():
    backbone = tiny_backbone()
    silent = Instruction.from_turns(("user", "anybody there?"))
    rows = [silent, *tiny_conversations()]
    artifact = run(SMALL, backbone, rows)[0]["warm-up/2"]
    assert artifact.facts["sample"] == [row.id for row in rows[1:]]
    with pytest.raises(UsageError, match="answer"):
        run(SMALL, backbone, [silent])


def test_sample_sizes():
    fit = WarmUp()
    assert [fit.sample_rows(total) for total in (3, 1000, 20_000, 52_002, 10**6)] == [
        3,
        1000,
        1280,
        2600,
        10_000,
    ]


def test_the_learning_rate_rises_and_falls_and_is_never_zero():
    training = LoraTraining(8, 16, 0.0, 1, 2e-5, 0.03, 128, 0)
    for steps in (1, 2, 40, 333):
        rates = [training.rate(step, steps) for step in range(steps)]
        top = int(np.argmax(rates))
        assert max(rates) == pytest.approx(2e-5) and min(rates) > 0
        assert rates[: top + 1] == sorted(rates[: top + 1])
        assert rates[top:] == sorted(rates[top:], reverse=True)
    assert training.rate(9, 333) == pytest.approx(2e-5)
    assert training.rate(0, 333) == pytest.approx(2e-5 / 10)
    assert training.rate(332, 333) == pytest.approx(2e-5 / 323)


@pytest.mark.parametrize(
    "option, value",
    [
        ("epochs", 0),
        ("rank", 0),
        ("alpha", -1),
        ("batch", 0),
        ("at_most", 0),
        ("share", 5.0),
        ("share", float("nan")),
        ("learning_rate", 0.0),
        ("dropout", 1.0),
    ],
)
@pytest.mark.parametrize("name", ["less", "trim"])
def test_numbers_no_adapter_can_be_trained_with_are_refused_at_once(name, option, value):
    option = "lora_rank" if (name, option) == ("trim", "rank") else option
    asked = registry.feature_spec(name, {"warmup": "lora", option: value})
    with pytest.raises(UsageError, match=f"{name}: {option} "):
        registry.get(name).fits(tiny_backbone().info, asked.options)
