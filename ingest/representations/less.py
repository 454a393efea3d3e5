"""LESS: sketches of every row's gradient, compared by cosine.

Source: Xia et al. 2024, "LESS: Selecting Influential Data for Targeted Instruction Tuning". With
`warmup=lora` it is theirs: the gradient with respect to a LoRA adapter as it is at the end of each
warm-up epoch, of candidates in Adam's direction, of queries plain, each of unit length, epochs
weighted by their mean learning rate. With `warmup=none` (ours) it is the plain gradient with
respect to the linear layers of the model as it is, on both sides, in one pass.

Query side: the same vector of each target example, without Adam's step. The pool's vectors and the
target's have the square roots of the epochs' weights in them, so the cosine is the influence.
`sign=any` (ours) compares by its square: a row whose gradient is opposite counts as much.

`norms=module` (ours, an experiment, without a warm-up) brings the sketch of every weight's gradient
to unit length before they are summed, so that no layer with large gradients is most of the cosine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from ...schemas.errors import UsageError
from ..fits.lora import OPTIONS, WarmUp, in_sample, refuse_unused_options, warm_up_of
from ..models.describe import BackboneInfo
from ..passes.reducer import Pass, PassInputs
from .losses import why_no_loss
from .representation import Representation, Setup
from .stored import STORED, check_stored, vector_type

if TYPE_CHECKING:
    from ..conversations.tokenization import Encoded
    from ..fits.fit import Fit
    from ..models.batches import Batch
    from ..passes.reducer import Reducer

WARMUPS = ("none", "lora")
NORMS = ("row", "module")
DIMS = (32, 1 << 16)


class Less(Representation):
    """Columns: `less` unit vector (type: `stored`), `less_norm`, with a warm-up `less_in_fit`
    (was the row in its sample), `less_reason`."""

    name = "less"
    version = 1
    paper = "Xia et al. 2024"
    sees = "gradients"
    meaning = "rows that would teach the model what your examples do"
    similarity = "less"
    sketch_dims = DIMS
    defaults: ClassVar[Mapping[str, Any]] = {
        "warmup": "none",
        "dims": 8192,
        "seed": 0,
        "norms": "row",
        "rank": WarmUp.rank,
        **OPTIONS,
        **STORED,
    }
    implied: ClassVar[Mapping[str, Any]] = {**STORED, "norms": "row"}
    former_defaults: ClassVar[Mapping[str, Any]] = {"dims": 2048}

    query_defaults: ClassVar[Mapping[str, Any]] = {"sign": "same"}
    query_choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"sign": ("same", "any")}

    def fields(self, setup: Setup) -> list[pa.Field]:
        vectors = len(_passes(setup.options))
        in_fit = [pa.field("less_in_fit", pa.bool_())] if _has_warmup(setup.options) else []
        return [
            pa.field("less", vector_type(setup.options, setup.options["dims"] * vectors)),
            pa.field("less_norm", pa.float32()),
            *in_fit,
            pa.field("less_reason", pa.string()),
        ]

    def settled(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        refuse_unused_options(self.name, options)
        check_stored(self.name, options)
        _check_norms(options)
        return options

    def trial_options(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"epochs": 1, "rank": 2} if _has_warmup(options) else {}

    def fits(self, info: BackboneInfo, options: Mapping[str, Any]) -> tuple[Fit, ...]:
        return (warm_up_of(self.name, options),) if _has_warmup(options) else ()

    def passes(self, setup: Setup) -> dict[Pass, PassInputs]:
        return dict.fromkeys(_passes(setup.options), PassInputs(gradients=True))

    def reducer(self, model_pass: Pass, batch: Batch, setup: Setup) -> Reducer:
        from ..passes.gradient_reducers import LowRankSketch, SketchSum
        from ..passes.weight_gradient import SketchSpec

        spec = SketchSpec(setup.options["dims"], setup.options["seed"])
        if not model_pass.adapter:
            return SketchSum(spec, unit_parts=setup.options.get("norms") == "module")
        moments = setup.artifacts[model_pass.adapter] if setup.side == "pool" else None
        return LowRankSketch(batch, spec, moments)

    def finish(
        self, rows: Sequence[Encoded], passed: Mapping[Pass, Mapping[str, np.ndarray]], setup: Setup
    ) -> dict[str, np.ndarray]:
        passes = _passes(setup.options)
        parts = np.stack([passed[model_pass]["sketch"] for model_pass in passes], axis=1)
        weights = epoch_weights(setup) if _has_warmup(setup.options) else np.ones(1)
        with np.errstate(all="ignore"):  # the reason says what is not finite
            norms = np.linalg.norm(parts.astype(np.float64), axis=2)
            vectors = parts * (np.sqrt(weights) / norms)[:, :, None]
            norm = np.sqrt((norms**2) @ weights)
        reason = np.full(len(rows), None, dtype=object)
        for index, row in enumerate(rows):
            # First, as without a gradient Adam's direction is that of the moments, not zero.
            reason[index] = why_no_loss(row) or _reason(norms[index])
        missing = reason != None  # noqa: E711 (elementwise)
        vectors[missing] = np.nan
        norm[missing] = np.nan
        columns = {
            "less": vectors.reshape(len(rows), -1).astype(np.float32),
            "less_norm": norm.astype(np.float32),
        }
        if _has_warmup(setup.options):
            columns["less_in_fit"] = in_sample(rows, setup.artifacts[passes[-1].adapter])
        return {**columns, "less_reason": reason}


def epoch_weights(setup: Setup) -> np.ndarray:
    """Return (E,) float64, sum 1: each warm-up epoch's weight, by its mean learning rate."""
    rates = np.array(
        [
            setup.artifacts[model_pass.adapter].facts["learning_rate"]
            for model_pass in _passes(setup.options)
        ]
    )
    return rates / rates.sum()


def _has_warmup(options: Mapping[str, Any]) -> bool:
    if options["warmup"] not in WARMUPS:
        known = " or ".join(WARMUPS)
        raise UsageError(f"less: warmup {options['warmup']!r}: give {known}")
    if not DIMS[0] <= options["dims"] <= DIMS[1]:
        raise UsageError(f"less: dims {options['dims']}: give {DIMS[0]} to {DIMS[1]}")
    return options["warmup"] == "lora"


def _check_norms(options: Mapping[str, Any]) -> None:
    if options["norms"] not in NORMS:
        raise UsageError(f"less: norms {options['norms']!r}: give {' or '.join(NORMS)}")
    if options["norms"] == "module" and _has_warmup(options):
        raise UsageError(
            "less: norms=module is for warmup=none: with a warm-up, Adam's step scales each number "
            "of the gradient already. Leave one of the two out"
        )


def _passes(options: Mapping[str, Any]) -> tuple[Pass, ...]:
    if not _has_warmup(options):
        return (Pass(),)
    return tuple(Pass(adapter=name) for name in warm_up_of("less", options).outputs())


def _reason(norms: np.ndarray) -> str | None:
    if not np.isfinite(norms).all():
        return "the gradient is not finite"
    return None if norms.all() else "the gradient is zero"


representation = Less()
