"""Run the last feed-forward network only at the tokens whose final states are read.

After the last attention nothing mixes tokens, so a pass that reads response tokens alone needs no
final states of the others. In a pool of short answers those are most of the tokens.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from ...schemas.errors import BackboneError
from ..models.anatomy import forward_replaced
from .feed_forward import feed_forwards

if TYPE_CHECKING:
    from ..models.backbone import Backbone


MOST_TOKENS = 0.75
"""Share of a batch's tokens above which all are run, as gathering some has a cost too."""
COUNT_MULTIPLE = 128
"""The number of tokens is rounded up to a multiple where kernels are compiled per shape."""
PROBE_TOKENS = 8
PROBE_TOLERANCE = 1e-2
"""Relative; rounding in bfloat16 is below it, a network that mixes tokens far above."""


@contextmanager
def final_states_only_at(
    backbone: Backbone, shape: torch.Size, rows: torch.Tensor, places: torch.Tensor
) -> Iterator[None]:
    """Compute final states at the given tokens only inside the block; others are undefined.

    Nothing changes where the model's last feed-forward network does not allow it, or where the
    tokens are most of the batch.

    Args:
        shape: (B, T) of the batch that will be run.
        rows, places: (n,) int64 each, without repetitions: the tokens.
    """
    name = last_feed_forward(backbone)
    multiple = COUNT_MULTIPLE if backbone.width_multiple > 1 else 1
    count = max(1, -(-len(rows) // multiple)) * multiple
    if name is None or count > MOST_TOKENS * shape.numel():
        yield
        return
    module = backbone.model.get_submodule(name)
    with _running_at(module, shape, rows * shape[1] + places, count):
        yield


_TESTED: WeakKeyDictionary[nn.Module, str | None] = WeakKeyDictionary()
"""Model -> name of its last feed-forward network; None where that cannot run at some tokens."""


def last_feed_forward(backbone: Backbone) -> str | None:
    """Return the name of the module that may run at some tokens alone; None where there is none.

    Tested at the first call for a model: the states at those tokens must equal a full run's.
    Call it before dropout or an adapter changes the model.
    """
    model = backbone.model
    if model not in _TESTED:
        _TESTED[model] = _probe(backbone)
    return _TESTED[model]


@torch.inference_mode()
def _probe(backbone: Backbone) -> str | None:
    model = backbone.model
    module = _candidate(model)
    if module is None:
        return None

    def states(ids: torch.Tensor) -> torch.Tensor:
        return backbone.states(ids, torch.ones_like(ids, dtype=torch.bool)).hidden

    count = min(PROBE_TOKENS, backbone.info.max_length)
    ids = torch.arange(2 * count, device=backbone.device).view(2, -1) % backbone.info.vocabulary
    rows, places = (torch.arange(ids.numel()).view_as(ids) % 3 == 1).nonzero(as_tuple=True)
    rows, places = rows.to(ids.device), places.to(ids.device)
    expected = states(ids)[rows, places].float()
    with _running_at(module, ids.shape, rows * ids.shape[1] + places, len(rows) + 1) as used:
        skipping = states(ids)[rows, places].float()
    same = float((skipping - expected).norm()) <= PROBE_TOLERANCE * float(expected.norm())
    return next(n for n, m in model.named_modules() if m is module) if used and same else None


def _candidate(model: Any) -> nn.Module | None:
    """Return the module with the last layer's only down projection, if it takes one tensor."""
    try:
        *_, last = feed_forwards(model)
    except BackboneError:
        return None
    same_layer = [
        feed_forward for feed_forward in feed_forwards(model) if feed_forward.layer == last.layer
    ]
    holder = next((m for m in model.modules() if any(c is last.module for c in m.children())), None)
    if last.experts or len(same_layer) > 1 or holder is None:
        return None
    return holder if len(inspect.signature(holder.forward).parameters) == 1 else None


@contextmanager
def _running_at(
    module: nn.Module, shape: torch.Size, at: torch.Tensor, count: int
) -> Iterator[list[bool]]:
    """Run `module` at tokens `at` of (B, T), padded to `count`; its output is 0 elsewhere.

    Yields a list that is empty until the module ran this way.
    """
    whole: Callable[[torch.Tensor], torch.Tensor] = module.forward
    chosen = torch.cat([at, at.new_zeros(count - len(at))])
    ran: list[bool] = []

    def forward(states: torch.Tensor) -> torch.Tensor:
        if states.shape[:-1] != shape:
            return whole(states)
        ran.append(True)
        flat = states.flatten(0, 1)
        output = whole(flat.index_select(0, chosen.to(flat.device))[None])[0, : len(at)]
        return flat.new_zeros(flat.shape).index_copy(0, at.to(flat.device), output).view_as(states)

    with forward_replaced(module, forward):
        yield ran
