"""One run of the model over a sample, its final states handed over batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ..conversations.encoding import Encoded
from ..featurizer import TOKENS_PER_BATCH_ACCELERATOR, TOKENS_PER_BATCH_CPU
from ..models.backbone import Backbone
from ..models.batch import Batch, batches_of
from ..models.forward import run_pass
from ..representations.representation import Needs, Reducer
from .artifacts import Artifact

StateReader = Callable[[Sequence[int], Batch, torch.Tensor], None]
"""Takes the places of a batch's rows, the batch, and its final states (B, T, d)."""


def states_of(
    backbone: Backbone,
    rows: Sequence[Encoded],
    read: StateReader,
    adapter: Artifact | None = None,
    tell: Callable[[float], None] = lambda done: None,
) -> None:
    """Run the model once over rows, wearing an adapter; `tell` hears the share that is done."""
    cpu = backbone.device.type == "cpu"
    budget = TOKENS_PER_BATCH_CPU if cpu else TOKENS_PER_BATCH_ACCELERATOR
    done = 0
    for members, batch in batches_of(backbone, rows, budget):
        run_pass(backbone, batch, [(Needs(hidden=True), _Handing(members, batch, read))], adapter)
        done += len(members)
        tell(done / len(rows))


class _Handing(Reducer):
    def __init__(self, members: Sequence[int], batch: Batch, read: StateReader) -> None:
        self._members, self._batch, self._read = members, batch, read

    def hidden(self, states: torch.Tensor) -> None:
        self._read(self._members, self._batch, states)
