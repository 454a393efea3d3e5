"""What SQL sees of a store: relations and macros by name, and the macros but for `nearest`.

A macro is a SELECT like any other: it can do nothing that the query itself may not. An unknown name
as argument is an error that lists the known ones. `nearest` has a file of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

RELATIONS = {
    "pool": "an instruction, with its metadata fields and scalar features",
    "sources": "a place where an instruction was seen",
    "targets": "an example of a target task",
    "scores": "a score of an instruction for a target",
    "coresets": "a selection",
    "coreset_rows": "a member of a selection",
    "recipes": "a definition of a feature",
    "runs": "an ingestion",
    "rejects": "a record that could not be used",
    "evaluations": "a measurement of a trained model on one example",
    "removed": "an instruction that was taken out of the pool, with what a restore brings back",
}
"""Without `files` and `artifacts`, which hold the store's own records."""

POOL_TABLE = "pool_table"
"""The pool as it is stored, below the view `pool` that adds the metadata fields."""

REMOVED_TABLES = {"removed": "removed_table", "removed_rows": "removed_rows_table"}
"""Tombstones and rows as they are stored, below the view `removed` that joins them."""

FEATURES = {
    "features": "the vectors and lists of an instruction",
    "target_features": "the vectors and lists of an example of a target",
}
"""The relations of vectors and lists, which the others leave out; all as float32."""

FEATURES_OF = {"features": "pool", "target_features": "targets"}

SCORES_OF = "scores_"
"""The prefix of a target's view of `scores`; its name follows."""

MACROS = {
    "cosine(a, b)": "the cosine of two vectors or lists of numbers",
    "gradient_drop(norms)": "of gradfiltering_norms, the relative fall of the mean squared "
    "gradient norm from the early snapshots to the late ones",
    "inside(x, y, polygon)": "whether a point lies within a polygon, a list of [x, y] (of "
    "`explore`'s lasso)",
    "members(coreset)": "the rows of a coreset, best first: rank, score, target, query, columns "
    "of pool",
    "nearest(target, feature, k)": "id and score of the k rows nearest to a target's examples, by "
    "mean cosine; by := 'max' takes the nearest example",
}


def quoted(name: str) -> str:
    """A name as a SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


# Without the CASE a null array is an error: cast to a list it is one of nulls to that function.
COSINE = """
    CREATE MACRO cosine(a, b) AS CASE WHEN a IS NOT NULL AND b IS NOT NULL
    THEN list_cosine_similarity(a::FLOAT[], b::FLOAT[]) END"""

GRADIENT_DROP = """
    CREATE MACRO gradient_drop(norms) AS
    1 - list_dot_product(
        (norms[len(norms) // 2 + 1:])::DOUBLE[], (norms[len(norms) // 2 + 1:])::DOUBLE[]
    ) / list_dot_product((norms[:len(norms) // 2])::DOUBLE[], (norms[:len(norms) // 2])::DOUBLE[])
    """
"""The early norms come first, as many late ones follow."""

INSIDE = """
    CREATE MACRO inside(x, y, polygon) AS
    len(list_filter(
        list_zip(polygon::DOUBLE[][], (polygon[2:] || polygon[:1])::DOUBLE[][]),
        lambda edge: (edge[1][2] > y) <> (edge[2][2] > y)
        AND x < edge[1][1]
        + (y - edge[1][2]) * (edge[2][1] - edge[1][1]) / (edge[2][2] - edge[1][2])
    )) % 2 = 1"""
"""A ray to the right of the point crosses an odd number of the polygon's edges."""

_MEMBER = ("rank", "id", "score", "target", "query")


def members_macro(pool_columns: Sequence[str]) -> str:
    """The statement that makes `members(coreset)`.

    A column of the pool that has the name of one of the member's own becomes `pool_<name>`. A row
    that the pool lacks (at an earlier version) is a member all the same.
    """
    taken = {name.casefold() for name in pool_columns}
    columns = [f"r.{quoted(name)}" for name in _MEMBER]
    for name in pool_columns:
        if name == "id":
            continue
        shown = name
        while shown.casefold() in _MEMBER or (shown != name and shown.casefold() in taken):
            shown = f"pool_{shown}"
        columns.append(f"p.{quoted(name)} AS {quoted(shown)}")
    return f"""
        CREATE MACRO members(coreset) AS TABLE
        SELECT * FROM (
            SELECT {", ".join(columns)}
            FROM coreset_rows r LEFT JOIN pool p ON p.id = r.id WHERE r.coreset = coreset
            UNION ALL BY NAME
            SELECT error(concat('no coreset ''', coreset, '''; coresets: ', coalesce(
                (SELECT string_agg(name, ', ' ORDER BY name) FROM coresets), 'none'
            )))::BIGINT AS rank
            WHERE coreset NOT IN (SELECT name FROM coresets)
        ) ORDER BY rank"""
