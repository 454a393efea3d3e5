"""Near-duplicates: no two picks are as close as the threshold, against the full matrix."""

import numpy as np
import pytest
import torch

from coresetdb.query.replay import replay
from coresetdb.query.rules.rules import NONE, Excluded, Rules, rules_for
from coresetdb.query.selection import select
from coresetdb.schemas.errors import UsageError

torch.set_num_threads(1)


def vectors(store, ids):
    table = store.take(ids, ["rds"])["rds"].to_pylist()
    matrix = np.array(table, np.float64)
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


@pytest.mark.parametrize("threshold", [0.3, 0.8, 0.95])
def test_top_is_the_walk_that_passes_over_what_is_close(store, threshold):
    whole = select(store, ["arithmetic"], method="rds:top", budget="240", rules=NONE).ids
    unit = vectors(store, whole)
    kept = []
    for at in range(len(whole)):
        if not kept or (unit[kept] @ unit[at]).max() < threshold:
            kept.append(at)
    rules = rules_for(store, distinct=threshold)
    made = select(store, ["arithmetic"], method="rds:top", budget="20", rules=rules)
    assert made.ids == [whole[at] for at in kept[:20]]
    found = made.parameters["rules"]["distinct"]
    assert found["by"] == "rds" and found["left_out"] == len(found["rows"]) > 0
    for row in found["rows"]:
        assert row["like"] in whole and row["cosine"] >= threshold - 1e-6
        pair = vectors(store, [row["id"], row["like"]])
        assert row["cosine"] == pytest.approx(pair[0] @ pair[1], abs=2e-6)
    assert replay(store, made.name).same


def test_round_robin_is_the_plain_one_less_the_rows_left_out(store):
    made = select(store, ["arithmetic"], budget="40", rules=rules_for(store, distinct=0.85))
    unit = vectors(store, made.ids)
    assert (unit @ unit.T - np.eye(40)).max() < 0.85
    left = [row["id"] for row in made.parameters["rules"]["distinct"]["rows"]]
    never = Rules(leakage="off", excluded=(Excluded("left", bytes.fromhex("".join(left))),))
    assert made.ids == select(store, ["arithmetic"], budget="40", rules=never).ids
    counts = [each["counts"] for each in made.table()["query"].value_counts().to_pylist()]
    assert max(counts) - min(counts) <= 1
    assert any("near-duplicates" in note for note in made.notes)
    assert replay(store, made.name).same


def test_equal_vectors_at_a_threshold_of_one(store, toys):
    """Rows of other text with the vectors of rows that are there."""
    rows = [toys.question("sums", number) for number in range(20)]
    table = toys.pool_rows(rows, ["sums"] * 20)
    others = toys.pool_rows([toys.question("sums", 700 + n) for n in range(20)], ["twin"] * 20)
    twins = others.set_column(others.column_names.index("rds"), "rds", table["rds"])
    store.insert("pool", twins)
    there = [row.id for row in rows[::4]]  # numbers of the fixture's "sums" rows
    both = [*there, *twins["id"].to_pylist()[::4]]
    only = Rules(leakage="off", distinct=1.0)
    made = select(store, ["arithmetic"], method="rds:top", budget="260", rules=only)
    unit = vectors(store, made.ids)
    assert (unit @ unit.T - np.eye(len(made))).max() < 1 - 1e-6
    assert len(set(both) & set(made.ids)) == len(there)


def test_by_another_feature(store):
    rules = rules_for(store, distinct=0.9, distinct_by="rds")
    made = select(store, method="random", budget="100", rules=rules)
    order = select(store, method="random", budget="246").ids
    unit = {id: None for id in order}
    there = store.take(order, ["rds"])["rds"].is_valid().to_pylist()
    present = [id for id, yes in zip(order, there, strict=True) if yes]
    unit |= dict(zip(present, vectors(store, present), strict=True))
    kept = []
    for id in order:
        close = [unit[id] @ unit[each] for each in kept if unit[each] is not None and id in present]
        if not close or max(close) < 0.9:
            kept.append(id)
    assert made.ids == kept[:100]
    missing = sum(unit[id] is None for id in made.ids)
    assert made.parameters["rules"]["distinct"]["not_compared"] == missing > 0
    with pytest.raises(UsageError, match="distinct-by one of rds"):
        select(store, method="random", budget="5", rules=rules_for(store, distinct=0.9))
