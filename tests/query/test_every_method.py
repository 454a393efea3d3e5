"""Every method a store can answer, from the question to the replay, and against bare selectors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.selector_driver import Pool, drive

from coresetdb.query.explaining.explain import explain
from coresetdb.query.methods import method_names
from coresetdb.query.replay import replay
from coresetdb.query.selection import select
from coresetdb.query.snapshot import Snapshot
from coresetdb.schemas.errors import UsageError
from coresetdb.store import maintenance

torch.set_num_threads(1)

OPTIONS = {"rds:deita_filter": "(score=response_tokens)"}
"""What a method cannot do without on this store."""

DRAWN = ["rds:knn_kde(alpha=0.5,draw=with,draws=40)", "rds:knn_uniform(draw=without)"]
"""TSDS's own way to take rows, and DataFlex's."""

PASSES_OVER = {"rds:deita_filter"}
"""May choose fewer rows than the budget."""


def methods_of(store):
    features = {name: each.representation for name, each in Snapshot(store).features.items()}
    return method_names(features)


def test_budgets_and_replay(store, toys):
    names = [*methods_of(store), *DRAWN]
    assert {"random", "rds:uot", "rds:knn_uniform", "rds:knn_kde", "rds:k_center"} <= set(names)
    made = []
    for name in names:
        method = name + OPTIONS.get(name, "")
        coreset = select(store, ["arithmetic"], method=method, budget="60", seed=3)
        assert len(coreset) == len(set(coreset.ids)), name
        assert len(coreset) == 60 or name in PASSES_OVER, name
        lengths = store.take(coreset.ids, ["response_tokens"])["response_tokens"].to_pylist()
        budget = sum(lengths[:20]) + 1
        short = select(store, ["arithmetic"], method=method, budget=f"{budget}-tokens", seed=3)
        count = len(short)
        assert short.ids == coreset.ids[:count], name
        assert sum(lengths[:count]) <= budget < sum(lengths[: count + 1]), name
        made += [coreset, short]
    late = [toys.question("sums", number) for number in range(900, 940)]
    store.insert("pool", toys.pool_rows(late, ["late"] * len(late)))
    maintenance.compact(store)
    maintenance.clean(store, older_than_seconds=0)
    for coreset in made:
        assert replay(store, coreset.name).same, coreset.method


@pytest.mark.parametrize("selector", ["uot", "knn_uniform", "knn_kde"])
@pytest.mark.parametrize("where", [None, "corpus <> 'code'"])
def test_a_store_gives_what_the_selector_gives(store, selector, where):
    pool = store.dataset("pool").to_table(filter="rds IS NOT NULL").to_pylist()
    if where:
        pool = [row for row in pool if row["corpus"] != "code"]
    examples = store.dataset("targets").to_table(filter="target = 'python'").to_pylist()
    examples.sort(key=lambda row: row["position"])
    vectors = np.array([row["rds"] for row in pool], np.float16)
    asked = np.array([row["rds"] for row in examples], np.float32)
    bare = Pool([row["id"] for row in pool], asked @ vectors.T.astype(np.float32), vectors)
    # By default it is fitted to the whole pool, whatever the filter.
    options = {"sigma": 0.5} if selector == "knn_kde" else {}
    alone = drive(selector, bare, 70, options=options)
    method = f"rds:{selector}" + ("(sigma=0.5)" if options else "")
    coreset = select(store, ["python"], method=method, budget="70", where=where)
    table = coreset.table()
    assert coreset.ids == alone.ids
    np.testing.assert_allclose(table["score"], alone.scores, rtol=1e-5, atol=1e-9)
    assert table["query"].to_pylist() == [examples[int(query)]["id"] for query in alone.queries]
    assert set(alone.notes) <= set(coreset.notes)


def test_drawn_rows_depend_on_the_seed_and_say_what_they_score(store):
    phrases = (
        "how often it was drawn, of 40 times",
        "over a random wait: rows are drawn by their shares",
    )
    for method, phrase in zip(DRAWN, phrases, strict=True):
        made = [select(store, ["python"], method=method, budget="30", seed=seed) for seed in (0, 1)]
        assert made[0].method == method and made[0].ids != made[1].ids
        assert phrase in str(explain(store, made[0].name, 1))
    often = select(store, ["python"], method=DRAWN[0], budget="30")
    assert any("40 draws with replacement took" in note for note in often.notes)


def test_what_is_said_about_the_bounds(store):
    grown = select(store, ["python"], method="rds:knn_uniform(Lmax=30)", budget="100")
    assert grown.method == "rds:knn_uniform(Lmax=30)"
    assert any("limit of 30 rows an example" in note for note in grown.notes)
    assert any("the rows after them are ordered" in note for note in grown.notes)
    cut = select(store, ["python"], method="rds:knn_kde(union=20)", budget="100")
    assert any("stays within union=20" in note for note in cut.notes)
    assert cut.parameters["options"]["Lmax"] == 5000 and cut.parameters["options"]["union"] == 20


def test_targets_share_the_budget_each_with_its_own_transport(store):
    both = select(store, ["arithmetic", "python"], method="rds:uot", budget="40")
    counts = np.bincount([target == "python" for target in both.table()["target"].to_pylist()])
    assert counts.tolist() == [20, 20]


@pytest.mark.parametrize("method", ["uot", "knn_kde", "losses:uot", "rds:knn_uniform(alpha=2)"])
def test_refused(store, method):
    with pytest.raises(UsageError):
        select(store, ["python"], method=method, budget="5")
