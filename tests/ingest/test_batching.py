"""Batches hold every row once, keep to the budget, and waste little."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from coresetdb.ingest.models.batching import pad, plan_batches

LENGTHS = st.lists(st.integers(1, 300), max_size=200)


@given(LENGTHS, st.integers(1, 1000))
def test_every_row_once_and_within_the_budget(lengths, budget):
    batches = plan_batches(lengths, budget)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget


@given(LENGTHS, st.integers(1, 1000))
def test_longest_first_and_no_batch_could_take_the_next_row(lengths, budget):
    batches = plan_batches(lengths, budget)
    flat = [lengths[index] for batch in batches for index in batch]
    assert flat == sorted(lengths, reverse=True)
    for batch in batches[:-1]:
        assert (len(batch) + 1) * lengths[batch[0]] > budget


def test_padding_on_either_side():
    rows = [np.array([1, 2, 3], dtype=np.int32), np.array([4], dtype=np.int32)]
    assert pad(rows, 9, "right").tolist() == [[1, 2, 3], [4, 9, 9]]
    assert pad(rows, 9, "left").tolist() == [[1, 2, 3], [9, 9, 4]]
    assert pad([np.array([True])], False).dtype == bool
