"""How numbers are distributed in a pool and among some of its rows, as histograms.

The pool's side is counted by DuckDB, in a process with limits of its own: a histogram of a hundred
million rows is forty numbers here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from ..schemas.tables import literal
from ..store.sql.names import quoted
from ..store.sql.session import FILTER_TIME_LIMIT, SqlSession

if TYPE_CHECKING:
    from ..store.store import Store

BINS = 40
TAIL = 0.005
"""Of the values on either side that share the outermost bin with those next to them."""

QUANTILES = (0.1, 0.5, 0.9)
_LEVELS = (TAIL, *QUANTILES, 1 - TAIL)

MOST_DECADES = 4
"""Powers of ten that bins of equal ratio span; what is less is in the first one."""


@dataclass(frozen=True)
class Summary:
    """Values of some rows: how many rows, how many without one, mean, QUANTILES, extremes.

    Mean, quantiles and extremes are NaN where no row has a value.
    """

    rows: int
    missing: int
    mean: float
    quantiles: tuple[float, ...]
    lowest: float
    highest: float


@dataclass(frozen=True)
class Distribution:
    """A number in the pool and among picked rows.

    Attributes:
        what: its name, such as a column's.
        edges: of the bins, (n + 1,); the first and the last bin also hold what is beyond them. They
            reach from the lowest to the highest values of the pool and of the picks, TAIL apart.
        pool: values in each bin, (n,).
        picked: likewise of the picks; None without picks.
        of_pool, of_picked: summaries.
        logarithmic: whether the bins are of equal ratio, not of equal width.
    """

    what: str
    edges: tuple[float, ...]
    pool: tuple[int, ...]
    of_pool: Summary
    picked: tuple[int, ...] | None = None
    of_picked: Summary | None = None
    logarithmic: bool = False

    @property
    def lowest(self) -> float:
        """Of the pool's and the picks' values."""
        of_picked = self.of_picked or self.of_pool
        return float(np.fmin(self.of_pool.lowest, of_picked.lowest))

    @property
    def highest(self) -> float:
        """Of the pool's and the picks' values."""
        of_picked = self.of_picked or self.of_pool
        return float(np.fmax(self.of_pool.highest, of_picked.highest))


def distribution(what: str, pool: np.ndarray, picked: np.ndarray | None) -> Distribution:
    """Return the distribution of values that are in memory, (n,) and (k,) floats; NaN is missing.

    Raises:
        ValueError: the pool has no value at all.
    """
    present = pool[np.isfinite(pool)]
    if not len(present):
        raise ValueError(f"{what} has no values")
    bins = bins_of([_levels_of(present), _levels_of(picked)], whole=False)
    return Distribution(
        what,
        bins.edges,
        counted(present, bins.edges),
        summary_of(pool),
        None if picked is None else counted(picked, bins.edges),
        None if picked is None else summary_of(picked),
        bins.logarithmic,
    )


class Bins(NamedTuple):
    """Edges of bins (n + 1,), and whether these are of equal ratio."""

    edges: tuple[float, ...]
    logarithmic: bool


def bins_of(series: Sequence[Sequence[float]], *, whole: bool) -> Bins:
    """Return at most BINS bins for all series.

    They are of equal width; of equal ratio where no value is negative and more than half of a
    series would be in the first of them.

    Args:
        series: the _LEVELS quantiles of the values of each; those without values have none.
        whole: whether values are whole numbers, and edges are to be; the quantiles, which can lie
            between two values, are rounded.
    """
    series = [[round(level) for level in each] if whole else each for each in series if len(each)]
    low, high = min(each[0] for each in series), max(each[-1] for each in series)
    medians = [each[len(each) // 2] for each in series]
    crowded = min(medians) < low + (high - low) / BINS
    if low >= 0 and crowded and not (whole and high - low < BINS):
        least = max(low, high / 10**MOST_DECADES, 1.0 if whole else 0.0)
        if high > least:
            edges = np.geomspace(least, high + 1 if whole else high, BINS + 1)
            edges = np.unique(np.round(edges)) if whole else edges
            return Bins(tuple(edges.tolist()), True)
    return Bins(edges_between(low, high, whole=whole), False)


def edges_between(low: float, high: float, *, whole: bool) -> tuple[float, ...]:
    """Return the edges of at most BINS bins of equal width; of whole width where values are."""
    if not high > low:
        return (low, low + 1.0) if whole else (low, low + max(abs(low), 1.0) * 1e-6)
    if whole:
        width = max(1, int(np.ceil((high - low + 1) / BINS)))
        count = int(np.ceil((high - low + 1) / width))
        return tuple(float(low + width * n) for n in range(count + 1))
    return tuple(float(edge) for edge in np.linspace(low, high, BINS + 1))


def counted(values: np.ndarray, edges: Sequence[float]) -> tuple[int, ...]:
    """Count the finite values by bin; those beyond the edges are in the outermost bins."""
    values = values[np.isfinite(values)]
    places = np.searchsorted(np.asarray(edges[1:-1]), values, side="right")
    return tuple(np.bincount(places, minlength=len(edges) - 1).tolist())


def _levels_of(values: np.ndarray | None) -> list[float]:
    """The _LEVELS quantiles of the finite values, none without any."""
    present = np.empty(0) if values is None else values[np.isfinite(values)]
    return np.quantile(present, _LEVELS).tolist() if len(present) else []


def summary_of(values: np.ndarray) -> Summary:
    """Summarize values (n,); NaN is missing."""
    present = values[np.isfinite(values)]
    missing = len(values) - len(present)
    if not len(present):
        nan = float("nan")
        return Summary(len(values), missing, nan, (nan,) * len(QUANTILES), nan, nan)
    quantiles = tuple(float(each) for each in np.quantile(present, QUANTILES))
    mean, lowest, highest = (float(each) for each in (present.mean(), present.min(), present.max()))
    return Summary(len(values), missing, mean, quantiles, lowest, highest)


def numeric_columns(schema: pa.Schema) -> list[str]:
    """The columns of a pool that hold one number a row, those of annotations included."""
    return [
        field.name
        for field in schema
        if pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
    ]


def column_distributions(
    store: Store, columns: Sequence[str], version: int, ids: Sequence[str] | None = None
) -> Iterator[Distribution]:
    """Yield the distribution of each numeric column that has any value, in their order.

    Args:
        store: an open store.
        columns: of the pool.
        version: of the pool.
        ids: of the picks; None for the pool alone.

    Raises:
        QueryError: DuckDB fails, or meets a limit.
    """
    schema = store.dataset("pool", version).schema
    picked = None if ids is None else store.take(ids, list(columns), version)
    with SqlSession(
        store.place.uri,
        at=version,
        time_limit=FILTER_TIME_LIMIT,
        storage_options=store.place.options,
    ) as session:
        yield from _of_relation(
            session,
            "pool",
            {column: pa.types.is_integer(schema.field(column).type) for column in columns},
            picked=picked,
        )


def _of_relation(
    session: SqlSession,
    relation: str,
    columns: Mapping[str, bool],
    where: str = "true",
    *,
    picked: pa.Table | None = None,
) -> Iterator[Distribution]:
    """The distributions of columns of a relation that have any value, by two queries for all.

    Args:
        session: over the store.
        relation: its name.
        columns: name -> whether its values are whole numbers.
        where: a condition on its rows.
        picked: the columns for the picks.
    """
    if not columns:
        return
    levels = ", ".join(map(str, _LEVELS))
    asked = ["count(*) AS every"]
    for at, column in enumerate(columns):
        number, finite = _number(column)
        asked += [
            f"count(*) FILTER ({finite}) AS present{at}",
            f"avg({number}) FILTER ({finite}) AS mean{at}",
            f"approx_quantile({number}, [{levels}]) FILTER ({finite}) AS levels{at}",
            f"min({number}) FILTER ({finite}) AS lowest{at}",
            f"max({number}) FILTER ({finite}) AS highest{at}",
        ]
    row = _only_row(session, asked, relation, where)
    found: list[tuple[str, Bins, np.ndarray | None, Summary]] = []
    for at, (column, whole) in enumerate(columns.items()):
        if not (present := row[f"present{at}"]):
            continue
        values = None if picked is None else picked[column].cast(pa.float64()).to_numpy()
        of_all = row[f"levels{at}"]
        bins = bins_of([of_all, _levels_of(values)], whole=whole)
        summary = Summary(
            rows=row["every"],
            missing=row["every"] - present,
            mean=row[f"mean{at}"],
            quantiles=tuple(round(each) if whole else each for each in of_all[1:-1]),
            lowest=row[f"lowest{at}"],
            highest=row[f"highest{at}"],
        )
        found.append((column, bins, values, summary))
    asked = []
    for at, (column, bins, _, _) in enumerate(found):
        number, finite = _number(column)
        reached = [f"count(*) FILTER ({finite} AND {number} >= {e!r})" for e in bins.edges[1:-1]]
        asked.append(f"[{', '.join(reached)}]::BIGINT[] AS reached{at}")
    row = _only_row(session, asked, relation, where) if asked else {}
    for at, (column, bins, values, summary) in enumerate(found):
        counts = [summary.rows - summary.missing, *row[f"reached{at}"], 0]
        yield Distribution(
            column,
            bins.edges,
            tuple(most - rest for most, rest in pairwise(counts)),
            summary,
            None if values is None else counted(values, bins.edges),
            None if values is None else summary_of(values),
            bins.logarithmic,
        )


def _number(column: str) -> tuple[str, str]:
    """SQL for a column's value as a float, and for whether it is finite."""
    number = f"{quoted(column)}::DOUBLE"
    return number, f"{quoted(column)} IS NOT NULL AND isfinite({number})"


