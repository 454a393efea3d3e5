"""Gradients of each row's loss by every weight, from inputs and output gradients of one backward.

The parameters stay frozen, so autograd keeps no inputs for them and computes no summed gradient.
A hook on each linear layer keeps its input until the gradient of its output arrives; where all
reducers need only a sketch, it keeps the input folded to a few numbers per token instead.

The weights are those of the linear layers inside the decoder layers: every `nn.Linear` and GPT-2's
transposed `Conv1D` (fused projections as one), the matrices of each expert of a mixture, and its
routers. Embeddings and the output layer are left out (LESS adapts neither), and so are norms,
biases and everything else that is no linear layer.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from ...schemas.errors import BackboneError
from ...schemas.plain_text import count_of
from ..models.anatomy import layer_modules
from .adapters import LowRank
from .feed_forward import ExpertLinear, has_experts, hook_experts
from .weight_gradient import WeightGradient, folded_inputs, joined

if TYPE_CHECKING:
    from ..models.batches import Batch
    from .reducer import Reducer


@contextmanager
def gradient_hooks(
    model: Any, batch: Batch, adapted: Mapping[str, LowRank], reducers: Sequence[Reducer]
) -> Iterator[None]:
    """Pass every weight's gradient to the reducers in a forward and backward inside the block.

    Without an adapter the weights are the linear layers of the decoder layers; with one, they are
    its two matrices of every adapted module, and nothing else.
    """
    capture = _Capture(batch, reducers)
    hooks: dict[nn.Module, Callable[..., None]] = {}
    experts: dict[nn.Module, str] = {}
    if reducers and adapted:
        hooks = {
            model.get_submodule(name): capture.adapted(name, low_rank)
            for name, low_rank in adapted.items()
        }
    elif reducers:
        _warn_of_omitted_weights(model)
        # Layers that share a weight (zamba2) have one gradient by it, under its first name.
        names: dict[int, str] = {}
        for name, module in {**linear_layers(model), **routers(model)}.items():
            shared = names.setdefault(id(module.weight), name)
            hooks[module] = capture.linear(shared)
        for name, module in expert_modules(model).items():
            experts[module] = names.setdefault(id(module.down_proj), name)
    with ExitStack() as stack:
        for module, hook in hooks.items():
            stack.enter_context(module.register_forward_hook(hook))
        for module, name in experts.items():
            stack.callback(hook_experts(module, capture.expert(name)))
        yield
        capture.pass_on_waiting()


def _warn_of_omitted_weights(model: Any) -> None:
    names = left_out(model)
    if names:  # Python shows a warning of the same words once
        warnings.warn(
            f"{model.config.model_type}: the gradients leave out "
            f"{count_of(len(names), 'weight')} outside linear layers "
            f"({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})",
            stacklevel=2,
        )


def linear_layers(model: Any) -> dict[str, nn.Module]:
    """Return name -> module of every plain linear layer inside the decoder layers."""
    return {n: m for n, m in layer_modules(model).items() if isinstance(m, nn.Linear | Conv1D)}


def expert_modules(model: Any) -> dict[str, nn.Module]:
    """Return name -> module of those that hold the matrices of a mixture's experts."""
    return {name: module for name, module in layer_modules(model).items() if has_experts(module)}


def routers(model: Any) -> dict[str, nn.Module]:
    """Return name -> module of those that choose experts by a bare two-dimensional `weight`.

    One of the outputs of each must be its logits, which is checked when it runs.
    """
    parents = {name.rpartition(".")[0] for name in expert_modules(model)}
    return {
        name: module
        for name, module in layer_modules(model).items()
        if name.rpartition(".")[0] in parents
        and name not in linear_layers(model)
        and getattr(getattr(module, "weight", None), "ndim", 0) == 2
    }


def left_out(model: Any) -> list[str]:
    """Return the names of matrices inside the decoder layers whose gradients are not read."""
    known = {*linear_layers(model), *expert_modules(model), *routers(model)}
    return [
        f"{name}.{parameter}"
        for name, module in layer_modules(model).items()
        if name not in known
        for parameter, value in module.named_parameters(recurse=False)
        if value.ndim >= 2
    ]


