"""The part of the Python face that looks into a store: scores, explanations, SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .intake import Intake

if TYPE_CHECKING:
    import polars as pl

    from .query.method_list import ListedMethod
    from .store.sql import QueryResult


class Exploring(Intake):
    """An open store that answers questions about its rows; nothing here changes the pool."""

    def transfer(self, *targets: str, method: str = "nait") -> pl.DataFrame:
        """The mean score of every target's examples as every other target scores them.

        A row for each target whose examples are scored, a column for each that scores (null on
        the diagonal); see `query/transfer.py`.
        """
        from .query.transfer import transfer

        return transfer(self.store, targets, method)

    def token_scores(self, target: str, row: str, method: str = "trim") -> pl.DataFrame:
        """What every token of a row scores for a target under TRIM; see `query/explanations.py`.

        Raises:
            UsageError: no such target or row.
            MissingFeatureError: target or row lack the feature.
        """
        from .query.explanations import token_scores

        return token_scores(self.store, target, row, method)

    def layer_contributions(self, target: str, row: str, method: str = "nait") -> pl.DataFrame:
        """What every layer adds to a row's score for a target under NAIT.

        Raises:
            UsageError: no such target or row.
            MissingFeatureError: target or row lack the feature.
        """
        from .query.explanations import layer_contributions

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
