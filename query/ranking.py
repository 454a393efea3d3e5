"""Run a method over the pool: selectors name what they need, the scan reduces it, they rank."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from ..schemas.errors import UsageError
from ..schemas.ids import IdSet, ids_of
from ..selectors.reductions import (
    Fetched,
    Reduction,
    RowColumns,
    RowReduction,
    RowVectors,
    WordReduction,
)
from ..selectors.round_robin import take_turns, take_weighted_turns
from ..selectors.selector import Ranking, Task
from .comparison import Comparison, QueryGroup
from .methods import Method
from .scanning.reducers import Reducer, planned_memory, reducer_for, word_reducer
from .scanning.rows import Scanned

_PICK_BYTES = 400  # of a chosen row as Python objects: id, score, target, example

MEMORY_LIMIT = 4 << 30
"""Bytes a selection may plan for, by default."""
_UNITS = ((30, "GiB"), (20, "MiB"), (10, "KiB"))


@dataclass(frozen=True)
class Picks:
    """Chosen rows, best first: ids, scores (NaN-free or None), target and example of each.

    `notes` are sentences of the selector for the user, `fitted` what it fitted to the pool.
    """

    ids: list[str]
    scores: list[float | None]
    targets: list[str | None]
    queries: list[str | None]
    notes: tuple[str, ...] = ()
    fitted: Mapping[str, Any] = field(default_factory=dict)

    def first(self, count: int) -> Picks:
        """Return the first `count` of them."""
        return replace(
            self,
            ids=self.ids[:count],
            scores=self.scores[:count],
            targets=self.targets[:count],
            queries=self.queries[:count],
        )


@dataclass(frozen=True)
class Shares:
    """How several targets share a selection, where they do not take turns row by row.

    Attributes:
        weights: of the query groups in their order, whole numbers above 0.
        sizes: of rows by their keys (n, 2), (n,) int64; None where every row counts one.
    """

    weights: Sequence[int]
    sizes: Callable[[np.ndarray], np.ndarray] | None = None


def merged_picks(
    method: Method,
    comparison: Comparison,
    *,
    k: int,
    rows: int,
    seed: int,
    eligible: IdSet | None,
    memory_limit: int = MEMORY_LIMIT,
    spare: int = 0,
    shares: Shares | None = None,
    shared: SharedScan | None = None,
) -> tuple[Picks, Scanned]:
    """Return the best `k` rows; several targets take turns, each with its own ranking.

    Up to `spare` rows more follow, as far as the memory allows. With `shares` the targets' turns
    come in proportion to their weights.

    Raises:
        UsageError: the selection plans more memory than the limit.
    """
    while spare:
        tasks = _tasks(method, comparison, rows, k + spare, seed, spare)
        if _planned(method, tasks, _PICK_BYTES) <= memory_limit:
            break
        spare //= 2
    k += spare
    ranked, seen = rankings(
        method,
        comparison,
        k=k,
        rows=rows,
        seed=seed,
        eligible=eligible,
        memory_limit=memory_limit,
        pick_bytes=_PICK_BYTES,
        spare=spare,
        shared=shared,
    )
    picks = _merge(ranked, comparison.query_groups, k, shares)
    return replace(picks, notes=(*picks.notes, *seen.notes)), seen


def rankings(
    method: Method,
    comparison: Comparison,
    *,
    k: int,
    rows: int,
    seed: int,
    eligible: IdSet | None,
    memory_limit: int = MEMORY_LIMIT,
    pick_bytes: int = 0,
    spare: int = 0,
    shared: SharedScan | None = None,
) -> tuple[list[Ranking], Scanned]:
    """Return the best `k` rows of every query group, and what the scan counted.

    Args:
        pick_bytes: that the caller will hold for every row, beside the selector's own memory.
        spare: how many of the `k` rows are spare ones.
        shared: scans in place of this process; None for none.

    Raises:
        UsageError: the selection plans more memory than the limit.
    """
    tasks = _tasks(method, comparison, rows, k, seed, spare)
    _check_memory(method, tasks, memory_limit, pick_bytes)
    passes = SelectorPasses(method, comparison, k=k, rows=rows, seed=seed, spare=spare)
    earlier: list[Answers] = []
    seen, fetched = Scanned(), Scanned()
    while passes.needs:
        reducers = passes.reducers()
        if reducers and shared:
            seen = shared(passes.numbers, earlier, list(reducers.values()), eligible)
        elif reducers:
            seen = comparison.scan(list(reducers.values()), eligible)
        answers = {}
        for number, needs in passes.needs.items():
            answers[number] = tuple(
                reducers[number, place].result()
                if (number, place) in reducers
                else _fetched(comparison, need, eligible, fetched)
                for place, need in enumerate(needs)
            )
        if shared:
            earlier.append(answers)
        passes.send(answers)
    return passes.rankings, seen if seen.rows else fetched


def _fetched(
    comparison: Comparison, need: Reduction, eligible: IdSet | None, fetched: Scanned
) -> RowVectors | RowColumns:
    """Return what is fetched for a need; rows that have vectors, and have none, are counted."""
    assert isinstance(need, Fetched)
    answer = comparison.fetch(need, eligible)
    if isinstance(answer, RowVectors):
        fetched.scored += len(answer)
        fetched.missing += answer.missing
    return answer


class SelectorPasses:
    """The selectors of all query groups side by side, from one pass over the pool to the next.

    Args:
        method: whose selector it is.
        comparison: of the rows with the queries.
        k, rows, seed, spare: as for `rankings`.

    Attributes:
        numbers: k, rows, seed and spare.
        needs: what the pass at hand is to find, by the numbers of the query groups; none once all
            of them are ranked.
    """

    def __init__(
        self, method: Method, comparison: Comparison, *, k: int, rows: int, seed: int, spare: int
    ) -> None:
        self.numbers = {"k": k, "rows": rows, "seed": seed, "spare": spare}
        tasks = _tasks(method, comparison, rows, k, seed, spare)
        ends = np.cumsum([task.queries for task in tasks]).tolist()
        self._spans = [
            slice(end - task.queries, end) for end, task in zip(ends, tasks, strict=True)
        ]
        self._passes = [method.selector.passes(task) for task in tasks]
        self._ranked: dict[int, Ranking] = {}
        self.needs = {number: next(own) for number, own in enumerate(self._passes)}

    @property
    def rankings(self) -> list[Ranking]:
        """Those of the query groups, in their order."""
        return [self._ranked[number] for number in range(len(self._passes))]

    def reducers(self, in_part: bool = False) -> dict[tuple[int, int], Reducer]:
        """Return what the scan of the pass at hand feeds, by the group and the place of its need.

        Args:
            in_part: whether it feeds a part of the pool alone.
        """
        return {
            (number, place): _reducer(need, self._spans[number], in_part)
            for number, own in self.needs.items()
            for place, need in enumerate(own)
            if not isinstance(need, Fetched)
        }

    def send(self, answers: Answers) -> None:
        """Give each group what its needs came to; the next pass is at hand then."""
        self.needs = {}
        for number, own in answers.items():
            try:
                self.needs[number] = self._passes[number].send(own)
            except StopIteration as end:
                self._ranked[number] = end.value


Answers: TypeAlias = Mapping[int, tuple[Any, ...]]
"""What the needs of a pass came to, by the numbers of the query groups."""

SharedScan: TypeAlias = Callable[
    [Mapping[str, int], Sequence[Answers], Sequence[Reducer], IdSet | None], Scanned
]
"""Feeds the reducers of a pass with what others found in parts of the pool.

