"""The table `scores`: sets of scores, each of all its rows by one method for one target.

A set is known by target, method, fingerprint and version of the pool. It is written in the order
of its ranks, many rows at once. Writers take turns, so that the last of two at once leaves a whole
set, and no key has to be looked up; one that a kill cut short has fewer rows than its last rank and
is written anew next time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..schemas.tables import SCORES, literal
from .rows import keys_under

if TYPE_CHECKING:
    from .store import Store

ROWS_PER_COMMIT = 250_000
"""Rows of a set that become visible together: 40 MB; measured, a commit of 200,000 takes 0.7 s."""

_COLUMNS = ("target", "method", "fingerprint", "pool_version")


@dataclass(frozen=True)
class SetKey:
    """What a set of scores is known by; the fingerprint is None where no feature was looked at."""

    target: str
    method: str
    fingerprint: str | None
    pool_version: int


@dataclass(frozen=True)
class ScoreSet:
    """A set that stands in the table, how many rows it has, and whether these are all of them."""

    key: SetKey
    rows: int
    whole: bool


def put_scores(
    store: Store, of: SetKey, ids: Iterator[Sequence[str]], scores: np.ndarray, keep: bool
) -> None:
    """Write a set, in place of the one of the same key.

    Args:
        store: an open store.
        of: what the set is known by.
        ids: of the rows, best first, in parts of any size.
        scores: (n,) float32, in the same order.
        keep: whether sets of the same target and method at other versions or fingerprints stay.

    Raises:
        StoreError: the disk is full, or other writers were quicker every time.
        StoreBusyError: another one wrote scores for ten minutes.
    """
    with store.named_lock("scores"), store.lock(shared=True):
        store.delete("scores", _where(of))
        at = 0
        for part in ids:
            store.append("scores", _rows(of, part, scores[at : at + len(part)], at))
            at += len(part)
        if not keep:
            same = _all_of(target=of.target, method=of.method)
            store.delete("scores", f"{same} AND NOT ({_where(of)})")


def score_sets(store: Store) -> list[ScoreSet]:
    """Every set that stands in the table, by target, method and version of the pool."""
    counted: dict[SetKey, tuple[int, int]] = {}
    scanner = store.dataset("scores").scanner(columns=[*_COLUMNS, "rank"])
    for batch in scanner.to_batches():
        groups = pa.table(batch).group_by(list(_COLUMNS))
        found = groups.aggregate([("rank", "count"), ("rank", "max")])
        for row in found.to_pylist():
            key = SetKey(*(row[name] for name in _COLUMNS))
            rows, last = counted.get(key, (0, 0))
            counted[key] = (rows + row["rank_count"], max(last, row["rank_max"]))
    found = [ScoreSet(key, rows, rows == last) for key, (rows, last) in counted.items()]
    return sorted(found, key=_order)


def _order(score_set: ScoreSet) -> tuple[str, str, int, str]:
    key = score_set.key
    return key.target, key.method, key.pool_version, key.fingerprint or ""


def scores_in(store: Store, of: SetKey) -> pa.Table:
    """The rows of a set: id, score, rank, in the order of their ranks."""
    rows = store.dataset("scores").to_table(columns=["id", "score", "rank"], filter=_where(of))
    return rows.sort_by("rank")


def drop_scores(store: Store, target: str, method: str | None = None) -> int:
    """Remove all sets of a target, or of one method for it; returns how many rows there were."""
    return store.delete("scores", _all_of(target=target, **({"method": method} if method else {})))


def _rows(of: SetKey, ids: Sequence[str], scores: np.ndarray, before: int) -> pa.Table:
    count = len(ids)
    known = {name: getattr(of, name) for name in _COLUMNS}
    columns = {
        "key": keys_under(list(known.values()), ids),
        **{
            name: pa.repeat(pa.scalar(value, SCORES.field(name).type), count)
            for name, value in known.items()
        },
        "id": ids,
        "score": scores,
        "rank": np.arange(before + 1, before + count + 1),
    }
    arrays = [
        value if isinstance(value, pa.Array) else pa.array(value, SCORES.field(name).type)
        for name, value in columns.items()
    ]
    return pa.table(arrays, schema=SCORES)


def _where(of: SetKey) -> str:
    return _all_of(**{name: getattr(of, name) for name in _COLUMNS})


def _all_of(**values: Any) -> str:
    return " AND ".join(f"{name} {_is(value)}" for name, value in values.items())


def _is(value: str | int | None) -> str:
    if value is None:
        return "IS NULL"
    if isinstance(value, int):
        return f"= {value}"
    return f"= {literal(value)}"
