"""GradFiltering: how much a row's gradient falls while a small ensemble learns.

Source: arXiv 2601.13697. The ensemble's members are LoRA adapters of one small frozen model, each
trained on one half of a sample (fits/ensemble.py), so every row has members that never saw it. Kept
per row and member is the norm of the gradient of the mean response loss with respect to the adapter
at an early and a late snapshot. The score G-SNR is the relative drop of the mean squared norm, over
the noise of the late norms between members, and counts only members that were not trained on the
row (gradfiltering_scores.py).

Query side: the stored score ranks the pool, or another one from the stored norms; no target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from ...schemas.errors import UsageError
from ...store.catalog import Artifact
from ..columns import ragged
from ..fits.ensemble import (
    GRADIENTS,
    HALVES,
    SNAPSHOTS,
    Ensemble,
    halves_of,
    judges,
    load_model,
    model_config,
    noise_prior,
    norm_reducer,
    snapshot_name,
)
from ..fits.lora import require_trainable
from ..models.describe import BackboneInfo, describe
from ..models.model_folder import settled_name
from ..passes.reducer import Pass, PassInputs, Reducer
from .gradfiltering_scores import NOISES, SCORES, NormScore, StoredScore, snr
from .losses import why_no_loss
from .representation import Representation, Scorer, Setup

if TYPE_CHECKING:
    from ..conversations.tokenization import Encoded
    from ..models.backbone import Backbone
    from ..models.batches import Batch

JUDGES = ("half", "all")
_OF_SCORES = ("gradient", "noise", "judges")
"""Options on which the members do not depend."""

STORED = "stored"


class GradFiltering(Representation):
    """Columns: the score, `gradfiltering_norms` of the members that judge a row (early, then
    late), `_seen` (late norms at members trained on it), `_in_fit`, `_reason`.

    Query options: `score`, G-SNR (`snr`) or the drop alone (`drop`), and the `noise` of G-SNR, that
    of the stored score or another, computed from the norms.
    """

    name = "gradfiltering"
    version = 2
    paper = "arXiv 2601.13697"
    sees = "gradient norms"
    meaning = "rows that small models learn fast and agree on"
    selector = "top"
    query_defaults: ClassVar[Mapping[str, Any]] = {"score": "snr", "noise": STORED}
    query_choices: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "score": SCORES,
        "noise": (STORED, *NOISES),
    }
    listed_options: ClassVar[Mapping[str, str]] = {
        "score=drop": "rows whose gradients fall most while small models learn"
    }
    defaults: ClassVar[Mapping[str, Any]] = {
        "model": "builtin",
        "members": 8,
        "epochs": 2,
        "rank": 8,
        "alpha": 16,
        "learning_rate": 2e-4,
        "share": 0.2,
        "at_least": 2000,
        "at_most": 10_000,
        "gradient": "relative",
        "noise": "shrunk",
        "judges": "half",
        "seed": 0,
    }
    former_defaults: ClassVar[Mapping[str, Any]] = {
        "members": 4,
        "gradient": "adapter",
        "noise": "normalised",
    }

    def settled(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**options, "model": settled_name(options["model"])}

    def fields(self, setup: Setup) -> list[pa.Field]:
        return [
            pa.field("gradfiltering", pa.float32()),
            pa.field("gradfiltering_norms", pa.list_(pa.float32())),
            pa.field("gradfiltering_seen", pa.list_(pa.float32())),
            pa.field("gradfiltering_in_fit", pa.int8()),
            pa.field("gradfiltering_reason", pa.string()),
        ]

    def trial_options(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"members": 4, "epochs": 2, "rank": 2}

    def fits(self, info: BackboneInfo, options: Mapping[str, Any]) -> tuple[Ensemble]:
        _check(options)
        model = "" if _is_store_backbone(info, options["model"]) else options["model"]
        settings = {name: options[name] for name in options if name not in _OF_SCORES}
        return (Ensemble(**{**settings, "model": model}),)

    def identity(self, info: BackboneInfo, options: Mapping[str, Any]) -> dict[str, Any]:
        return (
            info.identity
            if _is_store_backbone(info, options["model"])
            else _info_of(options["model"]).identity
        )

    def passes(self, setup: Setup) -> dict[Pass, PassInputs]:
        if not _is_store_backbone(setup.info, setup.options["model"]):
            return {}
        return {
            model_pass: PassInputs(gradients=True)
            for model_pass in _passes(setup.options["members"])
        }

    def reads(self, model_pass: Pass, rows: Sequence[Encoded], setup: Setup) -> np.ndarray:
        members = setup.options["members"]
        late, member = divmod(_passes(members).index(model_pass), members)
        in_fit = _in_fit(rows, setup)
        judging = _judges(rows, in_fit, members, setup.options["judges"])[:, member]
        return judging | ~np.isnan(in_fit) if late else judging

    def reducer(self, model_pass: Pass, batch: Batch, setup: Setup) -> Reducer:
        return norm_reducer(setup.artifacts[model_pass.adapter], _gradient(setup.options))

    def own_backbone(self, setup: Setup) -> Backbone | None:
        model = setup.options["model"]
        return None if _is_store_backbone(setup.info, model) else load_model(model, setup.device)

    def finish(
        self, rows: Sequence[Encoded], passed: Mapping[Pass, Mapping[str, np.ndarray]], setup: Setup
    ) -> dict[str, np.ndarray]:
        members = setup.options["members"]
        norms = np.full((len(rows), len(SNAPSHOTS) * members), np.nan, dtype=np.float32)
        for place, model_pass in enumerate(_passes(members)):
            norms[:, place] = passed[model_pass].get("norm", np.nan)
        early, late = norms[:, :members], norms[:, members:]
        in_fit = _in_fit(rows, setup)
        judging = _judges(rows, in_fit, members, setup.options["judges"])
        scores = snr(
            early.astype(np.float64),
            late.astype(np.float64),
            judging,
            setup.options["noise"],
            noise_prior(setup.artifacts, _gradient(setup.options)),
        )
        reason = np.full(len(rows), None, dtype=object)
        judged: list[np.ndarray | None] = [None] * len(rows)
        seen: list[np.ndarray | None] = [None] * len(rows)
        for index, by in enumerate(judging):
            row_norms = np.concatenate([early[index, by], late[index, by]])
            if not np.isfinite(scores[index]):
                scores[index] = np.nan
                reason[index] = _reason(rows[index], row_norms)
                continue
            judged[index] = row_norms
            seen[index] = late[index, ~by & ~np.isnan(in_fit[index])]
        return {
            "gradfiltering": scores.astype(np.float32),
            "gradfiltering_norms": ragged(judged),
            "gradfiltering_seen": ragged(seen),
            "gradfiltering_in_fit": in_fit,
            "gradfiltering_reason": reason,
        }

    def scorer(
        self,
        options: Mapping[str, Any],
        artifacts: Mapping[str, Artifact],
        target_artifact: Artifact | None,
        query_options: Mapping[str, Any],
    ) -> Scorer:
        score, noise = query_options["score"], query_options["noise"]
        if score == "drop":
            if noise != STORED:
                raise UsageError(
                    f"gradfiltering: noise={noise} has no effect on score=drop: leave one out"
                )
            return NormScore(None)
        if noise in (STORED, options["noise"]):
            return StoredScore()
        prior = noise_prior(artifacts, _gradient(options))
        if noise == "shrunk" and prior is None:
            raise UsageError(
                "gradfiltering: noise=shrunk: this ensemble was fitted before coresetdb kept what "
                "noise is usual. Make the feature again: coresetdb featurize STORE "
                f"gradfiltering:seed={options['seed'] + 1}"
            )
        return NormScore(noise, prior)


def _passes(members: int) -> list[Pass]:
    """Return a pass for every member's early snapshot, then one for every late one."""
    return [
        Pass("row", adapter=snapshot_name(member, which))
        for which in SNAPSHOTS
        for member in range(members)
    ]


