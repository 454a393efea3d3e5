"""One pass over one batch, for everybody who needs something of it.

States and logits live no longer than the batch, and a layer's states no longer than its hook:
reducers take from them what becomes columns. Logits exist for response tokens only, a slice at a
time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from .adapters import worn
from .anatomy import decoder_layers
from .artifacts import Artifact
from .backbone import Backbone, States
from .batch import Batch
from .neurons import neurons_read
from .representations.representation import Needs, Reducer

LOGIT_ELEMENTS = 1 << 24
"""Logits held at once: 64 MB in float32."""

Readers = Sequence[tuple[Needs, Reducer]]


def run_pass(
    backbone: Backbone, batch: Batch, readers: Readers, adapter: Artifact | None = None
) -> None:
    """Run the model once over a batch and hand each reducer what it needs."""
    wanted_logits = [reducer for needs, reducer in readers if needs.logits]
    with (
        torch.inference_mode(),
        worn(backbone.model, adapter),
        layers_read(backbone.model, [r for needs, r in readers if needs.layers]),
        neurons_read(
            backbone.model,
            [r for needs, r in readers if needs.neurons],
            (batch.ids.shape[0], batch.ids.shape[1]),
        ),
    ):
        states = backbone.states(batch.ids, batch.mask, logits=bool(wanted_logits))
        for needs, reducer in readers:
            if needs.hidden:
                reducer.hidden(states.hidden)
        if wanted_logits:
            _read_logits(backbone, batch, states, wanted_logits)


@contextmanager
def layers_read(model: Any, reducers: Sequence[Reducer]) -> Iterator[None]:
    """Inside the block every decoder layer's output goes to the reducers as it appears."""

    def reading(index: int) -> Callable[..., None]:
        def read(module: torch.nn.Module, args: tuple, output: Any) -> None:
            states = output[0] if isinstance(output, tuple) else output
            for reducer in reducers:
                reducer.layer(index, states.detach())

        return read

    layers = decoder_layers(model) if reducers else []
    hooks = [layer.register_forward_hook(reading(i)) for i, layer in enumerate(layers)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _read_logits(
    backbone: Backbone, batch: Batch, states: States, reducers: Sequence[Reducer]
) -> None:
    # A response token is predicted from the token before it, which padding is not.
    predicted = batch.response[:, 1:] & batch.mask[:, :-1]
    rows, before = predicted.nonzero(as_tuple=True)
    targets = batch.ids[rows, before + 1]
    step = max(1, LOGIT_ELEMENTS // backbone.info.vocabulary)
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        logits = backbone.head(states, rows[part], before[part])
        for reducer in reducers:
            reducer.logits(logits, targets[part], rows[part])
