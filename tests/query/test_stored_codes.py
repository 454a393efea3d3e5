"""A pool whose vectors are codes: everything that compares them, against the same in NumPy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from helpers.selector_driver import Pool, drive
from helpers.toy_stores import RECIPE, WIDTH, rds_fields

from coresetdb.database import Database
from coresetdb.query.explaining.explain import explain
from coresetdb.query.indexing import index_feature
from coresetdb.query.methods import method_names
from coresetdb.query.replay import replay
from coresetdb.query.rules.rules import Rules
from coresetdb.query.selection import select
from coresetdb.query.snapshot import Snapshot
from coresetdb.schemas.canonical import digest
from coresetdb.schemas.errors import StoreError, UsageError
from coresetdb.schemas.stored_vectors import decoded, encoded_column
from coresetdb.store import catalog
from coresetdb.store.store import Store

torch.set_num_threads(1)
KINDS = {"int8": pa.list_(pa.int8(), WIDTH), "int2": pa.list_(pa.uint8(), WIDTH // 4)}
OFF = Rules(leakage="off")


@pytest.fixture(params=KINDS)
def coded(request, store, tmp_path) -> Store:
    """The rows and targets of `store`, their vectors as codes."""
    kind, recipe = KINDS[request.param], replace(RECIPE, stored_dtype=request.param)
    fields = [rds_fields(recipe)[0].with_type(kind), *rds_fields(recipe)[1:]]
    copy = Store.create(str(tmp_path / "coded"), {"backbone": {"name": "toy"}}, fields, fields)
    catalog.put_recipe(copy, recipe)
    for table in ("pool", "targets"):
        rows = store.dataset(table).to_table()
        for field in fields[1:]:
            rows = rows.set_column(rows.schema.get_field_index(field.name), field, rows[field.name])
        missing = rows["rds"].is_null().to_numpy()
        vectors = [each or [0.0] * WIDTH for each in rows["rds"].to_pylist()]
        column = encoded_column(np.array(vectors), kind, missing)
        copy.insert(table, rows.set_column(rows.schema.get_field_index("rds"), fields[0], column))
    return copy


def rows_of(store: Store, table: str, filter: str | None = None) -> tuple[list[str], np.ndarray]:
    """Ids and unit vectors (n, WIDTH) float32 of the rows that have one."""
    rows = store.dataset(table).to_table(filter=filter).filter(pc.field("rds").is_valid())
    if table == "targets":
        rows = rows.sort_by("position")
    dtype = rows.schema.field("rds").type.value_type.to_pandas_dtype()
    return rows["id"].to_pylist(), decoded(np.array(rows["rds"].to_pylist(), dtype))


def is_int8(store: Store) -> bool:
    return store.dataset("pool").schema.field("rds").type == KINDS["int8"]


PYTHON = "target = 'python'"


@pytest.mark.parametrize("selector", ["round_robin", "top", "knn_uniform", "knn_kde", "uot"])
def test_a_store_gives_what_the_selector_gives(coded, selector):
    ids, vectors = rows_of(coded, "pool")
    _, asked = rows_of(coded, "targets", PYTHON)
    alone = drive(selector, Pool(ids, asked @ vectors.T, vectors.astype(np.float16)), 70)
    coreset = select(coded, ["python"], method=f"rds:{selector}", budget="70", rules=OFF)
    if is_int8(coded):  # with codes of 2 bits, many of 16 numbers' cosines are equal
        assert coreset.ids == alone.ids
    np.testing.assert_allclose(coreset.table()["score"], alone.scores, rtol=1e-5, atol=1e-6)


def test_cosines_after_the_mean_is_subtracted(coded):
    ids, vectors = rows_of(coded, "pool")
    _, asked = rows_of(coded, "targets", PYTHON)
    mean = vectors.astype(np.float16).mean(axis=0, dtype=np.float64)

    def centred(rows: np.ndarray) -> np.ndarray:
        return (rows - mean) / np.linalg.norm(rows - mean, axis=1, keepdims=True)

    best = (centred(vectors) @ centred(asked).T).max(axis=1)
    coreset = select(
        coded, ["python"], method="rds:top(by=max,centre=pool)", budget="40", rules=OFF
    )
    expected = sorted(zip(-best, ids, strict=True))[:40]
    np.testing.assert_allclose(coreset.table()["score"], [-s for s, _ in expected], atol=1e-5)
    assert coreset.ids == [row for _, row in expected]


def test_every_method_chooses_about_what_it_does_in_float16(coded, store):
    features = {name: each.representation for name, each in Snapshot(coded).features.items()}
    for method in method_names(features):
        method += "(score=response_tokens)" if method == "rds:deita_filter" else ""
        coreset = select(coded, ["arithmetic"], method=method, budget="60", seed=3)
        half = select(store, ["arithmetic"], method=method, budget="60", seed=3)
        least = 0.8 if "rds" not in method or is_int8(coded) else 0.4
        assert len(set(coreset.ids) & set(half.ids)) >= least * len(half), method
        assert replay(coded, coreset.name).same, method
        assert coreset.distance is None or coreset.distance == pytest.approx(
            half.distance, abs=0.01 if is_int8(coded) else 0.1
        )


def test_an_explanation_has_the_cosines_of_the_codes(coded):
    ids, vectors = rows_of(coded, "pool")
    examples, asked = rows_of(coded, "targets", PYTHON)
    coreset = select(coded, ["python"], budget="20", rules=OFF)
    found = explain(coded, coreset.name, 3)
    own = vectors[ids.index(coreset.ids[2])]
    cosines = dict(zip(examples, (asked @ own).tolist(), strict=True))
    shown = {each.id: each.similarity for each in found.examples}
    assert shown == pytest.approx({row: cosines[row] for row in shown}, abs=1e-6)


def test_rows_that_are_too_close(coded):
    ids, vectors = rows_of(coded, "pool")
    coreset = select(
        coded, ["python"], budget="60", rules=Rules(leakage="off", distinct=0.9, distinct_by="rds")
    )
    kept = vectors[[ids.index(row) for row in coreset.ids]]
    cosines = kept @ kept.T - 2 * np.eye(len(kept))
    assert cosines.max() < 0.9 + 1e-3


def test_near_duplicates_of_the_pool(coded):
    ids, vectors = rows_of(coded, "pool")
    close = vectors @ vectors.T >= 0.8765
    for _ in range(8):  # whatever is reached by a chain of close rows
        close = close @ close
    clusters = len(np.unique(close, axis=0))
    found = Database(coded).dedup(near=0.8765, feature="rds")
    assert 1 < clusters < len(ids) and found.not_kept == len(ids) - clusters


def test_sql_shows_unit_vectors(coded):
    database = Database(coded)
    ids, vectors = rows_of(coded, "pool")
    _, asked = rows_of(coded, "targets", PYTHON)
    shown = database.sql("SELECT id, rds FROM features WHERE rds IS NOT NULL").to_arrow()
    by_id = dict(zip(shown["id"].to_pylist(), shown["rds"].to_pylist(), strict=True))
    np.testing.assert_allclose([by_id[row] for row in ids], vectors, atol=1e-7)
    assert len(database.sql("SELECT id FROM features WHERE rds IS NULL").to_arrow()) == 6
    assert "rds" not in database.sql("SELECT * FROM pool LIMIT 1").to_arrow().column_names
    for by in ("mean", "max"):
        scores = getattr(asked @ vectors.T, by)(axis=0)
        found = database.sql(f"FROM nearest('python', 'rds', 9, by := '{by}')").to_arrow()
        order = sorted(zip(-scores, ids, strict=True))[:9]
        np.testing.assert_allclose(found["score"], [-score for score, _ in order], atol=1e-6)
        if is_int8(coded):
            assert found["id"].to_pylist() == [row for _, row in order]


def test_an_export_has_unit_vectors(coded, tmp_path):
    database = Database(coded)
    ids, vectors = rows_of(coded, "pool")
    coreset = database.select("python", budget=5, leakage="off")
    file = tmp_path / "out.parquet"
    database.export(coreset, file, with_fields="rds", shuffle=False)
    table = pq.read_table(file)
    expected = vectors[[ids.index(row) for row in coreset.ids]]
    np.testing.assert_allclose(table["rds"].to_pylist(), expected, atol=1e-7)


def test_there_is_no_index(coded):
    with pytest.raises(UsageError, match=r"stored as int\d.*rds:stored=float16"):
        index_feature(coded, "rds")
    with pytest.raises(UsageError, match=r"int\d.*leave --approximate out.*rds:stored"):
        select(coded, ["python"], budget="5", approximate=True)


def test_codes_of_nothing_are_refused(coded):
    if not is_int8(coded):
        pytest.skip("codes of 2 bits have no zero")
    rows = coded.dataset("pool").to_table(filter="rds IS NOT NULL").slice(0, 3)
    rows = rows.set_column(0, rows.schema.field(0), pa.array([digest(str(n)) for n in range(3)]))
    zeros = pa.FixedSizeListArray.from_arrays(
        pa.array(np.zeros(3 * WIDTH, np.int8)), type=KINDS["int8"]
    )
    with pytest.raises(StoreError, match="column 'rds': the vector"):
        coded.insert("pool", rows.set_column(rows.schema.get_field_index("rds"), "rds", zeros))