def _only_row(
    session: SqlSession, expressions: Sequence[str], relation: str, where: str
) -> dict[str, Any]:
    """The row of aggregates over a relation."""
    query = f"SELECT {', '.join(expressions)} FROM {relation} WHERE {where}"
    [row] = session.run(query).read_all().to_pylist()
    return row


MOST_VALUES = 60
"""Of a metadata field that sorts rows into kinds."""


def categorical_metadata(store: Store, version: int | None, most: int) -> list[str]:
    """Return metadata fields that sort rows into kinds, those that most rows have first.

    Such a field has 2 to MOST_VALUES values, ten rows or more to each on average, and a tenth of
    all rows has it.
    """
    stored = set(store.dataset("pool", version).schema.names)
    with SqlSession(
        store.place.uri,
        at=version,
        time_limit=FILTER_TIME_LIMIT,
        storage_options=store.place.options,
    ) as session:
        fields = [name for name in session.schema().names if name not in stored]
        if not fields:
            return []
        counts = ", ".join(
            f"approx_count_distinct({quoted(name)}) AS d{at}, count({quoted(name)}) AS n{at}"
            for at, name in enumerate(fields)
        )
        [row] = session.run(f"SELECT count(*) AS rows, {counts} FROM pool").read_all().to_pylist()
    found = [
        (row[f"n{at}"], name)
        for at, name in enumerate(fields)
        if 2 <= row[f"d{at}"] <= min(MOST_VALUES, row[f"n{at}"] / 10)
        and row[f"n{at}"] >= row["rows"] / 10
    ]
    return [name for _, name in sorted(found, key=lambda pair: -pair[0])[:most]]


