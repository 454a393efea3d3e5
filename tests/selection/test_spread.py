"""K-center, facility location and DEITA's filter against naive ones in whole numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coresetdb.selectors import deita_filter, lazy_greedy
from coresetdb.selectors.reductions import Columns, RowColumns, RowVectors, Vectors
from coresetdb.selectors.registry import selectors
from coresetdb.selectors.selector import Task
from coresetdb.selectors.unit_vectors import unit_vectors

torch.set_num_threads(1)


def drive(name, vectors, k, seed=0, scores=None, missing=(), **options):
    """Run a selector over rows whose ids are their numbers: [(row, score)], and its notes.

    Args:
        missing: rows that have no vector.
    """
    selector = selectors()[name]
    chosen = {key: option.default for key, option in selector.options.items()} | options
    task = Task(0, len(vectors), k, seed, chosen, width=vectors.shape[1])
    keys = np.array([[0, row] for row in range(len(vectors))], np.int64).reshape(-1, 2)
    passes, answers = selector.passes(task), None
    while True:
        try:
            needs = passes.send(answers)
        except StopIteration as end:
            ranking = end.value
            break
        answers = tuple(_answer(need, keys, vectors, scores, set(missing)) for need in needs)
    assert ranking.scores is not None and ranking.scores.dtype == np.float32
    return list(
        zip(ranking.keys[:, 1].tolist(), ranking.scores.tolist(), strict=True)
    ), ranking.notes


def _answer(need, keys, vectors, scores, missing):
    if isinstance(need, Columns):
        return RowColumns(keys, {need.names[0]: np.asarray(scores, np.float64)})
    assert isinstance(need, Vectors)
    asked = range(len(keys)) if need.keys is None else need.keys[:, 1].tolist()
    there = [row for row in asked if row not in missing]
    return RowVectors(keys[there], vectors[there], len(asked) - len(there))


def whole_cosines(vectors):
    """Every cosine in steps of 2^-20, in Python's whole numbers as unit_vectors.py defines them."""
    units = []
    for vector in vectors.tolist():
        norm = math.sqrt(math.fsum(number * number for number in vector))
        units.append([round(number / norm * 2**25) for number in vector])
    # A product has the unit 2^-50; half a step is rounded to the even one, as IEEE 754 does.
    return [
        [round(sum(a * b for a, b in zip(one, other, strict=True)) / 2**30) for other in units]
        for one in units
    ]


def naive_k_center(vectors, k):
    cosines, rows = whole_cosines(vectors), range(len(vectors))
    mean = unit_vectors(vectors).sum(dim=0)
    near = (torch.round(unit_vectors(vectors) @ (mean / mean.norm()) * 2**20)).tolist()
    picks = [(near.index(max(near)), 3.0)]
    while len(picks) < min(k, len(vectors)):
        taken = [row for row, _ in picks]
        left = [row for row in rows if row not in taken]
        away = [max(0, min(2**20 - cosines[row][each] for each in taken)) for row in left]
        best = away.index(max(away))
        picks.append((left[best], away[best] / 2**20))
    return picks


def naive_facility_location(vectors, k, represented=None):
    cosines = whole_cosines(vectors)
    represented = range(len(vectors)) if represented is None else represented
    closest = dict.fromkeys(represented, -(2**20))
    picks, left = [], list(range(len(vectors)))
    while len(picks) < min(k, len(vectors)):
        gains = [
            float(np.float32(sum(max(0, cosines[row][r] - closest[r]) for r in represented)))
            for row in left
        ]
        best = left[gains.index(max(gains))]
        picks.append((best, float(np.float32(max(gains) / 2**20))))
        closest = {r: max(closest[r], cosines[best][r]) for r in represented}
        left.remove(best)
    return picks


def naive_deita(vectors, scores, k, threshold):
    cosines, taken = whole_cosines(vectors), []
    scored = [row for row in range(len(vectors)) if not math.isnan(scores[row])]
    for row in sorted(scored, key=lambda row: (-np.float32(scores[row]), row)):
        if len(taken) < k and all(cosines[row][each] < threshold * 2**20 for each in taken):
            taken.append(row)
    return [(row, float(np.float32(scores[row]))) for row in taken]


