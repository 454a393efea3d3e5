"""Inputs and output gradients of every weight, brought together during one backward.

The parameters stay frozen, so autograd keeps no inputs for them and computes no summed gradient.
A hook on each linear layer keeps its input until the gradient of its output arrives; where only a
sketch is asked for, the input folded to a few numbers per token is all that is kept.

Which weights of a model have gradients here: the linear layers inside its decoder layers.

That is every `nn.Linear` and GPT-2's transposed `Conv1D` (fused projections as they are), the
matrices of each expert of a mixture, and its routers. Embeddings and the output layer are left
out (LESS adapts neither), and so are norms, biases and whatever else is no linear layer.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from ...schemas.errors import BackboneError
from ...schemas.plain_text import count_of
from ..models.anatomy import decoder_layers
from .adapters import LowRank
from .feed_forward import ExpertLinear, has_experts, listen
from .weight_gradient import WeightGradient, folded_inputs

if TYPE_CHECKING:
    from ..models.batches import Batch
    from .reducer import Reducer


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


@contextmanager
def gradients_read(
    model: Any, batch: Batch, adapted: Mapping[str, LowRank], readers: Sequence[Reducer]
) -> Iterator[None]:
    """Inside the block a forward and its backward hand every weight's gradient to the readers.

    Without an adapter these are the linear layers of the decoder layers; with one, its two
    matrices of every adapted module, and nothing else.
    """
    capture = _Capture(batch, readers)
    undo: list[Callable[[], None]] = []
    try:
        if not readers:
            undo = []
        elif adapted:
            undo = [
                model.get_submodule(name)
                .register_forward_hook(capture.adapted(name, low_rank))
                .remove
                for name, low_rank in adapted.items()
            ]
        else:
            _say_what_is_left_out(model)
            plain = {**linear_layers(model), **routers(model)}
            undo = [
                module.register_forward_hook(capture.linear(name)).remove
                for name, module in plain.items()
            ]
            undo += [
                listen(module, capture.expert(name))
                for name, module in expert_modules(model).items()
            ]
        yield
    finally:
        for each in undo:
            each()


def _say_what_is_left_out(model: Any) -> None:
    names = left_out(model)
    if names:  # a warning of the same words is shown once
        warnings.warn(
            f"{model.config.model_type}: the gradients leave out "
            f"{count_of(len(names), 'weight')} outside linear layers "
            f"({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})",
            stacklevel=2,
        )


class _Capture:
    """Makes the hooks of one pass over one batch."""

    def __init__(self, batch: Batch, readers: Sequence[Reducer]) -> None:
        self._readers = readers
        self._mask = batch.mask
        self._padding = None if bool(batch.mask.all()) else ~batch.mask[:, :, None]
        self._sketches = {reader.sketch for reader in readers if reader.sketch}
        self._whole = any(each.sketch is None for each in readers)

    def linear(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple, output: Any) -> None:
            if not torch.is_grad_enabled():
                return  # a checkpointed layer's first run; the second has a graph
            inputs = args[0]
            outputs = output[0] if isinstance(output, tuple) else output
            if not isinstance(output, torch.Tensor):
                _require_logits(name, module, inputs, outputs)
            tell = self._kept(name, self._by_row(name, inputs.detach()))
            _on_gradient(outputs, lambda deltas: tell(self._by_row(name, deltas)))

        return hook

    def adapted(self, name: str, low_rank: LowRank) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple, output: torch.Tensor) -> None:
            if not torch.is_grad_enabled():
                return
            inputs = self._by_row(name, args[0].detach())

            def tell(deltas: torch.Tensor) -> None:
                by_row, clean = self._by_row(name, deltas), self._clean(inputs)
                reduced = low_rank.scaling * (clean @ low_rank.a.T)
                self._hand(WeightGradient(f"{name}.A", by_row @ low_rank.scaled_b, clean))
                self._hand(WeightGradient(f"{name}.B", by_row, reduced))

            _on_gradient(output, tell)

        return hook

    def expert(self, name: str) -> Callable[[ExpertLinear], None]:
        def hear(expert_linear: ExpertLinear) -> None:
            if not torch.is_grad_enabled():
                return
            places = _places(expert_linear.tokens, self._mask)
            inputs = _spread(expert_linear.inputs.detach(), places, len(self._mask))
            tell = self._kept(
                f"{name}.{expert_linear.weight}.{expert_linear.expert}", inputs, padded=False
            )
            _on_gradient(
                expert_linear.outputs, lambda deltas: tell(_spread(deltas, places, len(self._mask)))
            )

        return hear

    def _kept(
        self, name: str, inputs: torch.Tensor, padded: bool = True
    ) -> Callable[[torch.Tensor], None]:
        """Keep as much of a weight's inputs as the readers need; call it with the deltas."""
        folded = {
            spec: self._clean(folded_inputs(inputs, name, spec), padded) for spec in self._sketches
        }
        whole = inputs if self._whole else None

        def tell(deltas: torch.Tensor) -> None:
            clean = None if whole is None else self._clean(whole, padded)
            self._hand(WeightGradient(name, deltas, clean, dict(folded)))

        return tell

    def _hand(self, gradient: WeightGradient) -> None:
        for reader in self._readers:
            reader.gradient(gradient)

    def _clean(self, inputs: torch.Tensor, padded: bool = True) -> torch.Tensor:
        """Padding's inputs may be anything, NaN too, and 0 times that is not 0."""
        if self._padding is None or not padded:
            return inputs
        return inputs.masked_fill(self._padding, 0)

    def _by_row(self, name: str, values: torch.Tensor) -> torch.Tensor:
        rows, tokens = self._mask.shape
        if values.shape[:2] == (rows, tokens) and values.ndim == 3:
            return values
        if values.ndim == 2 and len(values) == rows * tokens:
            return values.view(rows, tokens, -1)
        raise BackboneError(
            f"the linear layer {name} works on {tuple(values.shape)} for a batch of {rows} rows of "
            f"{tokens} tokens, so its gradient cannot be told apart by row. Use features without "
            "gradients, or another backbone"
        )


