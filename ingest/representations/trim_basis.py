"""The basis TRIM keeps token states in (METHODS 1).

The uncentred second moments of the unit states of a sample's content tokens give the directions,
strongest first; `trim_rank` says how many are kept.

Token states in a few bytes: unit states in a basis, int8 with a scale per token (METHODS 1).

How many directions TRIM's codes need: tried on the sample, with the code that scores pools.

Pseudo-targets of a few rows of the sample score the others, once from exact states and once from
the codes of each rank; a rank is good enough when both find nearly the same best rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch

from ...schemas.errors import UsageError
from ...store.catalog import Artifact
from ..columns import ragged
from ..conversations.tokenization import Encoded
from ..fits.fit import Fit, Fitting
from ..models.backbone import Backbone
from ..models.batches import Batch
from ..passes.forward import states_of
from ..passes.reducer import Reducer
from .trim_fingerprints import fingerprints, nearest_classes
from .trim_scores import ClassTable, row_terms, score_tokens

LARGEST = 127
"""Of a code; -128 is not used, so that a code and its negative are equally far from zero."""


def unit_states(batch: Batch, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """States (n, d) float32 of the batch's tokens, row after row, and their lengths (n, 1).

    They are not divided yet: whoever projects them divides fewer numbers afterwards.
    """
    own = states[batch.mask].float()
    return own, own.norm(dim=1, keepdim=True)


def quantise(projected: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes (n, r) int8 and scales (n,) float32 with codes * scale about `projected`.

    The greatest number of a token has code 127 or -127, so no number is off by more than half a
    scale. A token of zeros has scale 0.
    """
    scales = projected.abs().amax(1) / LARGEST
    inverse = torch.where(scales > 0, 1 / scales, 0.0)
    return (projected * inverse[:, None]).round().to(torch.int8), scales


class Codes(Reducer):
    """Codes, scales and kept energy of every token of a batch.

    Args:
        basis: (d, r) float32 with orthonormal columns.
    """

    def __init__(self, batch: Batch, basis: np.ndarray) -> None:
        self._batch, self._basis = batch, basis
        self._columns: dict[str, np.ndarray] = {}

    def hidden(self, states: torch.Tensor) -> None:
        own, lengths = unit_states(self._batch, states)
        projected = own @ torch.from_numpy(self._basis).to(own.device) / lengths
        energy = projected.square().sum(1)
        codes, scales = quantise(projected)
        usable = torch.isfinite(lengths[:, 0]) & (lengths[:, 0] > 0)
        ends = np.cumsum([len(row) for row in self._batch.rows])[:-1]
        for name, values in {
            "codes": codes,
            "scales": scales,
            "energy": energy,
            "usable": usable,
        }.items():
            self._columns[name] = ragged(np.split(values.cpu().numpy(), ends))

    def columns(self) -> dict[str, np.ndarray]:
        """Object arrays (B,): codes (T, r) int8, scales, energy (T,) float32, usable (T,)."""
        return self._columns


