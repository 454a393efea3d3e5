"""How near a coreset comes to its targets, near misses and distributions, against plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from coresetdb.query.closeness import DRAWS, closeness, prefix_sizes
from coresetdb.query.distributions import (
    bins_of,
    categorical_metadata,
    column_distributions,
    distribution,
    value_counts,
)
from coresetdb.query.explaining.near_misses import with_near_misses
from coresetdb.query.selection import select


@pytest.fixture
def pool(store) -> dict[str, np.ndarray]:
    rows = store.dataset("pool").to_table(columns=["id", "rds", "corpus"]).to_pylist()
    return {row["id"]: row["rds"] and np.array(row["rds"], np.float64) for row in rows}


def vectors_of(pool, ids):
    return np.array([pool[row_id] for row_id in ids if pool[row_id] is not None])


def examples_of(store, *targets):
    rows = store.dataset("targets").to_table().sort_by("position").to_pylist()
    own = [row for target in targets for row in rows if row["target"] == target]
    return [row["id"] for row in own], np.array([row["rds"] for row in own], np.float64)


def naive(queries, rows):
    nearest = float((1 - (queries @ rows.T).max(axis=1)).mean())
    return nearest, float(np.linalg.norm(queries.mean(axis=0) - rows.mean(axis=0)))


@pytest.mark.parametrize("where", [None, "corpus <> 'facts'"])
def test_examples_prefixes_and_random_rows(store, pool, where):
    targets = ["arithmetic", "python"]
    coreset = select(store, targets, method="rds", budget="20", where=where)
    near = closeness(store, coreset)
    assert near is not None and near.own and near.feature == "rds" and near.scores is None
    names, queries = examples_of(store, *targets)
    members = coreset.members.to_pylist()
    corpora = dict(
        zip(
            *store.dataset("pool").to_table(columns=["id", "corpus"]).to_pydict().values(),
            strict=True,
        )
    )
    eligible = [each for each in pool if where is None or corpora[each] != "facts"]
    assert near.eligible == len(eligible)
    eligible = [each for each in eligible if pool[each] is not None]
    possible = queries @ vectors_of(pool, eligible).T
    picked = queries @ vectors_of(pool, coreset.ids).T
    draws = [
        select(store, method="random", budget="20", where=where, seed=seed, name=f"r{seed}").ids
        for seed in range(1, DRAWS + 1)
    ]
    for at, example in enumerate(near.examples):
        assert example.id == names[at]
        assert example.nearest == pytest.approx(picked[at].max(), abs=1e-3)
        assert picked[at, example.rank - 1] == pytest.approx(picked[at].max(), abs=1e-3)
        assert example.pick == coreset.ids[example.rank - 1]
        assert example.possible == pytest.approx(possible[at].max(), abs=1e-3)
        assert queries[at] @ pool[example.possible_row] == pytest.approx(example.possible, abs=1e-3)
        assert example.pulled == sum(row["query"] == example.id for row in members)
        random = [(queries[at] @ vectors_of(pool, ids).T).max() for ids in draws]
        assert example.random == pytest.approx(np.mean(random), abs=1e-3)
    assert [prefix.rows for prefix in near.prefixes] == prefix_sizes(20)
    for prefix in near.prefixes:
        expected = naive(queries, vectors_of(pool, coreset.ids[: prefix.rows]))
        assert (prefix.picks.nearest, prefix.picks.mmd) == pytest.approx(expected, abs=1e-3)
        for ids, drawn in zip(draws, prefix.random, strict=True):
            rows = vectors_of(pool, ids[: prefix.rows])
            assert (drawn.nearest, drawn.mmd) == pytest.approx(naive(queries, rows), abs=1e-3)
    assert near.prefixes[-1].picks.nearest == pytest.approx(coreset.distance, abs=1e-6)
    assert sum(near.similarity.pool) == len(eligible)
    assert near.similarity.picked is not None and sum(near.similarity.picked) == 20


def test_without_a_target_there_is_nothing_to_come_near_to(store):
    assert closeness(store, select(store, method="random", budget="5")) is None


def test_near_misses_are_what_a_larger_budget_takes(store):
    coreset = select(store, ["arithmetic"], method="rds:top", budget="15")
    larger = select(store, ["arithmetic"], method="rds:top", budget="22")
    extended = with_near_misses(store, coreset, 7)
    assert extended.ids == larger.ids and extended.members.equals(larger.members)
    spent = select(store, ["arithmetic"], method="rds:top", budget="12-tokens")
    misses = with_near_misses(store, spent, 3)
    assert misses.ids[: len(spent)] == spent.ids and len(misses) == len(spent) + 3
    everything = select(store, ["arithmetic"], method="rds:top", budget="1000")
    assert with_near_misses(store, everything, 5).ids == everything.ids


def test_distributions_count_every_value_once(store):
    coreset = select(store, ["arithmetic"], method="rds", budget="25")
    version = coreset.pool_version
    names = ["response_tokens", "rds_norm", "tokens"]
    found = list(column_distributions(store, names, version, coreset.ids))
    assert [each.what for each in found] == names
    rows = store.dataset("pool").to_table(columns=names)
    picks = store.take(coreset.ids, names, version)
    for each in found:
        edges = np.array(each.edges)
        for counts, summary, values in (
            (each.pool, each.of_pool, rows[each.what]),
            (each.picked, each.of_picked, picks[each.what]),
        ):
            present = values.drop_null().to_numpy().astype(np.float64)
            inside = np.clip(present, edges[0], np.nextafter(edges[-1], -np.inf))
            assert list(counts) == np.histogram(inside, edges)[0].tolist()
            assert (summary.rows, summary.missing) == (len(values), values.null_count)
            assert summary.mean == pytest.approx(present.mean())
    median = np.median(rows["response_tokens"].to_numpy())
    assert found[0].of_pool.quantiles[1] == pytest.approx(median, abs=1)


def test_distributions_of_values_in_memory():
    values = np.array([*range(1000), np.nan])
    of = distribution("n", values, np.array([3.0, np.nan, -50.0, 5000.0]))
    assert sum(of.pool) == 1000 and of.of_pool.missing == 1
    assert of.picked is not None and sum(of.picked) == 3
    assert of.picked[0] == 2 and of.picked[-1] == 1
    same = distribution("n", np.full(4, 2.5), None)
    assert sum(same.pool) == 4 and same.picked is None
    with pytest.raises(ValueError, match="no values"):
        distribution("n", np.array([np.nan]), None)


def test_bins_reach_to_the_picks_and_are_logarithmic_where_most_values_are_small():
    rng = np.random.default_rng(0)
    pool = rng.normal(0.4, 0.1, 10_000)
    picks = np.linspace(0.85, 0.95, 50)  # beyond almost all of the pool
    of = distribution("cosine", pool, picks)
    assert of.picked is not None and max(of.picked) < 15 and not of.logarithmic
    assert of.edges[-1] == pytest.approx(0.95, abs=0.002)
    skewed = np.exp(rng.normal(0, 1.5, 10_000))
    of = distribution("ppl", skewed, None)
    ratios = np.array(of.edges[1:]) / np.array(of.edges[:-1])
    assert of.logarithmic and np.allclose(ratios, ratios[0]) and max(of.pool) < 1000
    assert sum(of.pool) == 10_000
    levels = [0.0, 2.0, 5.0, 60.0, 500.0]
    edges, logarithmic = bins_of([levels, []], whole=True)
    assert logarithmic and edges[0] == 1 and edges[-1] == 501
    assert all(edge == int(edge) for edge in edges) and len(set(edges)) == len(edges)
    of_pool, of_picks = [14, 30, 200, 300, 401], [11.485, 29.5, 180.0, 300.0, 390.2]
    edges, _ = bins_of([of_pool, of_picks], whole=True)
    assert edges[0] == 11 and all(edge == int(edge) for edge in edges)
    assert not bins_of([[-1.0, -0.99, -0.98, 50.0, 100.0]], whole=False).logarithmic
    assert bins_of([[0.0, 0.0, 0.0, 1.0, 1.0]], whole=True) == ((0.0, 1.0, 2.0), False)
    assert bins_of([[0.0] * 5], whole=False).edges == (0.0, 1e-6)


def test_values_of_columns_and_metadata(store):
    counts, rest = value_counts(store, "corpus", None, 3)
    assert [each["rows"] for each in counts] == [60, 60, 60] and rest == 2
    assert categorical_metadata(store, None, 3) == []
