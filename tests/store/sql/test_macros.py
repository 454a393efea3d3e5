"""The macros: cosine, members and nearest, against naive references."""

from __future__ import annotations

import duckdb
import lance
import numpy as np
import pyarrow as pa
import pytest

from coresetdb.store.relations import register
from coresetdb.store.sql_macros import members_macro, nearest_macro, unit_vectors
from coresetdb.store.sql_relation import FeatureRelation
from coresetdb.store.store import Store


@pytest.fixture(scope="module")
def connection(store: Store) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(":memory:", config={"python_enable_replacements": "false"})
    register(connection, store.place)
    return connection


def vectors(store: Store, table: str) -> tuple[list[str], np.ndarray]:
    rows = store.dataset(table).to_table(columns=["id", "rds"]).to_pylist()
    there = [row for row in rows if row["rds"] is not None]
    return [row["id"] for row in there], np.array([row["rds"] for row in there], np.float32)


@pytest.mark.parametrize("by", ["mean", "max"])
@pytest.mark.parametrize("k", [0, 1, 7, 1000])
def test_nearest_rows(connection, store: Store, by: str, k: int) -> None:
    ids, pool = vectors(store, "pool")
    _, queries = vectors(store, "targets")
    assert len(ids) == 59 and len(queries) == 3  # one of each lacks the vector
    scores = getattr(pool @ queries.T, by)(axis=1)
    wanted = sorted(zip(ids, scores, strict=True), key=lambda row: (-row[1], row[0]))[:k]
    found = connection.sql(f"FROM nearest('gsm8k', 'rds', {k}, by := '{by}')").fetchall()
    assert [row[0] for row in found] == [row[0] for row in wanted]
    np.testing.assert_allclose([row[1] for row in found], [row[1] for row in wanted], rtol=1e-5)
    if by == "mean":
        assert connection.sql(f"FROM nearest('gsm8k', 'rds', {k})").fetchall() == found


def test_equally_near_rows_stand_by_id() -> None:
    connection = duckdb.connect()
    half = pa.list_(pa.float16(), 2)
    schema = pa.schema([("id", pa.string()), ("v", half)])
    connection.execute("CREATE TABLE features(id VARCHAR, v FLOAT[2])")
    connection.execute("INSERT INTO features VALUES ('b', [1, 0]), ('c', [0, 1]), ('a', [1, 0])")
    connection.execute("CREATE TABLE target_features(target VARCHAR, v FLOAT[2])")
    connection.execute("INSERT INTO target_features VALUES ('t', [1, 0])")
    connection.execute(nearest_macro(schema, schema))
    for by in ("mean", "max"):
        rows = connection.sql(f"FROM nearest('t', 'v', 3, by := '{by}')").fetchall()
        assert rows == [("a", 1.0), ("b", 1.0), ("c", 0.0)]


@pytest.mark.parametrize(
    ("call", "why"),
    [
        ("nearest('nope', 'rds', 3)", "no target 'nope' with rds; targets: gsm8k"),
        ("nearest('gsm8k', 'nope', 3)", "no feature 'nope' with a vector; there are: rds"),
        ("nearest('gsm8k', 'layers', 3)", "no feature 'layers' with a vector; there are: rds"),
        ("nearest('gsm8k', 'rds', 3, by := 'sum')", "by is mean or max, not 'sum'"),
        ("members('nope')", "no coreset 'nope'; coresets: math"),
    ],
)
def test_an_argument_that_names_nothing_is_an_error(connection, call: str, why: str) -> None:
    with pytest.raises(duckdb.Error, match=why):
        connection.sql(f"FROM {call}").fetchall()


def test_a_feature_made_otherwise_is_not_compared() -> None:
    def schema(fingerprint: bytes) -> pa.Schema:
        made = {b"coresetdb:fingerprint": fingerprint}
        return pa.schema([pa.field("rds", pa.list_(pa.float16(), 2), metadata=made)])

    for targets in (schema(b"g"), pa.schema([])):
        connection = duckdb.connect()
        connection.execute("CREATE TABLE target_features(target VARCHAR)")
        connection.execute(nearest_macro(schema(b"f"), targets))
        with pytest.raises(duckdb.Error, match="rds of the targets was not made as rds of the po"):
            connection.sql("FROM nearest('t', 'rds', 3)").fetchall()


def test_a_store_without_vectors_has_the_macro_all_the_same() -> None:
    connection = duckdb.connect()
    connection.execute(nearest_macro(pa.schema([]), pa.schema([])))
    with pytest.raises(duckdb.Error, match=r"no feature 'rds' with a vector; there are: none"):
        connection.sql("FROM nearest('t', 'rds', 3)").fetchall()


