"""Draws with and without replacement, beside the loops they stand for and numpy's own."""

from __future__ import annotations

import heapq

import numpy as np
import pytest
import torch
from helpers.selector_driver import cosine_pool, drive, random_ids

from coresetdb.schemas.ids import keys_of
from coresetdb.selectors.draws import gumbel, times_drawn, waits
from coresetdb.selectors.random_order import shuffle_words, stream_words

torch.set_num_threads(1)


def keys_for(rows: int, seed: int = 0) -> np.ndarray:
    return keys_of(random_ids(np.random.default_rng(seed), rows))


def naive_rings(keys, weights, draws, seed):
    """Row of every draw: the clocks one ring at a time."""
    words = shuffle_words(keys, seed)
    later = -np.log(1 - ((stream_words(words, 0, draws) >> np.uint64(11)) + 0.5) / 2**53)
    clocks = [(wait / weights[row], row, 0) for row, wait in enumerate(waits(keys, seed))]
    heapq.heapify(clocks)
    drawn = []
    while len(drawn) < draws:
        time, row, ring = heapq.heappop(clocks)
        drawn.append(row)
        heapq.heappush(clocks, (time + later[row, ring] / weights[row], row, ring + 1))
    return drawn


def test_times_drawn_equal_the_clocks_ring_by_ring():
    generator = np.random.default_rng(0)
    for number in range(60):
        rows, draws = int(generator.integers(1, 30)), int(generator.integers(1, 80))
        keys, weights = keys_for(rows, number), generator.exponential(size=rows) ** 3
        drawn = naive_rings(keys, weights, draws, number)
        times = times_drawn(keys, weights, draws, number)
        assert times.tolist() == np.bincount(drawn, minlength=rows).tolist()
        first = list(dict.fromkeys(drawn))
        assert np.argsort(-weights / waits(keys, number))[: len(first)].tolist() == first
    np.testing.assert_allclose(gumbel(keys, 3), -np.log(waits(keys, 3)))
    assert times_drawn(keys_for(0), np.empty(0), 5, 0).tolist() == []
    assert times_drawn(keys_for(1), np.ones(1), 100_000, 0).tolist() == [100_000]


def test_a_stream_is_splitmix64():
    """Steele, Lea and Flood 2014: the first numbers of the generator seeded with 1234567."""
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert stream_words(np.array([1234567], np.uint64), 0, 3).tolist() == [known]
    assert stream_words(np.array([1234567], np.uint64), 1, 2).tolist() == [known[1:]]


def test_times_drawn_have_the_moments_of_a_multinomial():
    rows, draws, seeds = 8, 40, 3000
    keys, weights = keys_for(rows), np.arange(1, rows + 1) / (rows * (rows + 1) / 2)
    times = np.array([times_drawn(keys, weights, draws, seed) for seed in range(seeds)])
    assert (times.sum(axis=1) == draws).all()
    spread = np.sqrt(draws * weights * (1 - weights))
    assert (np.abs(times.mean(axis=0) - draws * weights) < 4 * spread / np.sqrt(seeds)).all()
    np.testing.assert_allclose(times.std(axis=0), spread, rtol=0.06)


def test_rows_by_weight_over_wait_are_numpys_choice_without_replacement():
    rows, taken, seeds = 7, 3, 4000
    keys, weights = keys_for(rows), np.arange(1, rows + 1) ** 2.0
    weights /= weights.sum()
    generator = np.random.default_rng(1)
    ours, numpys = np.zeros((2, rows))
    for seed in range(seeds):
        ours[np.argsort(-weights / waits(keys, seed))[:taken]] += 1
        numpys[generator.choice(rows, taken, replace=False, p=weights)] += 1
    assert np.abs(ours - numpys).max() < 4 * np.sqrt(seeds / 2)


@pytest.mark.parametrize("name", ["knn_uniform", "knn_kde"])
def test_a_selection_draws_its_rows_by_their_mass(name):
    """TSDS: numpy's multinomial of the masses; DataFlex: its choice without replacement."""
    pool = cosine_pool(np.random.default_rng(5), 3, 200, width=6)
    options = {"Lmax": 12, "alpha": 0.5}
    plain = drive(name, pool, 200, options=options)
    place = {text: at for at, text in enumerate(pool.ids)}
    mass = np.zeros(200)
    mass[[place[text] for text in plain.ids]] = plain.scores
    drawn = np.flatnonzero(mass)
    assert mass.sum() == pytest.approx(1, abs=1e-5) and len(drawn) < 40
    for seed in range(20):
        without = drive(name, pool, 200, seed=seed, options=options | {"draw": "without"})
        own = mass[drawn] / waits(pool.keys[drawn], seed)
        expected = [pool.ids[drawn[j]] for j in np.argsort(-own)]
        assert without.ids[: len(drawn)] == expected
        np.testing.assert_allclose(without.scores[: len(drawn)], np.sort(own)[::-1], rtol=1e-4)
        assert without.ids[len(drawn) :] == plain.ids[len(drawn) :]
        assert not any(without.scores[len(drawn) :])

        often = options | {"draw": "with", "draws": 30}
        repeated = drive(name, pool, 200, seed=seed, options=often)
        each = times_drawn(pool.keys[drawn], mass[drawn], 30, seed)
        times = dict(zip(drawn.tolist(), each, strict=True))
        assert sum(repeated.scores) == 30 and sum(times.values()) == 30
        found = [place[text] for text in repeated.ids]
        assert [times.get(row, 0) for row in found] == list(repeated.scores)
        assert set(repeated.ids) == set(pool.ids)
        order = [(-times[row], without.ids.index(pool.ids[row])) for row in found[: len(drawn)]]
        assert order == sorted(order)  # of as many draws, the one drawn first
        took = f"30 draws with replacement took {sum(map(bool, repeated.scores))} rows"
        assert any(took in note for note in repeated.notes)
    again = drive(name, pool, 50, seed=19, options=options | {"draw": "without"})
    assert again.ids == without.ids[:50]


def test_first_picks_come_by_their_share():
    """Over many seeds a row is first as often as its mass says."""
    pool = cosine_pool(np.random.default_rng(6), 2, 60, width=4)
    options = {"Lmax": 6, "alpha": 0.5, "sigma": 1.2, "ties": "id"}
    plain = drive("knn_kde", pool, 60, options=options)
    mass = {text: score for text, score in zip(plain.ids, plain.scores, strict=True) if score}
    seeds = 600
    firsts = [
        drive("knn_kde", pool, 1, seed=seed, options=options | {"draw": "without"}).ids[0]
        for seed in range(seeds)
    ]
    assert set(firsts) <= set(mass)
    for text, share in mass.items():
        spread = np.sqrt(seeds * share * (1 - share))
        assert abs(firsts.count(text) - seeds * share) < 4 * spread + 1
