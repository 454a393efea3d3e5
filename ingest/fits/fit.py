"""A fit: something learned once from a sample of the pool and kept for every later corpus."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ...schemas.canonical import digest_of
from ...schemas.instruction import Instruction
from ...store.catalog import Artifact

if TYPE_CHECKING:
    from ..models.backbone import Backbone


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
        sample: at least the rows it asked for, unless the pool has fewer.
        kept: what exists already, by name: its needs' outputs, and its own where it was killed.
        keep: call it with each output as soon as it is there; returns what stands (somebody
            else may have been quicker).
        tell: says how far it is (a fraction from 0 to 1) and one sentence, such as the loss.
    """

    backbone: Backbone
    sample: Sample
    kept: Mapping[str, Artifact]
    keep: Callable[[str, Artifact], Artifact]
    tell: Callable[[float, str], None]


class Fit(ABC):
    """One thing to learn; equal specifications share one result.

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


def in_order(fits: Sequence[Fit]) -> list[Fit]:
    """The fits and all they need, each once, needs first."""
    found: dict[str, Fit] = {}
    for fit in fits:
        for needed in in_order(fit.needs()):
            found.setdefault(needed.asked({}), needed)
        found.setdefault(fit.asked({}), fit)
    return list(found.values())