def test_which_columns_are_unit_vectors() -> None:
    half = pa.list_(pa.float16(), 4)
    schema = pa.schema(
        {
            "rds": half,
            "rds_norm": pa.float32(),
            "rds__0a1b2c3d": half,
            "nait": half,
            "nait_norms": pa.list_(pa.float32(), 2),
            "nait_drift": half,
            "nait_drift_norms": pa.list_(pa.float32(), 2),
            "nait__0a1b2c3d": half,
            "nait_norms__0a1b2c3d": pa.list_(pa.float32(), 2),
            "mads_values": pa.list_(pa.float16()),
            "gradfiltering_norms": pa.list_(pa.float32(), 4),
        }
    )
    assert unit_vectors(schema) == ["rds", "rds__0a1b2c3d"]


class Watched(FeatureRelation):
    """A relation that notes the columns that DuckDB asks for."""

    asked: list

    def scanner(self, columns=None, *args, **options):
        self.asked.append(columns)
        return super().scanner(columns, *args, **options)


def test_only_the_feature_asked_for_is_read(tmp_path) -> None:
    half = pa.list_(pa.float16(), 2)
    schema = pa.schema([("id", pa.string()), ("target", pa.string()), ("u", half), ("v", half)])
    row = {"id": "a", "target": "t", "u": [1.0, 0.0], "v": [0.0, 1.0]}
    lance.write_dataset(pa.Table.from_pylist([row], schema), str(tmp_path / "t.lance"))
    watched = Watched(str(tmp_path / "t.lance"))
    watched.asked = []
    connection = duckdb.connect()
    connection.register("features", watched)
    connection.register("target_features", FeatureRelation(watched.uri))
    connection.execute(nearest_macro(schema, schema))
    for by in ("mean", "max"):
        assert connection.sql(f"FROM nearest('t', 'v', 3, by := '{by}')").fetchall() == [("a", 1.0)]
    assert watched.asked == [["id", "v"], ["id", "v"]]


def test_members_are_the_rows_of_a_coreset(connection, store: Store) -> None:
    rows = connection.sql("FROM members('math')").to_arrow_table()
    assert rows.column_names[:6] == ["rank", "id", "score", "target", "query", "corpus"]
    assert {"messages", "category", "meta_id"} < set(rows.column_names)
    picked = store.dataset("coreset_rows").to_table().sort_by("rank")
    for name in ("rank", "id", "score", "target", "query"):
        assert rows[name].to_pylist() == picked[name].to_pylist()
    tokens = dict(connection.sql("SELECT id, tokens FROM pool").fetchall())
    assert rows["tokens"].to_pylist() == [tokens[each] for each in rows["id"].to_pylist()]
    assert connection.sql("SELECT count(*) FROM members('math') WHERE rank > 2").fetchall() == [
        (4,)
    ]
    both = "FROM (SELECT name FROM coresets) c, members(c.name)"
    assert connection.sql(f"SELECT count(*) {both}").fetchall() == [(6,)]


def test_members_at_a_version_that_lacks_them(store: Store) -> None:
    connection = duckdb.connect()
    register(connection, store.place, at=1)
    assert connection.sql("SELECT count(id), count(corpus) FROM members('math')").fetchall() == [
        (6, 0)
    ]


def test_metadata_that_is_called_as_a_member_is() -> None:
    connection = duckdb.connect()
    connection.execute("CREATE TABLE coresets AS SELECT 'c' AS name")
    connection.execute(
        "CREATE TABLE coreset_rows AS "
        "SELECT 'c' AS coreset, 1 AS rank, 'a' AS id, 0.5 AS score, 't' AS target, 'q' AS query"
    )
    connection.execute("CREATE TABLE pool AS SELECT 'a' AS id, 9 AS \"Rank\", 8 AS pool_rank")
    connection.execute(members_macro(["id", "Rank", "pool_rank"]))
    found = connection.sql("FROM members('c')").to_arrow_table().to_pylist()
    assert found == [
        {"rank": 1, "id": "a", "score": 0.5, "target": "t", "query": "q"}
        | {"pool_pool_Rank": 9, "pool_rank": 8}
    ]


@pytest.mark.parametrize(
    ("a", "b", "wanted"),
    [
        ("[1, 2]", "[2, 4]", 1.0),
        ("[1, 0]::FLOAT[2]", "[0, 1]::FLOAT[2]", 0.0),
        ("[1, 0]::FLOAT[2]", "[-3, 0]", -1.0),
        ("[3, 4]", "[4, 3]", 24 / 25),
        ("[1, 2]", "NULL", None),
    ],
)
def test_cosine(connection, a: str, b: str, wanted: float | None) -> None:
    [(found,)] = connection.sql(f"SELECT cosine({a}, {b})").fetchall()
    assert found == (wanted if wanted is None else pytest.approx(wanted))


def test_cosine_of_different_lengths_is_an_error(connection) -> None:
    with pytest.raises(duckdb.Error, match="dimensions must be equal"):
        connection.sql("SELECT cosine([1], [1, 2])").fetchall()
