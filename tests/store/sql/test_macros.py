"""The macros: cosine, members and nearest, against naive references."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import duckdb
import lance
import numpy as np
import pyarrow as pa
import pytest

from coresetdb.store.sql.lance_relation import FeatureRelation
from coresetdb.store.sql.names import members_macro
from coresetdb.store.sql.nearest import LargestProduct, create_nearest, unit_vector_columns
from coresetdb.store.sql.relations import register
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


HALF = pa.list_(pa.float16(), 2)
SCHEMA = pa.schema([("id", pa.string()), ("target", pa.string()), ("u", HALF), ("v", HALF)])


class Watched(FeatureRelation):
    """A relation that notes the columns that are asked for."""

    asked: ClassVar[list] = []

    def scanner(self, columns=None, *args, **options):
        self.asked.append(columns)
        return super().scanner(columns, *args, **options)


def connected(folder: Path, pool: pa.Table, targets: pa.Table) -> duckdb.DuckDBPyConnection:
    """A connection that has `nearest` and what it stands on."""
    relations = []
    for name, table in (("features", pool), ("target_features", targets)):
        lance.write_dataset(table, str(folder / name), mode="overwrite")
        relations.append(Watched(str(folder / name)))
    connection = duckdb.connect()
    connection.register("features", relations[0])
    connection.register("target_features", relations[1])
    create_nearest(connection, *relations)
    return connection


def test_equal_vectors_tie_wherever_they_stand(tmp_path: Path) -> None:
    """In blocks of DuckDB's, of which the last is not full."""
    generator, rows, width = np.random.default_rng(0), 5000, 24
    few = generator.normal(size=(7, width)).astype(np.float16)
    which = generator.integers(0, 7, rows)
    ids = [f"{number:04d}" for number in generator.permutation(rows)]
    vectors = pa.FixedSizeListArray.from_arrays(few[which].ravel(), width)
    queries = generator.normal(size=(5, width)).astype(np.float16)
    examples = pa.FixedSizeListArray.from_arrays(queries.ravel(), width)
    targets = pa.table({"target": ["t"] * 4 + ["other"], "id": list("12345"), "v": examples})
    connection = connected(tmp_path, pa.table({"id": ids, "v": vectors}), targets)
    products = few.astype(np.float32) @ queries[:4].astype(np.float32).T
    for by in ("mean", "max"):
        order = np.argsort(np.argsort(-getattr(products, by)(axis=1)))
        wanted = sorted(range(rows), key=lambda row: (order[which[row]], ids[row]))
        found = connection.sql(f"SELECT id FROM nearest('t', 'v', {rows}, by := '{by}')")
        assert [row[0] for row in found.fetchall()] == [ids[row] for row in wanted]


def test_vectors_of_several_targets_in_one_block(tmp_path: Path) -> None:
    rows = [
        {"target": "s", "v": [1, 0]},
        {"target": "t", "v": [0, 1]},
        {"target": "t", "v": [1, 0]},
    ]
    lance.write_dataset(pa.Table.from_pylist(rows, SCHEMA), str(tmp_path / "targets"))
    largest = LargestProduct(FeatureRelation(str(tmp_path / "targets")), "v", 2)
    targets = pa.chunked_array([["s", "t"], ["nobody", "s"]])
    vectors = pa.array([[0, 1], [0, 1], [1, 0], [1, 0]], pa.list_(pa.float32(), 2))
    assert largest(targets, pa.chunked_array([vectors])).to_pylist() == [0.0, 1.0, None, 1.0]


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


def test_a_feature_made_otherwise_is_not_compared(tmp_path: Path) -> None:
    def empty(fingerprint: bytes) -> pa.Table:
        made = {b"coresetdb:fingerprint": fingerprint}
        field = pa.field("v", HALF, metadata=made)
        return pa.schema([("id", pa.string()), ("target", pa.string()), field]).empty_table()

    for targets in (empty(b"g"), empty(b"g").drop_columns(["v"])):
        connection = connected(tmp_path, empty(b"f"), targets)
        with pytest.raises(duckdb.Error, match="v of the targets was not made as v of the pool"):
            connection.sql("FROM nearest('t', 'v', 3)").fetchall()


def test_a_store_without_vectors_has_the_macro_all_the_same(tmp_path: Path) -> None:
    none = pa.schema([("id", pa.string()), ("target", pa.string())]).empty_table()
    connection = connected(tmp_path, none, none)
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
    assert unit_vector_columns(schema) == ["rds", "rds__0a1b2c3d"]


def test_only_the_feature_asked_for_is_read(tmp_path: Path) -> None:
    row = {"id": "a", "target": "t", "u": [1.0, 0.0], "v": [0.0, 1.0]}
    table = pa.Table.from_pylist([row], SCHEMA)
    connection = connected(tmp_path, table, table)
    Watched.asked.clear()
    for by in ("mean", "max"):
        assert connection.sql(f"FROM nearest('t', 'v', 3, by := '{by}')").fetchall() == [("a", 1.0)]
    assert "u" not in {name for columns in Watched.asked for name in columns}
    assert Watched.asked.count(["id", "v"]) == 2


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


@pytest.mark.parametrize(
    ("norms", "wanted"),
    [
        ("[2, 2, 1, 1]::FLOAT[]", 1 - 2 / 8),
        ("[1, 3, 2, 4]::FLOAT[]", 1 - 20 / 10),
        ("[1.5, 1.5]::FLOAT[]", 0.0),
        ("NULL::FLOAT[]", None),
    ],
)
def test_gradient_drop(connection, norms: str, wanted: float | None) -> None:
    [(found,)] = connection.sql(f"SELECT gradient_drop({norms})").fetchall()
    assert found == (wanted if wanted is None else pytest.approx(wanted))


def test_cosine_of_all_rows_with_all(connection, store: Store) -> None:
    _, pool = vectors(store, "pool")
    pairs = "FROM features a, features b WHERE a.id < b.id"
    query = f"SELECT count(cosine(a.rds, b.rds)), max(cosine(a.rds, b.rds)) {pairs}"
    [(count, largest)] = connection.sql(query).fetchall()
    norms = np.linalg.norm(pool, axis=1)
    cosines = (pool @ pool.T / np.outer(norms, norms))[np.triu_indices(59, 1)]
    assert count == len(cosines)  # a row that lacks the vector has none
    assert largest == pytest.approx(cosines.max(), abs=1e-6)


def test_cosine_of_different_lengths_is_an_error(connection) -> None:
    with pytest.raises(duckdb.Error, match="dimensions must be equal"):
        connection.sql("SELECT cosine([1], [1, 2])").fetchall()
