"""The macro `nearest(target, feature, k)`: the rows that are closest to a target's examples.

The score is the mean cosine with the examples. `by := 'max'` takes the largest instead, for targets
of several kinds of examples: the mean prefers rows between them.

The macro is made for the store as it is, since a macro of DuckDB can take neither a column's name
nor a vector's width as its argument: it is a union over the features, of which the optimiser drops
all but the requested one. The largest of many products is a function of ours, a block of rows at a
time: a join of rows and examples in SQL takes several times as long.

LanceDB's exact search does not take its place: it rounds the query to float16, which changes scores
from the fifth digit on, it settles ties by the place of a row, and importing it takes a second of
every query's process.
"""

from __future__ import annotations

from collections.abc import Sequence

import duckdb
import numpy as np
import pyarrow as pa
from duckdb.func import PythonUDFType

from ...schemas.recipe import FINGERPRINT_KEY
from ...schemas.stored_vectors import is_coded, width_of
from ...schemas.tables import literal
from .lance_relation import FeatureRelation
from .names import quoted

_LARGEST = "_largest_product_with_"


def create_nearest(
    connection: duckdb.DuckDBPyConnection, features: FeatureRelation, examples: FeatureRelation
) -> None:
    """Create the macro; the relations `features` and `target_features` must exist.

    Args:
        connection: of DuckDB.
        features: the pool's relation of vectors.
        examples: that of the targets.
    """
    pool, targets = features.stored_schema, examples.stored_schema
    for name in unit_vector_columns(pool):
        if _made_alike(pool, targets, name):
            width = width_of(pool.field(name).type)
            connection.create_function(
                _LARGEST + name,
                LargestProduct(examples, name, width),
                ["VARCHAR", duckdb.array_type("FLOAT", width)],
                "FLOAT",
                type=PythonUDFType.ARROW,
            )
    connection.execute(_macro(pool, targets))


class LargestProduct:
    """The largest product of each vector with a target's examples, for DuckDB to call.

    Products are summed in float64, where those of float16 vectors of unit length are exact
    in any order: in float32 equal rows may get different last bits by their place in the block
    (measured with OpenBLAS on an AMD EPYC), and would not tie.
    """

    def __init__(self, examples: FeatureRelation, name: str, width: int) -> None:
        self._examples, self._name, self._width = examples, name, width
        self._queries: dict[str, np.ndarray] = {}

    def __call__(self, targets: pa.ChunkedArray, vectors: pa.ChunkedArray) -> pa.Array:
        """Of (n,) names of targets and (n, width) vectors: (n,) float32.

        Null stands for a target that has no examples.
        """
        flat = vectors.combine_chunks().flatten().to_numpy()
        block = flat.astype(np.float64).reshape(-1, self._width)
        names = targets.combine_chunks().to_numpy(zero_copy_only=False)
        largest = np.full(len(block), np.nan, np.float32)
        for target in targets.unique().to_pylist():
            queries = self._queries_of(target)
            if len(queries):
                of_target = names == target
                largest[of_target] = (block @ queries.T).max(1)[of_target]
        return pa.array(largest, from_pandas=True)

    def _queries_of(self, target: str) -> np.ndarray:
        """The target's examples that have a vector, (n, width) float64."""
        if target not in self._queries:
            scanner = self._examples.scanner([self._name], f"target = {literal(target)}")
            column = scanner.to_reader().read_all()[self._name].combine_chunks().drop_null()
            vectors = column.flatten().to_numpy().reshape(-1, self._width)
            self._queries[target] = vectors.astype(np.float64)
        return self._queries[target]


def _macro(pool: pa.Schema, targets: pa.Schema) -> str:
    """The statement that makes `nearest(target, feature, k, by := 'mean')`.

    Args:
        pool: stored schema of the pool, with the fingerprints of its features.
        targets: that of the targets.
    """
    vectors = unit_vector_columns(pool)
    branches = [_unknown(vectors)]
    for name in vectors:
        if _made_alike(pool, targets, name):
            branches += _branches(name, width_of(pool.field(name).type))
        else:
            branches.append(
                _refusal(f"feature = {literal(name)}", literal(_differently_made(name)))
            )
    return f"""
        CREATE MACRO nearest(target, feature, k, "by" := 'mean') AS TABLE
        SELECT id, score FROM ({" UNION ALL ".join(branches)}) ORDER BY score DESC, id LIMIT k"""


def unit_vector_columns(schema: pa.Schema) -> list[str]:
    """The columns that hold one unit vector a row, so that a product of two is their cosine.

    These are arrays of codes, and float16 arrays without a `_norms` column (those of NAIT hold a
    vector for every layer).
    """
    names = set(schema.names)
    return [
        field.name
        for field in schema
        if is_coded(field.type)
        or (
            pa.types.is_fixed_size_list(field.type)
            and pa.types.is_float16(field.type.value_type)
            and _norms_of(field.name) not in names
        )
    ]


def _norms_of(column: str) -> str:
    stem, mark, recipe = column.partition("__")  # a second recipe's columns end in __<8 hex>
    return f"{stem}_norms{mark}{recipe}"


def _differently_made(name: str) -> str:
    return (
        f"{name} of the targets was not made as {name} of the pool was; "
        f"run coresetdb featurize STORE {name}"
    )


def _made_alike(pool: pa.Schema, targets: pa.Schema, name: str) -> bool:
    def fingerprint(schema: pa.Schema) -> bytes | None:
        return (schema.field(name).metadata or {}).get(FINGERPRINT_KEY)

    return name in targets.names and fingerprint(targets) == fingerprint(pool)


def _branches(name: str, width: int) -> list[str]:
    """The mean of products is the product with the mean: one product a row, not one per example."""
    vector, selected = quoted(name), f"feature = {literal(name)}"
    examples = f"target_features q WHERE q.target = target AND q.{vector} IS NOT NULL"
    mean = f"""
        SELECT f.id, array_inner_product(f.{vector}, m.v) AS score
        FROM features f, (
            SELECT list(x ORDER BY i)::FLOAT[{width}] AS v FROM (
                SELECT i, avg(x) AS x FROM (
                    SELECT unnest(q.{vector}::FLOAT[]) AS x,
                           generate_subscripts(q.{vector}::FLOAT[], 1) AS i
                    FROM {examples}
                ) GROUP BY i
            )
        ) m
        WHERE {selected} AND "by" = 'mean' AND f.{vector} IS NOT NULL"""
    largest = f"""
        SELECT f.id, {quoted(_LARGEST + name)}(target, f.{vector}) AS score
        FROM features f WHERE {selected} AND "by" = 'max' AND f.{vector} IS NOT NULL"""
    no_target = _refusal(
        f"{selected} AND NOT EXISTS (FROM {examples})",
        f"concat('no target ''', target, ''' with {name}; targets: ', coalesce((SELECT "
        "string_agg(DISTINCT q.target, ', ' ORDER BY q.target) FROM target_features q), 'none'))",
    )
    return [mean, largest, no_target]


def _unknown(vectors: Sequence[str]) -> str:
    known = ", ".join(vectors) or "none"
    names = ", ".join(map(literal, vectors)) or "''"
    return (
        _refusal(
            f"feature NOT IN ({names})",
            f"concat('no feature ''', feature, ''' with a vector; there are: ', {literal(known)})",
        )
        + " UNION ALL "
        + _refusal(
            "\"by\" NOT IN ('mean', 'max')", "concat('by is mean or max, not ''', \"by\", '''')"
        )
    )


def _refusal(condition: str, message: str) -> str:
    return f"SELECT error({message})::VARCHAR AS id, NULL::FLOAT AS score WHERE {condition}"
