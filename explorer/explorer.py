"""What the explorer's page asks of a store: places, columns, rows, explanations, coresets.

All that is asked of the pool goes through one SQL session: a process of its own, bounded in memory
and time, that can read the store's relations and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from ..query.coresets import Coreset, coreset_names
from ..query.distributions import Distribution, distribution
from ..query.explaining.explanation import Explanation
from ..query.imported import import_coreset
from ..query.maps import map_columns, map_feature, open_map
from ..query.snapshot import Snapshot
from ..schemas.errors import UsageError
from ..schemas.tables import literal
from ..store.sql.names import SCORES_OF, quoted
from ..store.sql.session import SqlSession
from .condition import among, joined

if TYPE_CHECKING:
    from ..database import Database

CATEGORIES = 11
"""Values of a column that have a colour of their own; the others share one."""

OTHER = "other values"
NEIGHBOURS = 8
LISTED = 200
"""Rows of a selection that the page lists."""

OF_SQL = 200
"""Rows of a query's result that the page shows."""

TEXT_SHOWN = 90
"""Characters of a row's question in lists."""

_NUMBERS = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UINTEGER", "UBIGINT", "FLOAT", "DOUBLE"}


class Column(NamedTuple):
    """A column by which points are coloured or rows ordered.

    Attributes:
        relation: that has it: `pool`, or the scores of a target.
        name: within it.
        number: whether it holds numbers.
    """

    relation: str
    name: str
    number: bool

    def __str__(self) -> str:
        if self.relation == "pool":
            return self.name
        return f"{self.name}, score for {self.relation.removeprefix(SCORES_OF)}"