def _in_fit(rows: Sequence[Encoded], setup: Setup) -> np.ndarray:
    """Return (N,) float32: the half of the sample each row was in, NaN outside."""
    halves = halves_of(setup.artifacts)
    return np.array([halves.get(row.id, np.nan) for row in rows], dtype=np.float32)


def _judges(rows: Sequence[Encoded], in_fit: np.ndarray, members: int, option: str) -> np.ndarray:
    """Return (N, M) bool: for a row of the sample the members of the other half.

    A row outside is judged by one half too, chosen by its id: of scores from two and from four
    members, those from two would be all the extremes.
    """
    inside = ~np.isnan(in_fit)
    by_id = np.array([int(row.id[-1], 16) % HALVES for row in rows], dtype=np.float32)
    judging = judges(np.where(inside, in_fit, by_id), members)
    if option == "all":
        judging[~inside] = True
    return judging


def _check(options: Mapping[str, Any]) -> None:
    members, epochs = options["members"], options["epochs"]
    if members < 2 * HALVES or members % HALVES:
        raise UsageError(
            f"gradfiltering: members={members}: give an even number of at least 4, because each "
            "half of the sample needs two members that were not trained on it"
        )
    require_trainable("gradfiltering", options)
    if epochs < len(SNAPSHOTS):
        raise UsageError(
            f"gradfiltering: epochs={epochs}: give at least 2, so that the early and the late "
            "snapshot differ"
        )
    choices = {"gradient": GRADIENTS, "noise": NOISES, "judges": JUDGES}
    for name, known in choices.items():
        if options[name] not in known:
            raise UsageError(
                f"gradfiltering: {name}={options[name]}: choose from {', '.join(known)}"
            )


def _gradient(options: Mapping[str, Any]) -> str:
    """Return which norm is kept; a feature that is older than the choice does not say."""
    return options.get("gradient", GradFiltering.former_defaults["gradient"])


def _is_store_backbone(info: BackboneInfo, model: str) -> bool:
    """Return whether a model is the store's backbone, whatever length rows are truncated to."""
    identity = _info_of(model).identity
    return {**identity, "max_length": info.max_length} == info.identity


@cache
def _info_of(model: str) -> BackboneInfo:
    return describe(model_config(model))


def _reason(row: Encoded, norms: np.ndarray) -> str:
    wrong = "zero" if np.isfinite(norms).all() else "not finite"
    return why_no_loss(row) or f"the gradient is {wrong}"


representation = GradFiltering()
