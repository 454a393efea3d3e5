"""Replay: the same ids after all that may happen to a store."""

import pytest

from coresetdb.query.coresets import coreset_names, remove_coreset, tag_of
from coresetdb.query.replay import replay
from coresetdb.query.selection import select
from coresetdb.query.targets import remove_target
from coresetdb.schemas.errors import UsageError
from coresetdb.store import maintenance


@pytest.mark.parametrize(
    ("method", "budget"),
    [("rds", "40"), ("rds:top(by=max)", "15%"), ("random", "40"), ("rds:round_robin", "90-tokens")],
)
def test_same_ids_after_ingestion_compaction_and_clean_up(store, toys, method, budget):
    made = select(store, ["arithmetic", "python"], method=method, budget=budget, seed=3)
    more = [
        toys.question(topic, number) for topic in ("sums", "code") for number in range(900, 940)
    ]
    store.insert("pool", toys.pool_rows(more, ["late"] * len(more)))
    maintenance.compact(store)
    maintenance.clean(store, older_than_seconds=0)
    again = replay(store, made.name)
    assert again.same and again.same_queries and again.ids == made.ids
    if method != "random":
        assert select(store, ["arithmetic", "python"], method=method, budget=budget).ids != made.ids


def test_a_target_that_changed_is_read_at_its_old_version(store, toys):
    made = select(store, ["python"], budget="30")
    remove_target(store, "python")
    assert replay(store, made.name).same
    toys.add_target(store, "python", [toys.question("poems", 5)])
    again = replay(store, made.name)
    assert again.same and again.same_queries


def test_a_target_that_is_gone_for_good_is_said(store):
    made = select(store, ["python"], budget="30")
    remove_target(store, "python")
    maintenance.clean(store, older_than_seconds=0)
    assert replay(store, made.name).same  # the coreset keeps the version of the targets, too
    store.untag(tag_of(made.name, "targets"), "targets")  # as coresets made earlier are
    maintenance.clean(store, older_than_seconds=0)
    with pytest.raises(UsageError, match="targets"):
        replay(store, made.name)


def test_a_difference_is_found(store, monkeypatch):
    made = select(store, method="random", budget="30", seed=1)
    monkeypatch.setattr("coresetdb.query.replay.Request", _other_seed)
    again = replay(store, made.name)
    assert not again.same and again.first_difference == 1


def _other_seed(**fields):
    from coresetdb.query.request import Request

    return Request(**{**fields, "seed": 2})


def test_a_removed_coreset_leaves_nothing_behind(store):
    kept, gone = select(store, ["python"], budget="5"), select(store, ["python"], budget="7")
    remove_coreset(store, gone.name)
    assert coreset_names(store) == [kept.name]
    names = store.dataset("coreset_rows").to_table(columns=["coreset"])["coreset"].to_pylist()
    assert names == [kept.name] * 5
    assert list(store.tags()) == [tag_of(kept.name)]
    assert list(store.tags("targets")) == [tag_of(kept.name, "targets")]
    with pytest.raises(UsageError, match=gone.name):
        remove_coreset(store, gone.name)
