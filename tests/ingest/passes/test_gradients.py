"""Per-row gradients of a batch against autograd's .grad of every weight, one row at a time."""

from __future__ import annotations

import copy
import gc
import random

import pytest
import torch
from helpers.naive_gradients import backbone_of, loss_of, naive, rows_of
from helpers.tiny_adapters import in_peft, random_adapter
from helpers.tiny_models import ARCHITECTURES, tiny_backbone
from helpers.watcher import Watcher

from coresetdb.ingest.models.anatomy import decoder_layers
from coresetdb.ingest.models.backbone import Backbone
from coresetdb.ingest.models.batches import make_batch
from coresetdb.ingest.passes.feed_forward import hook_experts
from coresetdb.ingest.passes.forward import run_pass
from coresetdb.ingest.passes.gradients import (
    expert_modules,
    gradient_hooks,
    left_out,
    linear_layers,
    routers,
)
from coresetdb.ingest.passes.reducer import PassInputs
from coresetdb.ingest.passes.weight_gradient import SketchSpec
from coresetdb.schemas.instruction import Instruction

MODELS = ("builtin", *ARCHITECTURES)


class Everything(Watcher):
    """Keeps whole gradients, squared norms and the states."""

    def __init__(self) -> None:
        self.values, self.norms, self.states = {}, {}, None

    def gradient(self, gradient) -> None:
        assert gradient.name not in self.values, "handed over twice"
        self.values[gradient.name] = gradient.values()
        self.norms[gradient.name] = gradient.squared_norm()
        assert torch.equal(gradient.values(slice(1, 2)), gradient.values()[1:2])

    def hidden(self, states) -> None:
        assert not states.requires_grad
        self.states = states


def engine(backbone, rows, side="right", adapter=None, **settings) -> Everything:
    reader = Everything()
    batch = make_batch(rows, backbone.padding_token, backbone.device, side)
    run_pass(
        backbone, batch, [(PassInputs(hidden=True, gradients=True), reader)], adapter, **settings
    )
    return reader


def expected(name: str, row: int, gradient: str) -> torch.Tensor:
    grads = naive(name)[row]
    if f"{gradient}.weight" in grads:
        value = grads[f"{gradient}.weight"]
        return value.T if name == "gpt2" else value
    parameter, _, expert = gradient.rpartition(".")
    return grads[parameter][int(expert)]


