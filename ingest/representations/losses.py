"""Scalar losses of the response: nll, perplexity, IFD, EL2N, gradient norm.

nll is the mean over response tokens of -log p(token | everything before), in nats; ppl its
exponential; nll_alone the same where the model sees the answers only (beginning of sequence, each
answer's header and text); ifd = nll / nll_alone, the ratio of the two means (Li et al. 2024,
"From Quantity to Quality": L(A|Q) / L(A)). el2n is the mean over response tokens of the distance
between the predicted distribution and the token (Paul et al. 2021, "Deep Learning on a Data
Diet"); grad_norm the length of the gradient of nll by the linear layers of the decoder layers.

Query side: none; rows are ranked by one of the columns, whatever the target. By ifd those of 1 and
more are left out: knowing the question did not help the answer (Li et al. 2024).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from ...schemas.errors import UsageError
from ..passes.reducer import Pass, PassInputs, Reducer
from .representation import Representation, Scorer, Setup, why_no_token

if TYPE_CHECKING:
    import torch

    from ...store.catalog import Artifact
    from ..conversations.tokenization import Encoded
    from ..models.batches import Batch
    from ..passes.weight_gradient import WeightGradient

NOTHING_BEFORE = "no response token has a token before it"

WHOLE, ALONE = Pass("row"), Pass("alone")

GRAD_NORMS = {"none": None, "sketch": "grad_norm_sketch", "exact": "grad_norm"}
"""Option -> column."""

ORDERS = ("descending", "ascending")
IFD_LIMIT = 1.0


class Losses(Representation):
    """Columns: nll, ppl, unless `alone=false` (one forward less) nll_alone and ifd, el2n, and
    with `grad_norm=exact` grad_norm, with `grad_norm=sketch` its estimate grad_norm_sketch.

    Query options: `score`, one of the columns (`grad_norm` stands for its estimate as well), and
    `order`, the largest first (`descending`) or the smallest.
    """

    name = "losses"
    version = 2
    defaults: ClassVar[Mapping[str, Any]] = {"alone": True, "grad_norm": "none"}
    query_defaults: ClassVar[Mapping[str, Any]] = {"score": "ifd", "order": "descending"}
    listed_options: ClassVar[Mapping[str, str]] = {
        "score=nll": "rows with the answers that the model expects least",
        "score=el2n": "rows with the answers that the model gets most wrong",
        "score=grad_norm": "rows that would change the model most",
    }
    selector = "top"
    paper = "Li et al. 2024 (IFD), Paul et al. 2021 (EL2N)"
    sees = "losses"
    meaning = "rows whose question helps least with the answer (IFD)"

    def fields(self, setup: Setup) -> list[pa.Field]:
        return [
            *(pa.field(name, pa.float32()) for name in _columns(setup.options).values()),
            pa.field("losses_reason", pa.string()),
        ]

    def passes(self, setup: Setup) -> dict[Pass, PassInputs]:
        backward = _grad_norm_column(setup.options) is not None
        needs = {WHOLE: PassInputs(logits=True, gradients=backward)}
        return {**needs, ALONE: PassInputs(logits=True)} if setup.options["alone"] else needs

    def reducer(self, model_pass: Pass, batch: Batch, setup: Setup) -> Reducer:
        if model_pass == ALONE:
            return ResponseLoss(batch)
        if _grad_norm_column(setup.options) is None:
            return ResponseErrors(batch)
        return ErrorsAndGradient(batch, exact=setup.options["grad_norm"] == "exact")

    def finish(
        self, rows: Sequence[Encoded], passed: Mapping[Pass, Mapping[str, np.ndarray]], setup: Setup
    ) -> dict[str, np.ndarray]:
        whole = passed[WHOLE]
        nll = whole["nll"]
        with np.errstate(over="ignore"):
            columns = {"nll": nll, "ppl": np.exp(nll)}
        if setup.options["alone"]:
            columns["nll_alone"] = passed[ALONE]["nll"]
            with np.errstate(divide="ignore", invalid="ignore"):
                columns["ifd"] = nll / columns["nll_alone"]
        columns["el2n"] = whole["el2n"]
        norm = _grad_norm_column(setup.options)
        if norm:
            columns[norm] = whole["norm"]
        finite = np.all([np.isfinite(column) for column in columns.values()], axis=0)
        reason = np.full(len(rows), None, dtype=object)
        for index in np.flatnonzero(~finite).tolist():
            reason[index] = _reason(rows[index], passed, index)
        for column in columns.values():
            column[~finite] = np.nan
        return {**columns, "losses_reason": reason}

    def scorer(
        self,
        options: Mapping[str, Any],
        artifacts: Mapping[str, Artifact],
        target_artifact: Artifact | None,
        query_options: Mapping[str, Any],
    ) -> Scorer:
        scores, order = _columns(options), query_options["order"]
        if query_options["score"] not in scores:
            more = "losses:grad_norm=sketch" if query_options["score"] == "grad_norm" else "losses"
            raise UsageError(
                f"losses: score={query_options['score']}: this feature has the scores "
                f"{', '.join(scores)}. Add a second feature for others: coresetdb featurize STORE "
                f"{more}"
            )
        if order not in ORDERS:
            raise UsageError(f"losses: order={order}: choose from {', '.join(ORDERS)}")
        return ByLoss(scores[query_options["score"]], order == "descending")


class ByLoss(Scorer):
    """Ranks rows by one column, the largest or the smallest first."""

    def __init__(self, column: str, descending: bool) -> None:
        self.columns = (column,)
        self._sign = np.float32(1 if descending else -1)
        if column == "ifd":
            self.refuses = f"their ifd is {IFD_LIMIT:g} or more, the question did not help"

    def scores(self, rows: pa.RecordBatch) -> np.ndarray:
        values = rows.column(0).to_numpy(zero_copy_only=False).astype(np.float32)
        scores = self._sign * values
        if self.refuses:
            scores[values >= IFD_LIMIT] = -np.inf
        return scores


def why_no_loss(row: Encoded) -> str | None:
    """Return why a row has no response token with a loss; None if it has one."""
    return why_no_token(row, "response") or (None if row.response[1:].any() else NOTHING_BEFORE)


def _reason(row: Encoded, passed: Mapping[Pass, Mapping[str, np.ndarray]], index: int) -> str:
    if any(not columns["tokens"][index] for columns in passed.values()):
        return why_no_loss(row) or NOTHING_BEFORE
    if all(np.isfinite(columns["nll"][index]) for columns in passed.values()):
        return "the gradient is not finite, or a ratio of the losses is not"
    return "the loss is not finite"


def _columns(options: Mapping[str, Any]) -> dict[str, str]:
    """Return what rows can be ranked by -> its column."""
    norm = _grad_norm_column(options)
    return {
        **{name: name for name in ("nll", "ppl")},
        **{name: name for name in ("nll_alone", "ifd") if options["alone"]},
        "el2n": "el2n",
        **({"grad_norm": norm} if norm else {}),
    }


def _grad_norm_column(options: Mapping[str, Any]) -> str | None:
    """The column of the option `grad_norm`, None without one; an unknown one is a UsageError."""
    if options["grad_norm"] not in GRAD_NORMS:
        known = ", ".join(GRAD_NORMS)
        raise UsageError(f"losses: grad_norm {options['grad_norm']!r}: give one of {known}")
    return GRAD_NORMS[options["grad_norm"]]


class ResponseLoss(Reducer):
    """Mean -log p of each row's response tokens, summed in float64 on the host."""

    def __init__(self, batch: Batch) -> None:
        self._sum = np.zeros(len(batch.rows))
        self._tokens = np.zeros(len(batch.rows), dtype=np.int64)

    def logits(self, logits: torch.Tensor, targets: torch.Tensor, rows: torch.Tensor) -> None:
        nll = logits.logsumexp(-1) - logits.gather(1, targets[:, None])[:, 0]
        self.add(nll, rows)

    def add(self, nll: torch.Tensor, rows: torch.Tensor) -> None:
        """Add the nll (n,) of some tokens of rows (n,)."""
        self._sum += self._per_row(nll, rows)
        self._tokens += np.bincount(rows.cpu().numpy(), minlength=len(self._sum))

    def columns(self) -> dict[str, np.ndarray]:
        return {"nll": self._mean(self._sum), "tokens": self._tokens.astype(np.float32)}

    def _per_row(self, values: torch.Tensor, rows: torch.Tensor) -> np.ndarray:
        numbers = values.cpu().double().numpy()
        return np.bincount(rows.cpu().numpy(), numbers, minlength=len(self._sum))

    def _mean(self, total: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):  # 0 / 0: the row has no response token
            return (total / self._tokens).astype(np.float32)


