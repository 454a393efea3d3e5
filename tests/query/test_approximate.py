"""Selections by an index: exact scores, counted recall, what becomes of it as the pool changes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from click.testing import CliRunner

from coresetdb.cli.main import commands
from coresetdb.database import Database
from coresetdb.query import approximate
from coresetdb.query.indexing import centroids_of, drop_index, index_feature, partitions_for
from coresetdb.query.replay import replay
from coresetdb.query.rules.rules import Rules
from coresetdb.query.selection import select
from coresetdb.schemas.errors import MissingFeatureError, UsageError
from coresetdb.schemas.ids import keys_of
from coresetdb.selectors.reductions import RowVectors
from coresetdb.store import maintenance
from coresetdb.store.features import drop
from coresetdb.store.indices import indices_of
from coresetdb.store.store import Store

torch.set_num_threads(1)

TOPICS = ("sums", "code", "poems", "facts")
OFF = Rules(leakage="off")


def rows_of(toys, start, count):
    rows = [toys.question(TOPICS[number % 4], number) for number in range(start, start + count)]
    return toys.pool_rows(rows, [row.messages[0].content.split()[0] for row in rows])


@pytest.fixture(scope="module")
def once(tmp_path_factory, toys):
    """A store of 1,500 rows in two fragments, a few without the feature, and an index."""
    store = toys.toy_store(tmp_path_factory.mktemp("indexed") / "store")
    store.insert("pool", rows_of(toys, 0, 1000))
    store.insert("pool", rows_of(toys, 1000, 490))
    store.insert(
        "pool", toys.pool_rows([toys.question("blank", n) for n in range(10)], ["no"] * 10)
    )
    toys.add_target(store, "python", [toys.question("code", 9000 + n) for n in range(6)])
    index_feature(store, "rds")
    return store


@pytest.fixture
def indexed(once, tmp_path):
    """A copy of it."""
    shutil.copytree(once.uri, tmp_path / "store")
    return Store.open(str(tmp_path / "store"))


def chosen(store, budget, **options):
    options = {"method": "rds:round_robin", "rules": OFF, **options}
    return select(store, ["python"], budget=str(budget), **options)


@pytest.mark.parametrize("method", ["rds:round_robin", "rds:top(by=max)"])
def test_what_is_found_is_scored_and_ordered_exactly(indexed, method):
    exact = chosen(indexed, 1490, method=method)
    found = chosen(indexed, 60, method=method, approximate=True)
    facts = found.parameters["approximate"]
    assert facts["recall"] >= approximate.ENOUGH and facts["index"] == "rds__ivf_rq_32"
    assert any("searched in" in note and "of the nearest 60 rows" in note for note in found.notes)
    assert len(set(found.ids)) == 60 and found.parameters["missing"] == 10
    assert len(set(found.ids) & set(exact.ids[:60])) >= 55
    if method == "rds:top(by=max)":
        scores = dict(zip(exact.ids, exact.table()["score"].to_pylist(), strict=True))
        order = {key: place for place, key in enumerate(exact.ids)}
        assert [scores[key] for key in found.ids] == found.table()["score"].to_pylist()
        assert found.ids == sorted(found.ids, key=order.__getitem__)


@pytest.mark.parametrize(("counted", "off"), [(10**9, 0.0), (100, 0.1)])
def test_recall_is_what_a_full_count_says(indexed, monkeypatch, counted, off):
    """Rows named by chance instead of by an index; on a part of the pool it is an estimate."""
    monkeypatch.setattr(approximate, "RECALL_HITS", counted)
    pool = indexed.dataset("pool").to_table(columns=["id", "rds"], filter="rds IS NOT NULL")
    vectors = np.array(pool["rds"].to_pylist(), np.float16)
    keys = keys_of(pool["id"])
    targets = indexed.dataset("targets").to_table(columns=["rds"])["rds"].to_pylist()
    queries = np.array(targets, np.float32)
    similarity = queries @ vectors.astype(np.float32).T
    counts = approximate.Recall(indexed.dataset("pool"), "rds", 16, torch.from_numpy(queries))
    assert counts.sampled(40) == (1500 if off == 0.0 else 625)
    generator = np.random.default_rng(0)
    for share, k in ((1.0, 40), (0.9, 40), (0.4, 40), (0.4, 1), (0.01, 40)):
        named = np.flatnonzero(generator.random(len(keys)) < share)
        found = RowVectors(keys[named], vectors[named])
        last = -np.sort(-similarity[:, named], axis=1)[:, k - 1 : k]
        if len(named) < k:
            expected = len(named) / k
        else:
            expected = 6 * k / (similarity >= last).sum()
        assert abs(counts.of(found, k, None, len(keys)) - expected) <= off + 1e-9


def test_lancedb_answers_from_the_same_index_without_torch(indexed):
    """As a user would ask it, at a version of the pool, with a filter that is applied first."""
    program = """
