"""The contract of a representation: the columns it computes of rows, and how they are compared.

The class of a representation has both sides of a method: what is computed of a row of the pool and
of a target's example while a model runs, and how the two are compared later, without a model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from ...store.catalog import Artifact
from ..models.describe import BackboneInfo
from ..passes.reducer import Pass, PassInputs, Reducer, Side

if TYPE_CHECKING:
    import numpy as np

    from ...schemas.instruction import Instruction
    from ..conversations.tokenization import Encoded
    from ..fits.fit import Fit
    from ..models.backbone import Backbone
    from ..models.batches import Batch


REFUSED = "refused"
NOTES = "notes"
BACKGROUND = "background"
"""Name under which a scorer finds what `Representation.background` made."""


@dataclass(frozen=True)
class Setup:
    """What a representation works with.

    Attributes:
        info: sizes of the backbone.
        options: of the recipe, with a value for each.
        artifacts: everything fitted for it, by name.
        side: whether rows are candidates or a target's examples.
        device: for a model of its own.
    """

    info: BackboneInfo
    options: Mapping[str, Any]
    artifacts: Mapping[str, Artifact] = field(default_factory=dict)
    side: Side = "pool"
    device: str = "cpu"


def why_no_token(row: Encoded, tokens: str) -> str | None:
    """Return why a row has no token of `content` or `response`; None if it has one."""
    if getattr(row, tokens).any():
        return None
    return f"no {tokens} token" + (" left after truncation" if row.truncated else "")


class Scorer(ABC):
    """Scores rows of the pool for one target from their stored columns alone.

    Blocks are cut by the rows' sizes in the order of the table, so the same rows always share a
    block.

    Attributes:
        columns: what it reads, by the representation's own names; the scan undoes renaming.
        refuses: why rows score minus infinity, as the end of a sentence about them.
    """

    columns: tuple[str, ...]
    refuses: str = ""

    @abstractmethod
    def scores(self, rows: pa.RecordBatch) -> np.ndarray:
        """Return (n,) float32, higher is better; several threads may call it at once.

        NaN for a row without the feature, minus infinity for one that must not be chosen.
        """


class Representation(ABC):
    """A kind of feature.

    Attributes:
        name: unique; it is the first column, and `<name>_reason` is the last.
        version: rises when the numbers change.
        defaults: option -> default value (bool, int, float or str).
        implied: option, such as of how values are stored, -> the value that recipes leave out, as
            those that are older than the option mean it.
        former_defaults: option whose default has changed -> its first default, which the
            configuration of a store means where it leaves the option out; of an option that is
            newer than features of today's version, what these are.
        similarity: the vector column by which pool and target are compared (cosine), or None.
        sketch_dims: least and most of the option `dims` where vectors are random sketches of that
            many numbers, so that their cosines have noise; None where they are exact.
        query_defaults: option of the comparison -> default value; it changes no stored number.
        unrecorded: option of the comparison -> what a coreset means that was recorded before there
            was such an option.
        example_columns: own columns of a target's examples that `with_examples` reads, as far as
            the options keep them.
        query_choices: option of the comparison -> its valid values, where only some words are.
        selector: the selector used when a method names the representation alone.
        listed_options: options of the comparison that lists of methods show beside the default,
            and which rows each takes.
        sets: the column of lists of non-negative int32 that a selection can cover, or None.
        terms: the column of lists of int32 that are a row's words in order, or None.
        paper: a short citation; empty where the representation is ours.
        comparison_paper: that of comparing rows by it, where it is another one.
        sees: what rows are compared by, in the user's words, such as "hidden states"; `{name}`
            stands for the feature's own name.
        meaning: which rows its name alone takes, in the user's words; where it is empty, those of
            the selector.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    defaults: ClassVar[Mapping[str, Any]] = {}
    implied: ClassVar[Mapping[str, Any]] = {}
    former_defaults: ClassVar[Mapping[str, Any]] = {}
    similarity: ClassVar[str | None] = None
    sketch_dims: ClassVar[tuple[int, int] | None] = None
    query_defaults: ClassVar[Mapping[str, Any]] = {}
    unrecorded: ClassVar[Mapping[str, Any]] = {}
    example_columns: ClassVar[tuple[str, ...]] = ()
    query_choices: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    selector: ClassVar[str] = "round_robin"
    listed_options: ClassVar[Mapping[str, str]] = {}
    sets: ClassVar[str | None] = None
    terms: ClassVar[str | None] = None
    paper: ClassVar[str] = ""
    comparison_paper: ClassVar[str] = ""
    sees: ClassVar[str] = ""
    meaning: ClassVar[str] = ""

    @abstractmethod
    def fields(self, setup: Setup) -> list[pa.Field]:
        """Return the Arrow fields of the columns, the reason last."""

    def fits(self, info: BackboneInfo, options: Mapping[str, Any]) -> tuple[Fit, ...]:
        """Return what must be fitted on a sample of the pool first."""
        return ()

    def settled(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the options as they are kept, such as a folder made absolute."""
        return options

    def trial_options(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return options that make less work, for a trial of what a backbone can do."""
        return {}

    def identity(self, info: BackboneInfo, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return what its numbers depend on beside its options: the backbone, or its own model."""
        return info.identity

    def passes(self, setup: Setup) -> dict[Pass, PassInputs]:
        """Return the runs of the backbone that it needs; empty if it uses another or none."""
        return {}

    def reads(self, model_pass: Pass, rows: Sequence[Encoded], setup: Setup) -> np.ndarray | bool:
        """Return (N,) bool: the rows that it needs a pass over.

        The pass's columns are empty elsewhere, and there are none if no row is read.
        """
        return True

    def reducer(self, model_pass: Pass, batch: Batch, setup: Setup) -> Reducer:
        """Return a new reducer for one batch of one pass."""
        raise NotImplementedError(f"{self.name} names passes and has no reducer for them")

    def finish(
        self, rows: Sequence[Encoded], passed: Mapping[Pass, Mapping[str, np.ndarray]], setup: Setup
    ) -> dict[str, np.ndarray]:
        """Return the final columns of all rows, before storage precision.

        A row without the feature has NaN (None in object arrays), and `<name>_reason` (str or
        None) says why.

        Args:
            passed: the columns of its reducers, by pass.
        """
        raise NotImplementedError(f"{self.name} does not compute columns from passes")

    def own_backbone(self, setup: Setup) -> Backbone | None:
        """Return the model that its passes run on instead of the store's backbone, or None.

        With one, `passes` is empty where `setup.info` describes another model.
        """
        return None

    def compute(
        self, instructions: Sequence[Instruction], setup: Setup
    ) -> dict[str, np.ndarray] | None:
        """Return the final columns without any pass, or None where they need passes."""
        return None

    def target_artifact(
        self,
        backbone: Backbone,
        rows: Sequence[Encoded],
        columns: Mapping[str, np.ndarray],
        setup: Setup,
    ) -> Artifact | None:
        """Return an artifact of a target as a whole, kept beside its examples, or None.

        Args:
            backbone: without an adapter; another pass over the few examples is allowed.
            rows: the examples' tokens.
            columns: what `finish` returned for them.
        """
        return None

    def with_examples(self, artifact: Artifact, examples: pa.Table) -> Artifact:
        """Return a target's artifact with what its examples' stored columns say beside it.

        Args:
            artifact: what `target_artifact` returned; an empty one where there is no such method.
            examples: that have the feature, with `example_columns`.
        """
        return artifact

    def background_columns(self, query_options: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the own columns that `background` reads; none where no background is needed."""
        return ()

    def background(self, parts: Iterable[pa.Table]) -> Artifact:
        """Return what a sample of the pool amounts to, such as its mean.

        A scorer finds it among its artifacts, as `BACKGROUND`.

        Args:
            parts: of the sample, rows that have the feature.
        """
        raise NotImplementedError(f"{self.name} names columns of a background and makes none")

    def scorer(
        self,
        options: Mapping[str, Any],
        artifacts: Mapping[str, Artifact],
        target_artifact: Artifact | None,
        query_options: Mapping[str, Any],
    ) -> Scorer | None:
        """Return a scorer of the pool, for a representation that is not compared by cosine.

        Args:
            options: of the recipe.
            artifacts: everything fitted for it.
            target_artifact: what the method of that name returned for the target; None without
                a target.
            query_options: options of the comparison, with a value for each.

        Raises:
            UsageError: the options do not fit what is stored.
        """
        return None
