"""Reductions of the streaming scan: what selectors ask for, computed block by block.

A reducer is fed every block of the pool once and holds no more than `planned_bytes` says. Or some
are fed parts of it, and another takes in what they found: lists are in a total order, and blocks
are added up in the order of the table, so that the answer is the same to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
import pyarrow as pa

from ...selectors.random_order import shuffle_words
from ...selectors.reductions import (
    MAX_BLOCK_ROWS,
    Columns,
    Lists,
    LogSumExp,
    Reduction,
    RowReduction,
    RowSets,
    RowWords,
    SampledVectors,
    Sets,
    Shuffled,
    TopPerQuery,
    TopRows,
    Vectors,
    Votes,
    WordReduction,
    WordSimilarity,
    WordTotals,
)
from ...selectors.selector import Selector, Task
from .top_k import RunningTop, pending_entries, top_bytes

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Block:
    """Some rows of the pool.

    Attributes:
        keys: (n, 2) int64.
        similarity: (M, n) where rows were compared.
        sets: (n,) lists of int32 where those were read.
        words: of the same rows, where those were read.
    """

    keys: np.ndarray
    similarity: torch.Tensor | None = None
    sets: pa.ListArray | None = None
    words: RowWords | None = None


class BlockConsumer(Protocol):
    """Takes in the blocks of a scan."""

    def feed(self, block: Block) -> None:
        """Take in the next rows."""
        ...


Partial: TypeAlias = Mapping[str, np.ndarray]
"""What a part of the pool came to: arrays by name."""


class Reducer(BlockConsumer, Protocol):
    """Takes in blocks, answers once at the end."""

    def result(self) -> Lists | RowSets | np.ndarray:
        """What the whole stream came to."""
        ...

    def partial(self) -> Partial:
        """What the blocks came to, for another reducer of the same need."""
        ...

    def absorb(self, partial: Partial) -> None:
        """Take in what the next part of the table came to, in place of its blocks."""
        ...


class _Best:
    """The best rows of some lists, from one part of the pool or several."""

    _top: RunningTop

    def partial(self) -> Partial:
        found = self._top.lists_found()
        assert found.scores is not None
        arrays = {"keys": found.keys, "scores": found.scores}
        return arrays if found.queries is None else {**arrays, "carried": found.queries}

    def absorb(self, partial: Partial) -> None:
        self._top.absorb(Lists(partial["keys"], partial["scores"], partial.get("carried")))


class _TopPerQuery(_Best):
    def __init__(self, need: TopPerQuery, queries: slice) -> None:
        self._queries, self._means = queries, need.means
        self.nearest = None if need.means else need.k
        self._top = RunningTop(queries.stop - queries.start, need.k)

    def feed(self, block: Block) -> None:
        assert block.similarity is not None
        similarity = block.similarity[self._queries]
        means = None
        if self._means:  # carried as integers of the same bits
            import torch

            means = _means(similarity).view(torch.int32).long()
        self._top.add(similarity, block.keys, means)

    def result(self) -> Lists:
        found = self._top.lists_found()
        if not self._means:
            return found
        assert found.queries is not None, "what is carried beside the rows"
        return Lists(found.keys, found.scores, means=found.queries.astype(np.int32).view("f4"))


class _TopRows(_Best):
    def __init__(self, need: TopRows, queries: slice) -> None:
        self._queries, self._by = queries, need.by
        self.nearest = need.k if need.by == "max" else None
        self._top = RunningTop(1, need.k)

    def feed(self, block: Block) -> None:
        assert block.similarity is not None
        similarity = block.similarity[self._queries]
        highest, nearest = similarity.max(dim=0)
        scores = highest if self._by == "max" else _means(similarity)
        self._top.add(scores[None], block.keys, nearest)

    def result(self) -> Lists:
        return self._top.lists_found()


class _LogSumExp:
    """Its blocks are added up one after the other; those of a part are kept until then."""

    def __init__(self, need: LogSumExp, queries: slice, in_part: bool) -> None:
        self._queries, self._temperature = queries, need.temperature
        self._logs = np.full(queries.stop - queries.start, -np.inf)
        self._blocks: list[np.ndarray] | None = [] if in_part else None

    def feed(self, block: Block) -> None:
        assert block.similarity is not None
        scaled = block.similarity[self._queries].double().div_(self._temperature)
        logs = scaled.logsumexp(dim=1).numpy()
        if self._blocks is None:
            self._add(logs)
        else:
            self._blocks.append(logs)

    def _add(self, logs: np.ndarray) -> None:
        self._logs = np.logaddexp(self._logs, logs)

    def result(self) -> np.ndarray:
        return self._logs

    def partial(self) -> Partial:
        assert self._blocks is not None, "the sum of a part is not added to others: its blocks are"
        return {"blocks": np.array(self._blocks).reshape(-1, len(self._logs))}

    def absorb(self, partial: Partial) -> None:
        for logs in partial["blocks"]:
            self._add(logs)


class _Votes(_Best):
    """In float64, then rounded: sums in another order differ less than a float32 can tell."""

    def __init__(self, need: Votes, queries: slice) -> None:
        import torch

        self._queries, self._temperature = queries, need.temperature
        self._logs = torch.from_numpy(need.logs)[:, None]
        self._top = RunningTop(1, need.k)

    def feed(self, block: Block) -> None:
        assert block.similarity is not None
        votes = block.similarity[self._queries].double().div_(self._temperature)
        votes = votes.sub_(self._logs).exp_()
        most = votes.float().argmax(dim=0)  # of equal queries the first
        self._top.add(votes.mean(dim=0).float()[None], block.keys, most)

    def result(self) -> Lists:
        return self._top.lists_found()


def _means(similarity: torch.Tensor) -> torch.Tensor:
    """(M, n) -> (n,) float32; summed in float64, so that the width of a block changes no bit."""
    return similarity.double().mean(dim=0).float()


class _Shuffled:
    """Plain NumPy: random selections import no torch."""

    def __init__(self, need: Shuffled) -> None:
        self._k, self._seed = need.k, need.seed
        self._most = need.k + pending_entries(1, need.k)
        self._keys = [np.empty((0, 2), np.int64)]
        self._held = 0

    def feed(self, block: Block) -> None:
        self._keys.append(block.keys)
        self._held += len(block.keys)
        if self._held > self._most:
            self._keep_first()

    def _keep_first(self) -> None:
        keys = np.concatenate(self._keys)
        words = shuffle_words(keys, self._seed)
        first = np.lexsort((keys[:, 1], keys[:, 0], words))[: self._k]
        self._keys, self._held = [keys[first]], len(first)

    def result(self) -> Lists:
        self._keep_first()
        return Lists(self._keys[0][None])

    def partial(self) -> Partial:
        self._keep_first()
        return {"keys": self._keys[0]}

    def absorb(self, partial: Partial) -> None:
        self.feed(Block(partial["keys"]))


class _Sets:
    def __init__(self) -> None:
        self._keys = [np.empty((0, 2), np.int64)]
        self._sizes = [np.zeros(1, np.int64)]
        self._units = [np.empty(0, np.int32)]

    def feed(self, block: Block) -> None:
        assert block.sets is not None
        self._keys.append(block.keys)
        self._sizes.append(block.sets.value_lengths().to_numpy().astype(np.int64))
        self._units.append(block.sets.flatten().to_numpy().copy())  # not all that was read with it

    def result(self) -> RowSets:
        starts = np.cumsum(np.concatenate(self._sizes))
        return RowSets(np.concatenate(self._keys), starts, np.concatenate(self._units))

    def partial(self) -> Partial:
        sets = self.result()
        return {"keys": sets.keys, "sizes": np.diff(sets.starts), "units": sets.units}

    def absorb(self, partial: Partial) -> None:
        self._keys.append(partial["keys"])
        self._sizes.append(partial["sizes"])
        self._units.append(partial["units"])


def reducer_for(need: RowReduction, queries: slice, in_part: bool = False) -> Reducer:
    """The reducer that answers a need, for the queries of one target (a slice of all queries).

    Args:
        in_part: whether it is asked for a part of the answer, not for all of it.
    """
    match need:
        case TopPerQuery():
            return _TopPerQuery(need, queries)
        case TopRows():
            return _TopRows(need, queries)
        case LogSumExp():
            return _LogSumExp(need, queries, in_part)
        case Votes():
            return _Votes(need, queries)
        case Shuffled():
            return _Shuffled(need)
        case Sets():
            return _Sets()


def nearest_wanted(reducer: BlockConsumer) -> int | None:
    """How many of every query's nearest rows settle what a reducer finds; None where none do."""
    return reducer.nearest if isinstance(reducer, _TopPerQuery | _TopRows) else None


