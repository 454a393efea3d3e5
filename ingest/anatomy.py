"""Where a causal language model keeps its parts, whatever its architecture calls them."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..schemas.errors import BackboneError


def decoder_layers(model: Any) -> list[nn.Module]:
    """The decoder layers, first to last (`layers` in llama, `h` in gpt2).

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
