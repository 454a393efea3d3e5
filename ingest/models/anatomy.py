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


def decoder_layers(model: Any) -> list[nn.Module]:
    """Return the decoder layers, first to last (`layers` in llama, `h` in gpt2).

    Raises:
        BackboneError: the model has no list of as many modules as it says it has layers.
    """
    count = model.config.get_text_config().num_hidden_layers
    for module in model.base_model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return list(module)
    raise BackboneError(
        f"{model.config.model_type}: the decoder layers of this architecture are not found. "
        "Use features that look at no layers, or another backbone"
    )


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
        for name, module in model.named_modules()
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
