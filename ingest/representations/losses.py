"""Scalar losses of the response: nll, perplexity, nll without the prompt, IFD (METHODS 6).

nll is the mean over response tokens of -log p(token | everything before), in nats; ppl its
exponential; nll_alone the same where the model sees the answers only (beginning of sequence, each
answer's header and text); ifd = nll / nll_alone, the ratio of the two means (Li et al. 2024,
"From Quantity to Quality": L(A|Q) / L(A)).

Query side: none; these are columns to filter and sort by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from .representation import Needs, Pass, Reducer, Representation, Setup

if TYPE_CHECKING:
    import torch

    from ..batch import Batch
    from ..encoding import Encoded

NO_RESPONSE = "no response token"
NOT_FINITE = "the loss is not finite"

WHOLE, ALONE = Pass("row"), Pass("alone")


class Losses(Representation):
    """Columns: nll, ppl, and unless `alone=false` (one forward less) nll_alone and ifd."""

    name = "losses"
    version = 1
    defaults: ClassVar[Mapping[str, Any]] = {"alone": True}

    def fields(self, setup: Setup) -> list[pa.Field]:
        numbers = ["nll", "ppl", *(["nll_alone", "ifd"] if setup.options["alone"] else [])]
        return [
            *(pa.field(name, pa.float32()) for name in numbers),
            pa.field("losses_reason", pa.string()),
        ]

    def passes(self, setup: Setup) -> dict[Pass, Needs]:
        wanted = (WHOLE, ALONE) if setup.options["alone"] else (WHOLE,)
        return {each: Needs(logits=True) for each in wanted}

    def reducer(self, each: Pass, batch: Batch, setup: Setup) -> Reducer:
        return ResponseLoss(batch)

    def finish(
        self, rows: Sequence[Encoded], passed: Mapping[Pass, Mapping[str, np.ndarray]], setup: Setup
    ) -> dict[str, np.ndarray]:
        nll = passed[WHOLE]["nll"]
        with np.errstate(over="ignore"):
            columns = {"nll": nll, "ppl": np.exp(nll)}
        if setup.options["alone"]:
            columns["nll_alone"] = passed[ALONE]["nll"]
            with np.errstate(divide="ignore", invalid="ignore"):
                columns["ifd"] = nll / columns["nll_alone"]
        finite = np.all([np.isfinite(column) for column in columns.values()], axis=0)
        reason = np.full(len(rows), None, dtype=object)
        for index in np.flatnonzero(~finite).tolist():
            reason[index] = _why(rows[index], passed, index)
        for column in columns.values():
            column[~finite] = np.nan
        return {**columns, "losses_reason": reason}


def _why(row: Encoded, passed: Mapping[Pass, Mapping[str, np.ndarray]], index: int) -> str:
    if not row.response_tokens:
        return NO_RESPONSE + (" left after truncation" if row.truncated else "")
    if any(not each["tokens"][index] for each in passed.values()):
        return "no response token has a token before it"
    return NOT_FINITE


class ResponseLoss(Reducer):
    """Mean -log p of each row's response tokens, summed in float64 on the host."""

    def __init__(self, batch: Batch) -> None:
        self._sum = np.zeros(len(batch.rows))
        self._tokens = np.zeros(len(batch.rows), dtype=np.int64)

    def logits(self, logits: torch.Tensor, targets: torch.Tensor, rows: torch.Tensor) -> None:
        nll = logits.logsumexp(-1) - logits.gather(1, targets[:, None])[:, 0]
        where = rows.cpu().numpy()
        self._sum += np.bincount(where, nll.cpu().double().numpy(), minlength=len(self._sum))
        self._tokens += np.bincount(where, minlength=len(self._sum))

    def columns(self) -> dict[str, np.ndarray]:
        with np.errstate(invalid="ignore"):  # 0 / 0: the row has no response token
            nll = (self._sum / self._tokens).astype(np.float32)
        return {"nll": nll, "tokens": self._tokens.astype(np.float32)}


representation = Losses()
