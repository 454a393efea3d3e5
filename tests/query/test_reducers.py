"""Memory of the reductions: bounded by the need's formula, independent of the pool."""

import numpy as np
import pytest
import torch

from coresetdb.query.reducers import Block, reducer_for
from coresetdb.selectors.needs import (
    Shuffled,
    TopPerQuery,
    TopRows,
    sifted_rows,
    waiting_entries,
)
from coresetdb.selectors.registry import selectors
from coresetdb.selectors.task import Task

torch.set_num_threads(1)


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
        held = max(held, reducer.held_elements())
    reducer.result()
    return held


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    ("need", "lists", "carried"),
    [
        (TopPerQuery(500), 16, 2),
        (TopPerQuery(1), 3, 2),
        (TopRows(700, "max"), 1, 3),
        (TopRows(700, "mean"), 1, 3),
        (Shuffled(900, 1), 1, 1),
    ],
)
def test_held_numbers_do_not_grow_with_the_pool(need, lists, carried, tied):
    bound = lists * need.k * (1 + carried)
    waiting = waiting_entries(lists, need.k) + lists * sifted_rows(lists)
    bound += waiting * (2 + carried)
    short = peak(need, max(lists, 3), 70, tied)
    assert short <= bound
    assert peak(need, max(lists, 3), 200, tied) <= bound
    assert 4 * bound <= need.bytes(lists)


def test_a_budget_of_every_row_keeps_every_row():
    reducer = reducer_for(TopPerQuery(10_000), slice(0, 2))
    for start in range(0, 5000, 1000):
        keys = np.arange(start, start + 1000)[:, None].repeat(2, 1)
        reducer.feed(Block(keys, torch.rand(2, 1000)))
    assert reducer.result().keys.shape == (2, 5000, 2)


def test_no_rows_give_empty_lists():
    assert reducer_for(TopPerQuery(5), slice(0, 2)).result().keys.shape == (2, 0, 2)
    assert reducer_for(Shuffled(5, 0), slice(0, 0)).result().keys.shape == (1, 0, 2)


def test_a_million_rows_and_ten_thousand_picks_plan_little():
    """Nothing that similarity answers plans more than 0.8 GB; the scan itself adds below 0.5 GB."""
    for selector in selectors().values():
        if "query_similarity" not in selector.inputs:
            continue
        options = {name: option.default for name, option in selector.options.items()}
        task = Task(64, 1_000_000, 10_000, options=options, width=1024)
        assert selector.memory(task) < 800e6, selector.name
        longer = Task(64, 100_000_000, 10_000, options=options, width=1024)
        assert selector.memory(longer) == selector.memory(task), selector.name