class ResponseErrors(ResponseLoss):
    """The same with EL2N: the mean over response tokens of ||softmax - one-hot of the token||."""

    def __init__(self, batch: Batch) -> None:
        super().__init__(batch)
        self._errors = np.zeros(len(batch.rows))

    def logits(self, logits: torch.Tensor, targets: torch.Tensor, rows: torch.Tensor) -> None:
        # One exp for both. The token's own share is taken out before anything is summed: of a
        # token that is all but certain, 1 - p would be lost to rounding.
        at = targets[:, None]
        highest = logits.amax(-1, keepdim=True)
        others = (logits - highest).exp_()
        of_token = others.gather(1, at)[:, 0]
        others.scatter_(1, at, 0.0)
        rest = others.sum(-1)
        total = rest + of_token
        self.add(total.log() + highest[:, 0] - logits.gather(1, at)[:, 0], rows)
        error = (rest / total).hypot(others.norm(dim=-1) / total)
        self._errors += self._per_row(error, rows)

    def columns(self) -> dict[str, np.ndarray]:
        return {**super().columns(), "el2n": self._mean(self._errors)}


class ErrorsAndGradient(ResponseErrors):
    """The same with the norm of the gradient, exact or estimated from a sketch."""

    def __init__(self, batch: Batch, exact: bool) -> None:
        from ..passes.gradient_reducers import GradientNorm
        from ..passes.weight_gradient import SketchSpec

        super().__init__(batch)
        self.sketch = None if exact else SketchSpec()
        self._norm = GradientNorm(self.sketch)

    def gradient(self, gradient: WeightGradient) -> None:
        self._norm.gradient(gradient)

    def columns(self) -> dict[str, np.ndarray]:
        return {**super().columns(), **self._norm.columns()}


representation = Losses()
