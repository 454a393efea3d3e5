"""The ensemble of GradFiltering: members that learn from halves of a sample, and what they learned.

Member m is trained on half m % 2 of a sample, so every row has members that never saw it; each
leaves an early snapshot, after its first epoch, and a late one, after its last. Rows of each half
are then read by the members of the other half at both snapshots: whether their loss fell, and how
far members disagree about them, is kept beside the members (`held-out`).

The gradient by one matrix of an adapter grows with the other of its pair: with y = B A x it is
delta (A x)^T by B and (B^T delta) x^T by A. Both grow while they learn, and with them a row's
gradient, even where its loss falls. The relative norm divides the squares of each by the squared
norm of the other (`pair_scales`), so that snapshots can be compared.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ...schemas.errors import UsageError
from ...store.catalog import Artifact
from ..conversations.tokenization import Encoded
from ..models.describe import BackboneConfig, describe
from ..passes.reducer import Collector, PassInputs, Reducer
from .fit import Fitting, Work
from .lora import AdapterFit, train, training_rows
from .member_noise import Prior, prior_of, relative_variances

if TYPE_CHECKING:
    import torch

    from ..models.backbone import Backbone
    from ..models.batches import Batch
    from ..passes.weight_gradient import WeightGradient

VERSION = 1
"""Rises when the same rows would give other members."""

HALVES = 2
SNAPSHOTS = ("early", "late")
GRADIENTS = ("relative", "adapter")
HELD_OUT = "ensemble/held-out"
HELD_OUT_ROWS = 256
"""Rows of each half that the members of the other half are tried on, at most."""

TRAINING_SHARE = 0.9
"""Share of the fit's progress that the training is; the held-out rows follow."""