It is given the numbers of a `SelectorPasses`, the answers of the passes before this one, the
reducers, and the rows that may be chosen.
"""


def _reducer(need: RowReduction | WordReduction, queries: slice, in_part: bool) -> Reducer:
    if isinstance(need, WordReduction):
        return word_reducer(need, queries.stop - queries.start)
    return reducer_for(need, queries, in_part)


def _tasks(
    method: Method, comparison: Comparison, rows: int, k: int, seed: int, spare: int
) -> list[Task]:
    return [
        Task(
            query_group.queries,
            rows,
            k,
            seed,
            method.options,
            comparison.set_size,
            query_group.units,
            comparison.width,
            query_group.lengths,
            query_group.words,
            spare,
        )
        for query_group in comparison.query_groups
    ]


def _planned(method: Method, tasks: Sequence[Task], pick_bytes: int) -> int:
    return sum(planned_memory(method.selector, task) + task.k * pick_bytes for task in tasks)


def _check_memory(method: Method, tasks: Sequence[Task], limit: int, pick_bytes: int) -> None:
    needed = _planned(method, tasks, pick_bytes)
    if needed > limit:
        enough = f"{math.ceil(needed / 2**20)}MiB"
        raise UsageError(
            f"{method} with {tasks[0].k:,} rows for {sum(task.queries for task in tasks):,} "
            f"queries plans {_size(needed)} of memory, above the limit of {_size(limit)}. Ask for "
            f"fewer rows, use fewer examples, or raise the limit: --memory {enough}"
        )


def _size(count: int) -> str:
    """Bytes in the largest unit of which they are some."""
    bits, name = next((each for each in _UNITS if count >> each[0]), _UNITS[-1])
    return f"{count / 2**bits:.1f} {name}"


def _merge(
    rankings: Sequence[Ranking],
    query_groups: Sequence[QueryGroup],
    k: int,
    shares: Shares | None = None,
) -> Picks:
    lists = [ranking.keys for ranking in rankings]
    if shares:
        sizes = [shares.sizes(keys) for keys in lists] if shares.sizes else None
        players, places = take_weighted_turns(lists, shares.weights, k, sizes)
    else:
        players, places = take_turns(lists, k)
    ids: list[str] = [""] * len(players)
    notes = dict.fromkeys(note for ranking in rankings for note in ranking.notes)
    nothing: list[list] = [[None] * len(ids) for _ in range(3)]
    fitted = {name: value for ranking in rankings for name, value in ranking.fitted.items()}
    picks = Picks(ids, *nothing, notes=tuple(notes), fitted=fitted)
    for number, (group, ranking) in enumerate(zip(query_groups, rankings, strict=True)):
        turns = np.flatnonzero(players == number).tolist()
        chosen = places[players == number]
        scores = None if ranking.scores is None else ranking.scores[chosen].tolist()
        pulled = None if ranking.queries is None else ranking.queries[chosen].tolist()
        for place, turn in enumerate(turns):
            picks.targets[turn] = group.target
            if scores is not None:
                picks.scores[turn] = scores[place]
            if pulled is not None and group.examples:
                picks.queries[turn] = group.examples[pulled[place]]
        for turn, text in zip(turns, ids_of(ranking.keys[chosen]), strict=True):
            ids[turn] = text
    return picks
