"""NAIT: activation signatures per layer, scored along a capability's direction.

Source: Chen et al. 2026, "Neuron-Aware Data Selection in Instruction Tuning for Large Language
Models". Of a row every layer keeps the mean activation over its tokens and the drift from the
first to the last content token, each as a block (the unit vector) and its norm before. A target
gives one direction per layer, and a row scores along it, from its columns alone. In the paper the
direction is the first principal component of the examples' drifts, and the score sum_l <A^l, v_l>:
`nait(direction=pca,score=dot)`. The others are ours (nait_scores.py).

Two fits may learn from a sample of the pool. Bases: layers of a large model are kept in the leading
right singular vectors of the sample's summaries, one basis for means and one for drifts. They are
uncentred, so that a stored block is a linear function of the summary and no constant of the score
is lost. Statistics, for score=zscore: mean and covariance of the stored summaries of every layer,
which give the mean and the deviation of <A, v> over the pool for any direction v.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from ...schemas.errors import BackboneError, UsageError
from ...store.catalog import Artifact
from ..columns import joined, ragged
from ..conversations.tokenization import Encoded
from ..fits.fit import Fit, Fitting, PassFit
from ..models.describe import BackboneInfo
from ..passes.reducer import Collector, Pass, PassInputs, Reducer
from .nait_scores import (
    ACTIVATIONS,
    COLUMNS,
    DirectionScorer,
    directions_of,
    in_steps,
    mean_summaries,
    needs_background,
)
from .nait_width import overlaps
from .representation import Representation, Scorer, Setup, why_no_token
from .stored import STORED, check_stored
from .trim_basis import narrowest

if TYPE_CHECKING:
    import torch

    from ..models.backbone import Backbone
    from ..models.batches import Batch
    from ..passes.reducer import Neurons

KINDS = ("mean", "drift")
WHOLE = Pass()

SAMPLE_ROWS = 1024
"""Eight times the width of a basis; with Llama-2-7B their summaries take 1 GB."""

FULL_NUMBERS = 4096
"""A summary of at most this many numbers (layers times width) is kept whole, without a basis."""

CHOICES = {
    "neuron": ("layer", "mlp"),
    "tokens": ("content", "response", "all"),
    "keep": ("both", "mean"),
}
NO_DRIFT = "one content token: nothing drifts"


KEPT: Mapping[str, Any] = {"keep": "both", "overlap": 0.0, **STORED}


class Nait(Representation):
    """Columns: blocks and norms of mean and drift, `nait_kept` where there are bases, the reason.

    A block in int8 is a list of one vector a layer, in steps of 1/127.

    Options:
        keep: `both`, or `mean` alone, which is what the default comparison looks at; without
            drifts there is no activation=drift and no direction=mean.
        overlap: 0, or the share of the best rows by whole means that those by stored ones must
            have: bases then are as narrow as that allows, and `width` at most.
        stored: `float16`, or `int8` in half the bytes.
        neuron: `layer`, the output of a decoder layer, or `mlp`, the units of its feed-forward
            network (always in a basis; not for mixtures of experts).
        tokens: of which the mean is taken: `content`, `response` or `all`.
        width: of a layer's basis; 0 keeps every dimension.
        zscore: whether statistics for score=zscore are fitted, so that no layer dominates the sum
            because its activations are larger.
    """

    name = "nait"
    version = 1
    paper = "Chen et al. 2026, arXiv 2603.13201"
    sees = "activations"
    meaning = "rows that stand out of the pool as your examples do"
    defaults: ClassVar[Mapping[str, Any]] = {
        "neuron": "layer",
        "tokens": "content",
        "width": 128,
        "zscore": False,
        "seed": 0,
        **KEPT,
    }
    implied: ClassVar[Mapping[str, Any]] = KEPT
    query_defaults: ClassVar[Mapping[str, Any]] = {
        "activation": "mean",
        "direction": "contrast",
        "score": "centred",
    }
    unrecorded: ClassVar[Mapping[str, Any]] = {"direction": "pca"}
    example_columns: ClassVar[tuple[str, ...]] = COLUMNS
    selector = "top"
    listed_options: ClassVar[Mapping[str, str]] = {
        "direction=pca,score=dot": "the paper's: along what your examples differ in most"
    }

    def fields(self, setup: Setup) -> list[pa.Field]:
        layers, width = _shape(setup)
        block = pa.list_(pa.float16(), layers * width)
        if setup.options["stored"] == "int8":
            block = pa.list_(pa.list_(pa.int8(), width))
        columns = [
            field
            for kind in kinds_of(setup.options)
            for blocks, norms in [ACTIVATIONS[kind]]
            for field in (pa.field(blocks, block), pa.field(norms, pa.list_(pa.float32(), layers)))
        ]
        if "nait-bases" in setup.artifacts:
            columns.append(pa.field("nait_kept", pa.float32()))
        return [*columns, pa.field("nait_reason", pa.string())]

    def fits(self, info: BackboneInfo, options: Mapping[str, Any]) -> tuple[Fit, ...]:
        _check(options)
        bases = Bases(options) if _needs_bases(info, options) else None
        fits = (bases, Statistics(options, bases) if options["zscore"] else None)
        return tuple(fit for fit in fits if fit is not None)

    def passes(self, setup: Setup) -> dict[Pass, PassInputs]:
        return {WHOLE: needs_of(setup.options)}

    def reducer(self, model_pass: Pass, batch: Batch, setup: Setup) -> Reducer:
        kinds = kinds_of(setup.options)
        return Summaries(batch, setup.options["tokens"], bases_of(setup.artifacts), kinds)

    def finish(
        self, rows: Sequence[Encoded], passed: Mapping[Pass, Mapping[str, np.ndarray]], setup: Setup
    ) -> dict[str, np.ndarray]:
        summaries, kinds = passed[WHOLE], kinds_of(setup.options)
        columns = {
            name: summaries[kind + ending]
            for kind in kinds
            for name, ending in zip(ACTIVATIONS[kind], ("", "_norms"), strict=True)
        }
        if "nait-bases" in setup.artifacts:
            columns["nait_kept"] = _kept_energy(summaries, kinds)
        norms = [summaries[f"{kind}_norms"] for kind in kinds]
        finite = np.asarray(np.isfinite(np.concatenate(norms, axis=1)).all(axis=1))
        # A vector of zeros is not stored: searches would silently drop it.
        usable = finite & np.all([norm.any(axis=1) for norm in norms], axis=0)
        reason = np.full(len(rows), None, dtype=object)
        for index in np.flatnonzero(~usable).tolist():
            reason[index] = (
                NO_DRIFT if finite[index] else _reason(rows[index], setup.options["tokens"])
            )
        for column in columns.values():
            column[~usable] = np.nan
        if setup.options["stored"] == "int8":
            for kind in kinds:
                blocks, layers = ACTIVATIONS[kind][0], norms[0].shape[1]
                columns[blocks] = codes_of(columns[blocks], layers, usable)
        return {**columns, "nait_reason": reason}

    def target_artifact(
        self,
        backbone: Backbone,
        rows: Sequence[Encoded],
        columns: Mapping[str, np.ndarray],
        setup: Setup,
    ) -> Artifact | None:
        """Return directions from drifts in full precision; bases require a pass over the rows."""
        usable = [index for index, why in enumerate(columns["nait_reason"]) if why is None]
        if bases_of(setup.artifacts) is None and setup.options == {**setup.options, **KEPT}:
            drifts = whole(columns["nait_drift"], columns["nait_drift_norms"])[usable]
        elif usable:
            chosen = [rows[index] for index in usable]
            drifts = summaries_of(backbone, chosen, setup.options)["drift"]
        else:
            drifts = np.empty((0, *_shape(setup)), dtype=np.float32)
        return directions_of(drifts[drifts.any(axis=(1, 2))])

    def with_examples(self, artifact: Artifact, examples: pa.Table) -> Artifact:
        """Return the directions with the examples' mean summaries."""
        means = mean_summaries([examples])
        return Artifact({**artifact.arrays, **means.arrays}, artifact.facts)

    def background_columns(self, query_options: Mapping[str, Any]) -> tuple[str, ...]:
        return COLUMNS if needs_background(query_options) else ()

    def background(self, parts: Iterable[pa.Table]) -> Artifact:
        return mean_summaries(parts)

    def scorer(
        self,
        options: Mapping[str, Any],
        artifacts: Mapping[str, Artifact],
        target_artifact: Artifact | None,
        query_options: Mapping[str, Any],
    ) -> Scorer | None:
        if target_artifact is None:
            raise UsageError("nait scores rows along a target's direction: name a target")
        if options["keep"] == "mean":
            for option, value in (("activation", "drift"), ("direction", "mean")):
                if query_options[option] == value:
                    raise UsageError(
                        f"nait: {option}={value} needs drifts, and this store keeps means alone. "
                        "Make the feature as nait:keep=both, or leave that option out"
                    )
        return DirectionScorer(target_artifact, artifacts, query_options)


