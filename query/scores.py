"""Scores as facts: what `score` found for a target, read from the table and put side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from ..schemas.errors import UsageError, suggest
from ..store.scores import ScoreSet, SetKey, drop_scores, score_sets, scores_in
from .result_rows import ResultRows

if TYPE_CHECKING:
    import polars as pl

    from ..store.store import Store


class Scores(ResultRows):
    """Scores and ranks of rows for a target, a pair of columns for each method.

    Attributes:
        store: that keeps them.
        target: they are for.
        sets: where each method's stand in the table, in the order they were asked for.
        pool_version: of the pool whose text and columns the rows are shown with.
        where: the filter of the rows that were scored, as far as this process knows it.
        notes: sentences a person should read.
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
        """Whose scores they are; each names a column, its ranks stand in `<method>_rank`."""
        return [each.method for each in self.sets]

    def table(self) -> pa.Table:
        """`id`, then for every method its score (float32) and rank (int64, from 1).

        In the order of the first method's ranks; rows that it has no score for follow in that of
        the next. Null where a method has no score for a row.
        """
        frame = self._frame(self.sets[0])
        for each in self.sets[1:]:
            frame = frame.join(self._frame(each), on="id", how="full", coalesce=True)
        ranks = [f"{name}_rank" for name in self.methods]
        return frame.sort(ranks, nulls_last=True).to_arrow()

    def _frame(self, of: SetKey) -> pl.DataFrame:
        import polars as pl

        frame = pl.from_arrow(scores_in(self.store, of))
        assert isinstance(frame, pl.DataFrame)
        return frame.rename({"score": of.method, "rank": f"{of.method}_rank"})

    def __repr__(self) -> str:
        rows = {score_set.key: score_set.rows for score_set in score_sets(self.store)}
        only = f" where {self.where}" if self.where else ""
        lines = [f"Scores for {self.target}{only}"]
        lines += [
            f"  {each.method}: {rows.get(each, 0):,} rows of pool version {each.pool_version}"
            for each in self.sets
        ]
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


def load_scores(store: Store, target: str, methods: Sequence[str] | None = None) -> Scores:
    """What was found for a target before: of every method the set of the newest pool version.

    Args:
        store: that keeps them.
        target: its name.
        methods: by the names that `score list` shows; all of them by default.

    Raises:
        UsageError: there are no scores for the target, or none by one of the methods.
    """
    newest = {each.key.method: each.key for each in _sets_of(store, target)}
    wanted = list(newest) if methods is None else list(dict.fromkeys(methods))
    for method in wanted:
        if method not in newest:
            raise UsageError(
                f"no scores by {method!r} for target {target!r} in {store.uri}; there are "
                f"{', '.join(newest)}"
            )
    return Scores(store, target, tuple(newest[each] for each in wanted), store.version("pool"))


def remove_scores(store: Store, target: str, methods: Sequence[str] | None = None) -> int:
    """Forget the scores of a target, or those by some methods; returns how many rows there were.

    Raises:
        UsageError: there are no such scores.
    """
    there = {each.key.method for each in _sets_of(store, target)}
    unknown = [each for each in methods or () if each not in there]
    if unknown:
        raise UsageError(
            f"no scores by {unknown[0]!r} for target {target!r} in {store.uri}; there are "
            f"{', '.join(sorted(there))}"
        )
    removed = sum(drop_scores(store, target, each) for each in methods or (None,))
    store.sync()
    return removed


def _sets_of(store: Store, target: str) -> list[ScoreSet]:
    sets = score_sets(store)
    own = [each for each in sets if each.key.target == target]
    if not own:
        scored = {each.key.target for each in sets}
        targets = suggest(target, scored, f"coresetdb score list {store.typed}")
        raise UsageError(
            f"no scores for target {target!r} in {store.uri}; targets that have some: {targets}. "
            f"Make them: coresetdb score run {store.typed} {target}"
        )
    return own