def adds_blocks_up(reducer: BlockConsumer) -> bool:
    """Whether the last bits of what a reducer finds depend on where blocks end."""
    return isinstance(reducer, _LogSumExp)


class _Totals:
    def __init__(self, need: WordTotals) -> None:
        self._of = need.of
        nothing = RowWords(np.empty((0, 2), np.int64), np.zeros(1, np.int64), np.empty(0, np.int32))
        self._total = need.of(nothing)

    def feed(self, block: Block) -> None:
        assert block.words is not None
        self._total = self._total + self._of(block.words)

    def result(self) -> np.ndarray:
        return self._total

    def partial(self) -> Partial:
        return {"total": self._total}

    def absorb(self, partial: Partial) -> None:
        self._total = self._total + partial["total"]


class _Similarity:
    def __init__(self, need: WordSimilarity, queries: int) -> None:
        self._of = need.of
        self._then = reducer_for(need.then, slice(0, queries))

    def feed(self, block: Block) -> None:
        import torch

        assert block.words is not None
        similarity = np.ascontiguousarray(self._of(block.words))
        self._then.feed(Block(block.keys, torch.from_numpy(similarity)))

    def result(self) -> Lists | RowSets | np.ndarray:
        return self._then.result()

    def partial(self) -> Partial:
        return self._then.partial()

    def absorb(self, partial: Partial) -> None:
        self._then.absorb(partial)


