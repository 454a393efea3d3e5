"""One pass over one batch, for everybody who needs something of it.

States and logits live no longer than the batch, and a layer's states no longer than its hook:
reducers take from them what becomes columns. Logits exist for response tokens only, a slice at a
time. Where somebody asks for gradients, the same forward is followed by one backward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from ..fits.artifacts import Artifact
from ..gradients.capture import gradients_read
from ..gradients.checkpointing import checkpointed, worth_checkpointing
from ..gradients.loss import LossDerivative
from ..gradients.written import written_backwards
from ..representations.representation import Needs, Reducer
from .adapters import worn
from .anatomy import decoder_layers
from .backbone import Backbone, States
from .batch import Batch
from .narrowing import narrowed
from .neurons import neurons_read

Readers = Sequence[tuple[Needs, Reducer]]


def run_pass(
    backbone: Backbone,
    batch: Batch,
    readers: Readers,
    adapter: Artifact | None = None,
    checkpointing: bool | None = None,
) -> None:
    """Run the model once over a batch and hand each reducer what it needs.

    Args:
        adapter: what the model wears.
        checkpointing: run every layer a second time instead of keeping what its backward needs;
            by default where the batch is too large for the device otherwise.
    """
    model = backbone.model
    of_logits = [reducer for needs, reducer in readers if needs.logits]
    of_gradients = [reducer for needs, reducer in readers if needs.gradients]
    if checkpointing is None:
        checkpointing = bool(of_gradients) and worth_checkpointing(model, batch.ids.numel())
    with (
        torch.enable_grad() if of_gradients else torch.inference_mode(),
        written_backwards(model) if of_gradients else nullcontext(),
        _only_predicting(backbone, batch, readers, adapter),
        worn(model, adapter) as adapted,
        layers_read(model, [r for needs, r in readers if needs.layers]),
        neurons_read(
            model,
            [r for needs, r in readers if needs.neurons],
            (batch.ids.shape[0], batch.ids.shape[1]),
        ),
        checkpointed(model, checkpointing and bool(of_gradients)),
        gradients_read(model, batch, adapted, of_gradients),
    ):
        states = backbone.states(batch.ids, batch.mask, logits=bool(of_logits or of_gradients))
        for needs, reducer in readers:
            if needs.hidden:
                reducer.hidden(states.hidden.detach())
        if of_logits or of_gradients:
            _read_logits(backbone, batch, states, of_logits, bool(of_gradients))


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


def _only_predicting(
    backbone: Backbone, batch: Batch, readers: Readers, adapter: Artifact | None
) -> AbstractContextManager[None]:
    """Where nobody looks at other states, or at weights that would not see them: narrowed."""
    elsewhere = any(
        needs.hidden or needs.layers or needs.neurons or (needs.gradients and adapter is None)
        for needs, _ in readers
    )
    return nullcontext() if elsewhere else narrowed(backbone, batch.ids.shape, *batch.predicted())


def _read_logits(
    backbone: Backbone, batch: Batch, states: States, readers: Sequence[Reducer], backward: bool
) -> None:
    rows, before = batch.predicted()
    targets = batch.ids[rows, before + 1]
    derivative = LossDerivative(backbone, batch, states, rows) if backward else None
    for part in backbone.logit_slices(len(rows)):
        with torch.no_grad():
            logits = backbone.head(states, rows[part], before[part])
        for reducer in readers:
            reducer.logits(logits, targets[part], rows[part])
        if derivative:
            derivative.add(logits, targets[part], rows[part], before[part])
    if derivative:
        derivative.backward()
