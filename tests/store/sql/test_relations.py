from __future__ import annotations

import datetime as dt
import json
import shutil

import duckdb
import lance
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coresetdb.schemas.errors import DamagedStoreError, QueryError
from coresetdb.schemas.tables import TABLES
from coresetdb.store.place import place_at
from coresetdb.store.sql.lance_relation import Relation, holds_float16, open_relation
from coresetdb.store.sql.names import RELATIONS
from coresetdb.store.sql.relations import metadata_columns, pool_view, register
from coresetdb.store.store import Store


@pytest.fixture(scope="module")
def connection(store: Store) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(":memory:", config={"python_enable_replacements": "false"})
    register(connection, store.place)
    return connection


def values(connection: duckdb.DuckDBPyConnection, query: str) -> list:
    return connection.sql(query).fetchall()


def test_float16_is_found_at_any_depth() -> None:
    half = pa.float16()
    for type_ in (half, pa.list_(half), pa.list_(half, 4), pa.list_(pa.list_(half))):
        assert holds_float16(type_)
    assert holds_float16(pa.struct([("a", pa.int8()), ("b", pa.struct([("c", half)]))]))
    assert holds_float16(pa.map_(pa.string(), half))
    assert not holds_float16(pa.list_(pa.float32()))


def test_vectors_are_hidden_and_the_rest_is_not(store: Store) -> None:
    relation = open_relation(store.place, "pool")
    stored = store.dataset("pool").schema.names
    assert [name for name in stored if name not in relation.schema.names] == ["rds", "layers"]
    assert relation.scanner().projected_schema.names == relation.schema.names


@pytest.mark.parametrize("table", RELATIONS)
def test_every_relation_can_be_read_whole(
    connection: duckdb.DuckDBPyConnection, store: Store, table: str
) -> None:
    assert values(connection, f"SELECT count(*) FROM {table}") == [
        (store.dataset(table).count_rows(),)
    ]
    read = connection.sql(f"SELECT * FROM {table}").to_arrow_table()
    assert read.column_names[: len(TABLES[table])] == TABLES[table].names
    assert read.num_rows == store.dataset(table).count_rows()


class Watched(Relation):
    """A relation that notes what DuckDB asks of it."""

    asked: list  # columns and filter of every scan

    def scanner(self, columns=None, filter=None, *args, **options):
        self.asked.append((columns, filter))
        return super().scanner(columns, filter, *args, **options)


def test_columns_and_filters_reach_lance(store: Store) -> None:
    watched = Watched(store.place.table_uri("pool"))
    watched.asked = []
    connection = duckdb.connect()
    connection.register("watched", watched)
    query = "SELECT id FROM watched WHERE tokens < 12 AND corpus = 'gsm8k'"
    assert len(values(connection, query)) == 1
    [(columns, pushed)] = watched.asked
    assert columns == ["id"]
    assert "tokens" in str(pushed) and "corpus" in str(pushed)


def test_metadata_fields_ask_for_the_metadata_alone(store: Store) -> None:
    watched = Watched(store.place.table_uri("pool"))
    watched.asked = []
    connection = duckdb.connect()
    connection.register("pool_table", watched)
    connection.execute(pool_view(watched.schema.names, ["category", "level"]))
    assert values(connection, "SELECT count(*) FROM pool WHERE level = '2'") == [(12,)]
    assert [columns for columns, _ in watched.asked] == [["metadata"]]


