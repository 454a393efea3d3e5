"""MADS: the neurons a row's answer drives hardest, chosen from by coverage (METHODS 5).

Source: "MADS" (arXiv 2605.30857): rows are described by the neural activation states of a language
model during inference. What exactly is kept is ours: the value of every feed-forward unit, its
maximum over the response tokens, and of each layer the units with the largest ones.

Query side: none is needed; the selector `coverage` looks at the sets alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from ...schemas.errors import UsageError
from ..models.describe import BackboneInfo
from .representation import Needs, Pass, Reducer, Representation, Setup

if TYPE_CHECKING:
    from ..conversations.encoding import Encoded
    from ..fits.fit import Fit
    from ..models.batch import Batch

WHOLE = Pass()
TOKENS = ("response", "content", "all")

HALF_LARGEST = 65504.0
"""The largest float16; a stored value beyond it would be infinite."""


class Mads(Representation):
    """Columns: `mads` ids of the active neurons, ascending, `mads_values`, `mads_reason`.

    A neuron's id counts units through all layers (in a mixture of experts through a layer's
    experts as well).

    Options:
        share: of a layer's units that are active, at least one unit.
        tokens: over which the maximum is taken: `response`, `content` or `all`.
    """

    name = "mads"
    version = 1
    paper = "arXiv 2605.30857"
    defaults: ClassVar[Mapping[str, Any]] = {"share": 0.01, "tokens": "response"}
    selector = "coverage"
    sets = "mads"

    def fields(self, setup: Setup) -> list[pa.Field]:
        return [
            pa.field("mads", pa.list_(pa.int32())),
            pa.field("mads_values", pa.list_(pa.float16())),
            pa.field("mads_reason", pa.string()),
        ]

    def fits(self, info: BackboneInfo, options: Mapping[str, Any]) -> tuple[Fit, ...]:
        if not 0 < options["share"] <= 1:
            raise UsageError(f"mads: share={options['share']}: give a share above 0, at most 1")
        if options["tokens"] not in TOKENS:
            raise UsageError(f"mads: tokens={options['tokens']}: choose from {', '.join(TOKENS)}")
        return ()

    def passes(self, setup: Setup) -> dict[Pass, Needs]:
        return {WHOLE: Needs(neurons=True)}

    def reducer(self, each: Pass, batch: Batch, setup: Setup) -> Reducer:
        from .mads_strongest import Strongest

        return Strongest(batch, setup.options["tokens"], setup.options["share"])

    def finish(
        self, rows: Sequence[Encoded], passed: Mapping[Pass, Mapping[str, np.ndarray]], setup: Setup
    ) -> dict[str, np.ndarray]:
        ids, values = passed[WHOLE]["ids"], passed[WHOLE]["values"]
        reason = np.full(len(rows), None, dtype=object)
        for index, row in enumerate(rows):
            if ids[index] is None:
                reason[index] = _why(row, setup.options["tokens"])
            else:
                values[index] = values[index].clip(-HALF_LARGEST, HALF_LARGEST)
        return {"mads": ids, "mads_values": values, "mads_reason": reason}


def _why(row: Encoded, tokens: str) -> str:
    after = " left after truncation" if row.truncated else ""
    if tokens == "response" and not row.response_tokens:
        return "no response token" + after
    if tokens == "content" and not row.content.any():
        return "no content token" + after
    return "an activation is not finite"


representation = Mads()
