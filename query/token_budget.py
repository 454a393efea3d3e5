"""Budgets in response tokens: the longest prefix of a ranking that fits.

How long that is shows only once the ranking is there, so a ranking of a likely length is asked for
first and a longer one when it turns out too short; prefixes nest, so both agree. No ranking is ever
longer than the number of shortest rows that fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..schemas.errors import MissingFeatureError
from ..selectors.keys import KeySet, keys_of

if TYPE_CHECKING:
    import lance

_MARGIN = 1.3
_GROWTH = 3


def response_tokens(dataset: lance.LanceDataset, eligible: KeySet | None) -> np.ndarray:
    """Response tokens of every eligible row, (n,) int32, in table order.

    Raises:
        MissingFeatureError: rows without a token count.
    """
    parts = [np.empty(0, np.int32)]
    for batch in dataset.scanner(columns=["id", "response_tokens"]).to_batches():
        counts = batch.column("response_tokens")
        if counts.null_count:
            raise MissingFeatureError(
                "rows of the pool have no token counts, so a budget in tokens cannot be kept. "
                "Give the budget in rows or per cent"
            )
        tokens = counts.to_numpy()
        parts.append(
            tokens if eligible is None else tokens[eligible.contains(keys_of(batch["id"]))]
        )
    return np.concatenate(parts)


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
