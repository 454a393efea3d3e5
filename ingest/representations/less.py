"""LESS: sketches of per-row gradients, compared by cosine (METHODS 3.1).

Source: Xia et al. 2024, "LESS: Selecting Influential Data for Targeted Instruction Tuning". With
`warmup=lora` it is theirs: the gradient by a LoRA adapter at the end of every warm-up epoch,
candidates in Adam's direction, queries plain, each of unit length, and the epochs weighted by their
mean learning rate. With `warmup=none` (ours) it is the plain gradient by the linear layers of the
model as it is, for both sides, in one pass.

Query side: the same vector of each target example, without Adam's step, compared by cosine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from .representation import Needs, Pass, Reducer, Representation, Setup

if TYPE_CHECKING:
    from ..batch import Batch
    from ..encoding import Encoded

WHOLE = Pass()
WARMUPS = ("none", "lora")

BETA_FIRST, BETA_SECOND, EPSILON = 0.9, 0.999, 1e-8
"""Of Adam's step, as the paper has it: no bias correction, epsilon inside the root."""


class Less(Representation):
    """Columns: `less` unit vector, `less_norm`, with a warm-up `less_in_fit`, `less_reason`."""

    name = "less"
    version = 1
    similarity = "less"
    defaults: ClassVar[Mapping[str, Any]] = {"warmup": "none", "dims": 2048, "seed": 0}

    def fields(self, setup: Setup) -> list[pa.Field]:
        width = setup.options["dims"] * len(self._passes(setup.options))
        fields = [
            pa.field("less", pa.list_(pa.float16(), width)),
            pa.field("less_norm", pa.float32()),
            pa.field("less_reason", pa.string()),
        ]
        return fields

    def passes(self, setup: Setup) -> dict[Pass, Needs]:
        return dict.fromkeys(self._passes(setup.options), Needs(gradients=True))

    def reducer(self, each: Pass, batch: Batch, setup: Setup) -> Reducer:
        from ..gradients.sketch import SketchSpec

        return SketchSum(batch, SketchSpec(setup.options["dims"], setup.options["seed"]))

    def finish(
        self, rows: Sequence[Encoded], passed: Mapping[Pass, Mapping[str, np.ndarray]], setup: Setup
    ) -> dict[str, np.ndarray]:
        raise NotImplementedError

    def _passes(self, options: Mapping[str, Any]) -> tuple[Pass, ...]:
        return (WHOLE,)


representation = Less()
