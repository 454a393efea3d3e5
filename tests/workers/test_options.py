"""Where workers run: GPUs one each, threads and processes by the model's size, options as typed."""

from __future__ import annotations

import sys

import pytest

from coresetdb.schemas.errors import UsageError
from coresetdb.workers import options
from coresetdb.workers.machine import THREADS_VARIABLE
from coresetdb.workers.opening import described, open_group
from coresetdb.workers.options import GPU_VARIABLE, Placement, WorkerOptions, choose, place

MB, GB = 10**6, 10**9


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A machine of 8 processors and 100 GB, whose user sets no threads."""
    monkeypatch.delenv(THREADS_VARIABLE, raising=False)
    monkeypatch.delenv(GPU_VARIABLE, raising=False)
    monkeypatch.setattr(options, "usable_processors", lambda: 8)
    monkeypatch.setattr(options, "free_memory", lambda: 100 * GB)


@pytest.fixture
def gpus(monkeypatch):
    """The machine has 4 GPUs."""
    import torch

    monkeypatch.setattr(options, "GPU_DRIVERS", ["/"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)


@pytest.mark.parametrize(
    ("weights", "processors", "memory", "expected"),
    [
        (21 * MB, 2, 20 * GB, (2, 1)),
        (21 * MB, 64, 20 * GB, (17, 3)),  # as many as memory holds, with what threads are left
        (540 * MB, 2, 20 * GB, (2, 1)),
        (540 * MB, 2, 1 * GB, (1, 2)),
        (14 * GB, 16, 100 * GB, (1, 16)),
        (21 * MB, 1, None, (1, 1)),
        (21 * MB, 4, 0, (1, 4)),
    ],
)
def test_processes_or_threads(weights, processors, memory, expected):
    chosen = choose(weights, processors, memory)
    assert (chosen.workers, chosen.threads) == expected


def test_the_users_threads_stay(monkeypatch):
    monkeypatch.setenv(THREADS_VARIABLE, "2")
    assert (choose(21 * MB, 8, None).workers, choose(21 * MB, 8, None).threads) == (4, 2)
    assert choose(14 * GB, 8, None).threads == 2
    assert place(WorkerOptions(8), "cpu", 21 * MB).threads == 2


@pytest.mark.parametrize(
    ("given", "device", "expected"),
    [
        (WorkerOptions(3), "cpu", (3, 2, ())),
        (WorkerOptions(20), "cpu", (20, 1, ())),
        (WorkerOptions("auto"), "cpu", (8, 1, ())),
        (WorkerOptions("auto"), "auto", (4, 2, (0, 1, 2, 3))),
        (WorkerOptions(2), "cuda", (2, 4, (0, 1, 2, 3))),
        (WorkerOptions(gpus=(2, 0)), "auto", (2, 4, (2, 0))),
        (WorkerOptions(4, gpus=(1,)), "auto", (4, 2, (1,))),
    ],
)
def test_gpus_have_one_worker_each_by_default(gpus, given, device, expected):
    placed = place(given, device, 21 * MB)
    assert (placed.workers, placed.threads, placed.gpus) == expected


def test_a_worker_sees_its_gpu_alone(gpus, monkeypatch):
    placed = place(WorkerOptions(3, gpus=(2, 0)), "auto", 21 * MB)
    assert [placed.environment(n)[GPU_VARIABLE] for n in range(3)] == ["2", "0", "2"]
    monkeypatch.setenv(GPU_VARIABLE, "GPU-a, GPU-b,GPU-c")
    assert [placed.environment(n)[GPU_VARIABLE] for n in range(2)] == ["GPU-c", "GPU-a"]
    assert placed.environment(0)[THREADS_VARIABLE] == str(placed.threads)
    assert GPU_VARIABLE not in Placement(2, 1).environment(0)
    assert described(placed) == (
        "3 worker processes of 2 threads each, on GPU 2, 0 (as many as named)"
    )


@pytest.mark.parametrize(
    ("given", "device", "why"),
    [
        (WorkerOptions(gpus=(4,)), "auto", "no GPU 4 here; torch sees 4 GPUs"),
        (WorkerOptions(gpus=(0,)), "cpu", "made on cpu: leave --gpus out"),
    ],
)
def test_gpus_that_are_not_there(gpus, given, device, why):
    with pytest.raises(UsageError, match=why):
        place(given, device, 21 * MB)


def test_options_as_they_are_typed():
    assert WorkerOptions.of() == WorkerOptions() and not WorkerOptions().given
    assert WorkerOptions.of("3") == WorkerOptions(3) and WorkerOptions(3).given
    assert WorkerOptions.of("auto", [1]) == WorkerOptions("auto", (1,))
    assert WorkerOptions.of(gpus="0, 1") == WorkerOptions(gpus=(0, 1))
    assert WorkerOptions.of(engine="ray", address="a:1").given


def test_an_engine_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(UsageError, match=r"ray is not installed: pip install 'coresetdb\[ray\]'"),
        open_group(WorkerOptions(engine="ray"), Placement(1, 1), "none", {}, print),
    ):
        pass
