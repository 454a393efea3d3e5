"""Length-matched: random rows whose responses are as long as those of a reference.

The control for every method that may only have chosen by length. The reference are the rows of a
coreset (`like`) or a target's examples. Their response tokens are cut at quantiles into `bins` of
about equal weight, and bins give their rows, in a seeded random order, in the proportion of the
reference: the j-th row of a bin with n reference rows has the turn (2j - 1) / n (Sainte-Laguë), so
every prefix is matched as well as its length allows.

A bin that runs out is passed over; a note says from which row on. Rows shorter or longer than all
of the reference come last, the nearest in length first. Rows whose tokens were never counted,
because the chat template refused them, are left out.
"""

from __future__ import annotations

import numpy as np

from ..schemas.errors import MissingFeatureError
from ..schemas.plain_text import count_of
from .random_order import shuffled
from .reductions import Columns
from .selector import Option, Passes, Ranking, Selector, Task
from .source_balanced import turns_of

_TOKENS = "response_tokens"


def upper_ends(lengths: np.ndarray, bins: int) -> np.ndarray:
    """The longest length of each bin of a reference, ascending; at most `bins`, none empty.

    A bin holds lengths above the end of the one before it, the first those of the shortest too.
    """
    parts = np.arange(1, bins + 1) / bins
    return np.unique(np.quantile(lengths, parts, method="inverted_cdf"))


def _passes(task: Task) -> Passes:
    assert task.lengths is not None, "a task of this selector has lengths"
    (rows,) = yield (Columns((_TOKENS,)),)
    notes: tuple[str, ...] = ()
    order = shuffled(rows.keys, task.seed)
    order = order[~np.isnan(rows.columns[_TOKENS][order])]
    lengths = rows.columns[_TOKENS][order]
    if uncounted := len(rows) - len(order):
        if not len(order):
            raise MissingFeatureError(
                "no eligible row of the pool has a token count, so lengths cannot be matched"
            )
        notes = (f"left out: {count_of(uncounted, 'eligible row')} without a token count",)
    shortest, longest = task.lengths.min(), task.lengths.max()
    ends = upper_ends(task.lengths, task.options["bins"])
    wanted = np.bincount(np.searchsorted(ends, task.lengths))

    inside = np.flatnonzero((lengths >= shortest) & (lengths <= longest))
    bins = np.searchsorted(ends, lengths[inside])
    turns = (2 * turns_of(bins) + 1) / wanted[bins]
    matched = inside[np.lexsort((bins, turns))]
    outside = np.flatnonzero((lengths < shortest) | (lengths > longest))
    away = np.maximum(shortest - lengths[outside], lengths[outside] - longest)
    others = outside[np.argsort(away, kind="stable")]

    picks = np.concatenate([matched, others])[: task.k]
    available = np.bincount(bins, minlength=len(ends))
    missed = (2 * available + 1) / wanted  # the turn of each bin that it has no row for
    before = np.array(
        [np.sum((turns < turn) | ((turns == turn) & (bins < b))) for b, turn in enumerate(missed)]
    )
    starts = np.concatenate([[shortest], ends[:-1] + 1])
    wanted_rows = min(len(picks), task.k - task.spare)
    notes += _notes(wanted_rows, before, available, starts, ends)
    return Ranking(rows.keys[order[picks]], notes=notes)


def _notes(
    chosen: int, before: np.ndarray, available: np.ndarray, starts: np.ndarray, ends: np.ndarray
) -> tuple[str, ...]:
    """A note on where lengths cease to match: the bins that ran out, and the rows before that."""
    short = np.flatnonzero(before < chosen)
    if not len(short):
        return ()
    spans = [
        f"{count_of(int(available[bin]), 'row')} of {ends[bin]:.0f}"
        if starts[bin] == ends[bin]
        else f"{count_of(int(available[bin]), 'row')} of {starts[bin]:.0f}-{ends[bin]:.0f}"
        for bin in short
    ]
    return (
        f"lengths match for the first {count_of(int(before.min()), 'row')}; then rows of other "
        f"lengths fill in, as these ran out: {', '.join(spans)} response tokens",
    )


def _own_memory(task: Task) -> int:
    return task.rows * 120


SELECTOR = Selector(
    "length_matched",
    1,
    ("columns", "lengths"),
    _passes,
    _own_memory,
    {"like": Option(""), "bins": Option(10, least=1)},
    meaning="a random sample with answers as long as your examples'",
)
