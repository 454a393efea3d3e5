"""Activations of the units inside every feed-forward network, handed over as they appear.

A neuron is a unit of the feed-forward network: act(W_g h) * (W_u h) where it is gated, the
activation's output where it is not; either way what the down projection takes in. In a mixture of
experts a neuron is an (expert, unit), and only tokens that were routed to the expert have a value.

Transformers keeps experts as bare three-dimensional parameters, whose inner values no hook sees.
For the time of a pass they are run by an operation of our own that says them; it gives the same
output but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import nn

from ..schemas.errors import BackboneError
from .anatomy import decoder_layers

DOWN_PROJECTIONS = ("down_proj", "dense_4h_to_h", "c_proj", "fc2", "fc_out", "w2")
"""What architectures call the last linear layer of a feed-forward network."""

_ATTENTION = ("attn", "attention")


@dataclass(frozen=True)
class Neurons:
    """What some units of one decoder layer gave for a batch.

    Attributes:
        layer: index of the decoder layer, from 0.
        start: number of the layer's first unit, counted through all layers.
        units: of the whole layer.
        offset: of these units among the layer's.
        values: (B, T, F) in the compute dtype; (n, F) for one expert.
        tokens: None, or where the tokens that reached the expert stand, (n,) int64 `b * T + t`.
    """

    layer: int
    start: int
    units: int
    offset: int
    values: torch.Tensor
    tokens: torch.Tensor | None = None


class Reader(Protocol):
    """Whoever wants them: the parts of a layer come one after the other, layers in their order."""

    def neurons(self, part: Neurons) -> None: ...


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
    """The feed-forward networks of all decoder layers, first to last.

    Raises:
        BackboneError: a layer has experts in a form that is not known, or none is found at all.
    """
    found: list[FeedForward] = []
    start = 0
    for layer, module in enumerate(decoder_layers(model)):
        parts = _parts(model, module)
        units = sum(width * max(1, experts) for _, width, experts in parts)
        offset = 0
        for each, width, experts in parts:
            found.append(FeedForward(layer, start, units, offset, each, width, experts))
            offset += width * max(1, experts)
        start += units
    if not found:
        raise BackboneError(_unknown(model, "no feed-forward network is found"))
    return found


def _parts(model: Any, layer: nn.Module) -> list[tuple[nn.Module, int, int]]:
    """Module, units and experts of each part of a layer."""
    parts: list[tuple[nn.Module, int, int]] = []
    for name, module in layer.named_modules():
        own = name.rpartition(".")[2]
        if own in DOWN_PROJECTIONS and not any(word in name for word in _ATTENTION):
            parts.append((module, _inputs(module), 0))
        elif any(each.ndim == 3 for each in module.parameters(recurse=False)):
            if isinstance(module, nn.Conv1d):
                continue
            if not hasattr(module, "_apply_gate"):
                raise BackboneError(_unknown(model, f"the experts in {name} are of no known form"))
            down: Any = module.down_proj
            transposed = getattr(module, "is_transposed", False)
            parts.append((module, down.shape[1 if transposed else 2], down.shape[0]))
    return parts


def _unknown(model: Any, what: str) -> str:
    return (
        f"{model.config.model_type}: {what}. Use features that look at no neurons (all but mads "
        "and nait:neuron=mlp), or another backbone"
    )


def _inputs(linear: nn.Module) -> int:
    """Inputs of a linear layer; GPT-2's Conv1D keeps its weight the other way round."""
    weight: Any = linear.weight
    return weight.shape[1] if isinstance(linear, nn.Linear) else weight.shape[0]


@contextmanager
def neurons_read(model: Any, readers: Sequence[Reader], shape: tuple[int, int]) -> Iterator[None]:
    """Inside the block every feed-forward network's activations go to the readers.

    Each is handed over once, however often a layer is run again (gradient checkpointing).

    Args:
        shape: (B, T) of the batch that will be shown.
    """
    undo: list[Callable[[], None]] = []
    try:
        for part in feed_forwards(model) if readers else ():
            hand = _Handing(part, readers, shape)
            undo.append(_experts_told(part, hand) if part.experts else _inputs_told(part, hand))
        yield
    finally:
        for each in undo:
            each()


class _Handing:
    """Hands one part's activations to the readers, the first time it is run."""

    def __init__(self, part: FeedForward, readers: Sequence[Reader], shape: tuple[int, int]):
        self._part, self._readers, self._shape = part, readers, shape
        self.done = False

    def dense(self, values: torch.Tensor) -> None:
        if not self.done:
            self._give(0, values.detach().reshape(*self._shape, -1), None)
            self.done = True

    def expert(self, number: int, values: torch.Tensor, tokens: torch.Tensor) -> None:
        if not self.done:
            self._give(number * self._part.width, values.detach(), tokens)

    def _give(self, inner: int, values: torch.Tensor, tokens: torch.Tensor | None) -> None:
        at = self._part
        told = Neurons(at.layer, at.start, at.units, at.offset + inner, values, tokens)
        for reader in self._readers:
            reader.neurons(told)


def _inputs_told(part: FeedForward, hand: _Handing) -> Callable[[], None]:
    def read(module: nn.Module, args: tuple) -> None:
        hand.dense(args[0])

    return part.module.register_forward_pre_hook(read).remove


def _experts_told(part: FeedForward, hand: _Handing) -> Callable[[], None]:
    own = vars(part.module)
    before = own.get("forward")
    own["forward"] = partial(run_experts, part.module, hand)

    def restore() -> None:
        if before is None:
            del own["forward"]
        else:
            own["forward"] = before

    return restore


def run_experts(
    experts: Any,
    hand: _Handing,
    hidden_states: torch.Tensor,
    top_k_index: torch.Tensor,
    top_k_weights: torch.Tensor,
) -> torch.Tensor:
    """What the experts' own forward gives, expert by expert, with their activations told.

    Args:
        experts: holds `gate_up_proj` (or `up_proj`) and `down_proj`, one matrix per expert.
        hidden_states: (tokens, d).
        top_k_index, top_k_weights: (tokens, k), which experts a token goes to and how much counts.
    """
    gated, biased = getattr(experts, "has_gate", True), getattr(experts, "has_bias", False)
    name = "gate_up_proj" if gated else "up_proj"
    chosen = top_k_index.flatten()
    order = chosen.argsort(stable=True)
    counts = torch.bincount(chosen, minlength=len(experts.down_proj)).tolist()
    output = torch.zeros_like(hidden_states)

    def linear(which: str, number: int, inputs: torch.Tensor) -> torch.Tensor:
        weight = getattr(experts, which)[number]
        weight = weight.T if getattr(experts, "is_transposed", False) else weight
        bias = getattr(experts, f"{which}_bias")[number] if biased else None
        return nn.functional.linear(inputs, weight, bias)

    for number, places in enumerate(order.split(counts)):
        if not len(places):
            continue
        tokens = places // top_k_index.shape[1]
        raised = linear(name, number, hidden_states[tokens])
        inner = experts._apply_gate(raised) if gated else experts.act_fn(raised)
        hand.expert(number, inner, tokens)
        lowered = linear("down_proj", number, inner)
        if getattr(experts, "has_post_expert_norm", False):
            lowered = experts.post_expert_norm(lowered)
        weighted = lowered * top_k_weights.flatten()[places, None]
        output.index_add_(0, tokens, weighted.to(output.dtype))
    hand.done = True
    return output