def value_counts(
    store: Store, column: str, version: int | None, most: int
) -> tuple[list[dict[str, Any]], int]:
    """Count the values of a column of the relation `pool`, most frequent first.

    Returns:
        `value` (text, or None) and `rows` of the `most` most frequent values; how many others.
    """
    name = quoted(column)
    with SqlSession(
        store.place.uri,
        at=version,
        time_limit=FILTER_TIME_LIMIT,
        storage_options=store.place.options,
    ) as session:
        counts = f"(SELECT {name}::VARCHAR AS value, count(*) AS rows FROM pool GROUP BY value)"
        rows = session.run(
            f"SELECT * FROM {counts} ORDER BY rows DESC, value LIMIT {most}"
        ).read_all()
        [total] = session.run(f"SELECT count(*) AS n FROM {counts}").read_all().to_pylist()
    return rows.to_pylist(), max(0, total["n"] - most)


def score_distributions(session: SqlSession, most: int) -> tuple[list[Distribution], list[str]]:
    """Return the distributions of the scores that a store keeps, one for each target and method.

    Args:
        session: over the store.
        most: how many are counted.

    Returns:
        Those of the newest versions of the pool, and the names of further ones.
    """
    sets = session.run(
        "SELECT target, method, max(pool_version) AS version FROM scores GROUP BY target, method "
        "ORDER BY target, method"
    ).read_all()
    found, left = [], []
    for each in sets.to_pylist():
        name = f"{each['method']} for {each['target']}"
        if len(found) == most:
            left.append(name)
            continue
        where = (
            f"target = {literal(each['target'])} AND method = {literal(each['method'])} "
            f"AND pool_version = {each['version']}"
        )
        scores = _of_relation(session, "scores", {"score": False}, where)
        found += [replace(each, what=name) for each in scores]
    return found, left
