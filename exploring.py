"""The part of the Python face that looks into a store: scores, explanations, SQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .intake import Intake
from .schemas.memory import memory_bytes

if TYPE_CHECKING:
    import polars as pl

    from .ingest.jobs.progress import FitProgress
    from .query.compare import SideBySide
    from .query.explaining.explanation import Explanation
    from .query.method_list import ListedMethod
    from .query.scores import Scores
    from .store.scores import ScoreSet
    from .store.sql import QueryResult


class Exploring(Intake):
    """An open store that answers questions about its rows; nothing here changes the pool."""

    def score(
        self,
        target: str,
        methods: str | Sequence[str] | None = None,
        *,
        where: str | None = None,
        keep: bool = False,
        memory_limit: str | int = "4GiB",
        progress: FitProgress | None = None,
    ) -> Scores:
        """Score the rows of the pool for a target and keep scores and ranks for SQL.

        Args:
            target: its name.
            methods: such as `["rds", "trim(scope=response)"]` or `"rds,trim"`; all that the store
                and the target allow by default.
            where: an SQL expression over the pool's columns; only those rows are scored and ranked.
            keep: whether scores at other versions of the pool stay as well.
            memory_limit: what ranking may plan for, such as `"8GiB"` or a number of bytes.
            progress: is told how far each method is.

        Raises:
            UsageError: an unknown target or method, or one that gives rows no score of their own.
            MissingFeatureError: the store lacks what a method compares.
            FingerprintError: target and pool were featurized differently.
            QueryError: `where` is no expression DuckDB accepts.
        """
        from .query.score import score, split_methods

        return score(
            self.store,
            target,
            split_methods(methods) if isinstance(methods, str) else methods,
            where=where,
            keep=keep,
            memory_limit=memory_bytes(memory_limit),
            progress=progress,
        )

    def scores(self, target: str, methods: Sequence[str] | None = None) -> Scores:
        """What `score` found for a target before: each method's newest scores, side by side.

        Raises:
            UsageError: there are no such scores.
        """
        from .query.scores import load_scores

        return load_scores(self.store, target, methods)

    def score_sets(self) -> list[ScoreSet]:
        """Which scores are kept: target, method, version of the pool, and how many rows."""
        from .store.scores import score_sets

        return score_sets(self.store)

    def remove_scores(self, target: str, methods: Sequence[str] | None = None) -> int:
        """Forget scores of a target, all or those by some methods; returns how many rows it had.

        Raises:
            UsageError: there are no such scores.
        """
        from .query.scores import remove_scores

        return remove_scores(self.store, target, methods)

    def transfer(self, *targets: str, method: str = "nait") -> pl.DataFrame:
        """The mean score of every target's examples as every other target scores them.

        A row for each target whose examples are scored, a column for each that scores (null on
        the diagonal); see `query/transfer.py`.
        """
        from .query.transfer import transfer

        return transfer(self.store, targets, method)

    def coreset_list(self) -> list[dict[str, Any]]:
        """What tells the coresets apart (method, targets, distances, ...), the newest last."""
        from .query.coresets import list_coresets

        return list_coresets(self.store)

    def explain(
        self,
        coreset: str,
        row: str | int,
        *,
        without: bool = False,
        memory_limit: str | int = "4GiB",
    ) -> Explanation:
        """Why a row stands in a coreset: who pulled it, what came close, what is in it.

        Args:
            coreset: its name.
            row: an id, the beginning of one, or a rank.
            without: also select again from the pool less this row.
            memory_limit: what that selection may plan for.

        Raises:
            UsageError: there is no such coreset, or no such row in it.
        """
        from .query.explaining.explain import explain

        limit = memory_bytes(memory_limit)
        return explain(self.store, coreset, row, without=without, memory_limit=limit)

    def compare(self, first: str, second: str) -> SideBySide:
        """How two coresets overlap and differ; see `query/compare.py`.

        Raises:
            UsageError: there is no coreset of one of the names.
        """
        from .query.compare import compare

        return compare(self.store, first, second)

    def token_scores(self, target: str, row: str, method: str = "trim") -> pl.DataFrame:
        """What every token of a row scores for a target under TRIM (METHODS 1).

        Raises:
            UsageError: no such target or row.
            MissingFeatureError: target or row lack the feature.
        """
        from .query.explaining.explanations import token_scores

        return token_scores(self.store, target, row, method)

    def layer_contributions(self, target: str, row: str, method: str = "nait") -> pl.DataFrame:
        """What every layer adds to a row's score for a target under NAIT.

        Raises:
            UsageError: no such target or row.
            MissingFeatureError: target or row lack the feature.
        """
        from .query.explaining.explanations import layer_contributions

        return layer_contributions(self.store, target, row, method)

    def methods(self) -> list[ListedMethod]:
        """Every method by name, what it needs, and whether this store can answer it now."""
        from .query.method_list import list_methods

        return list_methods(self.store)

    def sql(self, query: str, *, at: int | None = None, **limits: Any) -> QueryResult:
        """Run one SELECT over the store's relations, in a process of its own.

        Raises:
            QueryError: the text was refused, failed, or met a limit.
        """
        from .store.sql import run_query

        options = self.store.place.options
        return run_query(self.store.uri, query, at=at, storage_options=options, **limits)
