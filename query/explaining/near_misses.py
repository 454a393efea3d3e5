"""Near misses: the rows that a selection would take next, had its budget been a little larger."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa

from ...schemas.amounts import parse_budget
from ..coresets import Coreset
from ..ranking import MEMORY_LIMIT
from ..replay import request_of
from ..selection import answer

if TYPE_CHECKING:
    from ...store.store import Store


def with_near_misses(
    store: Store, coreset: Coreset, count: int, memory_limit: int = MEMORY_LIMIT
) -> Coreset:
    """Return a coreset with its near misses behind its members, at the ranks that follow.

    The selection is made again with a budget of `count` rows more, and those that it did not have
    are added; fewer where the eligible rows run out. Methods that choose rows together may replace
    some as the budget grows; such rows stay where they were recorded.

    Args:
        store: an open store.
        coreset: one of its coresets.
        count: how many near misses.
        memory_limit: bytes that the selection may plan for.

    Raises:
        UsageError, MissingFeatureError, FingerprintError: it cannot be selected again.
    """
    snapshot, request = request_of(store, coreset)
    larger = replace(request, budget=parse_budget(str(len(coreset) + count)))
    picks = answer(snapshot, larger, memory_limit).picks
    known = set(coreset.ids)
    new = [place for place, row_id in enumerate(picks.ids) if row_id not in known][:count]
    ids = [picks.ids[place] for place in new]
    first = len(coreset) + 1
    columns = {
        "rank": list(range(first, first + len(new))),
        "id": ids,
        "score": [picks.scores[place] for place in new],
        "target": [picks.targets[place] for place in new],
        "query": [picks.queries[place] for place in new],
        "corpus": snapshot.take(ids, ["corpus"])["corpus"].to_pylist() if ids else [],
    }
    schema = coreset.members.schema
    added = pa.table([pa.array(columns[field.name], field.type) for field in schema], schema=schema)
    return replace(coreset, members=pa.concat_tables([coreset.members, added]))
