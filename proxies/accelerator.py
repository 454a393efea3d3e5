"""A GPU in the place of the worker processes: rows laid end to end, attention inside each row.

Not a script; `train.py --device cuda` uses it. fp32 weights, bf16 products, as on CPU. A small
model is bound by launching kernels, so a step takes many rows at once, all of one size, and no
loss is read back before it is logged.
"""

from dataclasses import dataclass

import numpy as np
import torch
from batches import Piece, packs
from model import Llama
from tokenizer import CONTEXT_TOKENS
from torch import Tensor


@dataclass(frozen=True)
class Pack:
    """(size,) tokens, targets (-1: none) and positions in the row; where rows begin, and the end.

    What is left over at the end counts as rows of its own, without targets.
    """

    tokens: np.ndarray
    targets: np.ndarray
    positions: np.ndarray
    bounds: np.ndarray
    longest: int


def pack(group: list[Piece], size: int) -> Pack:
    """Lay a group's pieces end to end."""
    lengths = [piece.inputs for piece in group]
    used = sum(lengths)
    lengths += [min(CONTEXT_TOKENS, size - start) for start in range(used, size, CONTEXT_TOKENS)]
    tokens, targets = np.zeros(size, dtype=np.int64), np.full(size, -1, dtype=np.int64)
    tokens[:used] = np.concatenate([piece.tokens[:-1] for piece in group])
    targets[:used] = np.concatenate([piece.tokens[1:] for piece in group])
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    positions = np.arange(size) - np.repeat(bounds[:-1], lengths)
    return Pack(tokens, targets, positions, bounds.astype(np.int32), max(lengths))


class Accelerator:
    """Losses and gradients of groups of pieces on the device where `model` already lies."""

    def __init__(self, model: Llama, size: int) -> None:
        self.model, self.size = model, size
        self.device = next(model.parameters()).device

    def groups(self, pieces: list[Piece], seed: int) -> list[list[Piece]]:
        """All pieces once, in random groups for `losses`."""
        return packs(pieces, seed, self.size)

    def losses(self, groups: list[list[Piece]], factor: float) -> list[Tensor]:
        """Summed loss in nats of each group, left on the device.

        With a factor above 0 the model's gradients become those of all losses times the factor.
        """
        if factor > 0:
            self.model.zero_grad(set_to_none=True)
        losses = []
        for group in groups:
            laid = pack(group, self.size)
            arrays = (laid.tokens, laid.targets, laid.positions, laid.bounds)
            tokens, targets, positions, bounds = (self.moved(array) for array in arrays)
            with torch.set_grad_enabled(factor > 0):
                loss = self.model.packed_loss(tokens, targets, positions, bounds, laid.longest)
            if factor > 0:
                (loss * factor).backward()
            losses.append(loss.detach())
        return losses

    def moved(self, array: np.ndarray) -> Tensor:
        """On the device, without waiting for what it is doing."""
        tensor = torch.from_numpy(array)
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)

    def close(self) -> None:
        """Nothing runs beside the process that trains."""