def _on_gradient(outputs: torch.Tensor, tell: Callable[[torch.Tensor], None]) -> None:
    # Nothing before the first weight needs a gradient: the graph begins at its output.
    if not outputs.requires_grad:
        outputs.requires_grad_()
    outputs.register_hook(lambda deltas: tell(deltas.detach()))


def _require_logits(name: str, module: Any, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
    with torch.no_grad():
        bias = getattr(module, "bias", None)
        expected = nn.functional.linear(inputs.flatten(0, -2), module.weight, bias)
        same = expected.shape == outputs.shape and torch.allclose(expected, outputs)
    if not same:
        raise BackboneError(
            f"the first output of the router {name} is not its logits, so its gradient cannot be "
            "computed. Use features without gradients, or another backbone"
        )


def _places(
    tokens: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of the tokens sent to an expert: which are no padding, their rows, their places in a row."""
    real = mask.flatten()[tokens].nonzero()[:, 0]
    rows = tokens[real] // mask.shape[1]
    counts = torch.bincount(rows, minlength=len(mask))
    first = counts.cumsum(0) - counts
    return real, rows, torch.arange(len(rows), device=rows.device) - first[rows]


def _spread(
    values: torch.Tensor, places: tuple[torch.Tensor, torch.Tensor, torch.Tensor], rows: int
) -> torch.Tensor:
    """(n, f) values of an expert's tokens as (B, most tokens of a row, f), 0 where none is."""
    real, at, slots = places
    width = int(slots.max()) + 1 if len(slots) else 1
    spread = values.new_zeros(rows, width, values.shape[1])
    spread[at, slots] = values[real]
    return spread
