"""TRIM's fingerprints: a unit vector for every class of a target's tokens.

A class is a vocabulary id; attention in the last layers weights the tokens of an example. Fused
kernels make no attention maps, so for these runs the model is switched to the plain
implementation, and a hook reads every map as soon as it is made: of one example and one layer at a
time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ...schemas.errors import BackboneError
from ...store.catalog import Artifact
from ..conversations.tokenization import Encoded
from ..models.anatomy import decoder_layers, text_model
from ..models.backbone import Backbone
from ..passes.adapters import adapter_applied

FLAT = 1e-5
"""Saliencies that differ by less are equal: float32 maps are no more precise."""

SHORTEST_SUM = 1e-6
"""A class whose weighted states sum to a shorter vector counts as not seen."""

BLOCK_ELEMENTS = 1 << 24
"""Embeddings, or their cosines, held at once: 64 MB in float32."""


@dataclass(frozen=True)
class Fingerprints:
    """Seen classes (C,) int32, ascending, and their unit vectors (C, d) float32."""

    classes: NDArray[np.int32]
    vectors: NDArray[np.float32]


def fingerprints(
    backbone: Backbone, rows: Sequence[Encoded], layers: int, adapter: Artifact | None = None
) -> Fingerprints:
    """Compute f_t = normalise(sum over occurrences of class t of alpha * h / |h|).

    Args:
        rows: the target's examples.
        layers: how many of the last decoder layers the saliency alpha is read from.
        adapter: applied to the model meanwhile.
    """
    sums: dict[int, NDArray[np.float64]] = {}
    for row in rows:
        content = np.flatnonzero(row.content)
        if not len(content):
            continue
        states, alpha = _salient_states(backbone, row, content, layers, adapter)
        for token, state, weight in zip(row.ids[content].tolist(), states, alpha, strict=True):
            sums[token] = sums.get(token, 0) + weight * state
    lengths = {token: np.linalg.norm(total) for token, total in sums.items()}
    classes = sorted(token for token, length in lengths.items() if length > SHORTEST_SUM)
    vectors = np.zeros((len(classes), backbone.info.hidden_size), np.float32)
    for place, token in enumerate(classes):
        vectors[place] = sums[token] / lengths[token]
    return Fingerprints(np.asarray(classes, dtype=np.int32), vectors)


def _salient_states(
    backbone: Backbone,
    row: Encoded,
    content: NDArray[np.int64],
    layers: int,
    adapter: Artifact | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return unit states (n, d) and alpha (n,) of the content tokens of one example."""
    saliency = Saliency(content)
    ids = torch.from_numpy(row.ids.astype(np.int64))[None].to(backbone.device)
    with (
        torch.inference_mode(),
        adapter_applied(backbone.model, adapter),
        attention_hooks(backbone.model, layers, saliency.add),
    ):
        hidden = backbone.states(ids, torch.ones_like(ids, dtype=torch.bool)).hidden[0]
    states = hidden[torch.from_numpy(content).to(hidden.device)].float().cpu().double().numpy()
    length = np.linalg.norm(states, axis=1, keepdims=True)
    units = np.divide(states, length, out=np.zeros_like(states), where=length > 0)
    return units, saliency.alpha()


class Saliency:
    """Row and column saliency of the content tokens of one example, summed over maps and heads.

    Args:
        content: (n,) positions of the example's content tokens.
    """

    def __init__(self, content: NDArray[np.int64]) -> None:
        self._content = torch.from_numpy(content)
        self._row, self._column = (torch.zeros(len(content)) for _ in range(2))
        self._heads = 0

    def add(self, weights: torch.Tensor, window: int | None = None) -> None:
        """Add one layer's map (1, H, T, T); a token sees `window` tokens, itself included."""
        content = self._content.to(weights.device)
        back = content[:, None] - content[None, :]
        visible = (back >= 0) & (back < (window or len(weights[0, 0])))
        keys = visible.sum(1)
        for head in weights[0]:
            suggest = head[content][:, content].float() * visible
            total = suggest.sum(1, keepdim=True)
            # A token that attends to template tokens alone is taken to attend evenly.
            suggest = torch.where(total > 0, suggest / total, visible / keys[:, None])
            entropy = -torch.special.xlogy(suggest, suggest).sum(1)
            row = torch.where(keys > 1, 1 - entropy / keys.clamp(min=2).log(), 0.0)
            column = (keys[:, None] * suggest).sum(0) / visible.sum(0)
            self._row += row.cpu()
            self._column += column.cpu()
        self._heads += len(weights[0])

    def alpha(self) -> NDArray[np.float64]:
        """Return (n,) in [0, 1]: the mean of both saliencies, each scaled to [0, 1]."""
        row, column = (total.double().numpy() / self._heads for total in (self._row, self._column))
        return (_scaled(row) + _scaled(column)) / 2


