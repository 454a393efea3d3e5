"""Work of a scan that is done in other threads, before its results are asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_READ_AHEAD = 3


def read_ahead(batches: Iterator[Any], depth: int = _READ_AHEAD) -> Iterator[Any]:
    """The same batches in the same order, up to `depth` of them read before they are asked for."""
    with ThreadPoolExecutor(1, "coresetdb-scan") as reader:
        waiting = deque(reader.submit(next, batches, None) for _ in range(depth))
        while (batch := waiting.popleft().result()) is not None:
            waiting.append(reader.submit(next, batches, None))
            yield batch


def mapped_ahead(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    begin: Callable[[], None],
) -> Iterator[Result]:
    """What `function` makes of each item, in their order.

    Up to `workers` + 1 items are in work while the caller deals with a result.

    Args:
        function: called in threads of its own.
        items: taken in the caller's thread.
        workers: how many threads.
        begin: called once in each of them.
    """
    with ThreadPoolExecutor(workers, "coresetdb-scan", initializer=begin) as pool:
        waiting = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > workers + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
