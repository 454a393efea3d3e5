"""MADS: the neurons that a row's answer activates most, for selection by coverage.

Source: "MADS" (arXiv 2605.30857): rows are described by the neural activation states of a language
model during inference. What exactly is kept is ours: of every feed-forward unit the maximum over
the response tokens, and of each layer the units with the largest maxima.

Query side: the selector `coverage` reads the sets alone; with a target `mads:top` ranks rows by the
overlap of their sets with the examples' (mads_profile.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from ...schemas.errors import UsageError
from ...store.catalog import Artifact
from ..columns import ragged
from ..models.describe import BackboneInfo
from ..passes.reducer import Pass, PassInputs, Reducer
from .mads_profile import COLUMN, ProfileScorer, rows_with_units, sets_of
from .representation import BACKGROUND, Representation, Scorer, Setup, why_no_token

if TYPE_CHECKING:
    import torch

    from ..conversations.tokenization import Encoded
    from ..fits.fit import Fit
    from ..models.batches import Batch
    from ..passes.reducer import Neurons

WHOLE = Pass()
TOKENS = ("response", "content", "all")

HALF_LARGEST = 65504.0
"""The largest float16; a stored value beyond it would be infinite."""


class Mads(Representation):
    """Columns: `mads` ids of the active neurons, ascending, `mads_values`, `mads_reason`.

    Ids number the units through all layers (and, in a mixture of experts, through a layer's
    experts).

    Options:
        share: of a layer's units that are active, at least one unit.
        tokens: over which the maximum is taken: `response`, `content` or `all`.

    Query options:
        idf: whether units count the more, the fewer rows of the pool they are active in.
    """

    name = "mads"
    version = 1
    paper = "arXiv 2605.30857"
    comparison_paper = "arXiv 2604.15706"
    sees = "active neurons"
    meaning = "rows that together activate the most neurons"
    defaults: ClassVar[Mapping[str, Any]] = {"share": 0.01, "tokens": "response"}
    query_defaults: ClassVar[Mapping[str, Any]] = {"idf": True}
    example_columns: ClassVar[tuple[str, ...]] = (COLUMN,)
    selector = "coverage"
    sets = COLUMN

    def fields(self, setup: Setup) -> list[pa.Field]:
        return [
            pa.field("mads", pa.list_(pa.int32())),
            pa.field("mads_values", pa.list_(pa.float16())),
            pa.field("mads_reason", pa.string()),
        ]

    def fits(self, info: BackboneInfo, options: Mapping[str, Any]) -> tuple[Fit, ...]:
        if not 0 < options["share"] <= 1:
            raise UsageError(f"mads: share={options['share']}: give a share above 0, at most 1")
        if options["tokens"] not in TOKENS:
            raise UsageError(f"mads: tokens={options['tokens']}: choose from {', '.join(TOKENS)}")
        return ()

    def passes(self, setup: Setup) -> dict[Pass, PassInputs]:
        return {WHOLE: PassInputs(neurons=True)}

    def reducer(self, model_pass: Pass, batch: Batch, setup: Setup) -> Reducer:
        return TopUnits(batch, setup.options["tokens"], setup.options["share"])

    def finish(
        self, rows: Sequence[Encoded], passed: Mapping[Pass, Mapping[str, np.ndarray]], setup: Setup
    ) -> dict[str, np.ndarray]:
        tokens = setup.options["tokens"]
        ids, values = passed[WHOLE]["ids"], passed[WHOLE]["values"]
        reason = np.full(len(rows), None, dtype=object)
        for index, row in enumerate(rows):
            if ids[index] is None:
                no_token = None if tokens == "all" else why_no_token(row, tokens)
                reason[index] = no_token or "an activation is not finite"
            else:
                values[index] = values[index].clip(-HALF_LARGEST, HALF_LARGEST)
        return {"mads": ids, "mads_values": values, "mads_reason": reason}

    def with_examples(self, artifact: Artifact, examples: pa.Table) -> Artifact:
        return sets_of(examples)

    def background_columns(self, query_options: Mapping[str, Any]) -> tuple[str, ...]:
        return (COLUMN,) if query_options["idf"] else ()

    def background(self, parts: Iterable[pa.Table]) -> Artifact:
        return rows_with_units(parts)

    def scorer(
        self,
        options: Mapping[str, Any],
        artifacts: Mapping[str, Artifact],
        target_artifact: Artifact | None,
        query_options: Mapping[str, Any],
    ) -> Scorer:
        if target_artifact is None:
            raise UsageError("mads:top compares rows with a target's examples: name a target")
        return ProfileScorer(
            target_artifact, artifacts[BACKGROUND] if query_options["idf"] else None
        )


class TopUnits(Reducer):
    """The top share of each layer's units, by their maximum over some of the tokens.

    Columns: `ids` (B,) of int32 arrays, ascending, and `values` (B,) of float32 arrays; None for
    rows without such a token or with a value that is not finite. Ties go to the lower id.

    Args:
        tokens: over which the maximum is taken: "response", "content" or "all".
        share: of a layer's units, in (0, 1].
    """

    def __init__(self, batch: Batch, tokens: str, share: float) -> None:
        import torch

        counted = batch.tokens(tokens)
        self._counted, self._share = counted.flatten(), share
        self._spans = _spans(counted.cpu().numpy())
        self._usable = counted.any(1)
        self._width = counted.shape[1]
        self._layer: Neurons | None = None  # a layer whose experts are still coming
        self._highest = torch.empty(0)
        self._chosen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def neurons(self, part: Neurons) -> None:
        import torch

        if self._layer is None or self._layer.layer != part.layer:
            self._finish_layer()
            self._layer = part
            self._highest = torch.full(
                (len(self._usable), part.units), -torch.inf, device=part.values.device
            )
        highest = self._highest[:, part.offset : part.offset + part.values.shape[-1]]
        if part.tokens is None and part.values.device.type != "cpu":
            # A kernel for every row's span would cost an accelerator more than the model does.
            others = ~self._counted.view(-1, self._width, 1)
            values = part.values.masked_fill(others, -torch.inf).amax(1).float()
            torch.maximum(highest, values, out=highest)
        elif part.tokens is None:
            for row, start, end in self._spans:
                values = part.values[row, start:end].amax(0).float()
                torch.maximum(highest[row], values, out=highest[row])
        else:
            of_counted = self._counted[part.tokens]
            rows = part.tokens[of_counted] // self._width
            values = part.values[of_counted].float()
            highest.scatter_reduce_(0, rows[:, None].expand_as(values), values, "amax")

    def _finish_layer(self) -> None:
        """Choose the top units of the open layer."""
        import torch

        if self._layer is None:
            return
        highest, layer = self._highest, self._layer
        k = active_units(layer.units, self._share)
        edge = highest.topk(k, dim=1).values[:, -1:]
        above, equal = highest > edge, highest == edge
        room = k - above.sum(1, keepdim=True)
        chosen = above | (equal & (equal.cumsum(1) <= room))
        chosen &= highest > -torch.inf  # experts that saw no such token
        self._usable = self._usable & ~(highest.isnan() | highest.isposinf()).any(1)
        rows, units = chosen.nonzero(as_tuple=True)
        self._chosen.append((rows, units + layer.start, highest[rows, units]))
        self._layer = None

    def columns(self) -> dict[str, np.ndarray]:
        import torch

        self._finish_layer()
        rows, ids, values = (
            torch.cat(parts).cpu().numpy() for parts in zip(*self._chosen, strict=True)
        )
        order = np.argsort(rows, kind="stable")  # layers stay in their order
        ends = np.cumsum(np.bincount(rows, minlength=len(self._usable)))[:-1]
        usable = self._usable.cpu().tolist()
        columns = {"ids": ids[order].astype(np.int32), "values": values[order]}
        return {
            name: ragged(
                [
                    part if ok else None
                    for part, ok in zip(np.split(numbers, ends), usable, strict=True)
                ]
            )
            for name, numbers in columns.items()
        }


def _spans(counted: np.ndarray) -> list[tuple[int, int, int]]:
    """Return row, start and end of every unbroken run of true values in (B, T) bool."""
    edges = np.diff(np.pad(counted.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    rows, starts = np.nonzero(edges == 1)
    ends = np.nonzero(edges == -1)[1]
    return list(zip(rows.tolist(), starts.tolist(), ends.tolist(), strict=True))


def active_units(units: int, share: float) -> int:
    """Return how many of a layer's units are active, at least one."""
    # 0.01 * 700 is 7.000000000000001, and 7 is meant.
    return max(1, math.ceil(round(share * units, 9)))


representation = Mads()
