"""Groups of examples inside a target: rows are compared with the mean over each group.

LESS (Xia et al. 2024) scores a row for a target of several subtasks by the mean
similarity to the examples of each subtask, and of these means the highest. `top` ranks rows so. By
`round_robin` the groups take turns, and each takes its unused row of the highest mean (ours).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..schemas.canonical import canonical_json
from ..schemas.errors import UsageError
from ..schemas.plain_text import count_of
from ..schemas.tables import literal
from .features import comparison_of
from .methods import Method
from .queries import Queries

if TYPE_CHECKING:
    from .snapshot import Snapshot

SELECTORS = ("top", "round_robin")
"""Those that can choose for groups."""


def by_groups(method: Method, approximate: bool) -> Method:
    """Return a method as it compares rows with groups: `top` by the best of them.

    Raises:
        UsageError: the method does not compare rows with every example by cosine, chooses by
            another selector, or asks an index, which finds rows for examples.
    """
    by_cosine = method.made_by is not None and comparison_of(method.made_by) == "cosine"
    if not by_cosine or method.selector.name not in SELECTORS:
        raise UsageError(
            f"{method}: groups are for methods that compare rows with every example by cosine and "
            f"choose by {' or '.join(SELECTORS)}, such as less:top or rds. For another method add "
            "each group as a target of its own"
        )
    if method.ignores_sign:
        raise UsageError(
            f"{method}: a group is compared by the mean of its cosines, which has no square of "
            "each: leave sign=any or --group out"
        )
    if approximate:
        raise UsageError("groups and --approximate: an index finds rows for single examples")
    if method.selector.name == "top":
        return replace(method, options={**method.options, "by": "max"})
    return method


def grouped(snapshot: Snapshot, query: Queries, field: str) -> Queries:
    """Return a target's examples with the value of a field of their metadata as their groups.

    Raises:
        UsageError: examples have no value of that field.
    """
    rows = snapshot.targets.to_table(
        columns=["id", "metadata"], filter=f"target = {literal(query.target)}"
    )
    facts = {
        row["id"]: json.loads(row["metadata"]) if row["metadata"] else {}
        for row in rows.to_pylist()
    }
    labels = [facts[id].get(field) for id in query.ids]
    if missing := sum(label is None for label in labels):
        known = sorted({key for own in facts.values() for key in own})
        raise UsageError(
            f"target {query.target!r} cannot be grouped by {field!r}: {missing:,} of "
            f"{count_of(len(labels), 'example')} lack it. Fields of its examples: "
            f"{', '.join(known) or 'none'}"
        )
    return replace(query, groups=tuple(map(_as_text, labels)))


def group_means(query: Queries) -> Queries:
    """Return a target's groups in place of its examples: their names and mean vectors.

    The product of a row's unit vector with a group's mean vector is the mean of its cosines to the
    examples of the group. Groups come in the order of their first examples.
    """
    assert query.vectors is not None, "only methods by cosine compare groups"
    names = tuple(dict.fromkeys(query.groups))
    numbers = np.array([names.index(group) for group in query.groups])
    wide = query.vectors.astype(np.float64)
    means = np.stack([wide[numbers == number].mean(axis=0) for number in range(len(names))])
    return Queries(query.target, names, means.astype(np.float32))


def queries_compared(queries: Sequence[Queries]) -> list[Queries]:
    """Return what rows are compared with: the groups of targets that have some, else examples."""
    return [group_means(query) if query.groups else query for query in queries]


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else canonical_json(value)
