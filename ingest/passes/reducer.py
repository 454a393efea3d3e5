"""The contract of a pass: what a run of the model can pass on, and what receives it.

This module imports no torch, so that representations can be looked up where no model runs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from ..models.batches import Batch
    from .weight_gradient import SketchSpec, WeightGradient


View = Literal["row", "alone"]
"""The input of a forward: whole rows, or their answers without the questions."""

Side = Literal["pool", "target"]
"""Whose features are made: candidates, or the examples of a target."""


@dataclass(frozen=True)
class Pass:
    """One run of the model over rows; all recipes with the same one share it.

    `adapter` is the name of the recipe's artifact that is applied to the model; "" for none.
    """

    view: View = "row"
    adapter: str = ""


@dataclass(frozen=True)
class PassInputs:
    """What a pass must give to a reducer; the pass computes nothing else.

    Attributes:
        hidden: final states of every token.
        logits: those that predict the response tokens.
        layers: the output of every decoder layer.
        neurons: the activations inside every feed-forward network.
        gradients: of each row's mean response loss, module by module (a backward).
    """

    hidden: bool = False
    logits: bool = False
    layers: bool = False
    neurons: bool = False
    gradients: bool = False


@dataclass(frozen=True)
class Neurons:
    """Activations of some units of one decoder layer for a batch.

    Attributes:
        layer: index of the decoder layer, from 0.
        start: number of the layer's first unit, counted through all layers.
        units: of the whole layer.
        offset: of these units among the layer's.
        values: (B, T, F) in the compute dtype; (n, F) for one expert.
        tokens: None, or the places of the expert's tokens, (n,) int64 `b * T + t`.
    """

    layer: int
    start: int
    units: int
    offset: int
    values: torch.Tensor
    tokens: torch.Tensor | None = None


class Reducer(ABC):
    """Receives what one pass over one batch gives, and keeps only what becomes columns.

    The pass calls the methods named by its `PassInputs`, in no stated order, and `columns` last; a
    reducer has those that it asks for.

    Attributes:
        sketch: the only sketch it reads of a weight's gradient, so that the pass keeps no more;
            None for one that needs whole gradients (an adapter's are always whole).
    """

    sketch: SketchSpec | None = None

    def _asked_for(self, what: str) -> str:
        return f"{type(self).__name__}: its PassInputs ask for {what}, which it does not receive"

    def hidden(self, states: torch.Tensor) -> None:
        """Receive final states (B, T, D) in the compute dtype; padding as in the batch's mask."""
        raise NotImplementedError(self._asked_for("hidden"))

    def logits(self, logits: torch.Tensor, targets: torch.Tensor, rows: torch.Tensor) -> None:
        """Receive some response tokens: logits (n, V) float32, token ids (n,) and rows (n,)."""
        raise NotImplementedError(self._asked_for("logits"))

    def layer(self, index: int, states: torch.Tensor) -> None:
        """Receive the output (B, T, D) of decoder layer `index` (from 0), once per layer."""
        raise NotImplementedError(self._asked_for("layers"))

    def gradient(self, gradient: WeightGradient) -> None:
        """Receive the gradient of each row's mean response loss by one weight, once per weight.

        It is zero for a row without a response token.
        """
        raise NotImplementedError(self._asked_for("gradients"))

    def neurons(self, part: Neurons) -> None:
        """Receive activations of one feed-forward network or one of its experts, layer by layer."""
        raise NotImplementedError(self._asked_for("neurons"))

    @abstractmethod
    def columns(self) -> dict[str, np.ndarray]:
        """Return column -> (B,) or (B, d) float32 with NaN where a row has no such value.

        Values of unequal length are an object array (B,) of 1-d arrays, None for no value.
        """


class Collector(ABC):
    """Receives one pass over many rows, of which it may read only some.

    Attributes:
        inputs: what the pass must give to its reducers.
        places: (n,) int64, ascending: the rows it reads.
    """

    inputs: PassInputs
    places: NDArray[np.int64]

    @abstractmethod
    def reducer(self, batch: Batch, places: Sequence[int]) -> Reducer:
        """Return a new reducer for the batch of rows at `places`, which need not all be its own."""

    def add(self, places: Sequence[int], columns: Mapping[str, np.ndarray]) -> None:  # noqa: B027
        """Receive the columns of a reducer, after its batch."""
