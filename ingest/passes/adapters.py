"""Apply a LoRA adapter to a model: y + scaling * B (A x), in the model's dtype.

During a pass the model itself is not changed: hooks add the adapter's part, and are removed after
the pass. An adapter is an artifact with the arrays `<module>.A` (r, in) and `<module>.B` (out, r)
and the fact `scaling`; module names are those of the model without an adapter.

Where peft's layers stand in the model, they can compute in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import nn

from ...schemas.errors import BackboneError
from ...store.catalog import Artifact
from ..models.anatomy import forward_replaced

_PLACED: WeakKeyDictionary[nn.Module, WeakKeyDictionary[Artifact, dict[str, LowRank]]] = (
    WeakKeyDictionary()
)
"""Model -> adapter -> its modules on the model's device, moved once for all batches."""


@dataclass(frozen=True)
class LowRank:
    """One adapted module: `a` (r, in) and `b` (out, r), in the model's dtype and place.

    `scaled_b` is `scaling` times `b`, computed once.
    """

    a: torch.Tensor
    b: torch.Tensor
    scaling: float
    scaled_b: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "scaled_b", self.scaling * self.b)

    def added_to(self, outputs: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        """Return the module's outputs (..., out) for inputs (..., in) plus the adapter's part."""
        reduced = (inputs @ self.a.T).flatten(0, -2)
        summed = torch.addmm(outputs.flatten(0, -2), reduced, self.scaled_b.T)
        return summed.view_as(outputs)


def low_rank_modules(model: Any, adapter: Artifact) -> dict[str, LowRank]:
    """Return every adapted module of `model` by name, moved to its device once.

    Raises:
        BackboneError: the adapter was made for other modules than the model has.
    """
    placed = _PLACED.setdefault(model, WeakKeyDictionary())
    if adapter not in placed:
        # Tensors made in inference mode could not be used in a pass with gradients.
        with torch.inference_mode(False):
            placed[adapter] = _place(model, adapter)
    return placed[adapter]


def _place(model: Any, adapter: Artifact) -> dict[str, LowRank]:
    modules: dict[str, LowRank] = {}
    for key in adapter.arrays:
        name, dot, part = key.rpartition(".")
        if part != "A" or not dot:
            continue
        try:
            model.get_submodule(name)
        except AttributeError as error:
            raise BackboneError(f"the adapter was made for a module {name!r} ({error})") from error
        a, b = (
            torch.tensor(adapter.arrays[f"{name}.{matrix}"], dtype=model.dtype, device=model.device)
            for matrix in ("A", "B")
        )
        modules[name] = LowRank(a, b, float(adapter.facts["scaling"]))
    return modules


@contextmanager
def adapter_applied(model: Any, adapter: Artifact | None) -> Iterator[dict[str, LowRank]]:
    """Apply an adapter (None: none) to `model` inside the block; yield its modules by name."""
    modules = {} if adapter is None else low_rank_modules(model, adapter)
    with ExitStack() as hooks:
        for name, low_rank in modules.items():
            module = model.get_submodule(name)
            hooks.enter_context(module.register_forward_hook(_adapter_hook(low_rank)))
        yield modules


@contextmanager
def peft_in_model_dtype(model: Any, trained: bool) -> Iterator[None]:
    """Let peft's LoRA layers compute in the model's dtype inside the block.

    peft multiplies by adapters in the dtype of their weights, float32, for which it also copies
    every input: of a forward of SmolLM2-135M in bfloat16 that was nearly half the time on a CPU.
    Weights and their gradients stay as they are.

    Args:
        model: with layers of one adapter.
        trained: the weights do not change inside the block.
    """
    from peft.tuners.lora import LoraLayer

    with ExitStack() as replaced:
        for module in list(model.modules()):
            if isinstance(module, LoraLayer):
                forward = _lora_forward(module, trained)
                replaced.enter_context(forward_replaced(cast(nn.Module, module), forward))
        yield


def _lora_forward(layer: Any, trained: bool) -> Callable[[torch.Tensor], torch.Tensor]:
    (name,) = layer.active_adapters
    dropout = layer.lora_dropout[name]

    def low_rank(dtype: torch.dtype) -> LowRank:
        a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
        return LowRank(a.to(dtype), b.to(dtype), layer.scaling[name])

    @cache
    def fixed(dtype: torch.dtype) -> LowRank:
        with torch.no_grad():
            return low_rank(dtype)

    def forward(inputs: torch.Tensor) -> torch.Tensor:
        part = (fixed if trained else low_rank)(inputs.dtype)
        return part.added_to(layer.base_layer(inputs), dropout(inputs))

    return forward


def _adapter_hook(low_rank: LowRank) -> Any:
    def add(module: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
        return low_rank.added_to(output, args[0])

    return add