RANKS = (32, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
"""Tried as far as they are below the full width, and then that. Steps of a third or a half: bytes
grow with the rank, and between 256 and a wide model's 4096 there would be nothing to choose."""

BEST = 0.05
"""Share of the rows that are the best ones."""

DRAWS, EXAMPLES = 8, 8
"""Pseudo-targets, and the rows each is made of (a quarter of the sample where that is fewer)."""


def ranks_tried(width: int) -> tuple[int, ...]:
    """The ranks among which one is chosen, for states of that width."""
    return (*(rank for rank in RANKS if rank < width), width)


def top_overlap(exact: np.ndarray, other: np.ndarray) -> float:
    """Share of the best `BEST` of the rows by `exact` that are among the best by `other`.

    Args:
        exact, other: (N,) scores; the first of equals is the better one.
    """
    count = max(1, round(BEST * len(exact)))
    best = [set(np.argsort(-each, kind="stable")[:count].tolist()) for each in (exact, other)]
    return len(best[0] & best[1]) / count


def overlaps(
    backbone: Backbone,
    rows: Sequence[Encoded],
    adapter: Artifact | None,
    directions: np.ndarray,
    layers: int,
    seed: int,
    tell: Callable[[float], None],
) -> dict[int, float]:
    """Rank -> mean overlap of the stored score's best rows with the exact one's.

    Args:
        rows: the sample; every one has content.
        directions: (d, d) float32 orthonormal columns, strongest first.
        layers: attention layers of a fingerprint.
        seed: draws the pseudo-targets.
    """
    draw = np.random.default_rng(seed)
    size = min(EXAMPLES, len(rows) // 4)
    drawn = [draw.choice(len(rows), size, replace=False) for _ in range(DRAWS)]
    tables: list[ClassTable] = []
    for members in drawn:
        found = fingerprints(backbone, [rows[i] for i in members], layers, adapter)
        nearest = nearest_classes(backbone.model, found.classes)
        tables.append(ClassTable(found.classes, found.vectors @ directions, nearest))
    ranks = ranks_tried(len(directions))
    scores = scores_by_rank(backbone, rows, adapter, directions, tables, ranks, tell)
    found = np.zeros((DRAWS, len(ranks)))
    for target, members in enumerate(drawn):
        others = np.delete(scores[:, target], members, axis=0)
        others = others[np.isfinite(others).all(1)]
        found[target] = [top_overlap(others[:, 0], each) for each in others.T[1:]]
    return dict(zip(ranks, found.mean(0).tolist(), strict=True))


def scores_by_rank(
    backbone: Backbone,
    rows: Sequence[Encoded],
    adapter: Artifact | None,
    directions: np.ndarray,
    tables: Sequence[ClassTable],
    ranks: Sequence[int],
    tell: Callable[[float], None] = lambda done: None,
) -> np.ndarray:
    """Scores of rows for some targets: (N, targets, 1 + ranks) float32, the exact one first.

    Args:
        tables: each target's fingerprints along all `directions`.
        ranks: of the codes the other scores are made from.
    """
    widths = (len(directions), *ranks)
    cut = [
        [replace(each, vectors=np.ascontiguousarray(each.vectors[:, :r])) for r in widths]
        for each in tables
    ]
    scores = np.empty((len(rows), len(tables), len(widths)), np.float32)

    def read(members: Sequence[int], batch: Batch, states: torch.Tensor) -> None:
        own, norms = unit_states(batch, states)
        turned = own @ torch.from_numpy(directions).to(own.device) / norms
        stored: list[tuple[np.ndarray, np.ndarray | None]] = [(turned.cpu().numpy(), None)]
        for rank in ranks:
            codes, scales = quantise(turned[:, :rank])
            stored.append((codes.cpu().numpy(), scales.cpu().numpy()))
        tokens = np.concatenate([row.ids for row in batch.rows])
        content = np.concatenate([row.content for row in batch.rows])
        lengths = np.array([len(row) for row in batch.rows])
        for target, tables_of_target in enumerate(cut):
            for place, (table, kept) in enumerate(zip(tables_of_target, stored, strict=True)):
                each = score_tokens(tokens, *kept, table).scores
                scores[members, target, place] = row_terms(each, content, lengths).scores

    states_of(backbone, rows, read, adapter, tell)
    return scores


VERSION = 1
"""Rises when the same sample would give another basis."""

ENOUGH = 0.95
"""Share of the exact score's best rows that the stored score must find."""

LEAST_ROWS = 4

OUTPUT = "trim-basis"


@dataclass(frozen=True)
class TrimBasis(Fit):
    """Fits the basis.

    Leaves one artifact: `basis` (d, r) float32, `spectrum` (d,) float32 (shares of the energy,
    falling), and as facts `rank`, `overlap` at each rank tried, `kept` (share of the energy) and
    the `rows` it was made from.

    Attributes:
        rank: directions to keep; 0 for as few as are enough.
        rows: of the sample.
        layers: attention layers of a fingerprint.
        seed: draws the pseudo-targets.
        warmup: the fit whose last output the model wears; None for the model as it is.
    """

    name: ClassVar[str] = OUTPUT

    rank: int
    rows: int
    layers: int
    seed: int
    warmup: Fit | None = None

    def spec(self) -> dict[str, Any]:
        """Everything the basis depends on beside backbone, sample and warm-up."""
        return {
            "version": VERSION,
            "rank": self.rank,
            "rows": self.rows,
            "layers": self.layers,
            "seed": self.seed,
        }

    def outputs(self) -> tuple[str, ...]:
        """One artifact."""
        return (OUTPUT,)

    def sample_rows(self, total: int) -> int:
        """`rows`, or all there are."""
        return min(self.rows, total)

    def needs(self) -> tuple[Fit, ...]:
        """The warm-up, if the model wears one."""
        return () if self.warmup is None else (self.warmup,)

    def run(self, fitting: Fitting) -> None:
        """One pass over the sample for the moments, one more to choose the rank.

        Raises:
            UsageError: fewer than `LEAST_ROWS` rows of the sample have tokens of content.
        """

        if OUTPUT in fitting.kept:
            return
        encoded = fitting.backbone.encode_all(fitting.sample.instructions[: self.rows])
        rows = [each for each in encoded if isinstance(each, Encoded) and each.content.any()]
        if len(rows) < LEAST_ROWS:
            raise UsageError(
                f"trim: {len(rows)} rows of the sample have text, a basis needs {LEAST_ROWS}. "
                "Begin with a larger corpus"
            )
        adapter = fitting.kept[self.warmup.outputs()[-1]] if self.warmup else None
        share = 1 if self.rank else 0.5

        def telling(before: float, what: str) -> Callable[[float], None]:
            return lambda done: fitting.tell(before + share * done, f"trim: {what}")

        directions, spectrum = directions_of(
            fitting.backbone, rows, adapter, telling(0, "directions of the token states")
        )
        found: dict[int, float] = {}
        if not self.rank:
            asked = (fitting.backbone, rows, adapter, directions, self.layers, self.seed)
            found = overlaps(*asked, telling(share, "how many of them are enough"))
        enough = [rank for rank, overlap in found.items() if overlap >= ENOUGH]
        rank = self.rank or min(enough, default=len(directions))
        facts = {
            "rank": rank,
            "overlap": {str(tried): round(overlap, 4) for tried, overlap in found.items()},
            "kept": round(float(spectrum[:rank].sum()), 6),
            "rows": len(rows),
        }
        basis = np.ascontiguousarray(directions[:, :rank])
        fitting.keep(OUTPUT, Artifact({"basis": basis, "spectrum": spectrum}, facts))


def directions_of(
    backbone: Backbone,
    rows: Sequence[Encoded],
    adapter: Artifact | None = None,
    tell: Callable[[float], None] = lambda done: None,
) -> tuple[np.ndarray, np.ndarray]:
    """Right singular vectors of the unit states of the rows' content tokens.

    Returns:
        Directions (d, d) float32, orthonormal columns, strongest first, and the share of the
        energy along each, (d,) float32.
    """
    from ..passes.forward import states_of

    width = backbone.info.hidden_size
    moments = np.zeros((width, width))

    def add(members: Sequence[int], batch: Batch, states: torch.Tensor) -> None:
        own, lengths = unit_states(batch, states)
        content = np.concatenate([row.content for row in batch.rows])
        units = (own / lengths).cpu().numpy()[content]
        units = units[np.isfinite(units).all(1)]
        np.add(moments, units.T @ units, out=moments)

    states_of(backbone, rows, add, adapter, tell)
    values, vectors = np.linalg.eigh(moments)
    shares = np.maximum(values[::-1], 0) / values.sum()
    return vectors[:, ::-1].astype(np.float32), shares.astype(np.float32)
