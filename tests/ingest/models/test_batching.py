"""Batches hold every row once, keep to the budget, and cost as little as they can."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coresetdb.ingest.models.backbone import padded_width
from coresetdb.ingest.models.batches import pad, plan_batches

LENGTHS = st.lists(st.integers(1, 300), max_size=200)


MULTIPLES = st.sampled_from([1, 8, 13])
COSTS = st.sampled_from([0, 3, 50, 10_000])


def width(lengths, batch, multiple):
    made = pad([np.zeros(lengths[i]) for i in batch], 0, multiple=multiple).shape
    assert made[0] == len(batch)
    return made[1]


@given(LENGTHS, st.integers(1, 1000), COSTS, MULTIPLES)
def test_every_row_once_and_within_the_budget(lengths, budget, cost, multiple):
    batches = plan_batches(lengths, budget, cost, multiple)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * width(lengths, batch, multiple) <= budget


@given(LENGTHS, st.integers(1, 1000), COSTS, MULTIPLES)
def test_longest_first(lengths, budget, cost, multiple):
    batches = plan_batches(lengths, budget, cost, multiple)
    flat = [lengths[index] for batch in batches for index in batch]
    assert flat == sorted(lengths, reverse=True)


@given(st.lists(st.integers(1, 300), max_size=9), st.integers(1, 1000), COSTS, MULTIPLES)
def test_no_other_cuts_cost_less(lengths, budget, cost, multiple):
    def cost_of(sizes):
        """Of batches of so many rows each; None where one is over the budget."""
        total, start = 0.0, 0
        for size in sizes:
            tokens = size * padded_width(sorted(lengths, reverse=True)[start], multiple)
            if size > 1 and tokens > budget:
                return None
            total += tokens + cost
            start += size
        return total

    def all_sizes(count):
        """Every way to write `count` as a sum, in order."""
        yield from ([()] if not count else ())
        for size in range(1, count + 1):
            yield from ((size, *rest) for rest in all_sizes(count - size))

    batches = plan_batches(lengths, budget, cost, multiple)
    found = cost_of([len(batch) for batch in batches])
    costs = [each for sizes in all_sizes(len(lengths)) if (each := cost_of(sizes)) is not None]
    assert found == pytest.approx(min(costs))


def test_padding_on_either_side():
    rows = [np.array([1, 2, 3], dtype=np.int32), np.array([4], dtype=np.int32)]
    assert pad(rows, 9, "right").tolist() == [[1, 2, 3], [4, 9, 9]]
    assert pad(rows, 9, "left").tolist() == [[1, 2, 3], [9, 9, 4]]
    assert pad([np.array([True])], False).dtype == bool


def test_padding_to_a_multiple():
    rows = [np.array([1, 2, 3]), np.array([4])]
    assert pad(rows, 9, "right", 2).tolist() == [[1, 2, 3, 9], [4, 9, 9, 9]]
    assert pad(rows, 9, "left", 4).tolist() == [[9, 1, 2, 3], [9, 9, 9, 4]]
    assert pad(rows, 9, multiple=3).shape == (2, 3)


def test_widths_are_few_and_little_wider_than_their_rows():
    widths = [padded_width(longest, 16) for longest in range(1, 2049)]
    assert [widths[longest - 1] for longest in (1, 200, 257, 700, 1100)] == [
        16,
        208,
        288,
        704,
        1152,
    ]
    assert widths[-1] == 2048 and len(set(widths)) == 40
    for longest, width in enumerate(widths, 1):
        assert longest <= width < longest + max(16, longest / 8)
    assert [padded_width(longest, 1) for longest in (1, 700, 1025)] == [1, 700, 1025]
