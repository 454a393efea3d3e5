"""Activations of the units inside every feed-forward network, read while a model runs.

A neuron is a unit of the feed-forward network: act(W_g h) * (W_u h) where it is gated, the
activation's output where it is not; in both cases an input of the down projection. In a mixture of
experts a neuron is an (expert, unit), and only tokens that were routed to the expert have a value.

Transformers keeps the experts of a mixture as bare three-dimensional parameters, whose inner values
no hook sees. During a pass they are therefore run here, matrix by matrix; the output is the same
but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ...schemas.errors import BackboneError
from ..models.anatomy import decoder_layers
from .reducer import Neurons, Reducer

DOWN_PROJECTIONS = ("down_proj", "dense_4h_to_h", "c_proj", "fc2", "fc_out", "w2")
"""What architectures call the last linear layer of a feed-forward network."""

_ATTENTION = ("attn", "attention")


@contextmanager
def neuron_hooks(model: Any, reducers: Sequence[Reducer], ids: torch.Tensor) -> Iterator[None]:
    """Pass every feed-forward network's activations to the reducers inside the block.

    Each is passed once, even if gradient checkpointing runs a layer again; layers come in their
    order, the parts of a layer one after the other.

    Args:
        ids: (B, T) of the batch that will be run; activations are passed on its device.
    """
    with ExitStack() as stack:
        for part in feed_forwards(model) if reducers else ():
            hooks = _NeuronHooks(part, reducers, ids)
            if part.experts:
                stack.callback(hook_experts(part.module, hooks.expert))
            else:
                stack.enter_context(part.module.register_forward_pre_hook(hooks.dense))
        yield


class _NeuronHooks:
    """Hooks that pass one part's activations to the reducers, the first time it is run."""

    def __init__(self, part: FeedForward, reducers: Sequence[Reducer], ids: torch.Tensor):
        self._part, self._reducers, self._ids = part, reducers, ids
        self._done: set[int] = set()

    def dense(self, module: nn.Module, args: tuple) -> None:
        self._pass_on(0, args[0], None)

    def expert(self, expert_linear: ExpertLinear) -> None:
        if expert_linear.weight == expert_weights(self._part.module)[1]:
            self._pass_on(expert_linear.expert, expert_linear.inputs, expert_linear.tokens)

    def _pass_on(self, number: int, values: torch.Tensor, tokens: torch.Tensor | None) -> None:
        if number in self._done:
            return
        self._done.add(number)
        part, values = self._part, values.detach().to(self._ids.device)
        if tokens is None:
            values = values.reshape(*self._ids.shape, -1)
        else:
            tokens = tokens.to(self._ids.device)
        offset = part.offset + number * part.width
        for reducer in self._reducers:
            reducer.neurons(Neurons(part.layer, part.start, part.units, offset, values, tokens))


@dataclass(frozen=True)
class FeedForward:
    """A part of a layer's units: those before one down projection, or those of all experts.

    Attributes:
        module: the down projection, or the module that holds the experts.
        width: units, of one expert where there are experts.
        experts: how many; 0 for a dense network.
    """

    layer: int
    start: int
    units: int
    offset: int
    module: nn.Module
    width: int
    experts: int


def feed_forwards(model: Any) -> list[FeedForward]:
    """Return the feed-forward networks of all decoder layers, first to last.

    Raises:
        BackboneError: a layer has experts of an unknown form, or no network is found.
    """
    networks: list[FeedForward] = []
    start = 0
    for layer, module in enumerate(decoder_layers(model)):
        parts = _parts(model, module)
        units = sum(width * max(1, experts) for _, width, experts in parts)
        offset = 0
        for part, width, experts in parts:
            networks.append(FeedForward(layer, start, units, offset, part, width, experts))
            offset += width * max(1, experts)
        start += units
    if not networks:
        raise BackboneError(_unsupported(model, "no feed-forward network is found"))
    return networks


def _parts(model: Any, layer: nn.Module) -> list[tuple[nn.Module, int, int]]:
    """Return module, units and experts of each part of a layer."""
    parts: list[tuple[nn.Module, int, int]] = []
    for name, module in layer.named_modules():
        stem = name.rpartition(".")[2]
        if stem in DOWN_PROJECTIONS and not any(word in name for word in _ATTENTION):
            parts.append((module, _inputs(module), 0))
        elif has_experts(module):
            down: Any = getattr(module, expert_weights(module)[1])
            transposed = getattr(module, "is_transposed", False)
            parts.append((module, down.shape[1 if transposed else 2], down.shape[0]))
        elif not isinstance(module, nn.Conv1d) and any(
            parameter.ndim == 3 for parameter in module.parameters(recurse=False)
        ):
            raise BackboneError(_unsupported(model, f"the experts in {name} are of no known form"))
    return parts


