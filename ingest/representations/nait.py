"""NAIT: activation signatures per layer, scored along a capability's direction (METHODS 4).

Source: Chen et al. 2026, "Neuron-Aware Data Selection in Instruction Tuning for Large Language
Models". Of a row every layer keeps the mean activation over its tokens and the drift from the
first to the last content token. A target gives one direction per layer, the first principal
component of its examples' drifts, and a row scores sum_l <A^l, v_l>, from its columns alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from ...schemas.errors import UsageError
from ..fits.artifacts import Artifact
from ..fits.fit import Fit
from ..models.describe import BackboneInfo
from .nait_directions import ACTIVATIONS, Along, directions_of
from .nait_fit import Bases, Statistics
from .representation import Needs, Pass, Reducer, Representation, Scorer, Setup

if TYPE_CHECKING:
    from ..conversations.encoding import Encoded
    from ..models.backbone import Backbone
    from ..models.batch import Batch

WHOLE = Pass()

FULL_NUMBERS = 4096
"""Up to so many numbers (layers times width) a summary is kept whole."""

CHOICES = {"neuron": ("layer", "mlp"), "tokens": ("content", "response", "all")}


NO_DRIFT = "one content token: nothing drifts"


class Nait(Representation):
    """Columns: blocks and norms of mean and drift, `nait_kept` where there are bases, the reason.

    Options:
        neuron: `layer`, what a decoder layer gives, or `mlp`, the units of its feed-forward
            network (always in a basis; no mixtures of experts).
        tokens: of which the mean is taken: `content`, `response` or `all`.
        width: of a layer's basis; 0 keeps every dimension.
        zscore: whether statistics for score=zscore are fitted.
    """

    name = "nait"
    version = 1
    paper = "Chen et al. 2026, arXiv 2603.13201"
    defaults: ClassVar[Mapping[str, Any]] = {
        "neuron": "layer",
        "tokens": "content",
        "width": 128,
        "zscore": False,
        "seed": 0,
    }
    asking: ClassVar[Mapping[str, Any]] = {"activation": "mean", "score": "dot"}
    selector = "top"

    def fields(self, setup: Setup) -> list[pa.Field]:
        layers, width = _shape(setup)
        found = [
            field
            for blocks, norms in ACTIVATIONS.values()
            for field in (
                pa.field(blocks, pa.list_(pa.float16(), layers * width)),
                pa.field(norms, pa.list_(pa.float32(), layers)),
            )
        ]
        if "nait-bases" in setup.artifacts:
            found.append(pa.field("nait_kept", pa.float32()))
        return [*found, pa.field("nait_reason", pa.string())]

    def fits(self, info: BackboneInfo, options: Mapping[str, Any]) -> tuple[Fit, ...]:
        _check(options)
        bases = Bases(options) if _wants_bases(info, options) else None
        found: list[Fit] = [] if bases is None else [bases]
        return tuple(found + ([Statistics(options, bases)] if options["zscore"] else []))

    def passes(self, setup: Setup) -> dict[Pass, Needs]:
        from .nait_summaries import needs_of

        return {WHOLE: needs_of(setup.options)}

    def reducer(self, each: Pass, batch: Batch, setup: Setup) -> Reducer:
        from .nait_summaries import Summaries, bases_of

        return Summaries(batch, setup.options["tokens"], bases_of(setup.artifacts))

    def finish(
        self, rows: Sequence[Encoded], passed: Mapping[Pass, Mapping[str, np.ndarray]], setup: Setup
    ) -> dict[str, np.ndarray]:
        found = passed[WHOLE]
        columns = {
            name: found[kind + ending]
            for kind, names in ACTIVATIONS.items()
            for name, ending in zip(names, ("", "_norms"), strict=True)
        }
        if "nait-bases" in setup.artifacts:
            columns["nait_kept"] = _kept(found)
        norms = np.concatenate([found["mean_norms"], found["drift_norms"]], axis=1)
        finite = np.asarray(np.isfinite(norms).all(axis=1))
        # A vector of zeros has no place in the store: it would vanish from searches unseen.
        usable = finite & found["mean_norms"].any(axis=1) & found["drift_norms"].any(axis=1)
        reason = np.full(len(rows), None, dtype=object)
        for index in np.flatnonzero(~usable).tolist():
            reason[index] = (
                NO_DRIFT if finite[index] else _why(rows[index], setup.options["tokens"])
            )
        for column in columns.values():
            column[~usable] = np.nan
        return {**columns, "nait_reason": reason}

    def facts(
        self,
        backbone: Backbone,
        rows: Sequence[Encoded],
        columns: Mapping[str, np.ndarray],
        setup: Setup,
    ) -> Artifact | None:
        """Directions from drifts in full precision: with bases, by a pass over the examples."""
        from .nait_summaries import bases_of, summaries_of, whole

        usable = [index for index, why in enumerate(columns["nait_reason"]) if why is None]
        if bases_of(setup.artifacts) is None:
            drifts = whole(columns["nait_drift"], columns["nait_drift_norms"])[usable]
        elif usable:
            chosen = [rows[index] for index in usable]
            drifts = summaries_of(backbone, chosen, setup.options)["drift"]
        else:
            drifts = np.empty((0, *_shape(setup)), dtype=np.float32)
        return directions_of(drifts)

    def scorer(
        self,
        options: Mapping[str, Any],
        artifacts: Mapping[str, Artifact],
        facts: Artifact | None,
        asked: Mapping[str, Any],
    ) -> Scorer | None:
        if facts is None:
            raise UsageError("nait scores rows along a target's direction: name a target")
        return Along(facts, artifacts, asked)


def _check(options: Mapping[str, Any]) -> None:
    for name, known in CHOICES.items():
        if options[name] not in known:
            raise UsageError(f"nait: {name}={options[name]}: choose from {', '.join(known)}")
    least = 1 if options["neuron"] == "mlp" else 0
    if options["width"] < least:
        raise UsageError(
            f"nait: width={options['width']}: give at least {least} with neuron={options['neuron']}"
        )


def _wants_bases(info: BackboneInfo, options: Mapping[str, Any]) -> bool:
    if options["neuron"] == "mlp":
        return True
    return bool(options["width"]) and info.layers * info.hidden_size > FULL_NUMBERS


def _shape(setup: Setup) -> tuple[int, int]:
    """Layers, and numbers kept of each."""
    if bases := setup.artifacts.get("nait-bases"):
        return bases.arrays["mean"].shape[0], bases.arrays["mean"].shape[1]
    return setup.info.layers, setup.info.hidden_size


def _kept(found: Mapping[str, np.ndarray]) -> np.ndarray:
    """Share of energy that the bases keep: the mean over layers, and over mean and drift."""
    shares = []
    for kind in ACTIVATIONS:
        norms = found[f"{kind}_norms"]
        blocks = found[kind].reshape(*norms.shape, -1)
        shares.append(np.where(norms == 0, 1.0, (blocks**2).sum(axis=2)))
    return np.concatenate(shares, axis=1).mean(axis=1).astype(np.float32)


def _why(row: Encoded, tokens: str) -> str:
    after = " left after truncation" if row.truncated else ""
    if not row.content.any():
        return "no content token" + after
    if tokens == "response" and not row.response_tokens:
        return "no response token" + after
    return "an activation is not finite"


representation = Nait()