def _scaled(values: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = values.min(), values.max()
    return np.ones_like(values) if high - low < FLAT else (values - low) / (high - low)


def nearest_classes(model: Any, classes: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return (V,) int32: for every vocabulary id the index in `classes` of its nearest class.

    Nearest by the cosine of input embeddings, the first of equals; a seen class is its own.
    """
    with torch.inference_mode():
        embeddings = _embeddings(model)
        ids = torch.from_numpy(classes.astype(np.int64)).to(embeddings.device)
        seen = torch.nn.functional.normalize(embeddings[ids].float(), dim=1)
        step = max(1, BLOCK_ELEMENTS // max(seen.shape))
        # The norm of an id's own embedding does not change which class is nearest.
        places = [(block.float() @ seen.T).argmax(1) for block in embeddings.detach().split(step)]
        nearest = torch.cat(places).int().cpu().numpy()
    nearest[classes] = np.arange(len(classes), dtype=np.int32)
    return nearest


def _embeddings(model: Any) -> torch.Tensor:
    """Return the input embeddings (V, D); those of a spread model may be anywhere."""
    module = model.get_input_embeddings()
    if not module.weight.is_meta:
        return module.weight
    count, width = module.weight.shape
    ids = torch.arange(count).split(max(1, BLOCK_ELEMENTS // width))
    return torch.cat([module(some).cpu() for some in ids])


MapHook = Callable[[torch.Tensor, int | None], None]
"""Receives a map (B, H, T, T) in the compute dtype and the layer's window, None for all tokens."""


@contextmanager
def attention_hooks(model: Any, layers: int, receive: MapHook) -> Iterator[None]:
    """Call `receive` with the attention maps of the last `layers` decoder layers inside the block.

    Raises:
        BackboneError: a run ended and a layer had made no map.
    """
    seen: set[int] = set()

    def hook_of(layer: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple, output: Any) -> None:
            # The innermost module that makes the map comes first; outer ones may pass it on.
            if layer not in seen and (weights := _map_in(output)) is not None:
                seen.add(layer)
                receive(weights, getattr(module, "sliding_window", None))

        return hook

    last = list(enumerate(decoder_layers(model)))[-layers:]
    with ExitStack() as stack:
        stack.callback(model.set_attn_implementation, model.config._attn_implementation)
        model.set_attn_implementation("eager")
        for index, layer in last:
            for module in layer.modules():
                stack.enter_context(module.register_forward_hook(hook_of(index)))
        pre_hook = text_model(model).register_forward_pre_hook(lambda *_: seen.clear())
        stack.enter_context(pre_hook)
        yield
    if len(seen) < len(last):
        raise BackboneError(
            f"{model.config.model_type}: {len(last) - len(seen)} of the last {len(last)} layers "
            "give no attention map. Leave trim out, or use another backbone"
        )


def _map_in(output: Any) -> torch.Tensor | None:
    """Return the attention map (B, H, T, T) in a module's output, None where there is none."""
    if not isinstance(output, tuple) or len(output) < 2 or not isinstance(output[0], torch.Tensor):
        return None
    states, weights = output[:2]
    if not isinstance(weights, torch.Tensor) or weights.ndim != 4 or states.ndim != 3:
        return None
    return weights if weights.shape[2:] == (states.shape[1],) * 2 else None
