"""bm25 and dsir against plain loops over the words, on random, tied and degenerate rows."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
import torch

from coresetdb.query.scanning.reducers import Block, planned_memory, word_reducer
from coresetdb.schemas.ids import ids_of, keys_of
from coresetdb.selectors.random_order import shuffle_words
from coresetdb.selectors.reductions import RowWords
from coresetdb.selectors.registry import selectors
from coresetdb.selectors.selector import Ranking, Task

torch.set_num_threads(1)


def run(name, texts, ids, examples, k, seed=0, blocks=(7,), **options):
    """Drive a selector over rows (lists of word ids) cut into blocks: [(id, score, query)]."""
    selector = selectors()[name]
    chosen = {key: option.default for key, option in selector.options.items()} | options
    words = tuple(np.array(example, np.int32) for example in examples)
    task = Task(len(words), len(texts), k, seed, chosen, words=words)
    assert planned_memory(selector, task) > 0
    passes = selector.passes(task)
    found, keys = next(passes), keys_of(pa.array(ids, pa.string()))
    while not isinstance(found, Ranking):
        reducers = [word_reducer(need, len(words)) for need in found]
        at, turn = 0, 0
        while at < len(ids):
            end = min(at + blocks[turn % len(blocks)], len(ids))
            starts = np.cumsum([0, *map(len, texts[at:end])])
            flat = np.array([word for text in texts[at:end] for word in text], np.int32)
            for reducer in reducers:
                reducer.feed(Block(keys[at:end], words=RowWords(keys[at:end], starts, flat)))
            at, turn = end, turn + 1
        try:
            found = passes.send(tuple(reducer.result() for reducer in reducers))
        except StopIteration as end:
            found = end.value
    queries = [None] * len(found) if found.queries is None else found.queries.tolist()
    return list(zip(ids_of(found.keys), found.scores.tolist(), queries, strict=True))


def case(number):
    """Random rows; every third with few distinct words, every fifth with equal rows."""
    generator = np.random.default_rng(number)
    count, vocabulary = int(generator.integers(1, 60)), 3 if number % 3 == 0 else 60
    known = generator.integers(0, 2**31 - 1, vocabulary)
    weights = 1 / np.arange(1, vocabulary + 1)

    def text():
        size = int(generator.integers(1, 30))
        return generator.choice(known, size, p=weights / weights.sum()).tolist()

    texts = [text() for _ in range(count)]
    if number % 5 == 0:
        texts = [texts[0]] * count
    examples = [text() for _ in range(int(generator.integers(1, 6)))]
    ids = [generator.bytes(16).hex() for _ in range(count)]
    k = int(generator.choice([1, 2, count // 2 + 1, count, count + 5]))
    return texts, ids, examples, k, tuple(generator.integers(1, 25, 3).tolist())


def naive_bm25(texts, examples, k1=1.2, b=0.75):
    """Every row's score for every example, straight from the formula, (M, N) float32."""
    mean = sum(map(len, texts)) / len(texts)
    counted = [Counter(text) for text in texts]

    def score(example, text, counts):
        total = 0.0
        for word in sorted(set(example)):
            holding = sum(word in each for each in counted)
            rarity = math.log(1 + (len(texts) - holding + 0.5) / (holding + 0.5))
            f = counts[word]
            gain = f * (k1 + 1) / (f + k1 * (1 - b + b * len(text) / mean))
            total += example.count(word) * rarity * gain
        return total

    return np.float32(
        [[score(q, *pair) for pair in zip(texts, counted, strict=True)] for q in examples]
    )


def naive_turns(scores, ids, k):
    orders = [sorted(range(len(ids)), key=lambda n, row=row: (-row[n], ids[n])) for row in scores]
    picks = []
    while len(picks) < min(k, len(ids)):
        query = len(picks) % len(scores)
        used = {pick[0] for pick in picks}
        row = next(n for n in orders[query] if ids[n] not in used)
        picks.append((ids[row], scores[query][row], query))
    return picks


def same(got, expected):
    """Equal rows in equal order, scores but for their last bits."""
    assert [pick[0] for pick in got] == [pick[0] for pick in expected]
    np.testing.assert_allclose(
        [pick[1] for pick in got], [pick[1] for pick in expected], rtol=1e-5, atol=1e-6
    )


