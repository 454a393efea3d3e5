"""What a selector is: its task, its passes over the pool, and the ranking it returns.

A selector is a generator: each `yield` names the reductions it needs, one streaming pass over the
pool computes them, and their results are sent back in the same order; it returns the ranking.
`random` needs one pass over ids, `round_robin` and `top` one over similarities; `uot` needs two
passes and yields twice. A selector never sees the pool, Lance, or a model.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from .reductions import Reduction


@dataclass(frozen=True)
class Task:
    """Rank the best `k` of at most `rows` eligible rows for `queries` target examples.

    Attributes:
        queries, rows, k: see above.
        seed: of whatever is random.
        options: of the selector, checked, with their defaults.
        set_size: units in a row's set, on average; for selectors of sets.
        units: units of the target's examples, (n,) int64; for selectors of sets.
        width: numbers in a vector; for selectors of vectors.
        lengths: response tokens of the rows whose lengths are to be matched, (n,) int64.
        words: of each example, (n,) int32; for selectors of words.
        spare: how many of the `k` rows are reserves, the last ones, for rows that a rule removes;
            notes are about the rows before them.
    """

    queries: int
    rows: int
    k: int
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    set_size: int = 0
    units: np.ndarray | None = None
    width: int = 0
    lengths: np.ndarray | None = None
    words: tuple[np.ndarray, ...] = ()
    spare: int = 0


@dataclass(frozen=True)
class Ranking:
    """An ordered selection of distinct rows: keys (n, 2) int64, scores (n,) float32, queries (n,).

    `queries` is the number of the target example that pulled the row. Scores and queries are None
    where the selector has none. `notes` are sentences for the user, `fitted` what options stand for
    that were fitted to the pool, as JSON values.
    """

    keys: np.ndarray
    scores: np.ndarray | None = None
    queries: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    fitted: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)


Passes: TypeAlias = Generator[tuple[Reduction, ...], tuple[Any, ...], Ranking]
"""Yields reductions, receives their results (`Lists`, or what the reduction says)."""


@dataclass(frozen=True)
class Option:
    """An option of a selector: its default and its valid values.

    Attributes:
        default: its type is the option's.
        choices: the valid values; empty where any is valid.
        least, most: bounds of a number, both included; None where there is none.
        words: valid beside numbers, such as "auto".
        required: whether a value must be given, the default standing for none.
    """

    default: Any
    choices: tuple[Any, ...] = ()
    least: float | None = None
    most: float | None = None
    required: bool = False
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Selector:
    """A way of choosing rows.

    Attributes:
        name: as it stands after the colon of a method, in underscores.
        version: to be raised when the same task gets another ranking.
        inputs: what it looks at: "ids", "query_similarity", "neuron_sets", "vectors", "columns",
            "terms", and "lengths" of a reference: its option `like`, else the target's examples.
        passes: the selection itself (see the module). Before its first `yield` it does nothing
            expensive: the memory of a selection is planned by it.
        own_memory: most bytes that it holds itself, what it keeps of earlier passes included. The
            reductions of a pass are added by the runner, which compares the sum with the memory
            limit before anything is read.
        options: by name.
        feature: the one it looks at where its name stands alone; None for none.
        paper: its source, as a short citation; empty where it is ours.
        alone: how it chooses where its name stands without a representation, under the same name
            and by other inputs; None where it chooses alike, or not at all.
        meaning: which rows it takes, in the user's words; `{sees}` stands for what the
            representation sees.
        later: the reductions of its passes after the first (of the costliest, where they are
            several), with stand-ins of the right size for what is not known yet.
    """

    name: str
    version: int
    inputs: tuple[str, ...]
    passes: Callable[[Task], Passes]
    own_memory: Callable[[Task], int] = lambda task: 0
    options: Mapping[str, Option] = field(default_factory=dict)
    feature: str | None = None
    paper: str = ""
    alone: Selector | None = None
    later: Callable[[Task], tuple[Reduction, ...]] = lambda task: ()
    meaning: str = ""