def test_bytes_read_are_those_of_the_columns_named(tmp_path) -> None:
    rows, width = 20_000, 256
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(rows * width, np.float16)), width)
    table = pa.table({"id": pa.array(range(rows)), "tokens": pa.array(range(rows)), "v": vectors})
    lance.write_dataset(table, str(tmp_path / "pool.lance"))
    relation = open_relation(place_at(str(tmp_path)), "pool")
    connection = duckdb.connect()
    connection.register("pool", relation)
    assert values(connection, "SELECT sum(tokens) FROM pool") == [(rows * (rows - 1) // 2,)]
    assert relation.io_stats_incremental().read_bytes < 1_000_000  # the vectors are 10 MB


# Every kind of condition DuckDB pushes down, or might: what comes out must be what DuckDB finds on
# the same rows in memory, nulls and NaN included.
CONDITIONS = [
    "tokens < 20",
    "tokens BETWEEN 15 AND 25 OR tokens = 60",
    "tokens IN (11, 12, 13)",
    "tokens NOT IN (11, 12, 13)",
    "tokens > 3000000000",
    "tokens = 11.5",
    "NOT tokens < 20",
    "corpus = 'dolly'",
    "corpus <> 'dolly'",
    "corpus IN ('dolly', 'nope')",
    "corpus LIKE 'g%'",
    "corpus > 'd' AND corpus <= 'dolly'",
    "source_id IS NULL",
    "source_id IS NOT NULL AND source_id < 's3'",
    "source_id IS DISTINCT FROM 's4'",
    "source_id = 's4' OR source_id IS NULL",
    "source_id = 'it''s'",
    "truncated",
    "NOT truncated",
    "truncated IS NOT TRUE",
    "added_at > TIMESTAMPTZ '2026-11-20 12:00:30+00'",
    "added_at = TIMESTAMPTZ '2026-11-20 12:00:30+00'",
    "added_at::DATE = DATE '2026-11-20'",
    "nll > 3",
    "nll <= 3",
    "NOT nll > 3",
    "nll = 1.25",
    "nll = 'nan'",
    "nll < 'nan'",
    "nll <> 'nan'",
    "nll > 'inf'",
    "isnan(nll)",
    "nll IS NULL",
    "rds_norm > 1.1",
    "rds_norm = 1.1::FLOAT",
    "rds_reason IS NULL",
    "tools IS NULL AND run = 'r1'",
    "messages[1].content = 'question 3'",
    "len(messages) > 1",
    "metadata->>'$.level' = '2'",
    "(tokens < 20) IS NOT FALSE",
    "tokens = (SELECT min(tokens) FROM pool)",
    "id IN (SELECT id FROM pool WHERE tokens < 14)",
    "false",
    "NULL",
]


@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_pushed_filter_means_what_duckdb_means(store: Store, condition: str) -> None:
    relation = open_relation(store.place, "pool")
    connection = duckdb.connect()
    connection.register("pool", relation)
    query = f"SELECT id FROM pool WHERE {condition} ORDER BY id"
    pushed = values(connection, query)
    connection.unregister("pool")
    connection.register("pool", relation.to_table())
    assert pushed == values(connection, query)


def test_metadata_fields_are_columns(connection: duckdb.DuckDBPyConnection) -> None:
    # METADATA_KEYS has `category` before `Category`: the first keeps the plain name.
    query = """
        SELECT category, level, meta_id, "meta_Category", "a""b", "a/b", "~", nested, "it's", "*"
        FROM pool WHERE tokens = 14
    """
    nested = '{"deep":[1,2]}'
    assert values(connection, query) == [
        ("kind 0", "4", "own-4", "true", "1.5", "slash", "tilde", nested, "quote", "star")
    ]
    assert values(connection, "SELECT count(*) FROM pool WHERE metadata->>'$.level' = '2'") == [
        (12,)
    ]


def test_names_of_metadata_columns() -> None:
    keys = ["topic", "Topic", "TOPIC", "id", "ID", "meta_id", "", "Corpus"]
    assert metadata_columns(keys, ["id", "corpus"]) == {
        "topic": "topic",
        "Topic": "meta_Topic",
        "TOPIC": "meta_TOPIC_2",
        "id": "meta_id",
        "ID": "meta_ID_2",
        "meta_id": "meta_meta_id",
        "": "meta_",
        "Corpus": "meta_Corpus",
    }


def test_a_later_ingestion_renames_no_column(tmp_path) -> None:
    store = Store.create(str(tmp_path / "pool"), {})
    schema = store.dataset("runs").schema
    runs = [("z", "topic", 1), ("a", "Topic", 2)]
    rows = [
        {"run": run, "metadata_keys": [key], "started_at": dt.datetime(2026, 1, day, tzinfo=dt.UTC)}
        for run, key, day in runs
    ]
    for row in rows:
        store.upsert("runs", pa.Table.from_pylist([row], schema=schema))
        connection = duckdb.connect()
        register(connection, store.place)
        assert "topic" in connection.sql("FROM pool").columns
    assert connection.sql("FROM pool").columns[-2:] == ["topic", "meta_Topic"]


@given(st.dictionaries(st.text(), st.text(max_size=3), min_size=1, max_size=8))
def test_any_json_key_becomes_its_own_column(fields: dict[str, str]) -> None:
    connection = duckdb.connect()
    table = pa.table({"id": ["1"], "metadata": [json.dumps(fields)]})
    connection.register("pool_table", table)
    connection.execute(pool_view(table.column_names, fields))
    row = connection.sql("SELECT * FROM pool").to_arrow_table().to_pylist()[0]
    columns = metadata_columns(fields, table.column_names)
    there = {key: text for key, text in fields.items() if "\0" not in key}
    assert {key: row[column] for key, column in columns.items()} == there


def test_an_earlier_version_of_the_pool(store: Store) -> None:
    connection = duckdb.connect()
    register(connection, store.place, at=1)
    assert values(connection, "SELECT count(*) FROM pool") == [(0,)]
    assert values(connection, "SELECT count(*) FROM runs") == [(3,)]


@pytest.mark.parametrize("at", [99, "nope"])
def test_a_version_that_is_not_there(store: Store, at: int | str) -> None:
    with pytest.raises(QueryError, match=r"no version .*its versions run from 1 to \d+; its tags"):
        register(duckdb.connect(), store.place, at=at)


def test_of_many_tags_the_nearest_are_named(tmp_path) -> None:
    own = Store.create(str(tmp_path / "tagged"), {})
    for name in [*(f"coreset-{number}-pool" for number in range(11)), "before"]:
        own.tag(name, 1)
    named = r"tags: before, \.\.\. \(12 in all; coreset-NAME-pool .*coreset list \S+\)"
    with pytest.raises(QueryError, match=named):
        register(duckdb.connect(), own.place, at="befor")


def test_a_table_that_does_not_open(store: Store, tmp_path) -> None:
    copy = shutil.copytree(store.uri, tmp_path / "pool")
    shutil.rmtree(copy / "rejects.lance")
    with pytest.raises(DamagedStoreError, match=r"rejects.lance cannot be opened.*verify"):
        register(duckdb.connect(), place_at(str(copy)))
