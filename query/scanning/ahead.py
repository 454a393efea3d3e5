"""Work of a scan that is done in other threads, before its results are asked for."""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_WORKERS = 8
"""Each has a block of its own in work; where torch may use more threads, they share them."""

_READ_AHEAD = 3


def read_ahead(batches: Iterator[Any], depth: int = _READ_AHEAD) -> Generator[Any, None, None]:
    """The same batches in the same order, up to `depth` of them read before they are asked for."""
    with ThreadPoolExecutor(1, "coresetdb-scan") as reader:
        waiting = deque(reader.submit(next, batches, None) for _ in range(depth))
        while (batch := waiting.popleft().result()) is not None:
            waiting.append(reader.submit(next, batches, None))
            yield batch


def mapped_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], most: int = MOST_WORKERS
) -> Iterator[Result]:
    """What `function` makes of each item, in their order.

    Several threads call it, each with an item of its own; torch's threads are divided among them,
    and the caller has one of them until the end. Up to two items more than there are threads are
    in work or done before the first of them is asked for.

    Args:
        function: called in threads of its own.
        items: taken in the caller's thread.
        most: threads; fewer where torch may use fewer.
    """
    import torch

    with _TORCH_THREADS.shared() as threads:
        workers = min(threads, most)
        begin = functools.partial(torch.set_num_threads, threads // workers)
        with ThreadPoolExecutor(workers, "coresetdb-scan", initializer=begin) as pool:
            waiting = deque()
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > workers + 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()


class _TorchThreads:
    """How many threads torch may use, where scans share them out.

    `torch.set_num_threads` speaks of the thread that calls it, and of those that begin later. So a
    scan that begins in a fresh thread beside another must not believe what it finds there.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._scans, self._before = 0, 1

    @contextmanager
    def shared(self) -> Iterator[int]:
        """Leave the caller one thread until the end; the number there are to share."""
        import torch

        with self._lock:
            if not self._scans:
                self._before = torch.get_num_threads()
            self._scans += 1
            threads = self._before
        try:
            torch.set_num_threads(1)
            yield threads
        finally:
            with self._lock:
                self._scans -= 1
                torch.set_num_threads(threads)


_TORCH_THREADS = _TorchThreads()
