"""Open a group of workers: processes of this machine, or actors of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..schemas.plain_text import count_of
from .group import WorkerGroup
from .options import Placement, WorkerOptions
from .processes import ProcessWorker


@contextmanager
def open_group(
    options: WorkerOptions,
    placed: Placement,
    role: str,
    settings: dict[str, Any],
    say: Callable[[str], None],
) -> Iterator[WorkerGroup]:
    """Hold a group of workers inside the block; they start when there is something to do.

    Args:
        role: dotted name of a `workers.task.Role`.
        settings: that it is made from (JSON values); `threads` and `device` are added.

    Raises:
        UsageError: Ray is not installed, or the cluster cannot be reached.
    """
    settings = {**settings, "threads": placed.threads}
    if options.engine == "ray":
        from .ray_actors import ray_workers

        with (
            ray_workers(options, placed, role, settings, say) as (start, count),
            WorkerGroup(start, count, say) as group,
        ):
            yield group
        return

    # A worker sees its own GPU alone.
    settings["device"] = "cuda" if placed.gpus else placed.device

    def start_process(number: int) -> ProcessWorker:
        return ProcessWorker(role, settings, placed.environment(number))

    say(described(placed))
    with WorkerGroup(start_process, placed.workers, say) as group:
        yield group


def described(placed: Placement) -> str:
    """Say in words where workers run."""
    where = f", on GPU {', '.join(map(str, placed.gpus))}" if placed.gpus else ""
    return (
        f"{count_of(placed.workers, 'worker process', 'worker processes')} of "
        f"{count_of(placed.threads, 'thread')} each{where} ({placed.why})"
    )
