"""The macros that every query finds: `cosine`, `members` and `nearest`.

They are made for the store as it stands, since a macro of DuckDB can take neither a column's name
nor a vector's width as its argument: `nearest` is a union over the features of which the optimiser
drops all but the one asked for. An argument that names nothing is an error that lists what there
is. A macro is a SELECT like any other: it can do nothing that the query itself may not.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from .sql_names import literal, quoted

FINGERPRINT = b"coresetdb:fingerprint"

COSINE = "CREATE MACRO cosine(a, b) AS list_cosine_similarity(a::FLOAT[], b::FLOAT[])"

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


def nearest_macro(pool: pa.Schema, targets: pa.Schema) -> str:
    """The statement that makes `nearest(target, feature, k, by := 'mean')`.

    Args:
        pool: stored schema of the pool, with the fingerprints of its features.
        targets: that of the targets.
    """
    vectors = unit_vectors(pool)
    branches = [_unknown(vectors)]
    for name in vectors:
        if name in targets.names and _fingerprint(targets, name) == _fingerprint(pool, name):
            branches += _branches(name, pool.field(name).type.list_size)
        else:
            branches.append(_refusal(f"feature = {literal(name)}", literal(_not_alike(name))))
    return f"""
        CREATE MACRO nearest(target, feature, k, "by" := 'mean') AS TABLE
        SELECT id, score FROM ({" UNION ALL ".join(branches)}) ORDER BY score DESC, id LIMIT k"""


def unit_vectors(schema: pa.Schema) -> list[str]:
    """The columns that hold one unit vector a row, so that a product of two is their cosine.

    These are the arrays of float16 beside which no `_norms` stand (those of NAIT hold a vector
    for every layer).
    """
    names = set(schema.names)
    return [
        field.name
        for field in schema
        if pa.types.is_fixed_size_list(field.type)
        and pa.types.is_float16(field.type.value_type)
        and _norms_of(field.name) not in names
    ]


def _norms_of(column: str) -> str:
    own, mark, recipe = column.partition("__")  # a second recipe's columns end in __<8 hex>
    return f"{own}_norms{mark}{recipe}"


def _not_alike(name: str) -> str:
    return (
        f"{name} of the targets was not made as {name} of the pool was; "
        f"run coresetdb featurize STORE {name}"
    )


def _fingerprint(schema: pa.Schema, column: str) -> bytes | None:
    return (schema.field(column).metadata or {}).get(FINGERPRINT)


def _branches(name: str, width: int) -> list[str]:
    """The mean of products is the product with the mean: one product a row, not one per example."""
    vector, asked = quoted(name), f"feature = {literal(name)}"
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
        WHERE {asked} AND "by" = 'mean' AND f.{vector} IS NOT NULL"""
    largest = f"""
        SELECT f.id, max(array_inner_product(f.{vector}, q.{vector})) AS score
        FROM features f, (SELECT q.{vector} FROM {examples} AND {asked} AND "by" = 'max') q
        WHERE {asked} AND "by" = 'max' AND f.{vector} IS NOT NULL GROUP BY f.id"""
    nobody = _refusal(
        f"{asked} AND NOT EXISTS (FROM {examples})",
        f"concat('no target ''', target, ''' with {name}; targets: ', coalesce((SELECT "
        "string_agg(DISTINCT q.target, ', ' ORDER BY q.target) FROM target_features q), 'none'))",
    )
    return [mean, largest, nobody]


def _unknown(vectors: Sequence[str]) -> str:
    there = ", ".join(vectors) or "none"
    names = ", ".join(map(literal, vectors)) or "''"
    return (
        _refusal(
            f"feature NOT IN ({names})",
            f"concat('no feature ''', feature, ''' with a vector; there are: ', {literal(there)})",
        )
        + " UNION ALL "
        + _refusal(
            "\"by\" NOT IN ('mean', 'max')", "concat('by is mean or max, not ''', \"by\", '''')"
        )
    )


def _refusal(condition: str, message: str) -> str:
    return f"SELECT error({message})::VARCHAR AS id, NULL::FLOAT AS score WHERE {condition}"