import sys, lancedb
uri, version = sys.argv[1:]
table = lancedb.connect(uri).open_table("pool")
table.checkout(int(version))
vector = table.search().where("rds IS NOT NULL").limit(1).to_list()[0]["rds"]
search = table.search(vector, vector_column_name="rds").distance_type("cosine").nprobes(32)
rows = search.refine_factor(4).where("corpus = 'sums'").limit(5).select(["corpus"]).to_list()
assert [row["corpus"] for row in rows] == ["sums"] * 5, rows
assert "ANNSubIndex: name=rds__ivf_rq_32" in search.limit(5).explain_plan(True)
assert "torch" not in sys.modules
"""
    version = str(indexed.version("pool"))
    subprocess.run([sys.executable, "-c", program, indexed.uri, version], check=True)


def test_a_bad_recall_is_a_warning(indexed, monkeypatch):
    monkeypatch.setattr(approximate, "ENOUGH", 1.1)
    coreset = chosen(indexed, 30, approximate=True)
    assert coreset.parameters["approximate"]["probes"] == 32, "all partitions, in the end"
    assert any("every row is compared" in note for note in coreset.notes)


def test_rows_that_come_later_are_found_and_taken_in(indexed, toys):
    near = [toys.question("code", 9000 + number) for number in range(6)]  # the target's examples
    indexed.insert("pool", toys.pool_rows(near, ["late"] * 6))
    assert indices_of(indexed.dataset("pool"))["rds"].outside == 6
    assert set(chosen(indexed, 6, approximate=True).ids) == {row.id for row in near}
    extended = index_feature(indexed, "rds")
    assert (extended.done, extended.index.outside, extended.index.rows) == ("extended", 0, 1506)
    assert set(chosen(indexed, 6, approximate=True).ids) == {row.id for row in near}
    assert index_feature(indexed, "rds").done == "unchanged"
    assert len(extended.index.parts) == 2
    maintenance.compact(indexed)
    maintenance.clean(indexed, 0.0)
    assert indices_of(indexed.dataset("pool"))["rds"].outside == 0
    assert set(chosen(indexed, 6, approximate=True).ids) == {row.id for row in near}
    assert Database(indexed).create_index("rds").done == "unchanged"


def test_an_index_of_many_parts_is_built_anew(indexed, toys, monkeypatch):
    monkeypatch.setattr("coresetdb.query.indexing._MOST_PARTS", 2)
    done = []
    for number in range(2):
        indexed.insert("pool", toys.pool_rows([toys.question("code", 7000 + number)], ["late"]))
        done.append(index_feature(indexed, "rds"))
    assert [each.done for each in done] == ["extended", "built"]
    assert [len(each.index.parts) for each in done] == [2, 1] and done[1].index.outside == 0


def test_an_outgrown_index_is_built_anew(tmp_path, toys):
    store = toys.toy_store(tmp_path / "store")
    store.insert("pool", rows_of(toys, 0, 60))
    assert index_feature(store, "rds").index.name == "rds__ivf_rq_8"
    store.insert("pool", rows_of(toys, 60, 240))
    again = index_feature(store, "rds")
    assert (again.done, again.index.name) == ("built", "rds__ivf_rq_16")
    assert list(indices_of(store.dataset("pool"))) == ["rds"]


def test_a_filter_is_kept(indexed):
    found = chosen(indexed, 40, where="corpus = 'poems'", approximate=True)
    assert {row["corpus"] for row in found.table().to_pylist()} == {"poems"}
    exact = chosen(indexed, 40, where="corpus = 'poems'")
    assert len(set(found.ids) & set(exact.ids)) >= 36
    with pytest.raises(UsageError, match="quicker than asking an index"):
        chosen(indexed, 5, where="corpus = 'no'", approximate=True)


def test_replay_says_what_it_proves(indexed, toys):
    found = chosen(indexed, 50, approximate=True)
    indexed.insert("pool", rows_of(toys, 5000, 80))
    index_feature(indexed, "rds")
    maintenance.compact(indexed)
    maintenance.clean(indexed, 0.0)
    again = replay(indexed, found.name)
    assert again.same and "This does not prove" in again.notes[0]
    for part in found.parameters["approximate"]["parts"]:
        shutil.rmtree(Path(indexed.uri) / "pool.lance" / "_indices" / part)
    gone = replay(indexed, found.name)
    shared = len(set(found.ids) & set(gone.ids))
    assert f"{shared} of the 50 rows" in gone.notes[0] and "gone" in gone.notes[0]
    assert len(gone.ids) == 50 and shared >= 45


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("rds:top", "more than each example's nearest rows"),
        ("rds:uot", "more than each example's nearest rows"),
        ("random", "leave --approximate out"),
        ("rds:k_center", "leave --approximate out"),
    ],
)
def test_what_an_index_cannot_answer(indexed, method, said):
    with pytest.raises(UsageError, match=said):
        chosen(indexed, 10, method=method, approximate=True)


def test_too_many_rows_for_an_index(indexed, monkeypatch):
    monkeypatch.setattr(approximate, "_MOST_BYTES", 10_000)
    with pytest.raises(UsageError, match="pays for small budgets"):
        chosen(indexed, 100, approximate=True)


def test_more_rows_than_there_are(tmp_path, toys):
    store = toys.toy_store(tmp_path / "three")
    toys.add_target(store, "python", [toys.question("code", 100)])
    with pytest.raises(MissingFeatureError, match="nothing to index"):
        index_feature(store, "rds")
    store.insert("pool", rows_of(toys, 0, 3))
    index_feature(store, "rds")
    few = chosen(store, 10, approximate=True)
    assert few.ids == chosen(store, 10).ids and few.short_by == 7
    assert few.parameters["approximate"]["recall"] == 1.0


def test_equal_vectors(tmp_path, toys):
    store = toys.toy_store(tmp_path / "equal")
    rows = rows_of(toys, 0, 100)
    column = rows.column_names.index("rds")
    rows = rows.set_column(column, rows.schema.field("rds"), rows["rds"].take([0] * 100))
    store.insert("pool", rows)
    toys.add_target(store, "python", [toys.question("code", 1000)])
    index_feature(store, "rds")
    found = chosen(store, 10, approximate=True)
    assert len(found) == 10 and len(set(found.table()["score"].to_pylist())) == 1


def test_an_index_goes_with_its_feature_and_alone(indexed):
    dropped = drop_index(indexed, "rds")
    assert dropped.rows == 1500 and not indices_of(indexed.dataset("pool"))
    with pytest.raises(UsageError, match="has no index"):
        drop_index(indexed, "rds")
    with pytest.raises(UsageError, match="coresetdb index"):
        chosen(indexed, 5, approximate=True)
    index_feature(indexed, "rds")
    drop(indexed, "rds", force=True)
    assert not indexed.dataset("pool").list_indices()


def test_verify_knows_the_files_of_an_index(indexed):
    from coresetdb.store.integrity.verify import verify

    assert verify(indexed.uri, True).ok


def test_centroids(tmp_path):
    import lance

    generator = np.random.default_rng(0)
    directions = np.eye(8, dtype=np.float32)[:3]
    vectors = directions[np.arange(90) % 3] + 0.05 * generator.standard_normal((90, 8))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    kind = pa.list_(pa.float16(), 8)
    column = pa.array([None, *map(list, vectors)], kind)
    dataset = lance.write_dataset(pa.table({"v": column}), tmp_path / "v.lance")
    found = centroids_of(dataset, "v", 8, 3).astype(np.float32)
    assert centroids_of(dataset, "v", 8, 1000).shape == (90, 8)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-3)
    spread = (vectors.astype(np.float32) @ found.T).max(axis=1)
    assert spread.mean() > 0.8
    assert [partitions_for(n) for n in (0, 1, 100, 60_000, 1_000_000, 10**9)] == [
        1, 1, 8, 256, 1024, 4096
    ]  # fmt: skip


def test_command_line(indexed):
    run = CliRunner()

    def call(*words, code=0):
        done = run.invoke(commands, ["index", *words])
        assert done.exit_code == code, done.output
        return done

    (row,) = json.loads(call("list", indexed.uri, "--json").stdout)
    assert row == {
        "index of": "rds",
        "kind": "IVF_RQ",
        "partitions": 32,
        "rows": 1500,
        "rows outside": 0,
    }
    assert "all rows already" in call("create", indexed.uri, "rds").stderr
    assert "IVF_RQ" in call("list", indexed.uri).stdout
    assert "removed" in call("remove", indexed.uri, "rds").stderr
    assert "No indices" in call("list", indexed.uri).stderr
    for wrong in ("create", "remove", "lst"):
        call(wrong, indexed.uri, code=2)
    assert "rds: indexed" in call("create", indexed.uri, "rds").stderr
