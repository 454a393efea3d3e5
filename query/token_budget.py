"""Budgets in tokens: the longest prefix of a ranking that fits.

How long that is shows only once the ranking is there, so a ranking of a likely length is made first
and a longer one if it is too short; prefixes nest, so both agree. No ranking is ever longer than
the number of shortest rows that fit.

A budget counts the tokens of the answers or those of whole rows (`Budget.token_column`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..schemas.errors import MissingFeatureError
from ..schemas.ids import IdSet, ids_of, keys_of
from .ranking import Picks
from .snapshot import Snapshot

if TYPE_CHECKING:
    import lance

_MARGIN = 1.3  # of the first ranking, over the length at the mean number of tokens
_GROWTH = 3  # of each ranking over the one before


@dataclass(frozen=True)
class RowsWithTokens:
    """The eligible rows whose tokens are known.

    Attributes:
        rows: None for all of the pool.
        tokens: that a budget counts, (n,) int32, in table order.
        uncounted: eligible rows left out because the chat template refused them.
    """

    rows: IdSet | None
    tokens: np.ndarray
    uncounted: int


def counted_rows(
    dataset: lance.LanceDataset, eligible: IdSet | None, column: str = "response_tokens"
) -> RowsWithTokens:
    """Return which eligible rows (None for all) have a count of tokens, and the counts.

    Raises:
        MissingFeatureError: there are eligible rows, and none has one.
    """
    keys, tokens, uncounted = [np.empty((0, 2), np.int64)], [np.empty(0, np.int32)], 0
    for batch in dataset.scanner(columns=["id", column]).to_batches():
        own, counts = keys_of(batch["id"]), batch[column]
        known = np.asarray(counts.is_valid())
        allowed = np.ones(len(own), bool) if eligible is None else eligible.contains(own)
        uncounted += int((allowed & ~known).sum())
        keys.append(own[allowed & known])
        tokens.append(counts.fill_null(0).to_numpy()[allowed & known])
    counted = np.concatenate(tokens)
    if uncounted and not len(counted):
        raise MissingFeatureError(
            "no eligible row of the pool has a token count, so a budget in tokens cannot be kept. "
            "Give the budget in rows or per cent"
        )
    rows = IdSet(np.concatenate(keys)) if uncounted else eligible
    return RowsWithTokens(rows, counted, uncounted)


def lengths_to_try(tokens: np.ndarray, budget: int) -> Iterator[int]:
    """Yield ranking lengths, ascending; the last is long enough for any order of the rows."""
    longest = int(np.searchsorted(np.cumsum(np.sort(tokens, kind="stable")), budget, "right"))
    # One row more shows that the next one does not fit.
    longest = min(longest + 1, len(tokens))
    length = int(_MARGIN * budget / max(float(tokens.mean()), 1.0)) + 16 if len(tokens) else 0
    while length < longest:
        yield length
        length *= _GROWTH
    yield longest


def prefix_that_fits(tokens: Sequence[int], budget: int) -> tuple[int, int]:
    """Return how many leading rows fit, and how many tokens they have together."""
    totals = np.cumsum(np.asarray(tokens, np.int64))
    count = int(np.searchsorted(totals, budget, "right"))
    return count, int(totals[count - 1]) if count else 0


def tokens_of(snapshot: Snapshot, column: str, keys: np.ndarray) -> np.ndarray:
    """Return the tokens of rows by their keys (n, 2), (n,) int64."""
    taken = snapshot.take(ids_of(keys), [column])[column]
    return taken.to_numpy().astype(np.int64)


def within_tokens(
    snapshot: Snapshot,
    column: str,
    budget: int,
    counted: RowsWithTokens,
    first: Callable[[int], Picks],
) -> tuple[Picks, int, int]:
    """Return the longest prefix of the ranking that fits, its tokens, and the tokens left over.

    Tokens count as left over only when the rows that could be chosen ran out.
    """
    picks, count, used = Picks([], [], [], []), 0, 0
    for k in lengths_to_try(counted.tokens, budget):
        picks = first(k)
        lengths = snapshot.take(picks.ids, [column])[column]
        count, used = prefix_that_fits(lengths.to_pylist(), budget)
        if count < len(picks.ids):
            break
    return picks.first(count), used, budget - used if count == len(picks.ids) else 0
