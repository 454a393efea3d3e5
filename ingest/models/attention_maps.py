"""Reading the attention maps of a model's last layers, one short run at a time.

Models attend by a fused kernel that makes no map. For the time of a run the implementation is
switched to the plain one, and a hook hands every map over as soon as it is there: no two of them
have to live at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ...schemas.errors import BackboneError
from .anatomy import decoder_layers

MapReader = Callable[[torch.Tensor, int | None], None]
"""Takes a map (B, H, T, T) in the compute dtype and the layer's window, None for all tokens."""


@contextmanager
def attention_read(model: Any, layers: int, read: MapReader) -> Iterator[None]:
    """Inside the block `read` gets the maps of the last `layers` decoder layers of every run.

    Raises:
        BackboneError: a run ended and a layer had given no map.
    """
    found: set[int] = set()

    def hook(layer: int) -> Callable[..., None]:
        def look(module: nn.Module, args: tuple, output: Any) -> None:
            # The innermost module that gives the map comes first; those around may pass it on.
            if layer not in found and (weights := _map_in(output)) is not None:
                found.add(layer)
                read(weights, getattr(module, "sliding_window", None))

        return look

    last = list(enumerate(decoder_layers(model)))[-layers:]
    hooks = [
        module.register_forward_hook(hook(index))
        for index, layer in last
        for module in layer.modules()
    ]
    hooks.append(model.base_model.register_forward_pre_hook(lambda *_: found.clear()))
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)
        for each in hooks:
            each.remove()
    if len(found) < len(last):
        raise BackboneError(
            f"{model.config.model_type}: {len(last) - len(found)} of the last {len(last)} layers "
            "give no attention map. Leave trim out, or use another backbone"
        )


def _map_in(output: Any) -> torch.Tensor | None:
    """The attention map among what a module gives: the square (B, H, T, T)."""
    if not isinstance(output, tuple) or len(output) < 2 or not isinstance(output[0], torch.Tensor):
        return None
    weights, length = output[1], output[0].shape[1]
    if isinstance(weights, torch.Tensor) and weights.ndim == 4:
        return weights if weights.shape[2:] == (length, length) else None
    return None
