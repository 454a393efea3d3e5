"""Find the parts of a causal language model, whatever its architecture calls them.

One module's forward can be replaced for the time of a block.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ...schemas.errors import BackboneError


def text_model(model: Any) -> nn.Module:
    """Return the part of a causal LM that turns token ids into final states.

    It is the model without its output layer, and of a model that reads images as well, the
    language model inside it.
    """
    for part in (model.get_decoder(), model.base_model):
        if part is not model:
            return part
    head = model.get_output_embeddings()
    return max((part for part in model.children() if part is not head), key=parameter_count)


def decoder_layers(model: Any) -> list[nn.Module]:
    """Return the decoder layers, first to last (`layers` in llama, `h` in gpt2).

    Of several lists of as many modules as the model has layers it is the one with the most
    parameters.

    Raises:
        BackboneError: the model has no list of as many modules as it says it has layers.
    """
    count = model.config.get_text_config().num_hidden_layers
    lists = [
        module
        for module in text_model(model).modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    ]
    if not lists:
        raise BackboneError(
            f"{model.config.model_type}: the decoder layers of this architecture are not found. "
            "Use features that look at no layers, or another backbone"
        )
    return list(max(lists, key=parameter_count))


def layer_modules(model: Any) -> dict[str, nn.Module]:
    """Return name -> module of everything inside the decoder layers, in the model's order."""
    inside = {id(module) for layer in decoder_layers(model) for module in layer.modules()}
    return {name: module for name, module in model.named_modules() if id(module) in inside}


def parameter_count(module: nn.Module) -> int:
    """Return the number of a module's weights."""
    return sum(parameter.numel() for parameter in module.parameters())


def attention_projections(model: Any) -> list[str]:
    """Return the names of the linear layers of every attention block, in the model's order.

    They are q/k/v/o_proj in llama, c_attn and c_proj of `attn` in gpt2, query_key_value and dense
    of `attention` in gpt_neox.

    Raises:
        BackboneError: there are none.
    """
    from transformers.pytorch_utils import Conv1D

    names = [
        name
        for name, module in layer_modules(model).items()
        if isinstance(module, nn.Linear | Conv1D)
        and re.search(r"attn|attention", name.rpartition(".")[0])
    ]
    if not names:
        raise BackboneError(
            f"{model.config.model_type}: this architecture has no attention projections that an "
            "adapter could be trained on. Use features without a warm-up, or another backbone"
        )
    return names


@contextmanager
def forward_replaced(
    module: nn.Module, forward: Callable[[torch.Tensor], torch.Tensor]
) -> Iterator[None]:
    """Let `module` run `forward` inside the block, with its hooks; its class is not changed."""
    previous = vars(module).get("forward")  # another library may have set one
    module.forward = forward
    try:
        yield
    finally:
        if previous is None:
            del module.forward
        else:
            module.forward = previous
