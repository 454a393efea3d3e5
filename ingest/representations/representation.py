"""What a representation is: what it needs of a model, what it keeps of a pass, what it becomes.

Both sides of a method stand in its class: what is made of a row of the pool, what is made of a
target's example, and how the two are compared when no model is there any more.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
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


@dataclass(frozen=True)
class Setup:
    """What a representation works with.

    Attributes:
        info: sizes of the backbone.
        options: of the recipe, every one spelled out.
        artifacts: what was fitted for it, by name.
        side: whose features are being made.
        device: where a model of its own should run.
    """

    info: BackboneInfo
    options: Mapping[str, Any]
    artifacts: Mapping[str, Artifact] = field(default_factory=dict)
    side: Side = "pool"
    device: str = "cpu"


class Scorer(ABC):
    """Scores rows of the pool for one target from their stored columns alone.

    `columns` are the representation's own names for what it reads; a recipe may have renamed
    them, and the scan hands them over under their own names. Blocks are cut by the rows' sizes
    in the order of the table, so the same rows always share a block. `refuses` says what is wrong
    with rows that score minus infinity, as the end of a sentence on them.
    """

    columns: tuple[str, ...]
    refuses: str = ""

    @abstractmethod
    def scores(self, rows: pa.RecordBatch) -> np.ndarray:
        """(n,) float32, the higher the better; several threads may ask at once.

        NaN for a row without the feature, minus infinity for one that must not be chosen.
        """


class Representation(ABC):
    """A feature: what it needs, what it keeps of a pass, what its columns are, how it compares.

    Attributes:
        name: unique; the first column bears it, and `<name>_reason` is the last.
        version: rises when the numbers change.
        defaults: option -> default value (bool, int, float or str).
        similarity: the vector column by which pool and target are compared (cosine), or None.
        query_defaults: option of the comparison -> default value; it changes no stored number.
        selector: which selector its name alone stands for.
        listed_options: options of the comparison that lists of methods show beside the default.
        sets: the column of lists of int32 (no negative ones) that a selection can cover, or None.
        terms: the column of lists of int32 that are a row's words in their order, or None.
        paper: where it comes from, as a short citation; empty where it is ours.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    defaults: ClassVar[Mapping[str, Any]] = {}
    similarity: ClassVar[str | None] = None
    query_defaults: ClassVar[Mapping[str, Any]] = {}
    selector: ClassVar[str] = "round_robin"
    listed_options: ClassVar[tuple[str, ...]] = ()
    sets: ClassVar[str | None] = None
    terms: ClassVar[str | None] = None
    paper: ClassVar[str] = ""

    @abstractmethod
    def fields(self, setup: Setup) -> list[pa.Field]:
        """Arrow fields of the columns, the reason last."""

    def fits(self, info: BackboneInfo, options: Mapping[str, Any]) -> tuple[Fit, ...]:
        """What must be learned from a sample of the pool before it can be made."""
        return ()

    def settled(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """The options as they are kept, such as a folder made absolute."""
        return options

    def identity(self, info: BackboneInfo, options: Mapping[str, Any]) -> dict[str, Any]:
        """What its numbers depend on beside its options: the backbone, or a model of its own."""
        return info.identity

    def passes(self, setup: Setup) -> dict[Pass, PassInputs]:
        """The runs of the backbone it needs something of; none for one with a model of its own."""
        return {}

    def reads(self, model_pass: Pass, rows: Sequence[Encoded], setup: Setup) -> np.ndarray | bool:
        """(N,) bool: the rows that a pass is run over for it.

        The pass's columns are empty elsewhere, and there are none if it reads no row.
        """
        return True

    def reducer(self, model_pass: Pass, batch: Batch, setup: Setup) -> Reducer:
        """A fresh reducer for one batch of one pass."""
        raise NotImplementedError(f"{self.name} names passes and has no reducer for them")

    def finish(
        self, rows: Sequence[Encoded], passed: Mapping[Pass, Mapping[str, np.ndarray]], setup: Setup
    ) -> dict[str, np.ndarray]:
        """Final columns of all rows, before storage precision, from the columns of each pass.

        A row without the feature holds NaN (None in object arrays), and says why in
        `<name>_reason` (str or None).
        """
        raise NotImplementedError(f"{self.name} makes its columns of no pass")

    def own_backbone(self, setup: Setup) -> Backbone | None:
        """The model that its passes run on instead of the store's backbone, if it has one.

        `passes` names none while `setup.info` is that of another model.
        """
        return None

    def compute(
        self, instructions: Sequence[Instruction], setup: Setup
    ) -> dict[str, np.ndarray] | None:
        """The final columns without any pass, or None where passes make them."""
        return None

    def target_artifact(
        self,
        backbone: Backbone,
        rows: Sequence[Encoded],
        columns: Mapping[str, np.ndarray],
        setup: Setup,
    ) -> Artifact | None:
        """What a target as a whole comes to, kept beside its examples; None for nothing.

        Args:
            backbone: as it is; a pass of its own over the few examples is allowed.
            rows: the examples' tokens.
            columns: what `finish` made of them.
        """
        return None

    def scorer(
        self,
        options: Mapping[str, Any],
        artifacts: Mapping[str, Artifact],
        facts: Artifact | None,
        query_options: Mapping[str, Any],
    ) -> Scorer | None:
        """How a target scores the pool, for one that is not compared by cosine; no model runs.

        Args:
            options: of the recipe.
            artifacts: what was fitted for it.
            facts: what `target_artifact` gave for the target; None without a target.
            query_options: options of the comparison, every one spelled out.

        Raises:
            UsageError: the options do not fit what is stored.
        """
        return None
