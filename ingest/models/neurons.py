"""Activations of the units inside every feed-forward network, handed over as they appear.

A neuron is a unit of the feed-forward network: act(W_g h) * (W_u h) where it is gated, the
activation's output where it is not; either way what the down projection takes in. In a mixture of
experts a neuron is an (expert, unit), and only tokens that were routed to the expert have a value.

Of experts, which are bare parameters, they are what the operation of `experts` feeds to the second
matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from ...schemas.errors import BackboneError
from .anatomy import decoder_layers
from .experts import ExpertLinear, expert_weights, has_experts, listen

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
        elif has_experts(module):
            down: Any = getattr(module, expert_weights(module)[1])
            transposed = getattr(module, "is_transposed", False)
            parts.append((module, down.shape[1 if transposed else 2], down.shape[0]))
        elif not isinstance(module, nn.Conv1d) and any(
            each.ndim == 3 for each in module.parameters(recurse=False)
        ):
            raise BackboneError(_unknown(model, f"the experts in {name} are of no known form"))
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
            if part.experts:
                undo.append(listen(part.module, hand.expert))
            else:
                undo.append(part.module.register_forward_pre_hook(hand.dense).remove)
        yield
    finally:
        for each in undo:
            each()


class _Handing:
    """Hands one part's activations to the readers, the first time it is run."""

    def __init__(self, part: FeedForward, readers: Sequence[Reader], shape: tuple[int, int]):
        self._part, self._readers, self._shape = part, readers, shape
        self._told: set[int] = set()

    def dense(self, module: nn.Module, args: tuple) -> None:
        self._give(0, args[0], None)

    def expert(self, each: ExpertLinear) -> None:
        if each.weight == expert_weights(self._part.module)[1]:
            self._give(each.expert, each.inputs, each.tokens)

    def _give(self, number: int, values: torch.Tensor, tokens: torch.Tensor | None) -> None:
        if number in self._told:
            return
        self._told.add(number)
        at, values = self._part, values.detach()
        if tokens is None:
            values = values.reshape(*self._shape, -1)
        offset = at.offset + number * at.width
        for reader in self._readers:
            reader.neurons(Neurons(at.layer, at.start, at.units, offset, values, tokens))
