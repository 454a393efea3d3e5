"""A LoRA adapter worn by a model for the time of a pass: y + scaling * B (A x).

The model itself is left as it is: hooks add what the adapter says, and go when the pass is over.
An adapter is an artifact with the arrays `<module>.A` (r, in) and `<module>.B` (out, r) and the
fact `scaling`; module names are those of the model without an adapter.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..schemas.errors import BackboneError
from .artifacts import Artifact


@dataclass(frozen=True)
class LowRank:
    """One adapted module: `a` (r, in) and `b` (out, r), in the model's dtype and place."""

    a: torch.Tensor
    b: torch.Tensor
    scaling: float

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """What is added to the module's output (..., out) for inputs (..., in)."""
        return self.scaling * (inputs @ self.a.T @ self.b.T)


def low_rank_modules(model: Any, adapter: Artifact) -> dict[str, LowRank]:
    """Every adapted module of `model` by name.

    Raises:
        BackboneError: the adapter was made for other modules than the model has.
    """
    found: dict[str, LowRank] = {}
    for key in adapter.arrays:
        name, dot, part = key.rpartition(".")
        if part != "A" or not dot:
            continue
        try:
            model.get_submodule(name)
        except AttributeError as error:
            raise BackboneError(f"the adapter was made for a module {name!r} ({error})") from error
        pair = [
            torch.from_numpy(adapter.arrays[f"{name}.{each}"]).to(model.device, model.dtype)
            for each in ("A", "B")
        ]
        found[name] = LowRank(pair[0], pair[1], float(adapter.facts["scaling"]))
    return found


@contextmanager
def worn(model: Any, adapter: Artifact | None) -> Iterator[dict[str, LowRank]]:
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


def _adding(each: LowRank) -> Any:
    def add(module: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
        return output + each(args[0])

    return add
