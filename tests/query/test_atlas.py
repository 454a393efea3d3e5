"""The export for embedding-atlas: places that stay, neighbours that are nearest, the way back."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers.optional import needs

from coresetdb.database import Database
from coresetdb.query import atlas, maps
from coresetdb.schemas.errors import MissingFeatureError, UsageError

pytestmark = needs("sklearn", "pip install 'coresetdb[atlas]'")


@pytest.fixture
def database(store) -> Database:
    return Database(store)


def test_rows_neighbours_scores_and_the_way_back(database, tmp_path, toys):
    database.score("arithmetic", "rds")
    chosen = database.select("arithmetic", budget=5, name="five")
    out = tmp_path / "pool.parquet"
    exported = database.export_atlas(out, neighbours=4)
    table = pq.read_table(out)
    pool = database.store.dataset("pool").to_table(columns=["id", "rds", "corpus", "messages"])
    pool = pool.filter(pool["rds"].is_valid())
    assert table["id"].to_pylist() == pool["id"].to_pylist()
    assert (exported.rows, exported.placed) == (246, 240) and "6 rows without rds" in str(exported)
    vectors = np.array(pool["rds"].to_pylist(), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors @ vectors.T
    for row, near in enumerate(table["neighbors"].to_pylist()):
        naive = np.argsort(-cosines[row], kind="stable")[:4]
        assert near["ids"][0] == row
        np.testing.assert_allclose(cosines[row, near["ids"]], cosines[row, naive], atol=1e-6)
        np.testing.assert_allclose(near["distances"], 1 - cosines[row, naive], atol=1e-5)
    assert table["text"][0].as_py().startswith(pool["messages"][0][0]["content"].as_py())
    five = [name == "five" for name in table["coresets"].to_pylist()]
    assert {row_id for row_id, own in zip(table["id"].to_pylist(), five, strict=True) if own} == {
        *chosen.ids
    }
    best = np.nanargmax(table["score rds arithmetic"].to_numpy())
    assert table["corpus"][int(best)].as_py() == "sums"
    places = np.stack([table["projection_x"].to_numpy(), table["projection_y"].to_numpy()], 1)
    assert np.isfinite(places).all()
    _rows_of_a_topic_lie_together(places, table["corpus"].to_pylist())
    selection = table.filter(np.array(five)).select(["id", "projection_x"])
    pq.write_table(selection, tmp_path / "selection.parquet")
    back = database.import_coreset("back", tmp_path / "selection.parquet")
    assert set(back.ids) == set(chosen.ids)


@pytest.mark.parametrize("count", [1, 5, 40, 90])
def test_nearest_rows_are_found_block_by_block(count, monkeypatch):
    monkeypatch.setattr(maps, "_BLOCK", 4)  # compared with 16 rows at a time
    rng = np.random.default_rng(0)
    vectors = maps.FeatureVectors.__new__(maps.FeatureVectors)
    vectors.matrix = rng.normal(size=(90, 6)).astype(np.float16)
    vectors.matrix[[30, 60]] = vectors.matrix[3]  # as near as each other
    unit = vectors.matrix.astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    cosines = unit @ unit.T
    where, distances = vectors.nearest(0, 50, count)
    assert where.shape == distances.shape == (50, count)
    for row in range(50):
        naive = np.argsort(-cosines[row], kind="stable")[:count]
        assert len(set(where[row])) == count
        np.testing.assert_allclose(cosines[row, where[row]], cosines[row, naive], atol=1e-6)
        np.testing.assert_allclose(distances[row], 1 - cosines[row, naive], atol=1e-6)


@pytest.mark.parametrize("few", [0, 8, 1000])
@pytest.mark.parametrize("count", [3, 20])
def test_nearest_rows_of_corpora_in_order(count, few, monkeypatch):
    monkeypatch.setattr(maps, "_BLOCK", 4)
    monkeypatch.setattr(maps, "_FEW", few)
    rng = np.random.default_rng(1)
    corpora = rng.normal(size=(3, 1, 6)) * 4 + rng.normal(size=(3, 30, 6))
    vectors = maps.FeatureVectors.__new__(maps.FeatureVectors)
    vectors.matrix = corpora.reshape(90, 6).astype(np.float16)
    unit = vectors.matrix.astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    for start, stop in [(0, 8), (36, 44), (60, 70), (84, 90)]:
        where, distances = vectors.nearest(start, stop, count)
        cosines = unit[start:stop] @ unit.T
        naive = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
        np.testing.assert_array_equal(where, naive)
        wanted = 1 - np.take_along_axis(cosines, naive, 1)
        np.testing.assert_allclose(distances, wanted, atol=1e-6)


def _rows_of_a_topic_lie_together(places, corpora):
    corpora = np.array(corpora)
    for topic in set(corpora):
        own, others = places[corpora == topic], places[corpora != topic]
        centre = own.mean(axis=0)
        spread = np.linalg.norm(own - centre, axis=1).mean()
        assert spread < np.linalg.norm(others - centre, axis=1).mean() / 2


def test_the_map_is_made_once_and_new_rows_join_it(database, tmp_path, toys, monkeypatch):
    monkeypatch.setattr(atlas, "NEIGHBOURS", 0)
    database.export_atlas(tmp_path / "a.parquet")
    first = pq.read_table(tmp_path / "a.parquet")
    assert "neighbors" not in first.column_names and "map_rds_x" not in first.column_names
    assert "map_rds" in [row["annotation"] for row in database.list_annotations()]
    monkeypatch.setattr(maps, "project", None)  # not called again
    rows = [toys.question("sums", 5000), toys.question("code", 5001)]
    database.store.insert("pool", toys.pool_rows(rows, ["late", "late"]))
    database.export_atlas(tmp_path / "a.parquet")  # one of ours is replaced
    second = pq.read_table(tmp_path / "a.parquet")
    assert second.slice(0, 240)["projection_x"].equals(first["projection_x"])
    late = second.filter(np.array(second["corpus"].to_pylist()) == "late")
    for place, topic in zip(late.to_pylist(), ("sums", "code"), strict=True):
        own = first.filter(np.array(first["corpus"].to_pylist()) == topic)
        for axis in ("projection_x", "projection_y"):
            values = own[axis].to_numpy()
            assert values.min() <= place[axis] <= values.max()


def test_a_large_pool_is_drawn_by_a_sample(monkeypatch):
    monkeypatch.setattr(maps, "SAMPLE", 60)
    random = np.random.default_rng(1)
    centres = np.repeat(np.eye(3, 16), 100, axis=0)
    vectors = centres + 0.05 * random.standard_normal((300, 16))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    places = maps.project(vectors)
    assert places.shape == (300, 2) and np.isfinite(places).all()
    _rows_of_a_topic_lie_together(places, np.repeat(["a", "b", "c"], 100))
    np.testing.assert_array_equal(places, maps.project(vectors))


def test_a_wrong_call_is_refused(database, tmp_path):
    (tmp_path / "mine.parquet").write_text("mine")
    for out, words in (
        ("a.csv", "Parquet"),
        ("mine.parquet", "--overwrite"),
        ("no/a.parquet", "no folder"),
    ):
        with pytest.raises(UsageError, match=words):
            database.export_atlas(tmp_path / out)
    with pytest.raises(MissingFeatureError, match="nosuch"):
        database.export_atlas(tmp_path / "a.parquet", feature="nosuch")
    with pytest.raises(UsageError, match="0 to 1000"):
        database.export_atlas(tmp_path / "a.parquet", neighbours=2000)
