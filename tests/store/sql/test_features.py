"""The relations of vectors: float16 as float32, cast while the scan runs."""

from __future__ import annotations

import duckdb
import lance
import numpy as np
import pyarrow as pa
import pytest

from coresetdb.schemas.tables import POOL
from coresetdb.store.sql.lance_relation import FeatureRelation, Relation, widened
from coresetdb.store.sql.relations import register
from coresetdb.store.store import Store

ROWS, WIDTH = 20_000, 64


@pytest.fixture(scope="module")
def connection(store: Store) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(":memory:", config={"python_enable_replacements": "false"})
    register(connection, store.place)
    return connection


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> FeatureRelation:
    """A pool of vectors with gaps, and lists; every row's numbers start with its own number."""
    vectors = np.zeros((ROWS, WIDTH), np.float16)
    vectors[:, 0] = np.arange(ROWS) % 2048
    gaps = pa.array([row % 10 == 3 for row in range(ROWS)])
    lists = [[row, row + 1] if row % 4 else None for row in range(ROWS)]
    table = pa.table(
        {
            "id": [f"{row:06d}" for row in range(ROWS)],
            "tokens": pa.array(range(ROWS), pa.int32()),
            "v": pa.FixedSizeListArray.from_arrays(vectors.ravel(), WIDTH, mask=gaps),
            "units": pa.array(lists, pa.list_(pa.int32())),
        }
    )
    folder = tmp_path_factory.mktemp("features")
    lance.write_dataset(table.to_reader(1024), str(folder / "pool.lance"))
    return FeatureRelation(str(folder / "pool.lance"))


@pytest.fixture
def asked(large: FeatureRelation) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.register("features", large)
    large.io_stats_incremental()
    return connection


def test_float16_becomes_float32_at_any_depth_of_a_list() -> None:
    half, full = pa.float16(), pa.float32()
    stored = [half, pa.list_(half), pa.list_(half, 3), pa.list_(pa.list_(half, 3)), pa.int8()]
    wide = [full, pa.list_(full), pa.list_(full, 3), pa.list_(pa.list_(full, 3)), pa.int8()]
    names = "abcde"
    assert widened(pa.schema(zip(names, stored, strict=True))) == pa.schema(
        zip(names, wide, strict=True)
    )


def test_they_hold_the_vectors_and_lists_and_whose_they_are(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    described = connection.sql("SELECT column_name, column_type FROM (DESCRIBE features)")
    vectors = [("rds", "FLOAT[16]"), ("layers", "FLOAT[4][]")]
    assert described.fetchall() == [("id", "VARCHAR"), *vectors]
    described = connection.sql("SELECT column_name, column_type FROM (DESCRIBE target_features)")
    own = [("target", "VARCHAR"), ("id", "VARCHAR"), ("position", "INTEGER")]
    assert described.fetchall() == [*own, *vectors]


@pytest.mark.parametrize("relation", ["features", "target_features"])
def test_every_number_is_the_stored_one(
    connection: duckdb.DuckDBPyConnection, store: Store, relation: str
) -> None:
    table = {"features": "pool", "target_features": "targets"}[relation]
    stored = store.dataset(table).to_table(columns=["id", "rds", "layers"]).to_pylist()
    read = connection.sql(f"SELECT id, rds, layers FROM {relation}").to_arrow_table().to_pylist()
    assert read == stored  # float16 is a float32 exactly, and both are Python's float
    assert sum(row["rds"] is None for row in read) == 1


def test_only_the_columns_named_are_read(asked, large: FeatureRelation) -> None:
    assert asked.sql("SELECT max(id) FROM features").fetchall() == [(f"{ROWS - 1:06d}",)]
    assert large.io_stats_incremental().read_bytes < 400_000  # the vectors are 2.5 MB
    assert asked.sql("SELECT count(units) FROM features").fetchall() == [(ROWS * 3 // 4,)]
    assert large.io_stats_incremental().read_bytes < 400_000


def test_a_filter_on_the_id_reaches_lance(asked, large: FeatureRelation) -> None:
    query = "SELECT id, v[1] FROM features WHERE id = '000014'"
    assert asked.sql(query).fetchall() == [("000014", 14.0)]
    assert large.io_stats_incremental().read_bytes < 700_000
    query = "SELECT id, v[1] FROM features WHERE id > '019990' AND id <> '019995' ORDER BY id"
    assert asked.sql(query).fetchall() == [
        (f"{row:06d}", None if row % 10 == 3 else float(row % 2048))
        for row in (19991, 19992, 19993, 19994, 19996, 19997, 19998, 19999)
    ]


# What DuckDB pushes down, whether Lance can take it or not, gives what it gives in memory.
@pytest.mark.parametrize(
    "condition",
    [
        "v IS NULL",
        "v IS NOT NULL",
        "v IS NOT NULL AND id < '000020'",
        "v IS NULL OR id < '000020'",
        "NOT (v IS NULL AND units IS NULL)",
        "units IS NULL",
        "units = [5, 6]",
        "units > [19990]",
        "v[1] = 7",
        "v = (SELECT v FROM features WHERE id = '000007')",
        "id IN (SELECT id FROM features WHERE v IS NULL AND id < '000100')",
        "id IN ('000001', '000003', 'nowhere')",
        "id LIKE '00001%'",
        "false",
    ],
)
def test_a_condition_means_what_it_means_in_memory(
    asked, large: FeatureRelation, condition: str
) -> None:
    query = f"SELECT id, v[1], units FROM features WHERE {condition} ORDER BY id"
    pushed = asked.sql(query).fetchall()
    asked.unregister("features")
    asked.register("features", large.scanner().to_reader().read_all())
    assert pushed == asked.sql(query).fetchall()


@pytest.mark.parametrize("column", ["messages", "norms", "units"])
def test_lists_of_the_other_relations_can_be_tested_for_null(tmp_path, column: str) -> None:
    """Lance takes no filter on a fixed-size list or a list of structs."""
    there = {"messages": [{"role": "user"}], "norms": [1.0, 2.0], "units": [1]}
    extra = [pa.field("norms", pa.list_(pa.float32(), 2)), pa.field("units", pa.list_(pa.int32()))]
    rows = [{"id": "1", "tokens": 7, **there}, {"id": "2", "tokens": 8}, {"id": "3"}]
    table = pa.Table.from_pylist(rows, pa.schema([*POOL, *extra]))
    lance.write_dataset(table, str(tmp_path / "pool.lance"))
    connection = duckdb.connect()
    connection.register("pool", Relation(str(tmp_path / "pool.lance")))
    for condition, wanted in [
        (f"{column} IS NOT NULL", [("1", 7)]),
        (f"{column} IS NULL AND tokens = 8", [("2", 8)]),
        (f"{column} IS NULL", [("2", 8), ("3", None)]),
    ]:
        found = connection.sql(f"SELECT id, tokens FROM pool WHERE {condition} ORDER BY id")
        assert found.fetchall() == wanted


def test_an_earlier_version_of_the_pool_is_that_of_its_features(store: Store) -> None:
    connection = duckdb.connect()
    register(connection, store.place, at=1)
    assert connection.sql("SELECT count(*) FROM features").fetchall() == [(0,)]
    assert connection.sql("SELECT count(*) FROM target_features").fetchall() == [(4,)]
