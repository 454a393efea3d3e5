"""The warm-up: a LoRA adapter trained briefly on a sample of the pool (METHODS 1 and 3.1).

LESS takes its gradients at the checkpoint of every epoch, with that checkpoint's optimiser;
TRIM reads its states at the last one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ...schemas.errors import UsageError
from ..conversations.encoding import Encoded
from .artifacts import Artifact
from .fit import Fit, Fitting, Sample

if TYPE_CHECKING:
    from ..models.backbone import Backbone

VERSION = 1
"""Rises when the same rows would give another adapter."""


@dataclass(frozen=True)
class WarmUp(Fit):
    """Leaves `warm-up/1` ... `warm-up/<epochs>`: adapter and moments, as `lora_training.train`.

    Equal ones are fitted once for everybody who needs them. Their numbers are LESS's where
    nothing else is said; with less than ten steps an epoch (`at_least`) the second moments, by
    which LESS divides, would be those of a few batches.

    Attributes:
        share, at_least, at_most: of the pool's rows, but neither fewer nor more than that.
        learning_rate, warmup, batch, dropout: see `lora_training.LoraTraining`.
        seed: of everything random but the sample.
    """

    name: ClassVar[str] = "warm-up"

    epochs: int = 4
    rank: int = 128
    alpha: int = 512
    dropout: float = 0.1
    learning_rate: float = 2e-5
    warmup: float = 0.03
    batch: int = 128
    share: float = 0.05
    at_least: int = 1280
    at_most: int = 10_000
    seed: int = 0

    def spec(self) -> dict[str, Any]:
        return {**asdict(self), "version": VERSION}

    def outputs(self) -> tuple[str, ...]:
        return tuple(f"{self.name}/{epoch}" for epoch in range(1, self.epochs + 1))

    def sample_rows(self, total: int) -> int:
        return min(total, self.at_most, max(self.at_least, round(self.share * total)))

    def run(self, fitting: Fitting) -> None:
        from .lora_training import LoraTraining, train

        names = self.outputs()
        done = 0
        while done < self.epochs and names[done] in fitting.kept:
            done += 1
        if done == self.epochs:
            return
        training = LoraTraining(
            self.rank,
            self.alpha,
            self.dropout,
            self.epochs,
            self.learning_rate,
            self.warmup,
            self.batch,
            self.seed,
        )
        count = self.sample_rows(fitting.sample.total)
        train(
            fitting.backbone,
            training_rows(fitting.backbone, fitting.sample, count),
            training,
            fitting.kept[names[done - 1]] if done else None,
            lambda epoch, artifact: fitting.keep(names[epoch - 1], artifact),
            fitting.tell,
        )


def warm_up_of(name: str, options: Mapping[str, Any], rank: str = "rank") -> WarmUp:
    """The warm-up that the options of a representation ask for.

    Args:
        name: of the representation, for errors.
        rank: what its option for the adapter's rank is called.

    Raises:
        UsageError: a number that cannot be meant.
    """
    require_sane(name, options, rank)
    return WarmUp(rank=options[rank], **{each: options[each] for each in OPTIONS})


def in_sample(rows: Sequence[Encoded], adapter: Artifact) -> np.ndarray:
    """(N,) bool objects: whether the adapter was trained on the row."""
    sample = set(adapter.facts["sample"])
    return np.array([row.id in sample for row in rows], dtype=object)


def refuse_idle(name: str, options: Mapping[str, Any], rank: str = "rank") -> None:
    """Refuse options of a warm-up where there is none: they would say nothing.

    Raises:
        UsageError: names the option and how to ask for the warm-up.
    """
    defaults = {**OPTIONS, rank: WarmUp.rank}
    for option, default in defaults.items() if options["warmup"] == "none" else ():
        if options[option] != default:
            given = f"{option}={options[option]}"
            raise UsageError(
                f"{name}: {given} says nothing without a warm-up; write "
                f"{name}:warmup=lora:{given} (options of one feature follow each other)"
            )


def require_sane(name: str, options: Mapping[str, Any], rank: str = "rank") -> None:
    """Refuse numbers that no adapter can be trained with, before a sample is drawn.

    Raises:
        UsageError: names the option and what it may be.
    """
    for option in ("epochs", rank, "alpha", "batch", "at_least", "at_most"):
        if options.get(option, 1) < 1:
            raise UsageError(f"{name}: {option} {options[option]}: give at least 1")
    if options.get("seed", 0) < 0:
        raise UsageError(f"{name}: seed {options['seed']}: give at least 0")
    if not 0 <= options["share"] <= 1:
        raise UsageError(f"{name}: share {options['share']}: give a number from 0 to 1")
    if not 0 < options["learning_rate"] <= 1:
        raise UsageError(
            f"{name}: learning_rate {options['learning_rate']}: give a number above 0, at most 1"
        )
    if not 0 <= options.get("dropout", 0) < 1:
        raise UsageError(f"{name}: dropout {options['dropout']}: give a number from 0, below 1")


def training_rows(backbone: Backbone, sample: Sample, count: int) -> list[Encoded]:
    """Those rows of a sample that have a response token to learn, in the sample's order.

    Raises:
        UsageError: there is none.
    """
    asked = sample.instructions[:count]
    rows = [each for each in backbone.encode_all(asked) if isinstance(each, Encoded)]
    usable = [row for row in rows if row.response[1:].any()]
    if not usable:
        raise UsageError(
            f"none of the {len(asked)} rows of the sample has an answer that an adapter could be "
            "trained on. Fit on a corpus with answers, or leave out the features that need it"
        )
    return usable


OPTIONS: Mapping[str, Any] = {
    name: getattr(WarmUp, name)
    for name in (
        "epochs",
        "alpha",
        "dropout",
        "learning_rate",
        "batch",
        "share",
        "at_least",
        "at_most",
    )
}
"""Options of representations that begin with a warm-up, beside `warmup` and the adapter's rank."""
