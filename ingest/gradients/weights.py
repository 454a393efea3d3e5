"""Which weights of a model have gradients here: the linear layers inside its decoder layers.

That is every `nn.Linear` and GPT-2's transposed `Conv1D` (fused projections as they are), the
matrices of each expert of a mixture, and its routers. Embeddings and the output layer are left
out (LESS adapts neither), and so are norms, biases and whatever else is no linear layer.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from ..models.anatomy import decoder_layers
from ..models.experts import has_experts


def linear_layers(model: Any) -> dict[str, nn.Module]:
    """Name -> module of every plain linear layer inside the decoder layers."""
    return {n: m for n, m in _inside(model).items() if isinstance(m, nn.Linear | Conv1D)}


def expert_modules(model: Any) -> dict[str, nn.Module]:
    """Name -> module that holds the matrices of a mixture's experts."""
    return {name: module for name, module in _inside(model).items() if has_experts(module)}


def routers(model: Any) -> dict[str, nn.Module]:
    """Name -> module that multiplies with a bare two-dimensional `weight` and chooses experts.

    Its first output are the router's logits (checked when it runs).
    """
    beside = {name.rpartition(".")[0] for name in expert_modules(model)}
    return {
        name: module
        for name, module in _inside(model).items()
        if name.rpartition(".")[0] in beside
        and name not in linear_layers(model)
        and getattr(getattr(module, "weight", None), "ndim", 0) == 2
    }


def left_out(model: Any) -> list[str]:
    """Names of matrices inside the decoder layers whose gradients are not looked at."""
    known = {*linear_layers(model), *expert_modules(model), *routers(model)}
    return [
        f"{name}.{parameter}"
        for name, module in _inside(model).items()
        if name not in known
        for parameter, value in module.named_parameters(recurse=False)
        if value.ndim >= 2
    ]


def _inside(model: Any) -> dict[str, nn.Module]:
    layers = {id(module) for layer in decoder_layers(model) for module in layer.modules()}
    return {name: module for name, module in model.named_modules() if id(module) in layers}
