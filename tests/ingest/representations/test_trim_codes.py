"""TRIM's codes of 4 bits, one number at a time, and the steps that a fit gives them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.tiny_models import tiny_backbone, tiny_conversations

from coresetdb.ingest.passes.forward import pass_over
from coresetdb.ingest.representations.trim_basis import (
    SampleStates,
    TrimBasis,
    narrowest,
    ranks_tried,
)
from coresetdb.ingest.representations.trim_codes import Steps, bytes_of
from coresetdb.ingest.representations.trim_scores import ClassTable, products, score_tokens


def steps_and_numbers(rank: int, rows: int = 200) -> tuple[Steps, np.ndarray]:
    draw = np.random.default_rng(rank)
    mean = draw.standard_normal(rank).astype(np.float32)
    deviation = draw.uniform(0.01, 0.5, rank).astype(np.float32)
    numbers = mean + deviation * draw.standard_normal((rows, rank)).astype(np.float32)
    return Steps.of_spread(mean, deviation), numbers


def naive_numbers(steps: Steps, numbers: np.ndarray) -> np.ndarray:
    """What is left of each number: the nearest of 15 that lie 2.5 / 7 deviations apart."""
    left = np.empty(numbers.shape)
    for place in np.ndindex(numbers.shape):
        mean, step = steps.mean[place[1]], steps.step[place[1]]
        choices = [float(mean) + code * float(step) for code in range(-7, 8)]
        left[place] = min(choices, key=lambda each: abs(each - float(numbers[place])))
    return left


@pytest.mark.parametrize("rank", [1, 2, 7, 32])
def test_two_codes_a_byte(rank):
    steps, numbers = steps_and_numbers(rank)
    packed = steps.packed(torch.from_numpy(numbers)).numpy()
    assert packed.dtype == np.int8 and packed.shape == (200, bytes_of(rank))
    out = np.empty(numbers.shape, np.float32)
    steps.unpack(packed, out)
    expected = naive_numbers(steps, numbers)
    edge = np.abs(np.abs(out - expected) - steps.step) < 1e-4  # halfway between two
    assert edge.mean() < 0.01
    np.testing.assert_allclose(out[~edge], expected[~edge], atol=1e-5)


@pytest.mark.parametrize("rank", [3, 16, 33])
def test_products_with_packed_codes(rank):
    steps, numbers = steps_and_numbers(rank, 5000)  # more than one block and thread
    packed = steps.packed(torch.from_numpy(numbers)).numpy()
    left = np.empty(numbers.shape, np.float32)
    steps.unpack(packed, left)
    draw = np.random.default_rng(1)
    vectors = draw.standard_normal((6, rank)).astype(np.float32)
    places = draw.integers(0, 6, 5000)
    scores, lengths = products(packed, vectors, places, steps)
    wide = left.astype(np.float64)
    np.testing.assert_allclose(scores, (wide * vectors[places]).sum(1), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(lengths, (wide**2).sum(1), rtol=1e-4)
    table = ClassTable(np.arange(6, dtype=np.int32), vectors, np.arange(6, dtype=np.int32))
    tokens = places.astype(np.int32)
    for rest in ("alike", "none"):
        whole = score_tokens(tokens, left, None, table, rest=rest).scores
        coded = score_tokens(tokens, packed, None, table, rest=rest, steps=steps).scores
        np.testing.assert_allclose(coded, whole, rtol=1e-4, atol=1e-4)


def test_a_direction_in_which_no_token_differs_and_a_state_that_is_none():
    steps = Steps.of_spread(np.array([0.5, 0], np.float32), np.zeros(2, np.float32))
    numbers = torch.tensor([[0.5, 0.0], [torch.nan, torch.nan]])
    out = np.empty((2, 2), np.float32)
    steps.unpack(steps.packed(numbers).numpy(), out)
    assert np.allclose(out, [[0.5, 0], [0.5, 0]])


def test_steps_are_those_of_the_content_tokens():
    backbone = tiny_backbone()
    rows = [backbone.encode(row) for row in tiny_conversations()]
    sample = SampleStates(rows, backbone.info.hidden_size)
    pass_over(backbone, rows, [sample])
    directions, _ = sample.directions()
    steps = sample.steps(directions[:, :5])
    states = torch.cat([each for _, each in sample.parts(10**6)]).double().numpy()
    content = np.concatenate([row.content for row in rows])
    units = (states / np.linalg.norm(states, axis=1, keepdims=True))[content]
    along = units @ directions[:, :5].astype(np.float64)
    np.testing.assert_allclose(steps.mean, along.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(steps.step, along.std(axis=0) * 2.5 / 7, atol=1e-4)
    assert steps.first(2).mean.tolist() == steps.mean[:2].tolist()
    assert Steps.of_arrays(steps.arrays()) is not None and Steps.of_arrays({}) is None


def test_the_fit_of_8_bits_stays_what_it_was():
    sizes = {"rank": 0, "rows": 30, "layers": 4, "seed": 0}
    assert "bits" not in TrimBasis(**sizes).spec()
    assert TrimBasis(**sizes, bits=4).spec() == {**TrimBasis(**sizes).spec(), "bits": 4}
    assert ranks_tried(64, (16, 24, 32, 64)) == (16, 24, 32, 64)


def test_the_narrowest_that_is_enough_or_else_the_best():
    assert narrowest({16: 0.9, 24: 0.96, 32: 0.94, 64: 0.99}, 0.95) == 24
    assert narrowest({16: 0.8, 24: 0.9, 32: 0.9, 64: 0.85}, 0.95) == 24
    assert narrowest({16: 0.8, 24: 0.9}, 0.5) == 16