def distance(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((got - wanted).norm() / wanted.norm().clamp(min=1e-6))


@pytest.mark.parametrize("name", MODELS)
def test_every_weight_of_every_row_equals_autograd(name):
    backbone = backbone_of(name)
    rows = rows_of(backbone)
    for side in ("right", "left"):
        reader = engine(backbone, rows, side)
        for gradient, values in reader.values.items():
            for row in range(len(rows)):
                wanted = expected(name, row, gradient)
                assert distance(values[row], wanted) < 1e-3, (gradient, row)
                assert float(reader.norms[gradient][row].sqrt()) == pytest.approx(
                    float(wanted.norm()), rel=1e-3, abs=1e-6
                )


@pytest.mark.parametrize("name", MODELS)
def test_no_matrix_of_a_decoder_layer_is_left_out(name):
    backbone = backbone_of(name)
    inside = {id(p) for layer in decoder_layers(backbone.model) for p in layer.parameters()}
    matrices = {n for n, p in backbone.model.named_parameters() if id(p) in inside and p.ndim > 1}
    got = set()
    for gradient in engine(backbone, rows_of(backbone)).values:
        name_of_expert = gradient.rpartition(".")[0]
        got.add(name_of_expert if name_of_expert in matrices else f"{gradient}.weight")
    assert got == matrices
    assert left_out(backbone.model) == []


def test_what_is_no_linear_layer_is_named():
    backbone = tiny_backbone()
    model = copy.deepcopy(backbone.model)
    layer = decoder_layers(model)[0]
    layer.mixer = torch.nn.Conv1d(4, 4, 3)
    assert left_out(model) == ["model.layers.0.mixer.weight"]
    assert "model.layers.0.mixer" not in linear_layers(model)
    assert not routers(model) and not expert_modules(model)
    batch = make_batch(rows_of(backbone), backbone.padding_token, backbone.device)
    with (
        pytest.warns(UserWarning, match="leave out 1 weight outside .*model.layers.0.mixer.weight"),
        gradient_hooks(model, batch, {}, [Everything()]),
    ):
        pass


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_rows_do_not_depend_on_their_batch(name):
    backbone = backbone_of(name)
    rows = rows_of(backbone)
    together = engine(backbone, rows)
    order = list(range(len(rows)))
    random.Random(0).shuffle(order)
    shuffled = engine(backbone, [rows[i] for i in order])
    for i in range(len(rows)):
        alone = engine(backbone, [rows[i]])
        for gradient, values in together.values.items():
            scale = values[i].norm().clamp(min=1e-6)
            # Alone, an expert that no token was sent to is not heard of.
            one = alone.values.get(gradient, torch.zeros_like(values[:1]))[0]
            assert (values[i] - one).norm() / scale < 1e-4
            again = shuffled.values[gradient][order.index(i)]
            assert (values[i] - again).norm() / scale < 1e-4


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_checkpointing_gives_the_same_and_keeps_less(name):
    backbone = backbone_of(name)
    batch = make_batch(rows_of(backbone), backbone.padding_token, backbone.device)

    class Counting(Everything):
        kept = 0

        def __init__(self):
            super().__init__()
            self.layers, self.saved = [], 0

        def save(self, tensor):
            self.saved += tensor.numel()
            return tensor

        def layer(self, index, states):
            self.layers.append(index)

        def logits(self, logits, targets, rows):
            self.kept = self.kept or self.saved

    runs = []
    for checkpointing in (False, True):
        reader = Counting()
        with torch.autograd.graph.saved_tensors_hooks(reader.save, lambda tensor: tensor):
            needs = PassInputs(hidden=True, logits=True, layers=True, gradients=True)
            run_pass(backbone, batch, [(needs, reader)], None, checkpointing)
        runs.append(reader)
    plain, again = runs
    assert plain.values.keys() == again.values.keys()
    for gradient, values in plain.values.items():
        assert distance(again.values[gradient], values) < 1e-5
    assert torch.equal(plain.states, again.states)
    assert plain.layers == again.layers == list(range(len(decoder_layers(backbone.model))))
    # The head of cohere runs in whole, and its backward is not of a layer.
    head = batch.ids.numel() * backbone.info.vocabulary if name == "cohere" else 0
    assert again.kept - head < (plain.kept - head) / 4


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_adapters_gradients_equal_those_of_pefts_modules(name):
    backbone = backbone_of(name)
    rows = rows_of(backbone)[5:10]
    adapter = random_adapter(backbone)
    model = in_peft(backbone, adapter)
    parameters = {
        n.removeprefix("base_model.model."): p for n, p in model.named_parameters() if "lora_" in n
    }
    for checkpointing in (False, True):
        reader = engine(backbone, rows, adapter=adapter, checkpointing=checkpointing)
        assert len(reader.values) == len(parameters)
        for i, row in enumerate(rows):
            model.zero_grad()
            loss_of(model, row).backward()
            for gradient, values in reader.values.items():
                module, _, part = gradient.rpartition(".")
                wanted = parameters[f"{module}.lora_{part}.default.weight"].grad
                assert float(wanted.norm()) > 0
                assert distance(values[i], wanted) < 1e-3


def test_of_a_row_without_an_answer_everything_is_zero():
    backbone = tiny_backbone()
    rows = [*rows_of(backbone)[:2], backbone.encode(Instruction.from_turns(("user", "two?")))]
    for values in engine(backbone, rows).values.values():
        assert values[2].abs().max() == 0 and values[0].abs().max() > 0
    for values in engine(backbone, rows[2:]).values.values():
        assert values.abs().max() == 0


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_no_attention_map_of_every_head_is_kept(name):
    backbone = backbone_of(name)
    rows = rows_of(backbone)
    batch = make_batch(rows, backbone.padding_token, backbone.device)
    tokens = batch.ids.shape[1]
    square = []

    def seen(tensor):
        if tuple(tensor.shape[-2:]) == (tokens, tokens):
            square.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(seen, lambda tensor: tensor):
        run_pass(backbone, batch, [(PassInputs(gradients=True), Everything())])
    # The mask, one for all heads, is what every layer refers to.
    assert max(square, default=0) <= len(rows) * tokens * tokens


@pytest.mark.parametrize("name", ("llama", "gpt2", "qwen3_moe"))
def test_between_forward_and_backward_only_folded_inputs_are_held(name):
    backbone = backbone_of(name)
    batch = make_batch(rows_of(backbone), backbone.padding_token, backbone.device)
    held = []

    class Sketching(Watcher):
        sketch = SketchSpec(dims=2)  # inputs folded to 2 numbers per token
        modules = 0

        def gradient(self, gradient):
            assert gradient.inputs is None
            self.modules += 1

        def logits(self, logits, targets, rows):
            held.append(sum(there().values()) - sum(before.values()))

    def there() -> dict[int, int]:
        """Entries of every live tensor (B, T, n) that is no part of the graph, by its storage."""
        gc.collect()
        live = [get_object for get_object in gc.get_objects() if type(get_object) is torch.Tensor]
        return {
            each.untyped_storage().data_ptr(): each.numel()
            for each in live
            if each.ndim == 3 and len(each) == len(batch.ids) and not each.requires_grad
        }

    before = there()
    reader = Sketching()
    run_pass(backbone, batch, [(PassInputs(logits=True, gradients=True), reader)])
    room = reader.modules * batch.ids.numel() * 2
    rotary = 2 * batch.ids.numel() * backbone.info.hidden_size
    slope = batch.ids.numel() * backbone.info.hidden_size  # of the loss by the final states
    assert 0 < held[0] <= room + rotary + slope


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_weight_that_layers_share_has_one_gradient(checkpointing):
    """As a module used twice, and as one parameter of two modules (zamba2 has both)."""
    original = tiny_backbone("llama")
    model = copy.deepcopy(original.model)
    first, second = decoder_layers(model)
    second.mlp = first.mlp
    second.self_attn.q_proj.weight = first.self_attn.q_proj.weight
    backbone = Backbone(
        original.config, original.info, model, original.encoder, original.padding_token
    )
    rows = rows_of(backbone)[:3]
    reader = engine(backbone, rows, checkpointing=checkpointing)
    assert len(reader.values) == 14 - 4
    trained = copy.deepcopy(model).requires_grad_(True)
    for place, row in enumerate(rows):
        trained.zero_grad()
        loss_of(trained, row).backward()
        for name, values in reader.values.items():
            wanted = trained.get_submodule(name).weight.grad
            assert distance(values[place], wanted) < 1e-3, name
            norm = float(reader.norms[name][place].sqrt())
            assert norm == pytest.approx(float(wanted.norm()), rel=1e-3)


def test_a_pass_leaves_the_model_as_it_was():
    backbone = tiny_backbone("qwen3_moe")
    for checkpointing in (False, True):
        engine(backbone, rows_of(backbone), checkpointing=checkpointing)
    for module in backbone.model.modules():
        assert not module._forward_hooks and "forward" not in vars(module)
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())


def test_experts_can_be_heard_by_several_at_once():
    backbone = tiny_backbone("mixtral")
    batch = make_batch(rows_of(backbone), backbone.padding_token, backbone.device)
    heard: dict[str, int] = {"one": 0, "two": 0}

    def hear(name):
        def listener(each):
            heard[name] += len(each.tokens)

        return listener

    plain = backbone.states(batch.ids, batch.mask).hidden
    (experts,) = [m for n, m in expert_modules(backbone.model).items() if ".0." in n]
    stop_one, stop_two = hook_experts(experts, hear("one")), hook_experts(experts, hear("two"))
    told = backbone.states(batch.ids, batch.mask).hidden
    stop_one()
    backbone.states(batch.ids, batch.mask)
    stop_two()
    backbone.states(batch.ids, batch.mask)
    once = 2 * 2 * batch.ids.numel()  # two matrices, two experts a token
    assert heard == {"one": once, "two": 2 * once}
    assert distance(told, plain) < 1e-5
