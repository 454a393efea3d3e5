"""TRIM: token states of the pool against attention fingerprints of a target.

Source: TRIM, arXiv 2510.07118. The examples of a target give a fingerprint for every class
(vocabulary id): the mean direction of its final states, weighted by attention, which is read on
these examples alone. A row of the pool scores by the cosines of its tokens with their classes.

Pool side: per token its id, its unit final state in a fitted basis, as int8 codes with one scale or
as codes of 4 bits (trim_codes.py), and flags. Query side: the fingerprints in that basis, and for
every vocabulary id the nearest class that the target has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from ...schemas.errors import UsageError
from ...store.catalog import Artifact
from ..columns import ragged
from ..fits.fit import Fit
from ..fits.lora import OPTIONS, WarmUp, in_sample, refuse_unused_options, warm_up_of
from ..models.describe import BackboneInfo
from ..passes.reducer import Pass, PassInputs, Reducer
from .representation import REFUSED, Representation, Setup
from .trim_basis import LEAST_ROWS, OUTPUT, TrimBasis
from .trim_codes import Steps, bytes_of
from .trim_scores import CONTENT, PENALTY, RESPONSE, RESTS, SCOPES, ClassTable, TokenScorer

if TYPE_CHECKING:
    from ..conversations.tokenization import Encoded
    from ..models.backbone import Backbone
    from ..models.batches import Batch

WARMUPS = ("none", "lora")
BITS: Mapping[str, Any] = {"bits": 8}
"""The option and its default, the only form there was before it."""

NO_CONTENT = "no token of content"
BAD_STATE = "a state is zero or not finite"


class Trim(Representation):
    """Columns: `trim` token ids, `trim_codes` T vectors of r, `trim_scales`, `trim_scope` flags.

    With `bits=4` a byte has two codes, and there are no scales.

    `trim_kept` is the mean share of the content tokens' energy that the basis keeps. All tokens but
    padding are stored, in the order of the row.
    """

    name = "trim"
    version = 1
    paper = "arXiv 2510.07118"
    sees = "tokens"
    meaning = "rows with words used as in your examples"
    selector = "top"
    defaults: ClassVar[Mapping[str, Any]] = {
        "warmup": "none",
        "rank": 0,
        "sample": 2000,
        "layers": 4,
        "seed": 0,
        "lora_rank": WarmUp.rank,
        **OPTIONS,
        **BITS,
    }
    implied: ClassVar[Mapping[str, Any]] = BITS
    query_defaults: ClassVar[Mapping[str, Any]] = {
        "scope": SCOPES[0],
        "penalty": PENALTY,
        "rest": RESTS[0],
    }

    def fields(self, setup: Setup) -> list[pa.Field]:
        rank = setup.artifacts[OUTPUT].arrays["basis"].shape[1]
        scaled = setup.options["bits"] == 8
        width = rank if scaled else bytes_of(rank)
        return [
            pa.field("trim", pa.list_(pa.int32())),
            # As vectors of fixed width Lance reads the codes in a quarter of the time.
            pa.field("trim_codes", pa.list_(pa.list_(pa.int8(), width))),
            *([pa.field("trim_scales", pa.list_(pa.float32()))] if scaled else []),
            pa.field("trim_scope", pa.list_(pa.int8())),
            pa.field("trim_kept", pa.float32()),
            *([pa.field("trim_in_fit", pa.bool_())] if _adapter(setup.options) else []),
            pa.field("trim_reason", pa.string()),
        ]

    def settled(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        refuse_unused_options(self.name, options, "lora_rank")
        return options

    def trial_options(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        adapter = {"epochs": 1, "lora_rank": 2} if options["warmup"] != "none" else {}
        return {"rank": 1, **adapter}

    def fits(self, info: BackboneInfo, options: Mapping[str, Any]) -> tuple[Fit, ...]:
        _check(info, options)
        sizes = (options["rank"], options["sample"], options["layers"], options["seed"])
        warmup = _warmup(options)
        basis = TrimBasis(*sizes, warmup, options["bits"])
        return (basis,) if warmup is None else (warmup, basis)

    def passes(self, setup: Setup) -> dict[Pass, PassInputs]:
        return {Pass("row", _adapter(setup.options)): PassInputs(hidden=True)}

    def reducer(self, model_pass: Pass, batch: Batch, setup: Setup) -> Reducer:
        from .trim_basis import Codes

        arrays = setup.artifacts[OUTPUT].arrays
        return Codes(batch, arrays["basis"], Steps.of_arrays(arrays))

    def finish(
        self, rows: Sequence[Encoded], passed: Mapping[Pass, Mapping[str, np.ndarray]], setup: Setup
    ) -> dict[str, np.ndarray]:
        (codes,) = passed.values()
        reason = np.full(len(rows), None, dtype=object)
        reason[:] = [_why_no_states(*pair) for pair in zip(rows, codes["usable"], strict=True)]
        present = [text is None for text in reason]
        lists = {
            "trim": [row.ids for row in rows],
            "trim_codes": codes["codes"],
            **({"trim_scales": codes["scales"]} if "scales" in codes else {}),
            "trim_scope": [flags_of(row) for row in rows],
        }
        energies = [
            float(energy[row.content].mean()) if ok else np.nan
            for row, energy, ok in zip(rows, codes["energy"], present, strict=True)
        ]
        columns = {
            name: ragged([v if ok else None for v, ok in zip(values, present, strict=True)])
            for name, values in lists.items()
        }
        columns["trim_kept"] = np.asarray(energies, dtype=np.float32)
        if adapter := _adapter(setup.options):
            columns["trim_in_fit"] = in_sample(rows, setup.artifacts[adapter])
        return {**columns, "trim_reason": reason}

    def target_artifact(
        self,
        backbone: Backbone,
        rows: Sequence[Encoded],
        columns: Mapping[str, np.ndarray],
        setup: Setup,
    ) -> Artifact:
        """Return `classes` (C,) int32, `vectors` (C, r) float32, `nearest` (V,) int32.

        Where no example has a token of content, the fact `refused` says so instead.
        """
        from .trim_fingerprints import fingerprints, nearest_classes

        adapter = setup.artifacts.get(_adapter(setup.options))
        seen = fingerprints(backbone, rows, setup.options["layers"], adapter)
        if not len(seen.classes):
            return Artifact({}, {REFUSED: "no example has any text. Give it another one"})
        return Artifact(
            {
                "classes": seen.classes,
                "vectors": seen.vectors @ setup.artifacts[OUTPUT].arrays["basis"],
                "nearest": nearest_classes(backbone.model, seen.classes),
            },
            {"examples": len(rows)},
        )

    def scorer(
        self,
        options: Mapping[str, Any],
        artifacts: Mapping[str, Artifact],
        target_artifact: Artifact | None,
        query_options: Mapping[str, Any],
    ) -> TokenScorer:
        """Return the scorer; its `tokens` explains rows token by token."""
        if target_artifact is None:
            raise UsageError("trim compares rows with a target: name one")
        return TokenScorer(
            ClassTable.of(target_artifact),
            query_options["scope"],
            query_options["penalty"],
            query_options["rest"],
            Steps.of_arrays(artifacts[OUTPUT].arrays) if options["bits"] == 4 else None,
        )


def _warmup(options: Mapping[str, Any]) -> WarmUp | None:
    if options["warmup"] == "none":
        return None
    return warm_up_of("trim", options, "lora_rank")


def _adapter(options: Mapping[str, Any]) -> str:
    """Return the artifact that is the model's adapter, the last checkpoint; "" for none."""
    warmup = _warmup(options)
    return warmup.outputs()[-1] if warmup else ""


def _check(info: BackboneInfo, options: Mapping[str, Any]) -> None:
    if options["warmup"] not in WARMUPS:
        known = " or ".join(WARMUPS)
        raise UsageError(f"trim: warmup {options['warmup']!r}: give {known}")
    least = {"rank": 0, "sample": LEAST_ROWS, "layers": 1, "seed": 0}
    for name, bound in least.items():
        if options[name] < bound:
            raise UsageError(f"trim: {name} {options[name]}: give at least {bound}")
    if options["bits"] not in (4, 8):
        raise UsageError(f"trim: bits {options['bits']}: give 4 or 8")
    if options["rank"] > info.hidden_size:
        raise UsageError(
            f"trim: rank {options['rank']}: the states of {info.name} have {info.hidden_size} "
            "numbers. Give at most that, or 0 for as many as are needed"
        )


def flags_of(row: Encoded) -> np.ndarray:
    """Return (T,) int8 scope flags of a row's tokens."""
    return (row.content * CONTENT + row.response * RESPONSE).astype(np.int8)


def _why_no_states(row: Encoded, usable: np.ndarray) -> str | None:
    if not row.content.any():
        return NO_CONTENT
    return None if usable.all() else BAD_STATE


representation = Trim()
