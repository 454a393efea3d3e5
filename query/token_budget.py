"""Budgets in response tokens: the longest prefix of a ranking that fits.

How long that is shows only once the ranking is there, so a ranking of a likely length is asked for
first and a longer one when it turns out too short; prefixes nest, so both agree. No ranking is ever
longer than the number of shortest rows that fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..schemas.errors import MissingFeatureError
from ..selectors.keys import KeySet, keys_of

if TYPE_CHECKING:
    import lance

_MARGIN = 1.3
_GROWTH = 3


@dataclass(frozen=True)
class Counted:
    """The eligible rows that a budget in tokens can count.

    Attributes:
        rows: None for all of the pool.
        tokens: of their responses, (n,) int32, in table order.
        uncounted: eligible rows without a count, which have been left out: the chat template
            refused them.
    """

    rows: KeySet | None
    tokens: np.ndarray
    uncounted: int


def counted_rows(dataset: lance.LanceDataset, eligible: KeySet | None) -> Counted:
    """Which eligible rows (None for all) have a count of response tokens, and what it is.

    Raises:
        MissingFeatureError: there are eligible rows, and none has one.
    """
    keys, tokens, uncounted = [np.empty((0, 2), np.int64)], [np.empty(0, np.int32)], 0
    for batch in dataset.scanner(columns=["id", "response_tokens"]).to_batches():
        own, counts = keys_of(batch["id"]), batch["response_tokens"]
        known, there = np.asarray(counts.is_valid()), counts.fill_null(0).to_numpy()
        allowed = np.ones(len(own), bool) if eligible is None else eligible.contains(own)
        uncounted += int((allowed & ~known).sum())
        keys.append(own[allowed & known])
        tokens.append(there[allowed & known])
    found = np.concatenate(tokens)
    if uncounted and not len(found):
        raise MissingFeatureError(
            "no eligible row of the pool has a token count, so a budget in tokens cannot be kept. "
            "Give the budget in rows or per cent"
        )
    return Counted(KeySet(np.concatenate(keys)) if uncounted else eligible, found, uncounted)


def lengths_to_try(tokens: np.ndarray, budget: int) -> Iterator[int]:
    """Ranking lengths, ascending; the last is long enough for any order of the rows."""
    longest = int(np.searchsorted(np.cumsum(np.sort(tokens, kind="stable")), budget, "right"))
    # One row more shows that the next one does not fit.
    longest = min(longest + 1, len(tokens))
    length = int(_MARGIN * budget / max(float(tokens.mean()), 1.0)) + 16 if len(tokens) else 0
    while length < longest:
        yield length
        length *= _GROWTH
    yield longest


def prefix_that_fits(tokens: Sequence[int], budget: int) -> tuple[int, int]:
    """How many leading rows fit, and how many tokens they have together."""
    totals = np.cumsum(np.asarray(tokens, np.int64))
    count = int(np.searchsorted(totals, budget, "right"))
    return count, int(totals[count - 1]) if count else 0