@dataclass(frozen=True)
class Ensemble(AdapterFit):
    """The ensemble; leaves `ensemble/<m>/early` and `ensemble/<m>/late`, adapters as `train`'s.

    The fact `sample` of each holds the ids of the rows it was trained on. `ensemble/held-out` has
    facts alone (`held_out`).

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
        snapshots = (
            snapshot_name(member, which) for member in range(self.members) for which in SNAPSHOTS
        )
        return (*snapshots, HELD_OUT)

    def work(self, rows: int) -> Work:
        tried = min(rows, HALVES * HELD_OUT_ROWS)
        return Work(steps=self.members * (self.epochs * rows / HALVES + tried))

    def run(self, fitting: Fitting) -> None:
        if all(name in fitting.artifacts for name in self.outputs()):
            return
        backbone, halves = self._halves(fitting)
        snapshots = {
            name: artifact for name, artifact in fitting.artifacts.items() if name != HELD_OUT
        }
        for member in range(self.members):
            if snapshot_name(member, "late") not in snapshots:
                snapshots |= self._train(member, halves[member % HALVES], backbone, fitting)
        if HELD_OUT not in fitting.artifacts:
            fitting.keep(HELD_OUT, self._held_out(halves, snapshots, backbone, fitting))

    def parts(self, existing: Collection[str]) -> list[list[str]]:
        """The snapshots of each member."""
        members = (
            [snapshot_name(member, which) for which in SNAPSHOTS] for member in range(self.members)
        )
        return [names for names in members if not set(names) <= set(existing)]

    def run_part(self, fitting: Fitting, outputs: Sequence[str]) -> None:
        """Train the member of these snapshots."""
        backbone, halves = self._halves(fitting)
        (member,) = (
            member for member in range(self.members) if snapshot_name(member, "late") in outputs
        )
        self._train(member, halves[member % HALVES], backbone, fitting)

    def _halves(self, fitting: Fitting) -> tuple[Backbone, list[list[Encoded]]]:
        """Return the model that learns, and the rows of each half of the sample."""
        backbone = fitting.backbone
        if self.model:
            backbone = load_model(self.model, str(backbone.device))
        rows = training_rows(backbone, fitting.sample, self.sample_rows(fitting.sample.total))
        if len(rows) < HALVES:
            raise UsageError(
                "an ensemble needs at least two rows with an answer, and the sample has "
                f"{len(rows)}. Fit on a larger corpus, or leave out gradfiltering"
            )
        return backbone, [rows[half::HALVES] for half in range(HALVES)]

    def _train(
        self, member: int, rows: list[Encoded], backbone: Backbone, fitting: Fitting
    ) -> dict[str, Artifact]:
        """Train a member and keep its snapshots; return them by name."""
        early, late = (snapshot_name(member, which) for which in SNAPSHOTS)
        kept = {name: fitting.artifacts[name] for name in (early,) if name in fitting.artifacts}

        def keep(epoch: int, artifact: Artifact) -> Artifact:
            if epoch == 1:
                kept[early] = fitting.keep(early, artifact)
                return kept[early]
            if epoch == self.epochs:  # training ends here, so the moments are not needed
                arrays = {k: v for k, v in artifact.arrays.items() if k.endswith((".A", ".B"))}
                kept[late] = fitting.keep(late, Artifact(arrays, artifact.facts))
            return artifact

        def report(fraction: float, sentence: str) -> None:
            done = TRAINING_SHARE * (member + fraction) / self.members
            fitting.report(done, f"member {member + 1} of {self.members}, {sentence}")

        training = self.training(self.members * self.seed + member)
        train(backbone, rows, training, kept.get(early), keep, report)
        return kept

    def _held_out(
        self,
        halves: Sequence[Sequence[Encoded]],
        snapshots: Mapping[str, Artifact],
        backbone: Backbone,
        fitting: Fitting,
    ) -> Artifact:
        """Read rows of each half by the members of the other, and say whether their loss fell."""
        from ..passes.forward import pass_over

        tried = [half[:HELD_OUT_ROWS] for half in halves]
        read: dict[tuple[int, str], LossesAndNorms] = {}
        passes = [(member, which) for member in range(self.members) for which in SNAPSHOTS]
        for place, (member, which) in enumerate(passes):
            rows = tried[1 - member % HALVES]

            def report(done: float, place: int = place) -> None:
                share = (place + done) / len(passes)
                fitting.report(
                    TRAINING_SHARE + (1 - TRAINING_SHARE) * share, "rows no member was trained on"
                )

            adapter = snapshots[snapshot_name(member, which)]
            collector = LossesAndNorms(len(rows), adapter)
            pass_over(backbone, rows, [collector], adapter, report)
            read[member, which] = collector
        facts = held_out(read, self.members)
        fitting.say(losses_sentence(facts))
        if facts["loss"]["late"] >= facts["loss"]["early"]:
            fitting.say(f"{WARNING}. {self._remedy()}")
        return Artifact({}, facts)

    def _remedy(self) -> str:
        return (
            f"Give more epochs ({self.epochs}), another learning_rate ({self.learning_rate:g}) or "
            "a larger sample (share, at_least)"
        )


WARNING = (
    "the members' loss on rows they were not trained on did not fall between the two snapshots, so "
    "that gradfiltering says little"
)


def losses_sentence(facts: Mapping[str, Any]) -> str:
    """Return what the held-out rows lost at both snapshots, as a sentence for the user."""
    early, late = facts["loss"]["early"], facts["loss"]["late"]
    return (
        f"mean loss of {facts['rows']:,} rows at members that were not trained on them: "
        f"{early:.4f} after the first epoch, {late:.4f} after the last"
    )


class LossesAndNorms(Collector):
    """The mean response loss of every row, and the norms of its gradient by the adapter.

    Attributes:
        loss: (n,) float64.
        norms: kind of gradient -> (n,) float64.
    """

    def __init__(self, rows: int, adapter: Artifact) -> None:
        self.inputs = PassInputs(logits=True, gradients=True)
        self.places = np.arange(rows)
        self.loss = np.full(rows, np.nan)
        self.norms = {kind: np.full(rows, np.nan) for kind in GRADIENTS}
        self._adapter = adapter

    def reducer(self, batch: Batch, places: Sequence[int]) -> Reducer:
        return _LossAndNorms(batch, self._adapter)

    def add(self, places: Sequence[int], columns: Mapping[str, np.ndarray]) -> None:
        self.loss[list(places)] = columns["loss"]
        for kind, norms in self.norms.items():
            norms[list(places)] = columns[kind]


class _LossAndNorms(Reducer):
    def __init__(self, batch: Batch, adapter: Artifact) -> None:
        self._norms = {kind: norm_reducer(adapter, kind) for kind in GRADIENTS}
        self._sum, self._tokens = np.zeros(len(batch.rows)), np.zeros(len(batch.rows))

    def logits(self, logits: torch.Tensor, targets: torch.Tensor, rows: torch.Tensor) -> None:
        nll = logits.logsumexp(-1) - logits.gather(1, targets[:, None])[:, 0]
        places = rows.cpu().numpy()
        self._sum += np.bincount(places, nll.cpu().double().numpy(), len(self._sum))
        self._tokens += np.bincount(places, minlength=len(self._sum))

    def gradient(self, gradient: WeightGradient) -> None:
        for norm in self._norms.values():
            norm.gradient(gradient)

    def columns(self) -> dict[str, np.ndarray]:
        norms = {kind: norm.columns()["norm"] for kind, norm in self._norms.items()}
        return {"loss": self._sum / self._tokens, **norms}


def norm_reducer(adapter: Artifact, kind: str) -> Reducer:
    """Return the reducer of the exact norm of each row's gradient by an adapter: column `norm`.

    Args:
        kind: one of `GRADIENTS`.
    """
    from ..passes.gradient_reducers import GradientNorm

    return GradientNorm(None, pair_scales(adapter) if kind == "relative" else None)


def pair_scales(adapter: Artifact) -> dict[str, float]:
    """Return of every matrix of an adapter the squared norm of the other one of its pair."""
    other = {".A": ".B", ".B": ".A"}
    return {
        name: float(np.square(adapter.arrays[name[:-2] + other[name[-2:]]], dtype=np.float64).sum())
        for name in adapter.arrays
        if name[-2:] in other
    }


def held_out(read: Mapping[tuple[int, str], LossesAndNorms], members: int) -> dict[str, Any]:
    """Return what is known of rows that members were not trained on, as facts.

    Args:
        read: by member and snapshot: rows of the half that the member was not trained on, the same
            for all members of a half.

    Returns:
        `rows`; `loss`: of each snapshot the mean over rows and members; `noise`: for each kind of
        gradient the `Prior` of the members' disagreement about a row, as `scale` and `freedom`
        (None for infinitely many).
    """
    of_half = [range(half, members, HALVES) for half in range(HALVES)]
    losses = {
        which: float(
            np.mean([read[member, which].loss.mean() for each in of_half for member in each])
        )
        for which in SNAPSHOTS
    }
    noise: dict[str, Any] = {}
    for kind in GRADIENTS:
        late = [
            np.transpose([read[member, "late"].norms[kind] for member in each]) for each in of_half
        ]
        variances = np.concatenate([relative_variances(norms) for norms in late])
        noise[kind] = prior_of(variances, members // HALVES - 1).as_dict()
    rows = sum(len(read[half, "late"].loss) for half in range(HALVES))
    return {"rows": rows, "loss": losses, "noise": noise}


def noise_prior(artifacts: Mapping[str, Artifact], gradient: str) -> Prior | None:
    """Return the prior that an ensemble froze for a kind of gradient; None where it froze none."""
    held = artifacts.get(HELD_OUT)
    return Prior.from_dict(held.facts["noise"][gradient]) if held else None


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