def word_reducer(need: WordReduction, queries: int) -> Reducer:
    """The reducer that answers a need of words, for a target of so many examples."""
    return _Totals(need) if isinstance(need, WordTotals) else _Similarity(need, queries)


def planned_bytes(reduction: Reduction, task: Task) -> int:
    """Most bytes that a reduction holds at once, its result included.

    Totals of words are as large as the selector makes them: it counts them as its own memory.
    """
    queries, rows = task.queries, task.rows
    match reduction:
        case TopPerQuery(k, means):
            return top_bytes(queries, k) + (16 * queries * (k + MAX_BLOCK_ROWS) if means else 0)
        case TopRows(k) | Shuffled(k):
            return top_bytes(1, k)
        case LogSumExp():
            return 4 * queries * 8 + 3 * queries * MAX_BLOCK_ROWS * 8
        case Votes(k):
            return top_bytes(1, k) + 3 * queries * MAX_BLOCK_ROWS * 8
        case WordSimilarity(_, then):
            return planned_bytes(then, task) + queries * MAX_BLOCK_ROWS * 4
        case WordTotals():
            return 0
        case Sets():  # twice what they are: they are collected, then put in order
            return 2 * rows * (4 * task.set_size + 24)
        case Vectors(keys):  # float16 twice while they are gathered, keys, ids as text
            return (rows if keys is None else len(keys)) * (4 * task.width + 16 + 100)
        case SampledVectors(sampled):
            return sampled * (4 * task.width + 16 + 100)
        case Columns(names):  # keys, ids as text, and each column
            return rows * (16 + 100 + 16 * len(names))


def planned_memory(selector: Selector, task: Task) -> int:
    """Most bytes that a selection plans for: its costliest pass and what the selector holds itself.

    Nothing is read: a selector's first reductions depend on the task alone.
    """
    passes = selector.passes(task)
    first, later = next(passes), selector.later(task)
    passes.close()
    costs = (sum(planned_bytes(each, task) for each in some) for some in (first, later))
    return max(costs) + selector.own_memory(task)