class Explorer:
    """A store as its explorer's page sees it.

    Args:
        database: of the store.
        feature: by whose vectors the map is drawn; `rds` or the first with vectors by default.
        memory_limit, time_limit: of each query, as for `Database.sql`.

    Attributes:
        map: the places of the rows; what is numbered below is a row of it.

    Raises:
        UsageError, MissingFeatureError: there can be no such map.
    """

    def __init__(
        self,
        database: Database,
        feature: str | None = None,
        *,
        memory_limit: str = "2GB",
        time_limit: float = 60.0,
    ) -> None:
        self.database = database
        self.store = database.store
        self.map = open_map(self.store, feature)
        self._session = SqlSession(
            self.store.place.uri,
            memory_limit=memory_limit,
            time_limit=time_limit,
            storage_options=self.store.place.options,
        )
        self._number_of = {row_id: at for at, row_id in enumerate(self.map.ids)}

    @cached_property
    def scale(self) -> tuple[np.ndarray, float]:
        """Centre (2,) of the map and half its greatest extent: they bring places to [-1, 1]."""
        low, high = self.map.places.min(axis=0), self.map.places.max(axis=0)
        return (low + high) / 2, float((high - low).max() / 2) or 1.0

    @property
    def points(self) -> np.ndarray:
        """The places (N, 2) float32 in [-1, 1], neither axis stretched."""
        centre, half = self.scale
        return (self.map.places - centre) / half

    def in_map_units(self, polygon: np.ndarray) -> np.ndarray:
        """Corners (k, 2) in [-1, 1] in the units of the map's columns."""
        centre, half = self.scale
        return polygon.astype(np.float64) * half + centre

    @property
    def map_columns(self) -> tuple[str, str] | None:
        """The pool's columns of the places; None where the store could not keep them."""
        return map_columns(self.map.feature) if self.map.kept else None

    @cached_property
    def rows(self) -> int:
        """Rows of the pool."""
        return self._rows("SELECT count(*) AS rows FROM pool")[0]["rows"]

    @cached_property
    def corpora(self) -> list[str]:
        """The corpora, the largest first."""
        query = "SELECT corpus FROM pool GROUP BY corpus ORDER BY count(*) DESC, corpus"
        return [row["corpus"] for row in self._rows(query)]

    @cached_property
    def targets(self) -> list[str]:
        """The names of the targets."""
        return [
            row["target"] for row in self._rows("SELECT DISTINCT target FROM targets ORDER BY 1")
        ]

    @property
    def usual_numbers(self) -> list[str]:
        """The columns whose distributions are shown first: lengths, losses, scores."""
        numbers = [each for each in self.columns if each.number]
        usual = [each for each in numbers if each.name in ("tokens", "response_tokens", "nll")]
        return [str(each) for each in usual + [e for e in numbers if e.relation != "pool"][:2]]

    @cached_property
    def columns(self) -> list[Column]:
        """The columns that points can be coloured by: the corpus first, scores last."""
        found = self._rows(
            "SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE NOT internal "
            f"AND (table_name = 'pool' OR starts_with(table_name, {literal(SCORES_OF)})) "
            "ORDER BY table_name, column_index"
        )
        columns = []
        for row in found:
            name, kind = row["column_name"], row["data_type"]
            if row["table_name"] != "pool" and name.endswith("_rank"):
                continue  # says the same as the score
            number = kind in _NUMBERS
            if (number or kind in ("VARCHAR", "BOOLEAN")) and name not in self._unlisted:
                columns.append(Column(row["table_name"], name, number))
        return sorted(columns, key=lambda each: (each.name != "corpus", each.relation != "pool"))

    @cached_property
    def _unlisted(self) -> set[str]:
        """Columns that say nothing of a row by which points could be told apart."""
        unlisted = {"id", "messages", "tools", "metadata"}
        for feature in Snapshot(self.store).features:
            unlisted |= {f"{feature}_reason", f"map_{feature}_missing", *map_columns(feature)}
        return unlisted

    def column(self, named: str) -> Column:
        """The column that is shown under a name.

        Raises:
            UsageError: there is none.
        """
        for column in self.columns:
            if str(column) == named:
                return column
        raise UsageError(f"no column {named!r} to colour by")

    def numbers(self, column: Column) -> np.ndarray:
        """A column's value of each point, (N,) float64 with NaN for none."""
        values = np.full(len(self.map.ids), np.nan)
        table = self._table(
            f"SELECT id, {quoted(column.name)}::DOUBLE AS value FROM {quoted(column.relation)}"
        )
        self._place(values, table)
        return values

    def categories(self, column: Column) -> np.ndarray:
        """A column's value of each point, (N,) str; rare ones are OTHER, null is "(none)"."""
        values = np.full(len(self.map.ids), "(none)", object)
        name = f"coalesce({quoted(column.name)}::VARCHAR, '(none)')"
        table = self._table(
            f"WITH kinds AS (SELECT {name} AS value, count(*) AS rows "
            f"FROM {quoted(column.relation)} GROUP BY ALL ORDER BY rows DESC, value "
            f"LIMIT {CATEGORIES}) SELECT id, coalesce(k.value, {literal(OTHER)}) AS value "
            f"FROM (SELECT id, {name} AS value FROM {quoted(column.relation)}) AS r "
            "LEFT JOIN kinds AS k USING (value)"
        )
        self._place(values, table)
        return values

    def _place(self, values: np.ndarray, table: pa.Table) -> None:
        """Set the value of each point that the table, of ids and values, has."""
        numbers = self._number_of
        at = np.array([numbers.get(each, -1) for each in table["id"].to_pylist()], np.int64)
        found = table["value"].to_numpy()
        values[at[at >= 0]] = found[at >= 0]

    # -- selections --------------------------------------------------------------------------

    def ids_where(self, conditions: Sequence[str]) -> list[str]:
        """The ids of the rows for which every condition is true, sorted.

        Each is asked by itself, so that none reaches into its neighbour.

        Raises:
            QueryError: a condition is not one expression, fails, or meets a limit.
        """
        found: set[str] | None = None
        for condition in conditions or ["true"]:
            ids = set(self._session.run_filter(condition).read_all()["id"].to_pylist())
            found = ids if found is None else found & ids
        return sorted(found or ())

    def points_of(self, ids: Sequence[str]) -> np.ndarray:
        """The numbers of those points that the map has, (k,) uint32."""
        numbers = (self._number_of.get(each) for each in ids)
        return np.array([each for each in numbers if each is not None], np.uint32)

    @property
    def coresets(self) -> list[str]:
        """The names of the coresets, the newest first."""
        return coreset_names(self.store)[::-1]

    def members(self, coreset: str) -> np.ndarray:
        """The numbers of a coreset's points, best first."""
        table = self._table(f"SELECT id FROM members({literal(coreset)}) ORDER BY rank")
        return self.points_of(table["id"].to_pylist())

    def ordered(self, ids: Sequence[str], by: Column | None, most: int | None = None) -> list[str]:
        """Ids, the highest in a column first; the `most` first where that is given."""
        if by is None:
            return list(ids[:most])
        values = self.numbers(by)
        of = {row_id: values[at] for row_id, at in self._number_of.items()}
        lowest = float("-inf")
        key = {each: of.get(each, lowest) for each in ids}
        ranked = sorted(ids, key=lambda each: (-max(key[each], lowest), each))
        return ranked[:most]

    def listed(self, ids: Sequence[str]) -> pl.DataFrame:
        """Some rows for a list, in their order: id, corpus, question, answer, tokens."""
        turn = "messages[{at}].content"
        table = self._table(
            f"SELECT id, corpus, left({turn.format(at=1)}, 400) AS question, "
            f"left({turn.format(at='len(messages)')}, 400) AS answer, tokens FROM pool "
            f"WHERE {among(ids[:LISTED])}"
        )
        place = {row_id: at for at, row_id in enumerate(ids)}
        frame = pl.DataFrame(table)
        order = [place[each] for each in frame["id"]]
        return frame.with_columns(pl.Series("place", order, pl.Int64)).sort("place").drop("place")

    def distributions(self, picked: np.ndarray, columns: Sequence[Column]) -> list[Distribution]:
        """How some points (their numbers) and all are distributed in columns of numbers."""
        found = []
        for column in columns:
            values = self.numbers(column)
            if np.isfinite(values).any():
                found.append(distribution(str(column), values, values[picked]))
        return found

    # -- rows --------------------------------------------------------------------------------

    def row(self, row_id: str) -> dict[str, Any]:
        """A row of the pool with all its columns, and the coresets that have it.

        Raises:
            UsageError: there is no such row.
        """
        rows = self._rows(f"SELECT * FROM pool WHERE id = {literal(row_id)}")
        if not rows:
            raise UsageError(f"no row {row_id} in the pool")
        of = self._rows(
            f"SELECT coreset, rank FROM coreset_rows WHERE id = {literal(row_id)} ORDER BY coreset"
        )
        known = set(coreset_names(self.store))
        return {
            **rows[0],
            "coresets": {r["coreset"]: r["rank"] for r in of if r["coreset"] in known},
        }

    def explain(self, row_id: str, coreset: str) -> Explanation:
        """Why a row is in a coreset."""
        return self.database.explain(coreset, row_id)

    def neighbours(self, row_id: str, count: int = NEIGHBOURS) -> list[dict[str, Any]]:
        """The rows whose vectors are nearest to a row's: id, cosine, corpus, question, answer."""
        name = quoted(self.map.feature)
        column = quoted(self._vector_column)
        return self._rows(
            f"WITH near AS (SELECT id, cosine({column}, (SELECT {column} FROM features "
            f"WHERE id = {literal(row_id)})) AS {name} FROM features WHERE id <> {literal(row_id)} "
            f"AND {column} IS NOT NULL ORDER BY {name} DESC, id LIMIT {int(count)}) "
            f"SELECT near.id, near.{name} AS cosine, corpus, "
            f"left(messages[1].content, {TEXT_SHOWN}) AS question, "
            f"left(messages[len(messages)].content, {TEXT_SHOWN}) AS answer "
            "FROM near JOIN pool USING (id) ORDER BY cosine DESC, near.id"
        )

    @cached_property
    def _vector_column(self) -> str:
        column = map_feature(Snapshot(self.store), self.map.feature).column
        assert column is not None
        return column

    # -- SQL and coresets --------------------------------------------------------------------

    def sql(self, text: str) -> tuple[pa.Table, bool]:
        """The first OF_SQL rows of one SELECT, and whether there are more.

        Raises:
            QueryError: the text was refused or failed, or a limit was met.
        """
        result = self._session.run(text)
        batches, rows = [], 0
        for batch in result:
            batches.append(batch)
            rows += batch.num_rows
            if rows > OF_SQL:
                break
        result.close()
        return pa.Table.from_batches(batches, result.schema).slice(0, OF_SQL), rows > OF_SQL

    def make_coreset(
        self,
        name: str,
        conditions: Sequence[str],
        *,
        by: Column | None = None,
        most: int | None = None,
        targets: Sequence[str] = (),
    ) -> Coreset:
        """Record the rows for which every condition is true as a coreset.

        Args:
            name: of the coreset.
            conditions: as for `ids_where`.
            by: column whose highest values come first; by id without one.
            most: rows; all by default.
            targets: that the rows are for, if any.

        Raises:
            UsageError: the name is taken or malformed, or no row is selected.
        """
        ids = self.ordered(self.ids_where(conditions), by, most)
        if not ids:
            raise UsageError("no row is selected: draw a lasso, or widen the filters")
        return import_coreset(
            self.store,
            name,
            ids,
            targets=targets,
            where=joined(conditions) or None,
            made_by="explorer",
            ordered_by=None if by is None else str(by),
        )

    def _table(self, text: str) -> pa.Table:
        return self._session.run(text).read_all()

    def _rows(self, text: str) -> list[dict[str, Any]]:
        return self._table(text).to_pylist()

    def close(self) -> None:
        """End the process of the queries."""
        self._session.close()