def case(number):
    """Random rows of few directions; some cases with copies, all equal, or on a coarse grid."""
    generator = np.random.default_rng(number)
    rows, width = int(generator.integers(1, 40)), int(generator.choice([1, 2, 5, 16]))
    topics = generator.standard_normal((4, width))
    vectors = topics[generator.integers(0, 4, rows)] + 0.5 * generator.standard_normal(
        (rows, width)
    )
    if number % 3 == 0:  # as many copies as rows
        vectors = vectors[generator.integers(0, rows, rows)]
    if number % 5 == 0:
        vectors = np.sign(vectors) + (vectors == 0)
    if number % 7 == 0:
        vectors[:] = vectors[0]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    k = int(generator.choice([1, 2, rows // 2 + 1, rows, rows + 5]))
    return vectors.astype(np.float16), k, generator


@pytest.fixture(params=[False, True], ids=["as it is", "small steps"])
def small_steps(request, monkeypatch):
    """Tiny lists and blocks, so that small cases go through every loop."""
    if request.param:
        monkeypatch.setattr(lazy_greedy, "_LISTED", 3)
        monkeypatch.setattr(lazy_greedy, "_FIRST_ROWS", 1)
        monkeypatch.setattr("coresetdb.selectors.facility_location._ROWS_AT_ONCE", 2)
        monkeypatch.setattr("coresetdb.selectors.facility_location._REPRESENTED_AT_ONCE", 3)
        monkeypatch.setattr("coresetdb.selectors.k_center._CENTRES_AT_ONCE", 2)
        monkeypatch.setattr("coresetdb.selectors.unit_vectors._BLOCK_BYTES", 100)
        monkeypatch.setattr(deita_filter, "_FIRST_FETCH", 2)
        monkeypatch.setattr(deita_filter, "_MOST_PER_FETCH", 5)
        monkeypatch.setattr(deita_filter, "_WALKED_AT_ONCE", 3)
        monkeypatch.setattr(deita_filter, "_TAKEN_AT_ONCE", 2)


def test_k_center_equals_naive(small_steps):
    for number in range(100):
        vectors, k, _ = case(number)
        assert drive("k_center", vectors, k) == (naive_k_center(vectors, k), ()), f"case {number}"


def test_facility_location_equals_naive(small_steps):
    for number in range(100):
        vectors, k, _ = case(number)
        expected = naive_facility_location(vectors, k)
        assert drive("facility_location", vectors, k) == (expected, ()), f"case {number}"


def test_deita_filter_equals_naive(small_steps):
    for number in range(100):
        vectors, k, generator = case(number)
        scores = generator.standard_normal(len(vectors))
        if number % 2:
            scores = np.round(scores)
            scores[generator.random(len(scores)) < 0.2] = np.nan
        threshold = float(generator.choice([0.9, 0.5, 1.0, -2.0]))
        got, _ = drive("deita_filter", vectors, k, scores=scores, threshold=threshold)
        assert got == naive_deita(vectors, scores, k, threshold), f"case {number}"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["k_center", "facility_location"]), st.data())
def test_prefixes_nest_and_scores_fall(number, name, data):
    vectors, _, _ = case(number)
    k = data.draw(st.integers(1, len(vectors) + 3))
    picks, _ = drive(name, vectors, k)
    assert len({row for row, _ in picks}) == len(picks) == min(k, len(vectors))
    # The first centre is where it is by design; another may be as far from it as can be.
    ordered = picks[1:] if name == "k_center" else picks
    assert ordered == sorted(ordered, key=lambda pick: (-pick[1], pick[0]))
    shorter = data.draw(st.integers(1, k))
    assert drive(name, vectors, shorter)[0] == picks[:shorter]


def test_the_radius_is_that_of_the_last_centre():
    """What k-center promises, from plain cosines: every row lies within the last distance."""
    vectors, _, _ = case(11)
    picks, _ = drive("k_center", vectors, 8)
    units = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1)[:, None]
    away = 1 - (units @ units[[row for row, _ in picks]].T).max(axis=1)
    assert away.max() <= picks[-1][1] + 2e-6


def test_gains_sum_to_the_mean_best_cosine():
    vectors, _, _ = case(13)
    picks, _ = drive("facility_location", vectors, 6)
    units = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1)[:, None]
    best = (units @ units[[row for row, _ in picks]].T).max(axis=1)
    assert sum(score for _, score in picks) == pytest.approx((best + 1).sum(), abs=1e-4)


def test_a_sample_stands_for_all():
    from coresetdb.selectors.random_order import shuffled

    vectors, _, _ = case(46)
    keys = np.array([[0, row] for row in range(len(vectors))], np.int64)
    for seed in (0, 1):
        picks, notes = drive("facility_location", vectors, 5, seed=seed, represent=7)
        sample = shuffled(keys, seed)[:7].tolist()
        assert picks == naive_facility_location(vectors, 5, sorted(sample))
        assert f"a sample of 7 of the {len(vectors)} rows (seed {seed})" in notes[0]


def test_what_the_walk_says():
    vectors = np.eye(3, dtype=np.float16)[[0, 0, 1, 2, 2]]
    got, notes = drive("deita_filter", vectors, 2, scores=[5, 4, 3, np.nan, 1])
    assert got == [(0, 5.0), (2, 3.0)]
    assert len(notes) == 1 and "left out: 1 eligible row without ifd" in notes[0]
    got, notes = drive("deita_filter", vectors, 5, scores=[5, 4, 3, 2, 1])
    assert [row for row, _ in got] == [0, 2, 3]
    assert "only 3 of 5 rows with ifd were taken" in notes[0]


def test_rows_without_a_vector_are_passed_over():
    vectors = np.eye(4, dtype=np.float16)
    got, _ = drive("deita_filter", vectors, 4, scores=[4, 3, 2, 1], missing=[1, 2])
    assert [row for row, _ in got] == [0, 3]


def test_cosines_are_exact_in_any_order():
    generator = np.random.default_rng(5)
    vectors = generator.standard_normal((64, 513)).astype(np.float16)
    units = unit_vectors(vectors)
    whole = units @ units.T
    order = torch.from_numpy(generator.permutation(513))
    assert torch.equal(whole, units[:, order] @ units[:, order].T)
    assert torch.equal(whole[7, 9], units[7].flip(0) @ units[9].flip(0))
    plain = vectors.astype(np.float64)
    plain /= np.linalg.norm(plain, axis=1, keepdims=True)
    np.testing.assert_allclose(whole.numpy(), plain @ plain.T, atol=1e-7)
