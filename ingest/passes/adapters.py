"""A LoRA adapter worn by a model for the time of a pass: y + scaling * B (A x).

The model itself is left as it is: hooks add what the adapter says, and go when the pass is over.
An adapter is an artifact with the arrays `<module>.A` (r, in) and `<module>.B` (out, r) and the
fact `scaling`; module names are those of the model without an adapter.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from ...schemas.errors import BackboneError
from ...store.catalog import Artifact

_PLACED: WeakKeyDictionary[nn.Module, WeakKeyDictionary[Artifact, dict[str, LowRank]]] = (
    WeakKeyDictionary()
)
"""Adapters on a model's device, while both live: a pass wears one once per batch."""


@dataclass(frozen=True)
class LowRank:
    """One adapted module: `a` (r, in) and `b` (out, r), in the model's dtype and place.

    `scaled_b` is `scaling` times `b`: the product is made once and not once per token.
    """

    a: torch.Tensor
    b: torch.Tensor
    scaling: float
    scaled_b: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "scaled_b", self.scaling * self.b)

    def added_to(self, outputs: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        """The module's outputs (..., out) for inputs (..., in), and what the adapter adds."""
        reduced = (inputs @ self.a.T).flatten(0, -2)
        summed = torch.addmm(outputs.flatten(0, -2), reduced, self.scaled_b.T)
        return summed.view_as(outputs)


def low_rank_modules(model: Any, adapter: Artifact) -> dict[str, LowRank]:
    """Every adapted module of `model` by name; placed on its device once.

    Raises:
        BackboneError: the adapter was made for other modules than the model has.
    """
    placed = _PLACED.setdefault(model, WeakKeyDictionary())
    if adapter not in placed:
        # A pass without gradients must not leave tensors that one with gradients cannot use.
        with torch.inference_mode(False):
            placed[adapter] = _place(model, adapter)
    return placed[adapter]


def _place(model: Any, adapter: Artifact) -> dict[str, LowRank]:
    found: dict[str, LowRank] = {}
    for key in adapter.arrays:
        name, dot, part = key.rpartition(".")
        if part != "A" or not dot:
            continue
        try:
            model.get_submodule(name)
        except AttributeError as error:
            raise BackboneError(f"the adapter was made for a module {name!r} ({error})") from error
        a, b = (
            torch.tensor(adapter.arrays[f"{name}.{each}"], dtype=model.dtype, device=model.device)
            for each in ("A", "B")
        )
        found[name] = LowRank(a, b, float(adapter.facts["scaling"]))
    return found


@contextmanager
def adapter_applied(model: Any, adapter: Artifact | None) -> Iterator[dict[str, LowRank]]:
    """Let `model` wear an adapter (None: none) inside the block; gives its modules by name."""
    modules = {} if adapter is None else low_rank_modules(model, adapter)
    hooks = [
        model.get_submodule(name).register_forward_hook(_adding(each))
        for name, each in modules.items()
    ]
    try:
        yield modules
    finally:
        for hook in hooks:
            hook.remove()


def _adding(low_rank: LowRank) -> Any:
    def add(module: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
        return low_rank.added_to(output, args[0])

    return add
