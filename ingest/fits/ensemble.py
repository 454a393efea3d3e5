"""The ensemble of GradFiltering: small LoRA members, each trained on one half of a sample.

Member m is trained on half m % 2 of the sample, so every row has members that never saw it
(METHODS 2). Each leaves an early snapshot, after its first epoch, and a late one, after its last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ...schemas.errors import UsageError
from ..models.describe import BackboneConfig, describe
from .artifacts import Artifact
from .fit import Fit, Fitting
from .warmup import training_rows

if TYPE_CHECKING:
    from ..conversations.encoding import Encoded
    from ..models.backbone import Backbone

VERSION = 1
"""Rises when the same rows would give other members."""

HALVES = 2
SNAPSHOTS = ("early", "late")


def snapshot_name(member: int, which: str) -> str:
    """The name of a member's artifact."""
    return f"ensemble/{member}/{which}"


@cache
def own_backbone(model: str, device: str) -> Backbone:
    """A model of the ensemble's own, in float32 wherever it runs; loaded once a process."""
    from ..models.backbone import Backbone

    return Backbone.load(own_config(model, device))


def own_config(model: str, device: str = "cpu") -> BackboneConfig:
    return BackboneConfig(model, device, "float32")


@dataclass(frozen=True)
class Ensemble(Fit):
    """Leaves `ensemble/<m>/early` and `ensemble/<m>/late`, adapters as `lora_training.train`'s.

    The fact `sample` of each holds the ids of the rows it was trained on.

    Attributes:
        model: of its own; "" for the store's backbone.
        members: an even number; `epochs` at least 2.
        share, at_least, at_most: of the pool's rows, but neither fewer nor more than that.
        learning_rate, warmup, batch: see `lora_training.LoraTraining`.
        seed: member m starts from, and sees its rows in the order of, a seed made of both.
    """

    name: ClassVar[str] = "ensemble"

    model: str = ""
    members: int = 4
    epochs: int = 2
    rank: int = 8
    alpha: int = 16
    learning_rate: float = 2e-4
    warmup: float = 0.03
    batch: int = 32
    share: float = 0.2
    at_least: int = 2000
    at_most: int = 10_000
    seed: int = 0

    def spec(self) -> dict[str, Any]:
        own = describe(own_config(self.model)).identity if self.model else None
        return {**asdict(self), "version": VERSION, "identity": own}

    def outputs(self) -> tuple[str, ...]:
        return tuple(
            snapshot_name(member, which) for member in range(self.members) for which in SNAPSHOTS
        )

    def sample_rows(self, total: int) -> int:
        return min(total, self.at_most, max(self.at_least, round(self.share * total)))

    def run(self, fitting: Fitting) -> None:
        backbone = fitting.backbone
        if self.model:
            backbone = own_backbone(self.model, str(backbone.device))
        wanted = [m for m in range(self.members) if snapshot_name(m, "late") not in fitting.kept]
        if not wanted:
            return
        rows = training_rows(backbone, fitting.sample, self.sample_rows(fitting.sample.total))
        if len(rows) < HALVES:
            raise UsageError(
                "an ensemble needs at least two rows with an answer, and the sample has "
                f"{len(rows)}. Fit on a larger corpus, or leave out gradfiltering"
            )
        for member in wanted:
            self._train(member, rows[member % HALVES :: HALVES], backbone, fitting)

    def _train(
        self, member: int, rows: list[Encoded], backbone: Backbone, fitting: Fitting
    ) -> None:
        from .lora_training import LoraTraining, train

        training = LoraTraining(
            rank=self.rank,
            alpha=self.alpha,
            dropout=0.0,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            warmup=self.warmup,
            batch=self.batch,
            seed=self.members * self.seed + member,
        )

        def keep(epoch: int, artifact: Artifact) -> Artifact:
            if epoch == 1:
                return fitting.keep(snapshot_name(member, "early"), artifact)
            if epoch == self.epochs:  # nothing goes on from here: no moments
                arrays = {k: v for k, v in artifact.arrays.items() if k.endswith((".A", ".B"))}
                fitting.keep(snapshot_name(member, "late"), Artifact(arrays, artifact.facts))
            return artifact

        def tell(fraction: float, sentence: str) -> None:
            done = (member + fraction) / self.members
            fitting.tell(done, f"member {member + 1} of {self.members}, {sentence}")

        start = fitting.kept.get(snapshot_name(member, "early"))
        train(backbone, rows, training, start, keep, tell)


def halves_of(artifacts: Mapping[str, Artifact]) -> dict[str, int]:
    """Row id -> the half of the sample it was in."""
    return {
        row: half
        for half in range(HALVES)
        for row in artifacts[snapshot_name(half, "late")].facts["sample"]
    }


def judges(halves: np.ndarray, members: int) -> np.ndarray:
    """Which members may judge rows that half `halves` (N,) of the ensemble must not: (N, M) bool.

    Member m is of half m % 2.
    """
    return np.arange(members)[None, :] % HALVES != halves[:, None]
