"""A fit: something learned once from a sample of the pool and kept for every later corpus."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from ...schemas.canonical import digest_of
from ...schemas.instruction import Instruction
from ...store.catalog import Artifact
from ..conversations.tokenization import Encoded

if TYPE_CHECKING:
    from ..models.backbone import Backbone
    from ..passes.reducer import Collector


@dataclass(frozen=True)
class Sample:
    """Rows drawn at random from a pool of `total`, in the order they were drawn.

    Every prefix of it is a random sample too. `ids` are the rows' ids.
    """

    ids: Sequence[str]
    instructions: Sequence[Instruction]
    total: int

    def __len__(self) -> int:
        return len(self.ids)

    def first(self, rows: int) -> Sample:
        """The first `rows` of it (all, where it has fewer)."""
        return Sample(self.ids[:rows], self.instructions[:rows], self.total)


@dataclass(frozen=True)
class Fitting:
    """What a fit works with.

    Attributes:
        backbone: the model as it is.
        sample: the rows it wants, or all of the pool where that has fewer.
        kept: artifacts that exist already, by name: the outputs of the fits it needs, and its own
            where an earlier run was killed.
        keep: stores an output; call it as soon as the output is there. It returns the artifact
            that stands from now on (another process may have been quicker).
        tell: reports progress: a share from 0 to 1 and one sentence, such as the loss.
    """

    backbone: Backbone
    sample: Sample
    kept: Mapping[str, Artifact]
    keep: Callable[[str, Artifact], Artifact]
    tell: Callable[[float, str], None]


@dataclass(frozen=True)
class Work:
    """What a fit costs, in rows that go through a forward, and through a training step.

    `forwards` may hold other work, counted in forwards.
    """

    forwards: float = 0.0
    steps: float = 0.0


class Fit(ABC):
    """One thing to learn from a sample of the pool; equal specifications share one result.

    Attributes:
        name: such as "warm-up".
    """

    name: ClassVar[str]

    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """JSON values: everything the result depends on beside the backbone.

        The sample is drawn with its `seed`, 0 where it has none.
        """

    @property
    def sample_seed(self) -> int:
        """Which random sample of the pool it learns from."""
        return int(self.spec().get("seed", 0))

    @abstractmethod
    def outputs(self) -> tuple[str, ...]:
        """Names of the artifacts it leaves, in the order they come."""

    @abstractmethod
    def sample_rows(self, total: int) -> int:
        """Rows of the sample it wants from a pool of `total` rows."""

    def needs(self) -> tuple[Fit, ...]:
        """Fits whose outputs it works with."""
        return ()

    def work(self, rows: int) -> Work:
        """What a sample of `rows` rows costs; `plan` estimates the time from it."""
        return Work(forwards=rows)

    @abstractmethod
    def run(self, fitting: Fitting) -> None:
        """Learn, handing every output to `fitting.keep`; what `fitting.kept` has is not redone.

        Raises:
            UsageError: the sample is too small to learn from.
        """

    def asked(self, identity: Mapping[str, Any]) -> str:
        """Digest of everything the fit depends on; `identity` is the backbone's."""
        needs = [need.asked(identity) for need in self.needs()]
        return digest_of(
            {"fit": self.name, "spec": self.spec(), "needs": needs, "backbone": dict(identity)}
        )


C = TypeVar("C", bound="Collector")


class PassFit(Fit, Generic[C]):
    """A fit that takes what it needs from one pass over its sample.

    Fits that read the same model state (the backbone, or the same adapter) share that pass.
    """

    def checkpoint(self) -> str:
        """The output of one of `needs` that the model wears as adapter; "" for none."""
        return ""

    @abstractmethod
    def collect(self, fitting: Fitting, rows: Sequence[Encoded | None]) -> C:
        """Return what takes in the pass.

        Args:
            rows: tokens of the sample's rows, None where the chat template refused a row.

        Raises:
            UsageError: the sample is too small to learn from.
        """

    @abstractmethod
    def finish(self, fitting: Fitting, collected: C) -> None:
        """Compute the outputs from what the pass gave and hand them to `fitting.keep`."""

    def run(self, fitting: Fitting) -> None:
        """Run the fit by itself."""
        run_together([(self, fitting)], lambda done: fitting.tell(PASS_SHARE * done, READING))


PASS_SHARE = 0.5
"""Of the progress of a fit; what comes after the pass is the rest."""

READING = "one pass over the sample"


def run_together(
    fits: Sequence[tuple[PassFit[Any], Fitting]], tell: Callable[[float], None]
) -> None:
    """Run fits of one model state on one pass over the longest of their samples.

    Args:
        fits: their samples are prefixes of one another.
        tell: hears the share of the pass that is done.

    Raises:
        UsageError: the sample is too small for one of them.
    """
    from ..passes.forward import pass_over

    waiting = [
        (fit, fitting)
        for fit, fitting in fits
        if any(name not in fitting.kept for name in fit.outputs())
    ]
    if not waiting:
        return
    fit, fitting = max(waiting, key=lambda pair: len(pair[1].sample))
    encoded = fitting.backbone.encode_all(fitting.sample.instructions)
    rows = [row if isinstance(row, Encoded) else None for row in encoded]
    adapter = fitting.kept[fit.checkpoint()] if fit.checkpoint() else None
    collectors = [fit.collect(own, rows[: len(own.sample)]) for fit, own in waiting]
    pass_over(fitting.backbone, rows, collectors, adapter, tell)
    for place, (fit, own) in enumerate(waiting):
        fit.finish(own, collectors[place])


def in_order(fits: Sequence[Fit]) -> list[Fit]:
    """The fits and all they need, each once, needs first."""
    found: dict[str, Fit] = {}
    for fit in fits:
        for needed in in_order(fit.needs()):
            found.setdefault(needed.asked({}), needed)
        found.setdefault(fit.asked({}), fit)
    return list(found.values())
