"""Progress within a shard: whatever passes see, each row and token is told once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from coresetdb.schemas.progress import BatchProgress


@given(st.lists(st.integers(1, 500), max_size=30), st.integers(0, 200), st.integers(0, 5000))
def test_parts_add_up_whatever_passes_see(seen, rows, tokens):
    told: list[tuple[int, int]] = []
    telling = BatchProgress(lambda *each: told.append(each), rows, tokens, sum(seen))
    for each in seen:
        telling.saw(each)
    if seen:
        assert (sum(r for r, _ in told), sum(t for _, t in told)) == (rows, tokens)
    telling.done()
    telling.done()
    assert (sum(r for r, _ in told), sum(t for _, t in told)) == (rows, tokens)
    assert all(r >= 0 and t >= 0 and r + t for r, t in told)


def test_half_the_work_is_half_of_the_rows():
    told: list[tuple[int, int]] = []
    telling = BatchProgress(lambda *each: told.append(each), 10, 800, 3000)
    telling.saw(1500)
    assert told == [(5, 400)]


def test_nobody_need_listen():
    telling = BatchProgress(None, 3, 9, 9)
    telling.saw(9)
    telling.done()
