"""A fit: something learned once from a sample of the pool and kept for all later corpora."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
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
        """Return its first `rows` rows, or all where it has fewer."""
        return Sample(self.ids[:rows], self.instructions[:rows], self.total)


@dataclass(frozen=True)
class Fitting:
    """What a fit works with.

    Attributes:
        backbone: the model without an adapter.
        sample: as many rows as the fit needs, or the whole pool where that has fewer.
        artifacts: existing ones by name: the outputs of the fits it needs, and its own that an
            earlier, killed run left.
        keep: stores an output; call it as soon as the output is computed. It returns the artifact
            to continue with (another process may have stored one first).
        report: receives the progress: a share from 0 to 1 and one sentence, such as the loss.
        say: receives what is worth a line of its own.
    """

    backbone: Backbone
    sample: Sample
    artifacts: Mapping[str, Artifact]
    keep: Callable[[str, Artifact], Artifact]
    report: Callable[[float, str], None]
    say: Callable[[str], None] = lambda sentence: None


@dataclass(frozen=True)
class Work:
    """The cost of a fit in rows: `forwards` of a plain forward, `steps` of a training step.

    Other work is converted to forwards.
    """

    forwards: float = 0.0
    steps: float = 0.0


class Fit(ABC):
    """Something to learn from a sample of the pool; fits with equal digests share one result.

    Attributes:
        name: such as "warm-up".
    """

    name: ClassVar[str]

    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """Return JSON values: everything the result depends on beside the backbone.

        The sample is drawn with its `seed`, 0 where it has none.
        """

    @property
    def sample_seed(self) -> int:
        """Seed of the random sample of the pool it learns from."""
        return int(self.spec().get("seed", 0))

    @abstractmethod
    def outputs(self) -> tuple[str, ...]:
        """Return the names of its artifacts, in the order they are made."""

    @abstractmethod
    def sample_rows(self, total: int) -> int:
        """Return the size of its sample from a pool of `total` rows."""

    def needs(self) -> tuple[Fit, ...]:
        """Return the fits whose outputs it needs."""
        return ()

    def work(self, rows: int) -> Work:
        """Return the cost of a sample of `rows` rows, from which `plan` estimates the time."""
        return Work(forwards=rows)

    @abstractmethod
    def run(self, fitting: Fitting) -> None:
        """Learn, passing every output to `fitting.keep`; skip those in `fitting.artifacts`.

        Raises:
            UsageError: the sample is too small to learn from.
        """

    def parts(self, existing: Collection[str]) -> list[list[str]]:
        """Return groups of its outputs that can be made apart, without those that exist.

        `run` makes the others from them. By default there are no such parts.
        """
        return []

    def run_part(self, fitting: Fitting, outputs: Sequence[str]) -> None:
        """Learn one of `parts` alone; as `run` otherwise. Fits that name parts have it."""
        raise NotImplementedError(f"{self.name} names parts and does not make one alone")

    def digest(self, identity: Mapping[str, Any]) -> str:
        """Return the digest of everything it depends on; `identity` is the backbone's."""
        needs = [need.digest(identity) for need in self.needs()]
        return digest_of(
            {"fit": self.name, "spec": self.spec(), "needs": needs, "backbone": dict(identity)}
        )


C = TypeVar("C", bound="Collector")


class PassFit(Fit, Generic[C]):
    """A fit that needs one pass over its sample.

    Fits of the same model (the backbone, or the backbone with the same adapter) share that pass.
    """

    def checkpoint(self) -> str:
        """Return the output of one of `needs` that is the model's adapter; "" for none."""
        return ""

    @abstractmethod
    def collect(self, fitting: Fitting, rows: Sequence[Encoded | None]) -> C:
        """Return the collector that receives the pass.

        Args:
            rows: tokens of the sample's rows, None where the chat template refused a row.

        Raises:
            UsageError: the sample is too small to learn from.
        """

    @abstractmethod
    def finish(self, fitting: Fitting, collected: C) -> None:
        """Compute the outputs from what was collected and pass them to `fitting.keep`."""

    def run(self, fitting: Fitting) -> None:
        """Run the fit by itself."""
        run_together([(self, fitting)], lambda done: fitting.report(PASS_SHARE * done, READING))


PASS_SHARE = 0.5
"""Share of a fit's progress that its pass is; the rest is what follows."""

READING = "one pass over the sample"


def run_together(
    fits: Sequence[tuple[PassFit[Any], Fitting]], report: Callable[[float], None]
) -> None:
    """Run fits of the same model on one pass over the longest of their samples.

    Args:
        fits: their samples are prefixes of one another.
        report: called with the share of the pass that is done.

    Raises:
        UsageError: the sample is too small for one of them.
    """
    from ..passes.forward import pass_over

    incomplete = [
        (fit, fitting)
        for fit, fitting in fits
        if any(name not in fitting.artifacts for name in fit.outputs())
    ]
    if not incomplete:
        return
    fit, fitting = max(incomplete, key=lambda pair: len(pair[1].sample))
    encoded = fitting.backbone.encode_all(fitting.sample.instructions)
    rows = [row if isinstance(row, Encoded) else None for row in encoded]
    adapter = fitting.artifacts[fit.checkpoint()] if fit.checkpoint() else None
    collectors = [fit.collect(fitting, rows[: len(fitting.sample)]) for fit, fitting in incomplete]
    pass_over(fitting.backbone, rows, collectors, adapter, report)
    for (fit, fitting), collector in zip(incomplete, collectors, strict=True):
        fit.finish(fitting, collector)


def in_order(fits: Sequence[Fit]) -> list[Fit]:
    """Return the fits and all they need, each once, needs first."""
    ordered: dict[str, Fit] = {}
    for fit in fits:
        for needed in (*in_order(fit.needs()), fit):
            ordered.setdefault(needed.digest({}), needed)
    return list(ordered.values())