def _check(options: Mapping[str, Any]) -> None:
    for name, known in CHOICES.items():
        if options[name] not in known:
            raise UsageError(f"nait: {name}={options[name]}: choose from {', '.join(known)}")
    least = 1 if options["neuron"] == "mlp" else 0
    if options["width"] < least:
        raise UsageError(
            f"nait: width={options['width']}: give at least {least} with neuron={options['neuron']}"
        )
    if not 0 <= options["overlap"] < 1:
        raise UsageError(f"nait: overlap={options['overlap']}: give a share from 0 to below 1")
    check_stored("nait", options, ("float16", "int8"))


def kinds_of(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return which summaries are kept of a row."""
    return KINDS if options["keep"] == "both" else KINDS[:1]


def _needs_bases(info: BackboneInfo, options: Mapping[str, Any]) -> bool:
    if options["neuron"] == "mlp" or options["overlap"]:
        return True
    return bool(options["width"]) and info.layers * info.layer_width > FULL_NUMBERS


def _shape(setup: Setup) -> tuple[int, int]:
    """Return the number of layers, and the numbers kept of each."""
    if bases := setup.artifacts.get("nait-bases"):
        return bases.arrays["mean"].shape[0], bases.arrays["mean"].shape[1]
    return setup.info.layers, setup.info.layer_width


def _kept_energy(summaries: Mapping[str, np.ndarray], kinds: Sequence[str]) -> np.ndarray:
    """Return the share of energy that the bases keep, the mean over layers and kinds."""
    shares = []
    for kind in kinds:
        norms = summaries[f"{kind}_norms"]
        blocks = summaries[kind].reshape(*norms.shape, -1)
        shares.append(np.where(norms == 0, 1.0, (blocks**2).sum(axis=2)))
    return np.concatenate(shares, axis=1).mean(axis=1).astype(np.float32)


def _reason(row: Encoded, tokens: str) -> str:
    missing = why_no_token(row, "content")
    if tokens == "response":
        missing = missing or why_no_token(row, "response")
    return missing or "an activation is not finite"


def needs_of(options: Mapping[str, Any]) -> PassInputs:
    """Return what a pass must give for the option `neuron`."""
    return PassInputs(neurons=True) if options["neuron"] == "mlp" else PassInputs(layers=True)


class Summaries(Reducer):
    """Blocks of one batch, layer by layer, computed in float32.

    Columns, for each of `kinds`: `<kind>` (B, L * d') blocks and `<kind>_norms` (B, L) float32. A
    row without the tokens of a kind holds NaN.

    Args:
        tokens: of which the mean is taken: "content", "response" or "all".
        bases: kind -> (L, d', d) float32, orthonormal rows; None keeps every dimension.
    """

    def __init__(
        self,
        batch: Batch,
        tokens: str,
        bases: Mapping[str, np.ndarray] | None = None,
        kinds: Sequence[str] = KINDS,
    ) -> None:
        import torch

        content, counted = batch.tokens("content"), batch.tokens(tokens)
        counts = counted.sum(1, keepdim=True)
        self._weights = (counted.float() / counts)[:, None, :]  # NaN where a row has no such token
        self._padded = bool((~batch.mask).any())
        self._mask = batch.mask
        self._rows = torch.arange(len(batch.rows), device=content.device)
        self._first = content.int().argmax(1)
        self._last = content.shape[1] - 1 - content.flip(1).int().argmax(1)
        self._contentless = ~content.any(1)
        self._bases = bases
        self._blocks: dict[str, list[torch.Tensor]] = {kind: [] for kind in kinds}
        self._norms: dict[str, list[torch.Tensor]] = {kind: [] for kind in kinds}

    def layer(self, index: int, states: torch.Tensor) -> None:
        import torch

        clean = states.float()
        if self._padded:  # padding's states may be NaN, and 0 * NaN is NaN
            clean = clean.masked_fill(~self._mask[:, :, None], 0.0)
        of_kind = {"mean": (self._weights @ clean)[:, 0]}
        if "drift" in self._blocks:
            drift = states[self._rows, self._last].float() - states[self._rows, self._first].float()
            drift[self._contentless] = torch.nan
            of_kind["drift"] = drift
        for kind, vectors in of_kind.items():
            norms = vectors.norm(dim=1)
            unit = torch.where(norms[:, None] == 0, vectors, vectors / norms[:, None])
            if self._bases is not None:
                unit = unit @ torch.from_numpy(self._bases[kind][index]).to(unit.device).T
            self._blocks[kind].append(unit)
            self._norms[kind].append(norms)

    def neurons(self, part: Neurons) -> None:
        if part.tokens is not None:
            raise BackboneError(
                "nait: neuron=mlp does not support mixtures of experts, where most units never "
                "see most tokens. Use neuron=layer"
            )
        widths = {part.units, *(block.shape[1] for block in self._blocks["mean"][:1])}
        if self._bases is None and len(widths) > 1:
            raise BackboneError(
                "nait: neuron=mlp needs feed-forward networks of one width, and this backbone's "
                f"have {' and '.join(map(str, sorted(widths)))} units. Use neuron=layer"
            )
        self.layer(part.layer, part.values)

    def columns(self) -> dict[str, np.ndarray]:
        import torch

        return {
            **{kind: torch.cat(blocks, 1).cpu().numpy() for kind, blocks in self._blocks.items()},
            **{
                f"{kind}_norms": torch.stack(norms, 1).cpu().numpy()
                for kind, norms in self._norms.items()
            },
        }


def bases_of(artifacts: Mapping[str, Artifact]) -> Mapping[str, np.ndarray] | None:
    """Return kind -> (L, d', d) float32, or None where no bases were fitted."""
    bases = artifacts.get("nait-bases")
    return None if bases is None else bases.arrays


class SampleSummaries(Collector):
    """Whole summaries, block times norm, of the rows at `places`."""

    def __init__(
        self,
        places: Sequence[int],
        options: Mapping[str, Any],
        bases: Mapping[str, np.ndarray] | None = None,
        kinds: Sequence[str] = KINDS,
    ) -> None:
        self.inputs, self.places = needs_of(options), np.asarray(places, dtype=np.int64)
        self._tokens, self._bases, self._kinds = options["tokens"], bases, kinds
        self._parts: list[Mapping[str, np.ndarray]] = []
        self._order: list[np.ndarray] = []

    def reducer(self, batch: Batch, places: Sequence[int]) -> Reducer:
        return Summaries(batch, self._tokens, self._bases, self._kinds)

    def add(self, places: Sequence[int], columns: Mapping[str, np.ndarray]) -> None:
        used = np.isin(places, self.places)
        self._parts.append({name: values[used] for name, values in columns.items()})
        self._order.append(np.searchsorted(self.places, np.asarray(places)[used]))

    def summaries(self) -> dict[str, np.ndarray]:
        """Return kind -> (n, L, d') float32, in the order of `places`; NaN without tokens."""
        columns = joined(self._parts, np.concatenate(self._order), len(self.places))
        return {kind: whole(columns[kind], columns[f"{kind}_norms"]) for kind in self._kinds}


def summaries_of(
    backbone: Backbone, rows: Sequence[Encoded], options: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Run a pass over some rows; return their whole summaries in full precision."""
    from ..passes.forward import pass_over

    collected = SampleSummaries(range(len(rows)), options)
    pass_over(backbone, rows, [collected])
    return collected.summaries()


def whole(blocks: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """Return blocks (N, L * d') times their norms (N, L), as (N, L, d')."""
    return blocks.reshape(*norms.shape, -1) * norms[:, :, None]


def codes_of(blocks: np.ndarray, layers: int, usable: np.ndarray) -> np.ndarray:
    """Return an object array (N,) of blocks as int8 (L, d'), None where a row is not usable."""
    rows = blocks.reshape(len(blocks), layers, -1)
    return ragged([in_steps(row) if kept else None for row, kept in zip(rows, usable, strict=True)])


class _SummaryFit(PassFit[SampleSummaries]):
    """A fit from the summaries of the sample's usable rows."""

    def __init__(self, options: Mapping[str, Any], names: Sequence[str]) -> None:
        self._options = {name: options[name] for name in names}
        self._kinds = kinds_of(options)

    def spec(self) -> dict[str, Any]:
        kinds = {} if self._kinds == KINDS else {"kinds": list(self._kinds)}
        return {**self._options, **kinds, "version": 1, "rows": SAMPLE_ROWS}

    def outputs(self) -> tuple[str, ...]:
        return (self.name,)

    def sample_rows(self, total: int) -> int:
        return min(total, SAMPLE_ROWS)

    def collect(self, fitting: Fitting, rows: Sequence[Encoded | None]) -> SampleSummaries:
        tokens = self._options["tokens"]
        usable = [
            place
            for place, row in enumerate(rows)
            if row is not None
            and row.content.any()
            and (tokens != "response" or row.response_tokens)
        ]
        if len(usable) < 2:
            raise UsageError(
                f"{self.name}: {len(usable)} of the sample's {len(rows):,} rows have "
                f"{tokens} tokens. Ingest a corpus with at least two such rows"
            )
        return SampleSummaries(usable, self._options, self._bases_of(fitting), self._kinds)

    def _bases_of(self, fitting: Fitting) -> Mapping[str, np.ndarray] | None:
        return None


class Bases(_SummaryFit):
    """Artifact `nait-bases`: `mean` and `drift` (L, d', d) float32 with orthonormal rows.

    d' is `width`, or what sample and layer have at most, or with the option `overlap` what the
    ranking needs. Facts: rows, the share of the sample's energy kept per kind and layer, and the
    overlap at each width tried.
    """

    name = "nait-bases"

    def __init__(self, options: Mapping[str, Any]) -> None:
        names = ("neuron", "tokens", "width", "seed")
        ranked = ("overlap", "stored") if options["overlap"] else ()
        super().__init__(options, (*names, *ranked))

    def finish(self, fitting: Fitting, collected: SampleSummaries) -> None:
        arrays: dict[str, np.ndarray] = {}
        energy: dict[str, list[float]] = {}
        facts: dict[str, Any] = {"rows": len(collected.places)}
        width, sample = self._options["width"], collected.summaries()
        if enough := self._options.get("overlap"):
            widest = np.stack([_leading(each, width)[0] for each in sample["mean"].swapaxes(0, 1)])
            stored, seed = self._options["stored"], self._options["seed"]
            found = overlaps(sample["mean"], widest, stored, seed)
            facts["overlap"] = {str(tried): round(share, 4) for tried, share in found.items()}
            width = narrowest(found, enough)
        for kind, summaries in sample.items():
            layers = [_leading(of_layer, width) for of_layer in summaries.swapaxes(0, 1)]
            arrays[kind] = np.stack([basis for basis, _ in layers])
            energy[kind] = [share for _, share in layers]
        fitting.keep(self.name, Artifact(arrays, {**facts, "kept": energy}))
        fitting.report(
            1.0,
            f"{arrays['mean'].shape[1]} directions a layer keep "
            f"{np.mean(list(energy.values())):.1%} of the energy",
        )


class Statistics(_SummaryFit):
    """Artifact `nait-statistics`: `<kind>_mean` (L, d') and `<kind>_covariance` (L, d', d').

    With bases, these must exist before the summaries can be read, so this fit then takes a pass of
    its own.
    """

    name = "nait-statistics"

    def __init__(self, options: Mapping[str, Any], bases: Bases | None) -> None:
        super().__init__(options, ("neuron", "tokens", "seed"))
        self._bases = bases

    def needs(self) -> tuple[Fit, ...]:
        return () if self._bases is None else (self._bases,)

    def finish(self, fitting: Fitting, collected: SampleSummaries) -> None:
        arrays: dict[str, np.ndarray] = {}
        for kind, summaries in collected.summaries().items():
            mean = summaries.mean(axis=0, dtype=np.float64)
            centred = summaries - mean.astype(np.float32)
            arrays[f"{kind}_mean"] = mean.astype(np.float32)
            arrays[f"{kind}_covariance"] = np.einsum("nld,nle->lde", centred, centred) / (
                len(summaries) - 1
            )
        fitting.keep(self.name, Artifact(arrays))
        fitting.report(1.0, "spread of every layer")

    def _bases_of(self, fitting: Fitting) -> Mapping[str, np.ndarray] | None:
        return fitting.artifacts[self._bases.name].arrays if self._bases else None


def _leading(vectors: np.ndarray, width: int) -> tuple[np.ndarray, float]:
    """Return the first `width` right singular vectors of (n, d), and their share of the energy.

    All of them for a width of 0.
    Their signs are such that the entry of largest magnitude is positive.
    """
    import torch

    _, values, right = torch.linalg.svd(torch.from_numpy(vectors), full_matrices=False)
    width = width or len(right)
    basis = right[:width].numpy()
    largest = np.abs(basis).argmax(axis=1)
    basis = basis * np.sign(basis[np.arange(len(basis)), largest])[:, None]
    energy = values.double().numpy() ** 2
    return np.ascontiguousarray(basis, dtype=np.float32), float(
        energy[:width].sum() / energy.sum() if energy.sum() else 1.0
    )


representation = Nait()
