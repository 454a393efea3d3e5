"""The reservoir holds the rows that stand first in the draw, however long the stream gets."""

from __future__ import annotations

from collections import Counter

import pytest

from coresetdb.ingest.fits.sampling import Reservoir, _hash
from coresetdb.schemas.canonical import digest

IDS = [digest(str(n)) for n in range(60_000)]


@pytest.mark.parametrize("rows", [lambda n: 100, lambda n: n // 20, lambda n: min(300, n // 10)])
def test_it_is_the_head_of_the_whole_draw(rows):
    drawing = Reservoir(3, rows)
    for row_id in IDS:
        drawing.offer(row_id, row_id[:4])
    whole = sorted(IDS, key=lambda row_id: _hash(row_id, 3))[: rows(len(IDS))]
    assert drawing.drawn() == [(row_id, row_id[:4]) for row_id in whole]
    assert len(drawing._heap) <= 4 * rows(len(IDS)) + 1024  # not the stream


def test_a_short_stream_is_taken_whole():
    drawing = Reservoir(0, lambda n: 50)
    for row_id in IDS[:7]:
        drawing.offer(row_id, None)
    assert sorted(row_id for row_id, _ in drawing.drawn()) == sorted(IDS[:7])


def test_every_row_has_the_same_chance():
    hits: Counter[int] = Counter()
    for seed in range(400):
        drawing = Reservoir(seed, lambda n: 10)
        for number, row_id in enumerate(IDS[:100]):
            drawing.offer(row_id, number)
        hits.update(number for _, number in drawing.drawn())
    # 400 draws of a tenth: 40 each, with a standard deviation of 6.
    assert len(hits) == 100 and min(hits.values()) > 15 and max(hits.values()) < 70
