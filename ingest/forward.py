"""One forward over one batch, for everybody who needs something of it.

States and logits live no longer than the batch: reducers take from them what becomes columns.
Logits exist for response tokens only, a slice at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .backbone import Backbone
from .batch import Batch
from .representations.registry import Needs, Reducer

LOGIT_ELEMENTS = 1 << 24
"""Logits held at once: 64 MB in float32."""


def run_pass(backbone: Backbone, batch: Batch, readers: Sequence[tuple[Needs, Reducer]]) -> None:
    """Run the model once over a batch and hand each reducer what it needs."""
    wanted_logits = [reducer for needs, reducer in readers if needs.logits]
    with torch.inference_mode():
        states = backbone.states(batch.ids, batch.mask, logits=bool(wanted_logits))
        for needs, reducer in readers:
            if needs.hidden:
                reducer.hidden(states.hidden)
        if not wanted_logits:
            return
        # A response token is predicted from the token before it, which padding is not.
        predicted = batch.response[:, 1:] & batch.mask[:, :-1]
        rows, before = predicted.nonzero(as_tuple=True)
        targets = batch.ids[rows, before + 1]
        step = max(1, LOGIT_ELEMENTS // backbone.info.vocabulary)
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            logits = backbone.head(states, rows[part], before[part])
            for reducer in wanted_logits:
                reducer.logits(logits, targets[part], rows[part])
