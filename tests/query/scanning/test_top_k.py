"""The running top-k against a plain sort, on streams that are hard for it."""

import numpy as np
import pytest
import torch

from coresetdb.query.scanning.top_k import RunningTop

torch.set_num_threads(1)


def streamed(scores, keys, k, block, extra=None):
    """What RunningTop finds when it is fed `block` rows at a time."""
    top = RunningTop(len(scores), k)
    for start in range(0, len(keys), block):
        part = slice(start, start + block)
        more = None if extra is None else torch.from_numpy(extra[part])
        top.add(torch.from_numpy(scores[:, part].copy()), keys[part], more)
    return top.lists_found()


def naive(scores, keys, k):
    """For every list the places of its best rows."""
    rows = range(len(keys))
    return [sorted(rows, key=lambda j: (-row[j], *keys[j].tolist()))[:k] for row in scores]


def streams():
    """Scores (4, 600) by name."""
    generator = np.random.default_rng(0)
    scores = generator.standard_normal((4, 600)).astype(np.float32)
    return {
        "random": scores,
        "rising": np.sort(scores, axis=1),
        "falling": -np.sort(-scores, axis=1),
        "one list rises, one is flat": np.stack(
            [np.sort(scores[0]), np.zeros(600, np.float32), scores[2], -np.sort(-scores[3])]
        ),
        "few values": np.round(scores),
        "all equal": np.full((4, 600), -0.5, np.float32),
        "zeros of both signs": np.where(scores > 0, np.float32(0), np.float32(-0.0)),
    }


@pytest.mark.parametrize("name", streams())
@pytest.mark.parametrize("k", [1, 37, 599, 600, 900])
@pytest.mark.parametrize("upper_halves", [3, 2**62])
def test_every_stream_and_cut(monkeypatch, name, k, upper_halves):
    """Ids that agree in their upper half are told apart by the lower one."""
    scores = streams()[name]
    generator = np.random.default_rng(k)
    high = generator.integers(-upper_halves, upper_halves, 600)
    keys = np.stack([high, generator.permutation(600) - 300], axis=1)
    expected = naive(scores, keys, k)
    for block, waiting in ((600, 1 << 16), (64, 40), (7, 1), (1, 200)):
        monkeypatch.setattr(
            "coresetdb.query.scanning.top_k.pending_entries", lambda *_, n=waiting: n
        )
        monkeypatch.setattr(
            "coresetdb.query.scanning.top_k.rows_compared_at_once", lambda *_, n=block: n
        )
        found = streamed(scores, keys, k, block, np.arange(600))
        assert found.queries.tolist() == expected
        for number, places in enumerate(expected):
            assert (found.keys[number] == keys[places]).all()
            assert (found.scores[number] == scores[number, places]).all()


def test_nothing_asked_and_nothing_seen():
    keys = np.arange(20).reshape(10, 2)
    assert streamed(np.zeros((2, 10), np.float32), keys, 0, 5).keys.shape == (2, 0, 2)
    assert RunningTop(3, 5).lists_found().keys.shape == (3, 0, 2)
