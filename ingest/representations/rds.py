"""RDS+: the position-weighted mean of the final hidden states.

Source: Ivison et al. 2025, "Large-Scale Data Selection for Instruction Tuning". Token p of T has
weight p / (1 + ... + T), over prompt and response; padding has none.

Query side: the same vector of each target example, compared by cosine; with `centre=pool` (ours)
after the mean of a sample of the pool was subtracted from both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from ..passes.reducer import Pass, PassInputs, Reducer
from .representation import Representation, Setup
from .stored import STORED, check_stored, vector_type

if TYPE_CHECKING:
    import torch

    from ..conversations.tokenization import Encoded
    from ..models.batches import Batch

WHOLE = Pass()


class Rds(Representation):
    """Columns: `rds` unit vector (type: `stored`), `rds_norm` of the mean before, `rds_reason`."""

    name = "rds"
    version = 1
    paper = "Ivison et al. 2025"
    sees = "hidden states"
    similarity = "rds"
    defaults: ClassVar[Mapping[str, Any]] = STORED
    implied: ClassVar[Mapping[str, Any]] = STORED
    query_defaults: ClassVar[Mapping[str, Any]] = {"centre": "none"}
    query_choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"centre": ("none", "pool")}

    def settled(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        check_stored(self.name, options)
        return options

    def fields(self, setup: Setup) -> list[pa.Field]:
        return [
            pa.field("rds", vector_type(setup.options, setup.info.hidden_size)),
            pa.field("rds_norm", pa.float32()),
            pa.field("rds_reason", pa.string()),
        ]

    def passes(self, setup: Setup) -> dict[Pass, PassInputs]:
        return {WHOLE: PassInputs(hidden=True)}

    def reducer(self, model_pass: Pass, batch: Batch, setup: Setup) -> Reducer:
        return WeightedMean(batch)

    def finish(
        self, rows: Sequence[Encoded], passed: Mapping[Pass, Mapping[str, np.ndarray]], setup: Setup
    ) -> dict[str, np.ndarray]:
        mean = passed[WHOLE]["mean"]
        with np.errstate(all="ignore"):  # the reason says what is not finite
            norm = np.linalg.norm(mean.astype(np.float64), axis=1)
            unit = (mean / norm[:, None]).astype(np.float32)
        reason = np.full(len(rows), None, dtype=object)
        reason[norm == 0] = "the vector is zero"
        reason[~np.isfinite(norm)] = "the vector is not finite"
        unit[reason != None] = np.nan  # noqa: E711 (elementwise)
        norm[reason != None] = np.nan  # noqa: E711
        return {"rds": unit, "rds_norm": norm.astype(np.float32), "rds_reason": reason}


class WeightedMean(Reducer):
    """sum_p p / (1 + ... + T) * h_p of each row, accumulated in float32."""

    def __init__(self, batch: Batch) -> None:
        weights = (batch.positions * batch.mask).float()
        self._weights = weights / weights.sum(1, keepdim=True)
        self._mean: torch.Tensor | None = None

    def hidden(self, states: torch.Tensor) -> None:
        # Padding's states may be anything, NaN too: a zero weight alone would let it through.
        clean = states.float().masked_fill((self._weights == 0)[:, :, None], 0.0)
        self._mean = (self._weights[:, None, :] @ clean)[:, 0]

    def columns(self) -> dict[str, np.ndarray]:
        assert self._mean is not None, "columns() was called before the states arrived"
        return {"mean": self._mean.cpu().numpy()}


representation = Rds()
