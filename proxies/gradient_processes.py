"""Worker processes that turn micro-batches into gradients, one thread each.

Not a script; `train.py` uses it. Why processes and not the threads of one: inside an operator all
threads wait for the slowest at every step of it, so one busy neighbour on a core stops them all
(measured: 630 tokens/s in place of 6,000 beside three other programs). Workers meet once per
optimiser step, and whoever is free takes the next micro-batch.

The weights live in shared memory and are read by all; each worker adds into its own gradient.
"""

import math
from multiprocessing.queues import SimpleQueue
from typing import Any

import numpy as np
import torch
from batches import Piece, micro_batches
from model import Llama, Shape
from torch import Tensor, multiprocessing

ROUNDED_TO_TOKENS = 64  # few sizes of micro-batches: their kernels are prepared once each

# Tokens and targets as (T,) arrays, rows, length, and the factor of the loss: 0 asks for no
# gradient. None ends the worker.
Task = tuple[np.ndarray, np.ndarray, int, int, float]


def padded(group: list[Piece], factor: float) -> Task:
    """A task for the workers: targets of padding are -1, and so are those that fill up the end."""
    rows, length = len(group), max(piece.inputs for piece in group)
    flat = math.ceil(rows * length / ROUNDED_TO_TOKENS) * ROUNDED_TO_TOKENS
    tokens = np.zeros(flat, dtype=np.int64)
    targets = np.full(flat, -1, dtype=np.int64)
    for row, piece in enumerate(group):
        at = slice(row * length, row * length + piece.inputs)
        tokens[at], targets[at] = piece.tokens[:-1], piece.tokens[1:]
    return tokens, targets, rows, length, factor


def work(
    shape: Shape,
    weights: dict[str, Tensor],
    gradients: dict[str, Tensor],
    tasks: "SimpleQueue[Task | None]",
    losses: "SimpleQueue[float]",
) -> None:
    """Serve tasks until None comes; each answer is the summed loss in nats."""
    torch.set_num_threads(1)
    model = Llama(shape)
    for name, parameter in model.weights.items():
        parameter.data = weights[name]
        parameter.grad = gradients[name]
    while (task := tasks.get()) is not None:
        tokens, targets, rows, length, factor = task
        with torch.set_grad_enabled(factor > 0):
            loss = model.loss(torch.from_numpy(tokens), torch.from_numpy(targets), rows, length)
        if factor > 0:
            (loss * factor).backward()
        losses.put(loss.item())


class Workers:
    """`count` processes that share `model`'s weights."""

    def __init__(self, model: Llama, count: int) -> None:
        context: Any = multiprocessing.get_context("spawn")
        self.model = model.share_memory()
        self.tasks, self.answers = context.SimpleQueue(), context.SimpleQueue()
        weights = {name: parameter.detach() for name, parameter in model.weights.items()}
        self.gradients = [
            {name: torch.zeros_like(weight).share_memory_() for name, weight in weights.items()}
            for _ in range(count)
        ]
        self.processes = [
            context.Process(
                target=work,
                args=(model.shape, weights, gradients, self.tasks, self.answers),
                daemon=True,
            )
            for gradients in self.gradients
        ]
        for process in self.processes:
            process.start()

    def groups(self, pieces: list[Piece], seed: int) -> list[list[Piece]]:
        """All pieces once, in random groups for `losses`."""
        return micro_batches(pieces, seed)

    def losses(self, groups: list[list[Piece]], factor: float) -> list[float]:
        """Summed loss in nats of each group, in no particular order.

        With a factor above 0 the model's gradients become those of all losses times the factor.
        """
        losses = self.losses_of([padded(group, factor) for group in groups])
        if factor > 0:
            self.collect_gradients()
        return losses

    def losses_of(self, tasks: list[Task]) -> list[float]:
        """The summed losses of the tasks, in no particular order; gradients stay with workers."""
        ahead = len(self.processes) + 1  # more would fill the pipe and block this side
        for task in tasks[:ahead]:
            self.tasks.put(task)
        losses = []
        for index in range(len(tasks)):
            losses.append(self.answers.get())
            if index + ahead < len(tasks):
                self.tasks.put(tasks[index + ahead])
        return losses

    def collect_gradients(self) -> None:
        """Move the workers' gradients, summed, into the model's; call between tasks only."""
        first, *others = self.gradients
        for name, parameter in self.model.weights.items():
            if parameter.grad is None:
                parameter.grad = torch.empty_like(parameter)
            parameter.grad.copy_(first[name])
            first[name].zero_()
            for gradients in others:
                parameter.grad.add_(gradients[name])
                gradients[name].zero_()

    def close(self) -> None:
        """End the processes."""
        for _ in self.processes:
            self.tasks.put(None)
        for process in self.processes:
            process.join()
