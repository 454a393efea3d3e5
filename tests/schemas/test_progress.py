"""Progress within a shard: whatever passes see, each row and token is reported once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from coresetdb.schemas.progress import BatchProgress


@given(st.lists(st.integers(1, 500), max_size=30), st.integers(0, 200), st.integers(0, 5000))
def test_parts_add_up_whatever_passes_see(seen, rows, tokens):
    reports: list[tuple[int, int]] = []
    progress = BatchProgress(lambda *report: reports.append(report), rows, tokens, sum(seen))
    for count in seen:
        progress.saw(count)
    if seen:
        assert (sum(r for r, _ in reports), sum(t for _, t in reports)) == (rows, tokens)
    progress.done()
    progress.done()
    assert (sum(r for r, _ in reports), sum(t for _, t in reports)) == (rows, tokens)
    assert all(r >= 0 and t >= 0 and r + t for r, t in reports)


def test_half_the_work_is_half_of_the_rows():
    reports: list[tuple[int, int]] = []
    progress = BatchProgress(lambda *report: reports.append(report), 10, 800, 3000)
    progress.saw(1500)
    assert reports == [(5, 400)]


def test_nobody_need_listen():
    progress = BatchProgress(None, 3, 9, 9)
    progress.saw(9)
    progress.done()