def _unsupported(model: Any, what: str) -> str:
    return (
        f"{model.config.model_type}: {what}. Use features that look at no neurons (all but mads "
        "and nait:neuron=mlp), or another backbone"
    )


def _inputs(linear: nn.Module) -> int:
    """Return the inputs of a linear layer; GPT-2's Conv1D has its weight transposed."""
    weight: Any = linear.weight
    return weight.shape[1] if isinstance(linear, nn.Linear) else weight.shape[0]


@dataclass(frozen=True)
class ExpertLinear:
    """One matrix of one expert, applied to a batch.

    Attributes:
        weight: the parameter's name, "gate_up_proj", "up_proj" or "down_proj".
        expert: its number.
        inputs, outputs: (n, i) and (n, o), of the tokens that were routed to the expert.
        tokens: (n,) int64, ascending: their places in the batch, `row * T + position`.
    """

    weight: str
    expert: int
    inputs: torch.Tensor
    outputs: torch.Tensor
    tokens: torch.Tensor


ExpertHook = Callable[[ExpertLinear], None]


def has_experts(module: nn.Module) -> bool:
    """Return whether a module holds experts in the form that transformers uses."""
    bare = [parameter for parameter in module.parameters(recurse=False) if parameter.ndim == 3]
    return bool(bare) and hasattr(module, "_apply_gate") and hasattr(module, "down_proj")


def expert_weights(module: Any) -> tuple[str, str]:
    """Return the names of an expert module's two parameters, in the order they are applied."""
    return ("gate_up_proj" if getattr(module, "has_gate", True) else "up_proj"), "down_proj"


def hook_experts(module: nn.Module, hook: ExpertHook) -> Callable[[], None]:
    """Call `hook` after every matrix of an expert is applied; return a function that removes it."""
    attributes = vars(module)
    # Where accelerate brings weights in, its own forward does so around this one.
    name = "_old_forward" if "_old_forward" in attributes else "forward"
    forward = attributes.get(name)
    if not isinstance(forward, _ExpertForward):
        forward = attributes[name] = _ExpertForward(module, before=forward)
    forward.hooks.append(hook)

    def remove() -> None:
        forward.hooks.remove(hook)
        if not forward.hooks:
            del attributes[name]
            if forward.before is not None:
                attributes[name] = forward.before

    return remove


@dataclass
class _ExpertForward:
    """The forward of an expert module that calls hooks with every matrix product.

    `before` is what it stands in place of, None for the forward of the class.
    """

    experts: Any
    hooks: list[ExpertHook] = field(default_factory=list)
    before: Callable[..., Any] | None = None

    def __call__(
        self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        return _run_experts(self.experts, self.hooks, hidden_states, top_k_index, top_k_weights)


def _run_experts(
    experts: Any,
    hooks: Sequence[ExpertHook],
    hidden_states: torch.Tensor,
    top_k_index: torch.Tensor,
    top_k_weights: torch.Tensor,
) -> torch.Tensor:
    first, last = expert_weights(experts)
    chosen = top_k_index.flatten()
    order = chosen.argsort(stable=True)
    counts = torch.bincount(chosen, minlength=len(experts.down_proj)).tolist()
    output = torch.zeros_like(hidden_states)
    for number, places in enumerate(order.split(counts)):
        if not len(places):
            continue
        tokens = places // top_k_index.shape[1]

        def linear(which: str, inputs: torch.Tensor) -> torch.Tensor:
            outputs = _linear(experts, which, number, inputs)  # noqa: B023 (called at once)
            for hook in hooks:
                hook(ExpertLinear(which, number, inputs, outputs, tokens))  # noqa: B023
            return outputs

        raised = linear(first, hidden_states[tokens])
        gated = getattr(experts, "has_gate", True)
        lowered = linear(last, experts._apply_gate(raised) if gated else experts.act_fn(raised))
        if getattr(experts, "has_post_expert_norm", False):
            lowered = experts.post_expert_norm(lowered)
        weighted = lowered * top_k_weights.flatten()[places, None]
        output = output.index_add(0, tokens, weighted.to(output.dtype))
    return output


def _linear(experts: Any, which: str, number: int, inputs: torch.Tensor) -> torch.Tensor:
    weight = getattr(experts, which)[number]
    weight = weight.T if getattr(experts, "is_transposed", False) else weight
    bias = (
        getattr(experts, f"{which}_bias")[number] if getattr(experts, "has_bias", False) else None
    )
    return nn.functional.linear(inputs, weight, bias)
