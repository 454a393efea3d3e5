"""How many workers there are, where they run, and with how many threads each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from ..schemas.errors import UsageError
from ..schemas.plain_text import count_of
from .machine import THREADS_VARIABLE, free_memory, threads_of_user, usable_processors

Engine = Literal["processes", "ray"]
Count = int | Literal["auto"] | None

SMALL_WEIGHTS = 1 << 30
"""Bytes of weights up to which processes of one thread are chosen: measured with 21 MB (the
built-in proxy) and 540 MB (SmolLM2-135M), where two of them beat one of two threads."""

PROCESS_BYTES = 1 << 30
"""Memory of a worker beside the weights and as much again: libraries, and the batch at hand."""

GPU_VARIABLE = "CUDA_VISIBLE_DEVICES"

GPU_DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""Where none of these is, torch, which takes seconds to import, need not be asked."""


@dataclass(frozen=True)
class WorkerOptions:
    """What a user says of workers; nothing by default, and then there are none.

    Attributes:
        workers: how many; `auto` chooses by the model's size, and so does None beside another
            option.
        gpus: numbers of those to use, by default all that there are.
        engine: `processes` of this machine, or actors of `ray`.
        address: of a Ray cluster; by default one is started here.

    Raises:
        UsageError: they contradict one another.
    """

    workers: Count = None
    gpus: tuple[int, ...] = ()
    engine: Engine = "processes"
    address: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.workers, int) and (self.workers < 1 or self.workers is True):
            raise UsageError(f"workers {self.workers}: give 1 or more, or auto")
        if isinstance(self.workers, str) and self.workers != "auto":
            raise UsageError(f"workers {self.workers!r}: give a number, or auto")
        if self.engine not in get_args(Engine):
            raise UsageError(f"engine {self.engine!r}: choose {' or '.join(get_args(Engine))}")
        if self.address is not None and self.engine != "ray":
            raise UsageError("an address is that of a Ray cluster: add --engine ray")
        if self.gpus and self.engine == "ray":
            raise UsageError("Ray hands out the GPUs of its nodes by itself: leave --gpus out")
        if any(gpu < 0 for gpu in self.gpus) or len(set(self.gpus)) != len(self.gpus):
            raise UsageError(f"gpus {self.gpus}: name each once, by its number from 0")

    @property
    def given(self) -> bool:
        """Whether there are workers at all."""
        return self != WorkerOptions()

    @classmethod
    def of(
        cls,
        workers: int | str | None = None,
        gpus: str | Sequence[int] | None = None,
        engine: str = "processes",
        address: str | None = None,
    ) -> WorkerOptions:
        """Return options from how they are typed: a number or `auto`, and numbers between commas.

        Raises:
            UsageError: one of them means nothing.
        """
        if isinstance(workers, str) and workers != "auto":
            if not workers.strip().isdecimal():
                raise UsageError(f"workers {workers!r}: give a number, or auto")
            workers = int(workers)
        if isinstance(gpus, str):
            names = [name.strip() for name in gpus.split(",") if name.strip()]
            if not names or not all(map(str.isdecimal, names)):
                raise UsageError(f"gpus {gpus!r}: give numbers between commas, such as 0,1")
            gpus = [int(name) for name in names]
        return cls(workers, tuple(gpus or ()), engine, address)  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class Placement:
    """Where workers run.

    Attributes:
        workers: how many.
        threads: of the CPU that each has.
        gpus: the GPU of each, by its number; none where they run on the CPU.
        why: how that was chosen, in words.
        device: of the model, as its store says: auto, cpu, cuda or mps.
    """

    workers: int
    threads: int
    gpus: tuple[int, ...] = ()
    why: str = ""
    device: str = "cpu"

    @property
    def may_use_gpus(self) -> bool:
        """Whether the model runs on GPUs where there are any."""
        return self.device == "auto" or self.device.startswith("cuda")

    def environment(self, number: int) -> dict[str, str]:
        """Return variables for the worker with a number: threads, and the GPU that it sees."""
        threads = str(self.threads)
        variables = {THREADS_VARIABLE: threads, "RAYON_NUM_THREADS": threads}
        if self.gpus:
            seen = [name for name in os.environ.get(GPU_VARIABLE, "").split(",") if name.strip()]
            gpu = self.gpus[number % len(self.gpus)]
            variables[GPU_VARIABLE] = seen[gpu].strip() if seen else str(gpu)
        return variables


def place(options: WorkerOptions, device: str, weights: float) -> Placement:
    """Return where workers with a model run on this machine.

    Args:
        device: of the backbone: auto, cpu, cuda or mps.
        weights: bytes of the model.

    Raises:
        UsageError: a GPU is named that is not there.
    """
    gpus = _gpus(options.gpus, device)
    processors = usable_processors()
    named = options.workers if isinstance(options.workers, int) else None
    if gpus or named:
        workers = named or len(gpus)
        threads = threads_of_user() or max(1, processors // workers)
        why = "as many as named" if named else f"one for each of {count_of(len(gpus), 'GPU')}"
        return Placement(workers, threads, gpus, why, device)
    return replace(choose(weights, processors, free_memory()), device=device)


def choose(weights: float, processors: int, memory: int | None) -> Placement:
    """Return how many processes, and threads in each, suit a model on the CPU.

    A small model leaves threads little to share, so that a process of one thread on each processor
    is quicker, as long as the memory holds a model for each.

    Args:
        weights: bytes of the model.
        memory: bytes that are free, None where that is not known.
    """
    threads = threads_of_user()
    size = f"{weights / 1e6:,.0f} MB of weights, {count_of(processors, 'processor')}"
    if weights > SMALL_WEIGHTS:
        return Placement(1, threads or processors, (), f"{size}: threads share a large model")
    workers = max(1, processors // (threads or 1))
    if memory is not None:
        room = max(1, int(memory / (PROCESS_BYTES + 2 * weights)))
        if room < workers:
            size += f", {memory / 1e9:,.1f} GB of memory free"
            workers = room
    return Placement(workers, threads or max(1, processors // workers), (), size)


def _gpus(named: tuple[int, ...], device: str) -> tuple[int, ...]:
    """Return the GPUs that workers use, by their numbers."""
    if device not in ("auto", "cuda") and not device.startswith("cuda:"):
        if named:
            raise UsageError(f"gpus: the store's features are made on {device}: leave --gpus out")
        return ()
    count = 0
    if any(os.path.exists(driver) for driver in GPU_DRIVERS):
        import torch

        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    missing = [gpu for gpu in named if gpu >= count]
    if missing:
        raise UsageError(
            f"gpus: there is no GPU {missing[0]} here; torch sees {count_of(count, 'GPU')}"
        )
    return named or tuple(range(count))
