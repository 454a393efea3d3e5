"""Memory of the reductions: bounded by the need's formula, independent of the pool."""

import numpy as np
import pytest
import torch

from coresetdb.query.scanning.reducers import Block, planned_bytes, planned_memory, reducer_for
from coresetdb.query.scanning.top_k import pending_entries, rows_compared_at_once
from coresetdb.selectors.reductions import (
    LogSumExp,
    Shuffled,
    TopPerQuery,
    TopRows,
    Votes,
)
from coresetdb.selectors.registry import selectors
from coresetdb.selectors.selector import Task

torch.set_num_threads(1)


def held_numbers(value) -> int:
    """Numbers in the arrays of an object, those that are allocated and not filled included."""
    if isinstance(value, np.ndarray | torch.Tensor):
        return value.size if isinstance(value, np.ndarray) else value.numel()
    if isinstance(value, list):
        return sum(map(held_numbers, value))
    return sum(map(held_numbers, vars(value).values())) if hasattr(value, "__dict__") else 0


def peak(need, queries, blocks, tied=False, rows=1024):
    """The most numbers a reducer held after any block."""
    generator = torch.Generator().manual_seed(0)
    keys = np.random.default_rng(0)
    reducer = reducer_for(need, slice(0, queries))
    held = 0
    for _ in range(blocks):
        similarity = torch.rand(queries, rows, generator=generator)
        if tied:
            similarity.zero_()
        words = keys.integers(-(2**63), 2**63 - 1, (rows, 2))
        reducer.feed(Block(words, similarity))
        held = max(held, held_numbers(reducer))
    reducer.result()
    return held


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    ("need", "lists", "carried"),
    [
        (TopPerQuery(500), 16, 2),
        (TopPerQuery(1), 3, 2),
        (TopPerQuery(500, means=True), 16, 3),
        (TopRows(700, "max"), 1, 3),
        (TopRows(700, "mean"), 1, 3),
        (Votes(700, 0.02, np.zeros(3)), 1, 3),
        (Shuffled(900, 1), 1, 1),
    ],
)
def test_held_numbers_do_not_grow_with_the_pool(need, lists, carried, tied):
    bound = lists * need.k * (1 + carried)
    waiting = pending_entries(lists, need.k) + lists * rows_compared_at_once(lists)
    bound += waiting * (2 + carried) + 2 * lists + 3  # edges, and the logs of votes
    short = peak(need, max(lists, 3), 70, tied)
    assert short <= bound
    assert peak(need, max(lists, 3), 200, tied) <= bound
    assert 4 * bound <= planned_bytes(need, Task(lists, 10**6, need.k))


def test_a_budget_of_every_row_keeps_every_row():
    reducer = reducer_for(TopPerQuery(10_000), slice(0, 2))
    for start in range(0, 5000, 1000):
        keys = np.arange(start, start + 1000)[:, None].repeat(2, 1)
        reducer.feed(Block(keys, torch.rand(2, 1000)))
    assert reducer.result().keys.shape == (2, 5000, 2)


def test_no_rows_give_empty_lists():
    assert reducer_for(TopPerQuery(5), slice(0, 2)).result().keys.shape == (2, 0, 2)
    assert reducer_for(Shuffled(5, 0), slice(0, 0)).result().keys.shape == (1, 0, 2)


def test_log_sum_exp_is_that_of_the_whole_pool():
    similarity = torch.rand(3, 1000, generator=torch.Generator().manual_seed(0)) * 2 - 1
    keys = np.zeros((1000, 2), np.int64)
    for cut in (1, 7, 400, 1000):
        reducer = reducer_for(LogSumExp(0.02), slice(1, 3))
        for start in range(0, 1000, cut):
            reducer.feed(Block(keys[start : start + cut], similarity[:, start : start + cut]))
            assert held_numbers(reducer) == 2
        expected = np.log(np.exp(similarity[1:].double().numpy() / 0.02).sum(axis=1))
        np.testing.assert_allclose(reducer.result(), expected, rtol=1e-13)


def test_log_sum_exp_of_nothing():
    reducer = reducer_for(LogSumExp(0.02), slice(0, 2))
    reducer.feed(Block(np.zeros((0, 2), np.int64), torch.zeros(2, 0)))
    assert (reducer.result() == -np.inf).all()


@pytest.mark.parametrize("cut", [1, 9, 500])
def test_means_stand_beside_the_rows_of_every_query(cut):
    similarity = torch.rand(4, 500, generator=torch.Generator().manual_seed(1))
    keys = np.stack([np.arange(500), np.arange(500) % 3], axis=1)
    reducer = reducer_for(TopPerQuery(50, means=True), slice(1, 4))
    for start in range(0, 500, cut):
        reducer.feed(Block(keys[start : start + cut], similarity[:, start : start + cut]))
    found = reducer.result()
    assert found.queries is None and found.means.dtype == np.float32
    expected = similarity[1:].double().mean(dim=0).float().numpy()
    assert (found.means == expected[found.keys[:, :, 0]]).all()
    assert (found.scores == np.sort(similarity[1:].numpy(), axis=1)[:, :-51:-1]).all()


def test_a_million_rows_and_ten_thousand_picks_plan_little():
    """Nothing that similarity answers plans more than 0.8 GB; the scan itself adds below 0.5 GB."""
    for selector in selectors().values():
        if "query_similarity" not in selector.inputs:
            continue
        options = {name: option.default for name, option in selector.options.items()}
        task = Task(64, 1_000_000, 10_000, options=options, width=1024)
        assert planned_memory(selector, task) < 800e6, selector.name
        longer = Task(64, 100_000_000, 10_000, options=options, width=1024)
        assert planned_memory(selector, longer) == planned_memory(selector, task), selector.name
