"""Every selector against a naive one that holds the whole similarity matrix."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coresetdb.query.scanning.reducers import Block, reducer_for
from coresetdb.schemas.ids import ids_of, keys_of
from coresetdb.selectors.registry import selectors
from coresetdb.selectors.selector import Task

torch.set_num_threads(1)


def random_ids(generator, count):
    return [generator.bytes(16).hex() for _ in range(count)]


def run(name, similarity, ids, k, seed=0, blocks=(7,), **options):
    """Drive a selector over a matrix cut into blocks; returns [(id, score, query)]."""
    selector = selectors()[name]
    chosen = {key: option.default for key, option in selector.options.items()} | options
    passes = selector.passes(Task(len(similarity), len(ids), k, seed, chosen))
    needs = next(passes)
    reducers = [reducer_for(need, slice(0, len(similarity))) for need in needs]
    keys, at, turn = keys_of(pa.array(ids, pa.string())), 0, 0
    while at < len(ids):
        end = at + blocks[turn % len(blocks)]
        block = torch.from_numpy(np.ascontiguousarray(similarity[:, at:end]))
        for reducer in reducers:
            reducer.feed(Block(keys[at:end], block))
        at, turn = end, turn + 1
    try:
        passes.send(tuple(reducer.result() for reducer in reducers))
    except StopIteration as end:
        ranking = end.value
    scores = [None] * len(ranking) if ranking.scores is None else ranking.scores.tolist()
    queries = [None] * len(ranking) if ranking.queries is None else ranking.queries.tolist()
    return list(zip(ids_of(ranking.keys), scores, queries, strict=True))


def naive_round_robin(similarity, ids, k):
    orders = [
        sorted(range(len(ids)), key=lambda j, row=row: (-row[j], ids[j])) for row in similarity
    ]
    used, picks = set(), []
    while len(picks) < min(k, len(ids)):
        query = len(picks) % len(similarity)
        row = next(j for j in orders[query] if j not in used)
        used.add(row)
        picks.append((ids[row], float(similarity[query][row]), query))
    return picks


def naive_top(similarity, ids, k, by):
    means = similarity.astype(np.float64).mean(axis=0).astype(np.float32)
    scores = (means if by == "mean" else similarity.max(axis=0)).tolist()
    order = sorted(range(len(ids)), key=lambda j: (-scores[j], ids[j]))[:k]
    return [(ids[j], scores[j]) for j in order]


def case(number):
    """A random case; every third has heavy ties, every seventh is all equal."""
    generator = np.random.default_rng(number)
    queries, rows = int(generator.integers(1, 9)), int(generator.integers(1, 120))
    similarity = generator.standard_normal((queries, rows)).astype(np.float32)
    if number % 3 == 0:
        similarity = np.round(similarity * 2) / 2
    if number % 7 == 0:
        similarity[:] = 0.25
    k = int(generator.choice([1, 2, rows // 2 + 1, rows, rows + 5]))
    blocks = tuple(generator.integers(1, 40, 3).tolist())
    return similarity, random_ids(generator, rows), k, blocks


@pytest.fixture
def small_pending(monkeypatch):
    """Merge every few rows, so that tiny cases go through many merges."""
    monkeypatch.setattr("coresetdb.query.scanning.top_k.pending_entries", lambda lists, k: 5)
    monkeypatch.setattr("coresetdb.query.scanning.reducers.pending_entries", lambda lists, k: 5)


def test_round_robin_equals_naive_on_1000_cases(small_pending):
    for number in range(1000):
        similarity, ids, k, blocks = case(number)
        got = run("round_robin", similarity, ids, k, blocks=blocks)
        assert got == naive_round_robin(similarity, ids, k), f"case {number}"


@pytest.mark.parametrize("by", ["mean", "max"])
def test_top_equals_naive(small_pending, by):
    for number in range(300):
        similarity, ids, k, blocks = case(number)
        got = run("top", similarity, ids, k, blocks=blocks, by=by)
        expected = naive_top(similarity, ids, k, by)
        assert [row[:2] for row in got] == expected, f"case {number}"
        place = {text: j for j, text in enumerate(ids)}
        for text, _, query in got:
            assert similarity[query, place[text]] == similarity[:, place[text]].max()


def test_random_equals_naive(small_pending):
    """SplitMix64 in plain Python integers, straight from its definition."""
    mask = (1 << 64) - 1

    def mix(word):
        word = (word + 0x9E3779B97F4A7C15) & mask
        word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & mask
        word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & mask
        return word ^ (word >> 31)

    for number in range(100):
        similarity, ids, k, blocks = case(number)
        seed = number * 10**17
        naive = sorted(
            ids, key=lambda i, s=seed: (mix(int(i[:16], 16) ^ mix(int(i[16:], 16) ^ mix(s))), i)
        )
        got = run("random", similarity, ids, k, seed=seed, blocks=blocks)
        assert got == [(text, None, None) for text in naive[:k]]


def test_random_is_uniform_enough_and_seeds_differ():
    ids = random_ids(np.random.default_rng(0), 2000)
    similarity = np.zeros((1, 2000), np.float32)
    first, second = (
        {row[0] for row in run("random", similarity, ids, 200, seed=seed, blocks=(500,))}
        for seed in (1, 2)
    )
    assert 5 <= len(first & second) <= 40  # 20 expected
    assert 60 <= sum(text in first for text in ids[:1000]) <= 140  # 100 expected


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["round_robin", "top", "random"]), st.data())
def test_properties(number, name, data):
    similarity, ids, _, blocks = case(number)
    k = data.draw(st.integers(1, len(ids) + 3))
    picks = run(name, similarity, ids, k, blocks=blocks)
    chosen = [row[0] for row in picks]
    assert len(chosen) == len(set(chosen)) == min(k, len(ids))
    shorter = data.draw(st.integers(1, k))
    prefix = run(name, similarity, ids, shorter, blocks=blocks[::-1])
    assert [row[0] for row in prefix] == chosen[:shorter]
    if name == "round_robin":
        counts = np.bincount([row[2] for row in picks], minlength=len(similarity))
        assert counts.max() - counts.min() <= 1
    if name == "round_robin" and k >= len(ids):
        assert sorted(chosen) == sorted(ids)


def test_tie_rule_with_ids_that_differ_in_the_last_digit():
    ids = [f"{i:032x}" for i in reversed(range(50))]
    similarity = np.zeros((3, 50), np.float32)
    assert [r[0] for r in run("round_robin", similarity, ids, 7)] == sorted(ids)[:7]
    assert [r[0] for r in run("top", similarity, ids, 7)] == sorted(ids)[:7]


def test_negative_zero_ties_with_zero():
    ids = ["b" * 32, "a" * 32, "c" * 32]
    similarity = np.array([[0.0, -0.0, 0.0]], np.float32)
    assert [r[0] for r in run("round_robin", similarity, ids, 2, blocks=(1,))] == sorted(ids)[:2]
