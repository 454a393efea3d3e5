"""Budgets in tokens: the longest prefix that fits, whatever the first guess was."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from coresetdb.query.token_budget import lengths_to_try, prefix_that_fits


@given(st.lists(st.integers(0, 30), max_size=40), st.integers(1, 400))
def test_prefix(tokens, budget):
    count, used = prefix_that_fits(tokens, budget)
    assert used == sum(tokens[:count]) <= budget
    assert count == len(tokens) or sum(tokens[: count + 1]) > budget


@given(st.lists(st.integers(0, 500), max_size=300), st.integers(1, 5000), st.randoms())
def test_the_last_length_settles_any_order(tokens, budget, random):
    lengths = list(lengths_to_try(np.array(tokens, np.int32), budget))
    assert lengths == sorted(set(lengths)) and lengths[-1] <= len(tokens)
    random.shuffle(tokens)
    count, _ = prefix_that_fits(tokens[: lengths[-1]], budget)
    assert count == prefix_that_fits(tokens, budget)[0]
    assert count < lengths[-1] or lengths[-1] == len(tokens)
