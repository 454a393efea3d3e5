"""TRIM: token states of the pool against attention fingerprints of a target.

Source: TRIM, arXiv 2510.07118. A few examples of the target say, class by class (vocabulary id),
what tokens that matter look like in the last layer; attention says which matter, and is read on
these examples alone. A row of the pool scores by how close its tokens come to their classes.

Pool side: per token its id, its unit final state in a fitted basis as int8 codes with one scale,
and flags. Query side: the fingerprints in that basis, and for every vocabulary id the nearest
class the target has seen.
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
from ..fits.lora import OPTIONS, WarmUp, in_sample, refuse_idle, warm_up_of
from ..models.describe import BackboneInfo
from ..passes.reducer import Pass, PassInputs, Reducer
from .representation import REFUSED, Representation, Setup
from .trim_basis import LEAST_ROWS, OUTPUT, TrimBasis
from .trim_scores import CONTENT, PENALTY, RESPONSE, RESTS, SCOPES, ClassTable, TokenScorer

if TYPE_CHECKING:
    from ..conversations.tokenization import Encoded
    from ..models.backbone import Backbone
    from ..models.batches import Batch

WARMUPS = ("none", "lora")

NO_CONTENT = "no token of content"
BAD_STATE = "a state is zero or not finite"


class Trim(Representation):
    """Columns: `trim` token ids, `trim_codes` T vectors of r, `trim_scales`, `trim_scope` flags.

    `trim_kept` is the mean share of the content tokens' energy that the basis keeps: how well the
    basis fits this row. All tokens but padding are stored, in the order of the row.
    """

    name = "trim"
    version = 1
    paper = "arXiv 2510.07118"
    selector = "top"
    defaults: ClassVar[Mapping[str, Any]] = {
        "warmup": "none",
        "rank": 0,
        "sample": 2000,
        "layers": 4,
        "seed": 0,
        "lora_rank": WarmUp.rank,
        **OPTIONS,
    }
    query_defaults: ClassVar[Mapping[str, Any]] = {
        "scope": SCOPES[0],
        "penalty": PENALTY,
        "rest": RESTS[0],
    }

    def fields(self, setup: Setup) -> list[pa.Field]:
        adapter_name = _adapter(setup.options)
        rank = setup.artifacts[OUTPUT].arrays["basis"].shape[1]
        return [
            pa.field("trim", pa.list_(pa.int32())),
            # As vectors of fixed width Lance reads the codes in a quarter of the time.
            pa.field("trim_codes", pa.list_(pa.list_(pa.int8(), rank))),
            pa.field("trim_scales", pa.list_(pa.float32())),
            pa.field("trim_scope", pa.list_(pa.int8())),
            pa.field("trim_kept", pa.float32()),
            *([pa.field("trim_in_fit", pa.bool_())] if adapter_name else []),
            pa.field("trim_reason", pa.string()),
        ]

    def settled(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        refuse_idle(self.name, options, "lora_rank")
        return options

    def fits(self, info: BackboneInfo, options: Mapping[str, Any]) -> tuple[Fit, ...]:
        _check(info, options)
        sizes = (options["rank"], options["sample"], options["layers"], options["seed"])
        warmup = _warmup(options)
        basis = TrimBasis(*sizes, warmup)
        return (basis,) if warmup is None else (warmup, basis)

    def passes(self, setup: Setup) -> dict[Pass, PassInputs]:
        return {Pass("row", _adapter(setup.options)): PassInputs(hidden=True)}

    def reducer(self, model_pass: Pass, batch: Batch, setup: Setup) -> Reducer:
        from .trim_basis import Codes

        return Codes(batch, setup.artifacts[OUTPUT].arrays["basis"])

    def finish(
        self, rows: Sequence[Encoded], passed: Mapping[Pass, Mapping[str, np.ndarray]], setup: Setup
    ) -> dict[str, np.ndarray]:
        (made,) = passed.values()
        adapter_name = _adapter(setup.options)
        reason = np.full(len(rows), None, dtype=object)
        reason[:] = [_why(*each) for each in zip(rows, made["usable"], strict=True)]
        there = [each is None for each in reason]
        columns = {
            "trim": [row.ids for row in rows],
            "trim_codes": made["codes"],
            "trim_scales": made["scales"],
            "trim_scope": [flags_of(row) for row in rows],
        }
        kept = [
            float(energy[row.content].mean()) if ok else np.nan
            for row, energy, ok in zip(rows, made["energy"], there, strict=True)
        ]
        return {
            **{
                name: ragged([v if ok else None for v, ok in zip(values, there, strict=True)])
                for name, values in columns.items()
            },
            "trim_kept": np.asarray(kept, dtype=np.float32),
            **(
                {"trim_in_fit": in_sample(rows, setup.artifacts[adapter_name])}
                if adapter_name
                else {}
            ),
            "trim_reason": reason,
        }

    def target_artifact(
        self,
        backbone: Backbone,
        rows: Sequence[Encoded],
        columns: Mapping[str, np.ndarray],
        setup: Setup,
    ) -> Artifact:
        """`classes` (C,) int32, `vectors` (C, r) float32, `nearest` (V,) int32.

        The sentence `refused` instead where no example has a token of content.
        """
        from .trim_fingerprints import fingerprints, nearest_classes

        adapter = setup.artifacts.get(_adapter(setup.options))
        found = fingerprints(backbone, rows, setup.options["layers"], adapter)
        if not len(found.classes):
            return Artifact({}, {REFUSED: "no example has any text. Give it another one"})
        return Artifact(
            {
                "classes": found.classes,
                "vectors": found.vectors @ setup.artifacts[OUTPUT].arrays["basis"],
                "nearest": nearest_classes(backbone.model, found.classes),
            },
            {"examples": len(rows)},
        )

    def scorer(
        self,
        options: Mapping[str, Any],
        artifacts: Mapping[str, Artifact],
        facts: Artifact | None,
        query_options: Mapping[str, Any],
    ) -> TokenScorer:
        """Scores by the target's facts; `tokens` of it explains rows token by token."""
        if facts is None:
            raise UsageError("trim compares rows with a target: name one")
        return TokenScorer(
            ClassTable.of(facts),
            query_options["scope"],
            query_options["penalty"],
            query_options["rest"],
        )


def _warmup(options: Mapping[str, Any]) -> WarmUp | None:
    if options["warmup"] == "none":
        return None
    return warm_up_of("trim", options, "lora_rank")


def _adapter(options: Mapping[str, Any]) -> str:
    """The artifact the model wears: the warm-up's last checkpoint; "" for none."""
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
    if options["rank"] > info.hidden_size:
        raise UsageError(
            f"trim: rank {options['rank']}: the states of {info.name} have {info.hidden_size} "
            "numbers. Give at most that, or 0 for as many as are needed"
        )


def flags_of(row: Encoded) -> np.ndarray:
    """(T,) int8 scope flags of a row's tokens."""
    return (row.content * CONTENT + row.response * RESPONSE).astype(np.int8)


def _why(row: Encoded, usable: np.ndarray) -> str | None:
    if not row.content.any():
        return NO_CONTENT
    return None if usable.all() else BAD_STATE


representation = Trim()
