"""GradFiltering: how much a row's gradient falls while a small ensemble learns.

Source: arXiv 2601.13697. The ensemble's members are LoRA adapters of one small frozen model. Member
m is trained on half m % 2 of a sample, so every row has members that never saw it; each leaves an
early snapshot, after its first epoch, and a late one, after its last. Kept per row and member is
the norm of the gradient of the mean response loss with respect to the adapter at both snapshots.
The score G-SNR is the relative drop of the mean squared norm, over the noise of the late norms
between members, and counts only members that were not trained on the row.

Query side: none; the stored score ranks the pool.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...schemas.errors import UsageError
from ...store.catalog import Artifact
from ..columns import ragged
from ..fits.fit import Fitting, Work
from ..fits.lora import AdapterFit, require_trainable, train, training_rows
from ..models.describe import BackboneConfig, BackboneInfo, describe
from ..models.model_folder import settled_name
from ..passes.reducer import Pass, PassInputs, Reducer
from .losses import why_no_loss
from .representation import Representation, Scorer, Setup

if TYPE_CHECKING:
    from ..conversations.tokenization import Encoded
    from ..models.backbone import Backbone
    from ..models.batches import Batch

VERSION = 1
"""Rises when the same rows would give other members."""

HALVES = 2
SNAPSHOTS = ("early", "late")
NOISE_FLOOR = 1e-3
NOISES = ("normalised", "raw")
JUDGES = ("half", "all")


@dataclass(frozen=True)
class Ensemble(AdapterFit):
    """The ensemble; leaves `ensemble/<m>/early` and `ensemble/<m>/late`, adapters as `train`'s.

    The fact `sample` of each holds the ids of the rows it was trained on.

    Attributes:
        model: its own model; "" for the store's backbone.
        members: an even number; `epochs` is at least 2.
    """

    name: ClassVar[str] = "ensemble"

    epochs: int = 2
    rank: int = 8
    alpha: int = 16
    learning_rate: float = 2e-4
    batch: int = 32
    share: float = 0.2
    at_least: int = 2000
    model: str = ""
    members: int = 4

    def spec(self) -> dict[str, Any]:
        identity = describe(model_config(self.model)).identity if self.model else None
        return {**asdict(self), "version": VERSION, "identity": identity}

    def outputs(self) -> tuple[str, ...]:
        return tuple(
            snapshot_name(member, which) for member in range(self.members) for which in SNAPSHOTS
        )

    def work(self, rows: int) -> Work:
        return Work(steps=self.members * self.epochs * rows / HALVES)

    def run(self, fitting: Fitting) -> None:
        backbone = fitting.backbone
        if self.model:
            backbone = load_model(self.model, str(backbone.device))
        untrained = [
            m for m in range(self.members) if snapshot_name(m, "late") not in fitting.artifacts
        ]
        if not untrained:
            return
        rows = training_rows(backbone, fitting.sample, self.sample_rows(fitting.sample.total))
        if len(rows) < HALVES:
            raise UsageError(
                "an ensemble needs at least two rows with an answer, and the sample has "
                f"{len(rows)}. Fit on a larger corpus, or leave out gradfiltering"
            )
        for member in untrained:
            self._train(member, rows[member % HALVES :: HALVES], backbone, fitting)

    def _train(
        self, member: int, rows: list[Encoded], backbone: Backbone, fitting: Fitting
    ) -> None:
        def keep(epoch: int, artifact: Artifact) -> Artifact:
            if epoch == 1:
                return fitting.keep(snapshot_name(member, "early"), artifact)
            if epoch == self.epochs:  # training ends here, so the moments are not needed
                arrays = {k: v for k, v in artifact.arrays.items() if k.endswith((".A", ".B"))}
                fitting.keep(snapshot_name(member, "late"), Artifact(arrays, artifact.facts))
            return artifact

        def report(fraction: float, sentence: str) -> None:
            done = (member + fraction) / self.members
            fitting.report(done, f"member {member + 1} of {self.members}, {sentence}")

        training = self.training(self.members * self.seed + member)
        start = fitting.artifacts.get(snapshot_name(member, "early"))
        train(backbone, rows, training, start, keep, report)


def snapshot_name(member: int, which: str) -> str:
    """The name of a member's artifact."""
    return f"ensemble/{member}/{which}"


@cache
def load_model(model: str, device: str) -> Backbone:
    """Load the ensemble's own model in float32, once a process."""
    from ..models.backbone import Backbone

    return Backbone.load(model_config(model, device))


def model_config(model: str, device: str = "cpu") -> BackboneConfig:
    return BackboneConfig(model, device, "float32")


def halves_of(artifacts: Mapping[str, Artifact]) -> dict[str, int]:
    """Return row id -> the half of the sample it was in."""
    return {
        row: half
        for half in range(HALVES)
        for row in artifacts[snapshot_name(half, "late")].facts["sample"]
    }


def judges(halves: np.ndarray, members: int) -> np.ndarray:
    """Return (N, M) bool: whether a member was trained on the other half than that of the row.

    Args:
        halves: (N,) half of the sample of each row; member m was trained on half m % 2.
    """
    return np.arange(members)[None, :] % HALVES != halves[:, None]


