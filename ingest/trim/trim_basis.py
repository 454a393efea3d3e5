"""The basis TRIM keeps token states in (METHODS 1).

The uncentred second moments of the unit states of a sample's content tokens give the directions,
strongest first; `trim_rank` says how many are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ...schemas.errors import UsageError
from ..conversations.encoding import Encoded
from ..fits.artifacts import Artifact
from ..fits.fit import Fit, Fitting

if TYPE_CHECKING:
    import torch

    from ..models.backbone import Backbone
    from ..models.batch import Batch

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
        from .trim_rank import overlaps

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
    from ..fits.sample_pass import states_of
    from .token_codes import unit_states

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
