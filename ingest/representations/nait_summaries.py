"""What NAIT keeps of a row: per layer the mean activation of its tokens, and how it drifts.

The mean runs over the tokens asked for, the drift is that of the last content token from the first
one. Both are summed in float32 while a layer's states are at hand, and only their blocks stay: the
unit vector, in the layer's basis if there is one, and the norm before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...schemas.errors import BackboneError
from ..columns import joined
from ..fits.artifacts import Artifact
from ..models.batch import Batch, batches_of
from ..models.forward import run_pass
from .representation import Needs, Reducer

if TYPE_CHECKING:
    from ..conversations.encoding import Encoded
    from ..models.backbone import Backbone
    from ..models.neurons import Neurons

KINDS = ("mean", "drift")

_TOKENS_PER_BATCH = 2048


def needs_of(options: Mapping[str, Any]) -> Needs:
    """What the option `neuron` looks at."""
    return Needs(neurons=True) if options["neuron"] == "mlp" else Needs(layers=True)


class Summaries(Reducer):
    """Blocks of one batch, layer by layer.

    Columns, for each kind: `<kind>` (B, L * d') blocks and `<kind>_norms` (B, L) float32. A row
    without the tokens a kind looks at holds NaN.

    Args:
        tokens: of which the mean is taken: "content", "response" or "all".
        bases: kind -> (L, d', d) float32, orthonormal rows; None keeps every dimension.
    """

    def __init__(
        self, batch: Batch, tokens: str, bases: Mapping[str, np.ndarray] | None = None
    ) -> None:
        content = torch.zeros_like(batch.mask)
        own = np.concatenate([row.content for row in batch.rows])
        content[batch.mask] = torch.from_numpy(own).to(content.device)
        taken = {"content": content, "response": batch.response, "all": batch.mask}[tokens]
        counts = taken.sum(1, keepdim=True)
        self._weights = (taken.float() / counts)[:, None, :]  # 0 / 0: no such token, NaN
        self._padded = bool((~batch.mask).any())
        self._mask = batch.mask
        self._rows = torch.arange(len(batch.rows), device=content.device)
        self._first = content.int().argmax(1)
        self._last = content.shape[1] - 1 - content.flip(1).int().argmax(1)
        self._contentless = ~content.any(1)
        self._bases = bases
        self._blocks: dict[str, list[torch.Tensor]] = {kind: [] for kind in KINDS}
        self._norms: dict[str, list[torch.Tensor]] = {kind: [] for kind in KINDS}

    def layer(self, index: int, states: torch.Tensor) -> None:
        clean = states.float()
        if self._padded:  # padding's states may be NaN, which a zero weight would let through
            clean = clean.masked_fill(~self._mask[:, :, None], 0.0)
        mean = (self._weights @ clean)[:, 0]
        drift = states[self._rows, self._last].float() - states[self._rows, self._first].float()
        drift[self._contentless] = torch.nan
        for kind, vectors in (("mean", mean), ("drift", drift)):
            norms = vectors.norm(dim=1)
            unit = torch.where(norms[:, None] == 0, vectors, vectors / norms[:, None])
            if self._bases is not None:
                unit = unit @ torch.from_numpy(self._bases[kind][index]).to(unit.device).T
            self._blocks[kind].append(unit)
            self._norms[kind].append(norms)

    def neurons(self, part: Neurons) -> None:
        if part.tokens is not None:
            raise BackboneError(
                "nait: neuron=mlp has no form for a mixture of experts, where most units see most "
                "tokens not at all. Use neuron=layer"
            )
        widths = {part.units, *(each.shape[1] for each in self._blocks["mean"][:1])}
        if self._bases is None and len(widths) > 1:
            raise BackboneError(
                "nait: neuron=mlp needs feed-forward networks of one width, and this backbone's "
                f"have {' and '.join(map(str, sorted(widths)))} units. Use neuron=layer"
            )
        self.layer(part.layer, part.values)

    def columns(self) -> dict[str, np.ndarray]:
        return {
            **{kind: torch.cat(self._blocks[kind], 1).cpu().numpy() for kind in KINDS},
            **{f"{k}_norms": torch.stack(self._norms[k], 1).cpu().numpy() for k in KINDS},
        }


def bases_of(artifacts: Mapping[str, Artifact]) -> Mapping[str, np.ndarray] | None:
    """Kind -> (L, d', d) float32 where bases were fitted."""
    bases = artifacts.get("nait-bases")
    return None if bases is None else bases.arrays


def summaries_of(
    backbone: Backbone,
    rows: Sequence[Encoded],
    options: Mapping[str, Any],
    bases: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Whole summaries of some rows, block times norm: kind -> (N, L, d') float32.

    NaN where a row lacks the tokens.
    """
    parts: list[Mapping[str, np.ndarray]] = []
    order: list[int] = []
    needs = needs_of(options)
    for members, batch in batches_of(backbone, rows, _TOKENS_PER_BATCH):
        reducer = Summaries(batch, options["tokens"], bases)
        run_pass(backbone, batch, [(needs, reducer)])
        parts.append(reducer.columns())
        order += members
    columns = joined(parts, np.asarray(order, dtype=np.int64), len(rows))
    return {kind: whole(columns[kind], columns[f"{kind}_norms"]) for kind in KINDS}


def whole(blocks: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """Blocks (N, L * d') times their norms (N, L), as (N, L, d')."""
    return blocks.reshape(*norms.shape, -1) * norms[:, :, None]
