"""What a selector is asked, what it may ask of the scan, and what it answers.

A selector is a generator: each `yield` names the reductions it needs, one streaming pass over the
pool makes them, and they are sent back in the same order; what it returns is the ranking. `random`
needs one pass over ids, `round_robin` and `top` one over similarities; a selector of two passes
(METHODS 3.2, uot) yields twice. It never sees the pool, Lance, or a model.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from .reductions import Need


@dataclass(frozen=True)
class Task:
    """The question: the best `k` of at most `rows` eligible rows for `queries` target examples.

    Where sets are covered, a row's has about `set_size` units, and `units` are those of the
    target's examples, (n,) int64. Where vectors are looked at, they are `width` numbers wide.
    `lengths` are the response tokens of the rows whose lengths are to be matched, (n,) int64.
    Where words are counted, `words` are those of each example, (n,) int32. The last `spare` of the
    `k` rows only stand by for others that a rule may take out: notes are about the rows before.
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
    for selectors that know none. `notes` are sentences that a person should read.
    """

    keys: np.ndarray
    scores: np.ndarray | None = None
    queries: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.keys)


Passes: TypeAlias = Generator[tuple[Need, ...], tuple[Any, ...], Ranking]
"""What comes back is `Lists`, or what the need says."""


@dataclass(frozen=True)
class Option:
    """An option of a selector: its default and, where only some values make sense, which.

    Attributes:
        default: its type is the option's.
        choices: all values that there are; empty for any.
        least, most: bounds of a number, both included; None for none.
    """

    default: Any
    choices: tuple[Any, ...] = ()
    least: float | None = None
    most: float | None = None


@dataclass(frozen=True)
class Selector:
    """A way of choosing rows.

    Attributes:
        name: as it stands after the colon of a method, in underscores.
        version: rises when the same question gets another answer.
        inputs: what it looks at: "ids", "query_similarity", "neuron_sets", "vectors", "columns",
            "terms", and "lengths" of a reference: its option `like`, else the target's examples.
        passes: the selection itself (see the module).
        memory: most bytes it needs for a task, scan included; checked before it starts.
        options: by name.
        feature: that it looks at where its name stands alone; None for none.
        paper: where it comes from, as a short citation; empty where it is ours.
    """

    name: str
    version: int
    inputs: tuple[str, ...]
    passes: Callable[[Task], Passes]
    memory: Callable[[Task], int]
    options: Mapping[str, Option] = field(default_factory=dict)
    feature: str | None = None
    paper: str = ""
