"""UOT against the softmax written out, and against the solver it stands for."""

import numpy as np
import pytest
import torch
from helpers.selector_driver import Pool, cosine_pool, drive, random_ids, unit_rows

torch.set_num_threads(1)


def votes(similarity, reg=0.01):
    """(N,) float64: mean over the queries of their softmax over all rows."""
    scaled = similarity.astype(np.float64) / (2 * reg)
    weights = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return (weights / weights.sum(axis=1, keepdims=True)).mean(axis=0)


@pytest.fixture
def small_pending(monkeypatch):
    monkeypatch.setattr("coresetdb.query.scanning.top_k.pending_entries", lambda lists, k: 5)


def test_equals_naive(small_pending):
    for number in range(200):
        generator = np.random.default_rng(number)
        queries, rows = int(generator.integers(1, 9)), int(generator.integers(1, 120))
        kind = ("random", "tied", "random", "equal")[number % 4]
        pool = cosine_pool(generator, queries, rows, kind=kind)
        k = int(generator.choice([1, rows // 2 + 1, rows, rows + 4]))
        reg = float(generator.choice([0.005, 0.01, 0.1]))
        blocks = generator.integers(1, 40, 3).tolist()
        got = drive("uot", pool, k, blocks=blocks, options={"reg": reg})
        scores = votes(pool.similarity, reg).astype(np.float32)
        order = sorted(range(rows), key=lambda j: (-scores[j], pool.ids[j]))[:k]
        np.testing.assert_allclose(got.scores, scores[order], rtol=1e-6)
        # Scores that differ by less than they are exact may stand either way.
        steps = np.diff(np.sort(votes(pool.similarity, reg)))
        if kind != "random" or (steps > 1e-7 * scores.max()).all():
            assert got.ids == [pool.ids[j] for j in order], f"case {number}"


def test_the_example_named_sends_the_most():
    pool = cosine_pool(np.random.default_rng(0), 5, 60)
    scaled = pool.similarity.astype(np.float64) / 0.02
    shares = scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))
    place = {text: j for j, text in enumerate(pool.ids)}
    got = drive("uot", pool, 60)
    assert [int(query) for query in got.queries] == [
        int(shares[:, place[text]].argmax()) for text in got.ids
    ]


def test_what_an_example_cannot_reach_is_still_shared_out():
    """A far-off example has as much mass to give as one in the midst of the pool."""
    similarity = np.array([[0.9, 0.8, 0.1], [-0.9, -0.8, -0.5]], np.float32)
    got = drive("uot", Pool(["a" * 32, "b" * 32, "c" * 32], similarity), 3)
    assert set(got.ids[:2]) == {"a" * 32, "c" * 32}
    assert got.scores[:2] == pytest.approx([0.5, 0.5], abs=0.01)


def test_too_small_for_a_float_goes_by_id_and_says_so():
    similarity = np.linspace(1, -1, 30, dtype=np.float32)[None]
    pool = Pool(sorted(random_ids(np.random.default_rng(0), 30), reverse=True), similarity)
    got = drive("uot", pool, 30, options={"reg": 1e-3})
    spent = sum(score == 0 for score in got.scores)
    assert 0 < spent < 30 and got.ids[:-spent] == pool.ids[:-spent]
    assert got.ids[-spent:] == sorted(pool.ids[-spent:])
    assert f"after the first {30 - spent} rows" in got.notes[0]
    assert drive("uot", pool, 3, options={"reg": 1e-3}).notes == ()


@pytest.mark.parametrize("seed", [0, 1])
def test_agrees_with_the_solver(seed):
    """POT at the settings of the targeted-selection code: 99 % of the first 500."""
    solver = pytest.importorskip("ot.unbalanced", reason="POT is not installed")
    generator = np.random.default_rng(seed)
    topics = generator.standard_normal((40, 48))
    rows = topics[generator.integers(0, 40, 4000)] + 1.2 * generator.standard_normal((4000, 48))
    asked = topics[generator.integers(0, 12, 24)] + 1.2 * generator.standard_normal((24, 48))
    vectors = unit_rows(rows)
    similarity = unit_rows(asked).astype(np.float32) @ vectors.astype(np.float32).T
    plan = solver.sinkhorn_unbalanced(
        np.full(24, 1 / 24),
        np.full(4000, 1 / 4000),
        (1 - similarity.astype(np.float64)) / 2,
        reg=0.01,
        reg_m=(float("inf"), 1e-4),
        reg_type="kl",
    )
    best = set(np.argsort(-plan.sum(axis=0))[:500].tolist())
    pool = Pool(random_ids(generator, 4000), similarity, vectors)
    place = {text: j for j, text in enumerate(pool.ids)}
    got = {place[text] for text in drive("uot", pool, 500, blocks=(512,)).ids}
    assert len(best & got) >= 0.99 * 500