def test_bm25_equals_naive():
    for number in range(120):
        texts, ids, examples, k, blocks = case(number)
        scores = naive_bm25(texts, examples)
        got = run("bm25", texts, ids, examples, k, blocks=blocks)
        expected = naive_turns(scores, ids, k)
        same(got, expected)
        assert [pick[2] for pick in got] == [pick[2] for pick in expected]
        assert run("bm25", texts, ids, examples, k, blocks=(999,)) == got, "whatever the blocks"


@pytest.mark.parametrize("by", ["mean", "max"])
def test_bm25_by_all_examples_at_once(by):
    for number in range(60):
        texts, ids, examples, k, blocks = case(number)
        options = {"k1": 0.9, "b": 0.4}
        scores = naive_bm25(texts, examples, **options)
        best = getattr(torch.from_numpy(scores), {"mean": "mean", "max": "amax"}[by])(dim=0)
        order = sorted(range(len(ids)), key=lambda n: (-best[n], ids[n]))[:k]
        got = run("bm25", texts, ids, examples, k, blocks=blocks, by=by, **options)
        np.testing.assert_allclose([g[1] for g in got], [best[n] for n in order], rtol=1e-5)
        place = {text: n for n, text in enumerate(ids)}
        chosen = [place[pick[0]] for pick in got]
        if number % 3 and number % 5:  # sums in another order part what a formula ties
            assert chosen == order
        assert [pick[2] for pick in got] == scores[:, chosen].argmax(axis=0).tolist()


def test_bm25_in_parts_of_bounded_work(monkeypatch):
    texts, ids, examples, k, blocks = case(7)
    whole = run("bm25", texts, ids, examples, k, blocks=blocks)
    monkeypatch.setattr("coresetdb.selectors.bm25._NUMBERS_AT_ONCE", 3)
    assert run("bm25", texts, ids, examples, k, blocks=blocks) == whole


def naive_ratios(texts, examples, buckets, smoothing):
    def bucket(*words):
        if len(words) == 1:
            return words[0] % buckets
        mixed = words[0] * 0x9E3779B97F4A7C15 + words[1]
        return ((mixed * 0xD6E8FEB86659FD93) % 2**64 >> 32) % buckets

    def found(text):
        return [bucket(word) for word in text] + [
            bucket(*pair) for pair in itertools.pairwise(text)
        ]

    of = [Counter(each for text in side for each in found(text)) for side in (examples, texts)]
    target, pool = ({b: c[b] / c.total() for b in range(buckets)} for c in of)
    return [
        sum(math.log(target[b] + smoothing) - math.log(pool[b] + smoothing) for b in found(text))
        for text in texts
    ]


def test_dsir_equals_naive():
    for number in range(60):
        texts, ids, examples, k, blocks = case(number)
        buckets, smoothing = (10_000, 1e-8) if number % 2 else (7, 1e-3)
        weights = np.float32(naive_ratios(texts, examples, buckets, smoothing))
        order = sorted(range(len(ids)), key=lambda n: (-weights[n], ids[n]))[:k]
        options = {"gumbel": False, "buckets": buckets, "smoothing": smoothing}
        got = run("dsir", texts, ids, examples, k, blocks=blocks, **options)
        same(got, [(ids[n], weights[n]) for n in order])
        assert {pick[2] for pick in got} == {None}
        noisy = run("dsir", texts, ids, examples, len(ids), number, blocks)
        assert run("dsir", texts, ids, examples, k, number, (999,)) == noisy[:k]


def test_dsir_draws_as_the_weights_say():
    """Two kinds of rows, one word each: shares of the draw against the odds of the words."""
    count = 3000
    generator = np.random.default_rng(3)
    ids = [generator.bytes(16).hex() for _ in range(count)]
    texts = [[1 + n % 2] for n in range(count)]
    examples = [[1]] * 3 + [[2]]
    got = run("dsir", texts, ids, examples, 300, 5)
    place = {text: n for n, text in enumerate(ids)}
    first = sum(place[pick[0]] % 2 == 0 for pick in got)
    assert 200 <= first <= 250, "three to one: 225 of 300, give or take two deviations and more"
    for seed in (0, 1):
        alike = run("dsir", [[1]] * count, ids, examples, 50, seed)
        keys = keys_of(pa.array(ids))
        by_word = np.argsort(shuffle_words(keys, seed))[:50]
        assert [pick[0] for pick in alike] == [ids[n] for n in by_word], "the order of random"
