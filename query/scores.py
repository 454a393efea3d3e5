"""Scores: what methods gave the rows of a pool for a target, kept in a table, side by side."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from ..schemas.errors import UsageError, suggest
from ..schemas.plain_text import count_of
from ..store.removal import among, stones
from ..store.scores import ScoreSet, SetKey, drop_scores, score_sets, scores_in
from .names import meant
from .result_rows import ResultRows

if TYPE_CHECKING:
    import polars as pl

    from ..store.store import Store


class Scores(ResultRows):
    """Scores and ranks of rows for a target, a pair of columns for each method.

    Attributes:
        store: that keeps them.
        target: that they are for.
        sets: keys of the scores of each method in the table, in the order requested.
        pool_version: of the pool whose text and columns the rows are shown with.
        where: the filter of the rows that were scored, if this process scored them.
        notes: sentences for the user.
    """

    def __init__(
        self,
        store: Store,
        target: str,
        sets: tuple[SetKey, ...],
        pool_version: int,
        where: str | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.store, self.target, self.sets = store, target, sets
        self.pool_version, self.where, self.notes = pool_version, where, notes

    @property
    def methods(self) -> list[str]:
        """The methods; each names a column of scores, and `<method>_rank` has its ranks."""
        return [key.method for key in self.sets]

    def table(self) -> pa.Table:
        """Return `id`, then for every method its score (float32) and rank (int64, from 1).

        Rows are in the order of the first method's ranks; rows without a score by it follow in
        that of the next. Null where a method has no score for a row. Rows that were removed from
        the pool since are left out.
        """
        frame = self._frame(self.sets[0])
        for key in self.sets[1:]:
            frame = frame.join(self._frame(key), on="id", how="full", coalesce=True)
        ranks = [f"{name}_rank" for name in self.methods]
        rows = frame.sort(ranks, nulls_last=True).to_arrow()
        removed = stones(self.store)["id"].combine_chunks()
        return rows.filter(pc.invert(among(rows["id"], removed))) if len(removed) else rows  # pyright: ignore[reportAttributeAccessIssue]

    def _frame(self, key: SetKey) -> pl.DataFrame:
        import polars as pl

        frame = pl.from_arrow(scores_in(self.store, key))
        assert isinstance(frame, pl.DataFrame)
        return frame.rename({"score": key.method, "rank": f"{key.method}_rank"})

    def __repr__(self) -> str:
        rows = {score_set.key: score_set.rows for score_set in score_sets(self.store)}
        only = f" where {self.where}" if self.where else ""
        lines = [f"Scores for {self.target}{only}"]
        lines += [
            f"  {key.method}: {count_of(rows.get(key, 0), 'row')} "
            f"of pool version {key.pool_version}"
            for key in self.sets
        ]
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


def load_scores(store: Store, target: str, methods: Sequence[str] | None = None) -> Scores:
    """Return scores made before: of every method those at the newest version of the pool.

    Args:
        store: that keeps them.
        target: its name.
        methods: by the names that `score list` shows; all of them by default.

    Raises:
        UsageError: there are no scores for the target, or none by one of the methods.
    """
    newest = {kept.key.method: kept.key for kept in _sets_of(store, target)}
    wanted = list(newest) if methods is None else list(dict.fromkeys(methods))
    _check_kept(store, target, wanted, newest)
    keys = tuple(newest[method] for method in wanted)
    return Scores(store, target, keys, store.version("pool"))


def remove_scores(store: Store, target: str, methods: Sequence[str] | None = None) -> int:
    """Remove the scores of a target, or those by some methods; return how many rows there were.

    Raises:
        UsageError: there are no such scores.
    """
    kept = sorted({kept.key.method for kept in _sets_of(store, target)})
    _check_kept(store, target, methods or (), kept)
    removed = sum(drop_scores(store, target, method) for method in methods or (None,))
    store.sync()
    return removed


def _check_kept(store: Store, target: str, methods: Sequence[str], kept: Collection[str]) -> None:
    for method in methods:
        if method not in kept:
            raise UsageError(
                f"no scores by {method!r} for target {target!r} in {store.uri}; there are scores "
                f"by {', '.join(kept)}"
            )


def _sets_of(store: Store, target: str) -> list[ScoreSet]:
    sets = score_sets(store)
    own = [kept for kept in sets if kept.key.target == target]
    if not own:
        scored = {kept.key.target for kept in sets}
        targets = suggest(target, scored, f"coresetdb score list {store.typed}")
        make = f". Make them: coresetdb score run {store.typed} {target}"
        raise UsageError(
            f"no scores for target {target!r} in {store.uri}; targets with scores: {targets}"
            f"{meant(target, scored) or make}"
        )
    return own
