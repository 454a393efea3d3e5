"""Budgets in tokens: the longest prefix that fits, whatever the first guess was."""

import lance
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coresetdb.query.token_budget import counted_rows, lengths_to_try, prefix_that_fits
from coresetdb.schemas.errors import MissingFeatureError
from coresetdb.schemas.ids import IdSet, ids_of, keys_of


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


def test_rows_that_nobody_counted_are_not_eligible(tmp_path):
    ids = pa.array([f"{number:032x}" for number in range(5)])
    counts = pa.array([3, None, 5, None, 7], pa.int32())
    pool = lance.write_dataset(pa.table({"id": ids, "response_tokens": counts}), tmp_path / "a")
    found = counted_rows(pool, None)
    assert ids_of(found.rows.keys()) == ids.take([0, 2, 4]).to_pylist()
    assert (found.tokens.tolist(), found.uncounted) == ([3, 5, 7], 2)
    whole = IdSet(keys_of(ids.take([0, 2])))
    found = counted_rows(pool, whole)
    assert found.rows is whole and (found.tokens.tolist(), found.uncounted) == ([3, 5], 0)
    with pytest.raises(MissingFeatureError, match="Give the budget in rows"):
        counted_rows(pool, IdSet(keys_of(ids.take([1, 3]))))
