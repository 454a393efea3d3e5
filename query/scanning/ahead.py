"""Work of a scan that is done in other threads, before its results are asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_WORKERS = 8
"""More than read and reduce as fast; each may hold a block, 8 MB of vectors in float32."""

_READ_AHEAD = 3


def read_ahead(batches: Iterator[Any], depth: int = _READ_AHEAD) -> Iterator[Any]:
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

    As many threads as torch may use call it, each with an item of its own and with one thread for
    what torch does in it; so does the caller until the end. They never wait for each other, nor
    for one that a busy processor has put aside. Up to one item more than threads is in work while
    the caller deals with a result.

    Args:
        function: called in threads of its own.
        items: taken in the caller's thread.
        most: threads.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    workers = min(threads, most)
    try:
        with ThreadPoolExecutor(
            workers, "coresetdb-scan", initializer=lambda: torch.set_num_threads(1)
        ) as pool:
            waiting = deque()
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > workers + 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    finally:
        torch.set_num_threads(threads)
