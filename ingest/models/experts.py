"""Experts run by an operation of our own, so that what goes through each of them can be seen.

Transformers keeps the experts of a mixture as bare three-dimensional parameters, whose inner
values no hook sees. For the time of a pass they are run here, matrix by matrix; the output is the
same but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class ExpertLinear:
    """One matrix of one expert at work.

    Attributes:
        weight: "gate_up_proj", "up_proj" or "down_proj", as the parameter is called.
        expert: its number.
        inputs, outputs: (n, i) and (n, o), of the tokens that were sent to the expert.
        tokens: (n,) int64, ascending: where they stand in the batch, `row * T + position`.
    """

    weight: str
    expert: int
    inputs: torch.Tensor
    outputs: torch.Tensor
    tokens: torch.Tensor


Listener = Callable[[ExpertLinear], None]


def has_experts(module: nn.Module) -> bool:
    """Whether a module holds experts in the form that transformers gives them."""
    bare = [each for each in module.parameters(recurse=False) if each.ndim == 3]
    return bool(bare) and hasattr(module, "_apply_gate") and hasattr(module, "down_proj")


def expert_weights(module: Any) -> tuple[str, str]:
    """Names of an expert module's two parameters, in the order they are applied."""
    return ("gate_up_proj" if getattr(module, "has_gate", True) else "up_proj"), "down_proj"


def listen(module: nn.Module, listener: Listener) -> Callable[[], None]:
    """Let `listener` see every matrix of the experts at work, until what is returned is called."""
    own = vars(module)
    told = own.get("forward")
    if not isinstance(told, _Told):
        told = own["forward"] = _Told(module)
    told.listeners.append(listener)

    def stop() -> None:
        told.listeners.remove(listener)
        if not told.listeners:
            del own["forward"]

    return stop


@dataclass
class _Told:
    """The forward of an expert module that tells its listeners."""

    experts: Any
    listeners: list[Listener] = field(default_factory=list)

    def __call__(
        self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        return _run(self.experts, self.listeners, hidden_states, top_k_index, top_k_weights)


def _run(
    experts: Any,
    listeners: Sequence[Listener],
    hidden_states: torch.Tensor,
    top_k_index: torch.Tensor,
    top_k_weights: torch.Tensor,
) -> torch.Tensor:
    first, last = expert_weights(experts)
    chosen = top_k_index.flatten()
    order = chosen.argsort(stable=True)
    counts = torch.bincount(chosen, minlength=len(experts.down_proj)).tolist()
    output = torch.zeros_like(hidden_states)
    for number, places in enumerate(order.split(counts)):
        if not len(places):
            continue
        tokens = places // top_k_index.shape[1]

        def linear(which: str, inputs: torch.Tensor) -> torch.Tensor:
            outputs = _linear(experts, which, number, inputs)  # noqa: B023 (called at once)
            for listener in listeners:
                listener(ExpertLinear(which, number, inputs, outputs, tokens))  # noqa: B023
            return outputs

        raised = linear(first, hidden_states[tokens])
        gated = getattr(experts, "has_gate", True)
        lowered = linear(last, experts._apply_gate(raised) if gated else experts.act_fn(raised))
        if getattr(experts, "has_post_expert_norm", False):
            lowered = experts.post_expert_norm(lowered)
        weighted = lowered * top_k_weights.flatten()[places, None]
        output = output.index_add(0, tokens, weighted.to(output.dtype))
    return output


def _linear(experts: Any, which: str, number: int, inputs: torch.Tensor) -> torch.Tensor:
    weight = getattr(experts, which)[number]
    weight = weight.T if getattr(experts, "is_transposed", False) else weight
    bias = (
        getattr(experts, f"{which}_bias")[number] if getattr(experts, "has_bias", False) else None
    )
    return nn.functional.linear(inputs, weight, bias)