class _Capture:
    """The hooks of one pass over one batch."""

    def __init__(self, batch: Batch, reducers: Sequence[Reducer]) -> None:
        self._reducers = reducers
        self._mask = batch.mask
        self._padding = None if bool(batch.mask.all()) else ~batch.mask[:, :, None]
        sketches = {reducer.sketch for reducer in reducers if reducer.sketch}
        self._sketches = {
            spec for spec in sketches if not any(other.refines(spec) for other in sketches)
        }
        self._whole = any(reducer.sketch is None for reducer in reducers)
        self._runs: Counter[tuple[str, bool]] = Counter()
        self._waiting: dict[str, list[WeightGradient]] = {}

    def linear(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple, output: Any) -> None:
            if not self._has_graph(name):
                return
            inputs = args[0]
            outputs = (
                output
                if isinstance(output, torch.Tensor)
                else _logits_among(name, module, inputs, output)
            )
            combine = self._keep_inputs(name, self._by_row(name, inputs.detach()))
            _on_gradient(outputs, lambda deltas: combine(self._by_row(name, deltas)))

        return hook

    def adapted(self, name: str, low_rank: LowRank) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple, output: torch.Tensor) -> None:
            if not self._has_graph(f"{name}.A"):
                return
            self._has_graph(f"{name}.B")
            inputs = self._by_row(name, args[0].detach())

            def combine(deltas: torch.Tensor) -> None:
                by_row, clean = self._by_row(name, deltas), self._clean(inputs)
                reduced = low_rank.scaling * (clean @ low_rank.a.T)
                self._pass_on(WeightGradient(f"{name}.A", by_row @ low_rank.scaled_b, clean))
                self._pass_on(WeightGradient(f"{name}.B", by_row, reduced))

            _on_gradient(output, combine)

        return hook

    def expert(self, name: str) -> Callable[[ExpertLinear], None]:
        def hook(expert_linear: ExpertLinear) -> None:
            if not self._has_graph(f"{name}.{expert_linear.weight}.{expert_linear.expert}"):
                return
            device = self._mask.device
            places = _positions_by_row(expert_linear.tokens.to(device), self._mask)
            inputs = _spread(expert_linear.inputs.detach().to(device), places, len(self._mask))
            combine = self._keep_inputs(
                f"{name}.{expert_linear.weight}.{expert_linear.expert}", inputs, padded=False
            )
            _on_gradient(
                expert_linear.outputs,
                lambda deltas: combine(_spread(deltas.to(device), places, len(self._mask))),
            )

        return hook

    def _keep_inputs(
        self, name: str, inputs: torch.Tensor, padded: bool = True
    ) -> Callable[[torch.Tensor], None]:
        """Keep what the reducers need of a weight's inputs; return what to call with the deltas."""
        folded = {
            spec: self._clean(folded_inputs(inputs, name, spec), padded) for spec in self._sketches
        }
        whole, width = inputs if self._whole else None, inputs.shape[2]

        def combine(deltas: torch.Tensor) -> None:
            clean = None if whole is None else self._clean(whole, padded)
            self._pass_on(WeightGradient(name, deltas, clean, dict(folded), width))

        return combine

    def _has_graph(self, name: str) -> bool:
        """Count a run of a weight; return whether it has a graph.

        A checkpointed layer's first run has none; only the second has.
        """
        graph = torch.is_grad_enabled()
        self._runs[name, graph] += 1
        return graph

    def _pass_on(self, gradient: WeightGradient) -> None:
        """Pass on a weight's gradient, once: that of a weight that layers share when all are there.

        The runs without a graph, where there are any, are complete before the backward begins.
        """
        name = gradient.name
        parts = [*self._waiting.pop(name, []), gradient]
        if len(parts) < (self._runs[name, False] or self._runs[name, True]):
            self._waiting[name] = parts
            return
        whole = parts[0] if len(parts) == 1 else joined(parts)
        for reducer in self._reducers:
            reducer.gradient(whole)

    def pass_on_waiting(self) -> None:
        """Pass on gradients of weights some of whose runs had no influence on the loss."""
        for parts in self._waiting.values():
            whole = joined(parts)
            for reducer in self._reducers:
                reducer.gradient(whole)

    def _clean(self, inputs: torch.Tensor, padded: bool = True) -> torch.Tensor:
        """Set padding's inputs to 0: they may be NaN, and 0 * NaN is NaN."""
        if self._padding is None or not padded:
            return inputs
        if inputs.shape[1] != self._mask.shape[1]:  # several entries a token
            return inputs.nan_to_num()
        return inputs.masked_fill(self._padding, 0)

    def _by_row(self, name: str, values: torch.Tensor) -> torch.Tensor:
        rows, tokens = self._mask.shape
        values = values.to(self._mask.device)  # of a spread model, layers are on others as well
        if values.shape[:2] == (rows, tokens) and values.ndim == 3:
            return values
        if values.ndim == 2 and len(values) == rows * tokens:
            return values.view(rows, tokens, -1)
        if values.ndim > 3 and len(values) == rows and tokens in values.shape[1:-1]:
            return values.flatten(1, -2)  # such as (B, 1, T, d) in DeepSeek
        raise BackboneError(
            f"the linear layer {name} works on {tuple(values.shape)} for a batch of {rows} rows of "
            f"{tokens} tokens, so its gradient cannot be separated by row. Use features without "
            "gradients, or another backbone"
        )


def _on_gradient(outputs: torch.Tensor, combine: Callable[[torch.Tensor], None]) -> None:
    # Nothing before the first weight needs a gradient, so the graph begins at its output.
    if not outputs.requires_grad:
        outputs.requires_grad_()
    outputs.register_hook(lambda deltas: combine(deltas.detach()))


def _logits_among(name: str, module: Any, inputs: torch.Tensor, outputs: Any) -> torch.Tensor:
    """Return the one of a router's outputs that is its matrix times its inputs.

    Raises:
        BackboneError: there is none.
    """
    with torch.no_grad():
        bias = getattr(module, "bias", None)
        expected = nn.functional.linear(inputs.flatten(0, -2), module.weight, bias)
        for output in outputs if isinstance(outputs, tuple) else ():
            if isinstance(output, torch.Tensor) and output.shape == expected.shape:
                if torch.allclose(expected, output):
                    return output
    raise BackboneError(
        f"no output of the router {name} is its logits, so its gradient cannot be computed. Use "
        "features without gradients, or another backbone"
    )


def _positions_by_row(
    tokens: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return which of an expert's tokens are no padding, their rows, and their places in a row."""
    real = mask.flatten()[tokens].nonzero()[:, 0]
    rows = tokens[real] // mask.shape[1]
    counts = torch.bincount(rows, minlength=len(mask))
    first = counts.cumsum(0) - counts
    return real, rows, torch.arange(len(rows), device=rows.device) - first[rows]


def _spread(
    values: torch.Tensor, places: tuple[torch.Tensor, torch.Tensor, torch.Tensor], rows: int
) -> torch.Tensor:
    """Return (n, f) values of an expert's tokens as (B, most tokens of a row, f), 0 elsewhere."""
    real, at, slots = places
    width = int(slots.max()) + 1 if len(slots) else 1
    spread = values.new_zeros(rows, width, values.shape[1])
    spread[at, slots] = values[real]
    return spread
