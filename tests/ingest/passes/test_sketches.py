"""Sketches are linear, unbiased, the same everywhere, and equal to the matrices they stand for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from coresetdb.ingest.passes import weight_gradient as module
from coresetdb.ingest.passes.weight_gradient import (
    SketchSpec,
    WeightGradient,
    count_sketch,
    fold,
    folded_inputs,
)

B, T, OUT, IN = 5, 7, 60, 37


def gradient(seed=0, name="layers.0.q_proj") -> WeightGradient:
    draw = torch.Generator().manual_seed(seed)
    deltas = torch.randn(B, T, OUT, generator=draw)
    inputs = torch.randn(B, T, IN, generator=draw) + 0.5
    return WeightGradient(name, deltas, inputs)


def folding(key: str, seed: int, size: int, width: int) -> torch.Tensor:
    """(size, width): the matrix that `fold` multiplies with."""
    if size <= width:
        return torch.eye(size)
    signs = module._signs(key, seed, size, torch.device("cpu"))
    matrix = torch.zeros(size, width)
    for place in range(size):
        matrix[place, place % width] = signs[place]
    return matrix


@pytest.mark.parametrize("dims", (32, 100, 512, 2048))
def test_the_factored_sketch_equals_its_matrices(dims):
    spec = SketchSpec(dims, seed=3)
    each = gradient()
    outer, inner = spec.sides
    left = folding(f"deltas of {each.name}", 3, OUT, outer)
    right = folding(f"inputs of {each.name}", 3, IN, inner)
    got = each.sketch(spec)
    size = left.shape[1] * right.shape[1]
    places, signs = module._hashes(each.name, spec, size, torch.device("cpu"))
    for row in range(B):
        whole = torch.zeros(OUT, IN)
        for token in range(T):
            whole += torch.outer(each.deltas[row, token], each.inputs[row, token])
        block = (left.T @ whole @ right).flatten()
        wanted = torch.zeros(dims)
        for entry in range(size):
            wanted[places[entry]] += signs[entry] * block[entry]
        assert (got[row] - wanted).norm() / wanted.norm() < 1e-5


def test_sides_are_about_four_dims_together():
    for dims in (32, 2048, 8192):
        outer, inner = SketchSpec(dims).sides
        assert outer == 2 * inner and outer * inner == pytest.approx(4 * dims, rel=0.1)
    assert SketchSpec(2048).sides == (128, 64) and SketchSpec(8192).sides == (256, 128)


@pytest.mark.parametrize("sizes", [(300, 500), (300, 20), (16, 500), (16, 8), (12, 30), (5, 3)])
def test_what_is_folded_finely_needs_only_sums_to_be_folded_coarsely(sizes):
    """For sides that are folded by both sketches, by one, exactly as wide, and by none."""
    fine, coarse, other = SketchSpec(32, 3), SketchSpec(8, 3), SketchSpec(8, 4)
    assert (fine.sides, coarse.sides) == ((16, 8), (8, 4))
    assert fine.refines(coarse) and not coarse.refines(fine) and not fine.refines(fine)
    assert not fine.refines(other) and not SketchSpec(2049).refines(SketchSpec(2048))
    assert SketchSpec(8192).refines(SketchSpec(2048))
    draw = torch.Generator().manual_seed(1)
    deltas, inputs = (torch.randn(2, 5, size, generator=draw) for size in sizes)
    direct = WeightGradient("layers.0.q", deltas, inputs).block(coarse)
    folded = {fine: folded_inputs(inputs, "layers.0.q", fine)}
    for whole in (inputs, None):
        each = WeightGradient("layers.0.q", deltas, whole, dict(folded), sizes[1])
        assert (each.block(coarse) - direct).norm() / direct.norm() < 1e-5
        assert (
            each.block(fine) - WeightGradient("layers.0.q", deltas, inputs).block(fine)
        ).norm() == 0
        assert set(each.folded) == {fine}


def test_a_sketch_is_linear():
    spec = SketchSpec(64)
    one, other = gradient(0), gradient(1)
    both = WeightGradient(
        one.name,
        torch.cat([2 * one.deltas, -3 * other.deltas], 1),
        torch.cat([one.inputs, other.inputs], 1),
    )
    wanted = 2 * one.sketch(spec) - 3 * other.sketch(spec)
    assert (both.sketch(spec) - wanted).norm() / wanted.norm() < 1e-5
    values = torch.randn(4, 500)
    summed = count_sketch(values[:2] + values[2:], "x", spec)
    parts = count_sketch(values[:2], "x", spec) + count_sketch(values[2:], "x", spec)
    assert torch.allclose(summed, parts, atol=1e-5)


def test_inner_products_are_unbiased_and_as_noisy_as_they_should_be():
    """Over seeds: the mean of the estimate is the product, its deviation that of theory."""
    dims, seeds = 64, 400
    one, other = torch.randn(2, 1, 3000, generator=torch.Generator().manual_seed(0))
    other = 0.5 * one + other
    true = float((one * other).sum())
    scale = float(one.norm() * other.norm())
    estimates = [
        float((count_sketch(one, "w", spec) * count_sketch(other, "w", spec)).sum())
        for spec in (SketchSpec(dims, seed) for seed in range(seeds))
    ]
    error = (np.array(estimates) - true) / scale
    cosine = true / scale
    ideal = math.sqrt((1 + cosine**2) / dims)
    assert abs(error.mean()) < 4 * ideal / math.sqrt(seeds)
    assert error.std() == pytest.approx(ideal, rel=0.15)


def test_the_factored_sketch_is_unbiased():
    seeds = 400
    first, second = gradient(0), gradient(1)
    # Gradients that have something in common.
    second = WeightGradient(first.name, first.deltas + second.deltas, first.inputs + second.inputs)
    true = (first.values() * second.values()).sum((1, 2))
    scale = (first.squared_norm() * second.squared_norm()).sqrt()
    specs = [SketchSpec(64, seed) for seed in range(seeds)]
    sketched = torch.stack([(first.sketch(s) * second.sketch(s)).sum(1) for s in specs])
    error = (sketched - true) / scale
    assert (error.mean(0).abs() < 4 * error.std(0) / math.sqrt(seeds)).all()
    blocks = torch.stack([first.block(s).square().sum((1, 2)) for s in specs])
    ratio = blocks / first.squared_norm()
    assert ((ratio.mean(0) - 1).abs() < 4 * ratio.std(0) / math.sqrt(seeds)).all()


def test_the_same_numbers_for_good():
    """Stored vectors are compared with those of later versions: these must never change."""
    values = torch.arange(1.0, 13.0)[None]
    assert count_sketch(values, "layers.0.q_proj", SketchSpec(8)).tolist() == [
        [6.0, -2.0, -8.0, -10.0, -7.0, 6.0, -4.0, 17.0]
    ]
    assert fold(values[None], 4, "layers.0.q_proj", 0)[0, 0].tolist() == [*(-5.0, -2.0, 15.0, 0.0)]


def test_names_and_seeds_tell_sketches_apart():
    values = torch.randn(1, 1000)
    sketches = [
        count_sketch(values, name, SketchSpec(256, seed))[0]
        for name, seed in (("a", 0), ("b", 0), ("a", 1))
    ]
    for i in range(3):
        for j in range(i):
            cosine = torch.cosine_similarity(sketches[i], sketches[j], 0)
            assert abs(float(cosine)) < 5 / math.sqrt(256)


def test_what_is_shared_is_made_once():
    each, spec = gradient(), SketchSpec(64)
    assert each.sketch(spec) is each.sketch(SketchSpec(64))
    assert each.block(spec) is each.block(spec)
    assert each.squared_norm() is each.squared_norm()