class GradFiltering(Representation):
    """Columns: the score, `gradfiltering_norms` of the members that judge a row (early, then
    late), `_seen` (late norms at members trained on it), `_in_fit`, `_reason`."""

    name = "gradfiltering"
    version = 2
    paper = "arXiv 2601.13697"
    sees = "gradient norms"
    meaning = "rows that small models learn fast and agree on"
    selector = "top"
    defaults: ClassVar[Mapping[str, Any]] = {
        "model": "builtin",
        "members": 4,
        "epochs": 2,
        "rank": 8,
        "alpha": 16,
        "learning_rate": 2e-4,
        "share": 0.2,
        "at_least": 2000,
        "at_most": 10_000,
        "noise": "normalised",
        "judges": "half",
        "seed": 0,
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
        settings = {name: options[name] for name in options if name not in ("noise", "judges")}
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
        from ..passes.gradient_reducers import GradientNorm

        return GradientNorm(None)

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
            early.astype(np.float64), late.astype(np.float64), judging, setup.options["noise"]
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
        return StoredScore()


class StoredScore(Scorer):
    """The stored score, which does not depend on a target."""

    columns = ("gradfiltering",)

    def scores(self, rows: pa.RecordBatch) -> np.ndarray:
        return rows.column("gradfiltering").to_numpy(zero_copy_only=False).astype(np.float32)


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
    for name, known in (("noise", NOISES), ("judges", JUDGES)):
        if options[name] not in known:
            raise UsageError(f"gradfiltering: {name}={options[name]}: {' or '.join(known)}")


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


def snr(early: np.ndarray, late: np.ndarray, judges: np.ndarray, noise: str) -> np.ndarray:
    """Return the G-SNR of every row: relative drop of the gradient over noise between members.

    Args:
        early, late: gradient norms (N, M) at the two snapshots.
        judges: (N, M) bool, the members that count; at least two a row.
        noise: `normalised` (variance of the late norms over their squared mean) or `raw`.

    Returns:
        (N,) float64; NaN where a norm is not finite or the early gradient is zero.
    """
    count = judges.sum(1)

    def mean(values: np.ndarray) -> np.ndarray:
        return np.where(judges, values, 0.0).sum(1) / count

    with np.errstate(all="ignore"):  # the reason says what is not finite
        before, after = mean(early**2), mean(late**2)
        drop = (before - after) / before
        centre = mean(late)
        variance = mean((late - centre[:, None]) ** 2) * count / (count - 1)
        if noise == "normalised":
            # All late gradients zero: they agree.
            variance = np.where(centre > 0, variance / centre**2, variance)
        spread = variance + NOISE_FLOOR
        # Dividing a negative drop would reward noise.
        return np.where(drop > 0, drop / spread, drop * spread)


def seen_gap(table: pa.Table) -> dict[str, float]:
    """Return how rows the ensemble was trained on differ from others, from the stored columns.

    Args:
        table: with `gradfiltering_norms` and `gradfiltering_seen`.

    Returns:
        `rows_in_fit` and `rows_outside` (with norms); `seen_over_unseen`: the late gradient norm
        of a row at members trained on it over that at the others, geometric mean over rows, 1
        where nothing was memorised; `outside_over_unseen`: late norms of rows outside over those
        of rows in the fit at members that did not see them, 1 where the ensemble suits both.
        NaN where there are no such rows.
    """
    present = table.filter(table["gradfiltering_norms"].is_valid())
    by_judges = _mean_logs(present["gradfiltering_norms"], late=True)
    inside = _lengths(present["gradfiltering_seen"]) > 0
    by_its_own = _mean_logs(present["gradfiltering_seen"].filter(inside), late=False)

    def ratio(above: np.ndarray, below: np.ndarray) -> float:
        if not len(above) or not len(below):
            return float("nan")
        return float(np.exp(above.mean() - below.mean()))

    return {
        "rows_in_fit": int(inside.sum()),
        "rows_outside": int((~inside).sum()),
        "seen_over_unseen": ratio(by_its_own, by_judges[inside]),
        "outside_over_unseen": ratio(by_judges[~inside], by_judges[inside]),
    }


def _mean_logs(lists: pa.ChunkedArray, late: bool) -> np.ndarray:
    """Return (n,) mean logarithm of each list, or of its second half."""
    means = [np.empty(0)]
    for chunk in lists.chunks:
        lengths = _lengths(chunk)
        row = np.repeat(np.arange(len(chunk)), lengths)
        place = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        used = place >= lengths[row] / len(SNAPSHOTS) * late
        with np.errstate(divide="ignore"):
            logs = np.log(chunk.flatten().to_numpy().astype(np.float64))
        counts = np.bincount(row[used], minlength=len(chunk))
        means.append(np.bincount(row[used], logs[used], len(chunk)) / counts)
    return np.concatenate(means)


def _lengths(lists: pa.Array | pa.ChunkedArray) -> np.ndarray:
    return pc.list_value_length(lists).to_numpy()  # pyright: ignore[reportAttributeAccessIssue]


representation = GradFiltering()
