"""Two coresets side by side, and the two distances, against numbers worked out naively."""

from __future__ import annotations

import json
from html import escape

import numpy as np
import pytest
import torch
from scipy import stats

from coresetdb.query.compare import compare, spearman
from coresetdb.query.selection import select
from coresetdb.schemas.errors import UsageError

torch.set_num_threads(1)


def stored(store, table, where=None):
    return store.dataset(table).to_table(filter=where).to_pylist()


def mmd_of(queries, rows):
    """All pairs, one by one."""

    def mean(left, right):
        return np.mean([float(np.dot(a, b)) for a in left for b in right])

    return np.sqrt(mean(queries, queries) + mean(rows, rows) - 2 * mean(queries, rows))


def test_the_mmd_is_that_of_all_pairs(store):
    coreset = select(store, ["arithmetic", "python"], method="rds:top", budget="30")
    vectors = {row["id"]: row["rds"] for row in stored(store, "pool")}
    queries = [row["rds"] for row in stored(store, "targets")]
    queries, rows = (
        np.array(each, np.float64) for each in (queries, [vectors[i] for i in coreset.ids])
    )
    assert coreset.mmd == pytest.approx(mmd_of(queries, rows), abs=1e-6)
    assert coreset.distance == pytest.approx((1 - (queries @ rows.T).max(axis=1)).mean(), abs=1e-6)
    assert f"distance {coreset.distance:.4f}, MMD {coreset.mmd:.4f}" in repr(coreset)
    assert select(store, method="random", budget="5").mmd is None


def test_rows_without_the_feature_are_not_measured(store):
    few = select(store, ["python"], method="rds:random", budget="6", where="corpus = 'blank'")
    assert (few.distance, few.mmd) == (None, None)
    mixed = select(store, ["python"], method="rds:random", budget="246", name="mixed")
    whole = select(store, ["python"], method="rds:top", budget="246")
    assert mixed.mmd == pytest.approx(whole.mmd, abs=1e-9)


@pytest.mark.parametrize("count", [2, 3, 17])
def test_spearman_on_what_is_common(count):
    generator = np.random.default_rng(count)
    common = [f"c{number}" for number in range(count)]
    first = [*common, "x", "y"]
    second = [*common, "z"]
    generator.shuffle(first)
    generator.shuffle(second)
    places = [[order.index(each) for each in common] for order in (first, second)]
    assert spearman(first, second) == pytest.approx(stats.spearmanr(*places).statistic)


def test_spearman_needs_two_rows():
    assert spearman(["a"], ["a", "b"]) is None and spearman(["a"], ["b"]) is None
    assert spearman(["a", "b"], ["b", "a"]) == -1 and spearman(["a", "b"], ["a", "c", "b"]) == 1


def test_two_coresets_side_by_side(store):
    one = select(store, ["arithmetic"], budget="40", name="one")
    two = select(store, ["arithmetic", "python"], method="rds:top", budget="25", name="two")
    found = compare(store, "one", "two")
    common = set(one.ids) & set(two.ids)
    assert found.common == len(common) > 2
    assert found.jaccard == len(common) / len(set(one.ids) | set(two.ids))
    assert (found.of_first, found.of_second) == (len(common) / 40, len(common) / 25)
    assert found.by_chance == pytest.approx(40 * 25 / 246)
    assert [(prefix.ranks, prefix.common) for prefix in found.prefixes] == [
        (10, len(set(one.ids[:10]) & set(two.ids[:10])))
    ]
    pool = {row["id"]: row for row in stored(store, "pool")}
    for mix in found.corpora:
        for coreset, picked, share in (
            (one, mix.first, mix.first_share),
            (two, mix.second, mix.second_share),
        ):
            there = [each for each in coreset.ids if pool[each]["corpus"] == mix.corpus]
            assert picked == len(there) and share == pytest.approx(len(there) / len(coreset))
        assert mix.pool == sum(row["corpus"] == mix.corpus for row in pool.values())
    for lengths in found.lengths:
        values = [[pool[each][lengths.what] for each in coreset.ids] for coreset in (one, two)]
        assert lengths.gap == pytest.approx(stats.ks_2samp(*values).statistic)
        assert lengths.first["mean"] == pytest.approx(np.mean(values[0]))
        assert lengths.second["q50"] == np.median(values[1])
    assert [(each.target, each.feature) for each in found.measured] == [
        ("arithmetic", "rds"),
        ("python", "rds"),
    ]
    first, second = found.measured
    assert first.first.nearest == pytest.approx(one.distance)
    assert first.first.mmd == pytest.approx(one.mmd)
    python = np.array([row["rds"] for row in stored(store, "targets", "target = 'python'")])
    rows = np.array([pool[each]["rds"] for each in two.ids], np.float64)
    assert second.second.mmd == pytest.approx(mmd_of(python, rows), abs=1e-6)
    assert (found.first.method, found.second.targets) == ("rds:round_robin", two.targets)
    assert f"{found.common} rows in both" in repr(found) and len(repr(found)) < 200
    assert found.notes == () and json.loads(json.dumps(found.as_dict()))["common"] == len(common)
    assert f"{found.common} rows in both: " in str(found) and "Lengths in tokens" in str(found)
    html = found._repr_html_()
    assert html.count("<table>") == 5 and "Lengths in tokens" in html
    assert escape(f"{found.common} rows in both: ") in html


def test_a_coreset_with_itself_and_with_a_stranger(store):
    select(store, ["arithmetic"], budget="12", name="one")
    same = compare(store, "one", "one")
    assert (same.jaccard, same.spearman, same.lengths[0].gap) == (1.0, 1.0, 0.0)
    select(store, method="random", budget="5", where="corpus = 'blank'", name="blank")
    other = compare(store, "one", "blank")
    assert (other.common, other.jaccard, other.spearman) == (0, 0.0, None)
    assert other.measured[0].second.nearest is None


def test_what_cannot_be_compared_is_said(store, toys):
    select(store, ["arithmetic"], budget="12", name="old")
    store.insert("pool", toys.pool_rows([toys.question("sums", 5000)], ["late"]))
    select(store, ["python"], budget="12", name="new")
    store.delete("targets", "target = 'python'")
    notes = compare(store, "old", "new").notes
    assert any("no target 'python'" in note for note in notes)
    assert any("different versions of the pool" in note for note in notes)
    select(store, method="random", budget="1-total-tokens", name="empty")
    with pytest.raises(UsageError, match="empty has no rows to compare"):
        compare(store, "old", "empty")
    with pytest.raises(UsageError, match="no coreset 'gone'"):
        compare(store, "gone", "old")
