"""The contract of a pass: what a run of the model can hand out, and what takes it in.

Importing it loads no torch, so that representations can be looked up where no model runs.
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
    from .feed_forward import Neurons
    from .weight_gradient import SketchSpec, WeightGradient


View = Literal["row", "alone"]
"""What a forward is shown: whole rows, or their answers without the questions."""

Side = Literal["pool", "target"]
"""Whose features are made: candidates, or the examples of a target."""


@dataclass(frozen=True)
class Pass:
    """One run of the model over rows; everybody who names the same one shares it.

    `adapter` is the name of the recipe's artifact that the model wears; "" for none.
    """

    view: View = "row"
    adapter: str = ""


@dataclass(frozen=True)
class PassInputs:
    """What a pass must hand to a reducer; the pass does nothing that nobody needs.

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


class Reducer:
    """Takes in what one pass over one batch gives and keeps only what becomes columns.

    The pass calls the methods its `PassInputs` ask for, in no stated order, and `columns` last.

    Attributes:
        sketch: the only thing it asks of a weight's gradient, so that the pass keeps no more; None
            for one that wants whole gradients (an adapter's are always whole).
    """

    sketch: SketchSpec | None = None

    def hidden(self, states: torch.Tensor) -> None:
        """Final states (B, T, D) in the compute dtype; padding as in the batch's mask."""
        raise NotImplementedError

    def logits(self, logits: torch.Tensor, targets: torch.Tensor, rows: torch.Tensor) -> None:
        """Some of the response tokens: logits (n, V) float32, token ids (n,) and rows (n,)."""
        raise NotImplementedError

    def layer(self, index: int, states: torch.Tensor) -> None:
        """What decoder layer `index` (from 0) gives, (B, T, D), once per layer."""
        raise NotImplementedError

    def gradient(self, gradient: WeightGradient) -> None:
        """The gradient of each row's mean response loss by one weight, once per weight.

        Zero for a row without a response token.
        """
        raise NotImplementedError

    def neurons(self, part: Neurons) -> None:
        """Activations inside one feed-forward network (or one of its experts), layer by layer."""
        raise NotImplementedError

    def columns(self) -> dict[str, np.ndarray]:
        """Column -> (B,) or (B, d) float32 with NaN where a row has no such value.

        Values of unequal length are an object array (B,) of 1-d arrays, None where there is none.
        """
        raise NotImplementedError


class Collector(ABC):
    """Takes in one pass over many rows, of which it may read only some.

    Attributes:
        inputs: what the pass must hand to its reducers.
        places: (n,) int64, ascending: the rows it reads.
    """

    inputs: PassInputs
    places: NDArray[np.int64]

    @abstractmethod
    def reducer(self, batch: Batch, places: Sequence[int]) -> Reducer:
        """A fresh reducer for a batch whose rows stand at `places`; not all need be its own."""

    def add(self, places: Sequence[int], columns: Mapping[str, np.ndarray]) -> None:  # noqa: B027
        """Take in the columns of a reducer, after its batch."""
