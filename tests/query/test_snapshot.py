"""A request opens each table once, at one version, and reads nothing of a later one."""

from __future__ import annotations

from collections import Counter

import lance
import pytest

from coresetdb.query.queries import load_queries
from coresetdb.query.replay import replay
from coresetdb.query.rules.rules import rules_for
from coresetdb.query.score import score
from coresetdb.query.selection import select
from coresetdb.query.snapshot import Snapshot
from coresetdb.schemas.errors import StoreError


@pytest.fixture
def opens(monkeypatch):
    """How often each table is opened."""
    counts, opened = Counter(), lance.dataset

    def counting(uri, **options):
        counts[str(uri).rsplit("/", 1)[-1].removesuffix(".lance")] += 1
        return opened(uri, **options)

    monkeypatch.setattr(lance, "dataset", counting)
    return counts


@pytest.mark.parametrize("budget", ["20", "5%", "300-tokens"])
def test_one_selection_opens_the_pool_once(store, opens, budget):
    select(store, ["arithmetic"], budget="9", name="earlier")
    rules = rules_for(store, cap="sums=10", distinct=0.99, exclude="earlier", leakage="full")
    opens.clear()
    select(store, ["arithmetic", "python"], budget=budget, where="corpus <> 'facts'", rules=rules)
    assert (opens["pool"], opens["targets"]) == (1, 1)


def test_quotas_and_baselines_open_the_pool_once(store, opens):
    select(store, ["python"], budget="20", rules=rules_for(store, quota="poems=5"))
    select(store, method="random", budget="20")
    assert (opens["pool"], opens["targets"]) == (2, 2)


def test_a_replay_opens_the_pool_for_the_record_and_for_the_answer(store, opens):
    select(store, ["python"], budget="20", name="recorded")
    opens.clear()
    assert replay(store, "recorded").same
    assert (opens["pool"], opens["targets"]) == (2, 1)


def test_scores_open_the_pool_once(store, opens):
    score(store, "python", ["rds", "rds(by=max)"])
    assert (opens["pool"], opens["targets"]) == (1, 1)


def test_a_snapshot_stays_at_its_versions(store, toys):
    before = Snapshot(store)
    rows, examples = before.pool.count_rows(), len(load_queries(before, "python", None).ids)
    added = toys.question("later", 1)
    store.insert("pool", toys.pool_rows([added], ["later"]))
    toys.add_target(store, "later", [toys.question("later", 2)])
    after = Snapshot(store)
    assert before.pool.count_rows() == rows and after.pool.count_rows() == rows + 1
    assert Snapshot(store, before.pool_version).pool.count_rows() == rows
    assert after.pool_version > before.pool_version
    assert after.take([added.id], ["corpus"])["corpus"].to_pylist() == ["later"]
    with pytest.raises(StoreError, match=added.id):
        before.take([added.id], ["corpus"])
    features = after.features
    older = after.with_targets(before.targets_version)
    assert older.pool is after.pool and older.features is features
    assert len(load_queries(older, "python", None).ids) == examples
    assert set(older.targets.to_table()["target"].to_pylist()) == {"arithmetic", "python"}
    assert "later" in after.targets.to_table()["target"].to_pylist()


def test_take_and_stream_agree(store):
    snapshot = Snapshot(store)
    ids = snapshot.pool.to_table(columns=["id"])["id"].to_pylist()[::-3]
    whole = snapshot.take(ids, ["id", "corpus"])
    assert whole["id"].to_pylist() == ids
    parts = list(snapshot.stream(ids, ["id", "corpus"], rows=7))
    assert [len(part) for part in parts[:-1]] == [7] * (len(parts) - 1)
    assert [row for part in parts for row in part.to_pylist()] == whole.to_pylist()
