"""TRIM's fit and its quantiser: which rank is chosen, and what codes lose."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import trim_reference as reference
from helpers.tiny_models import tiny_backbone, tiny_conversations
from transformers import AutoModelForCausalLM

from coresetdb.ingest.featurizer import Featurizer
from coresetdb.ingest.fits.fit import Fitting, Sample, in_order
from coresetdb.ingest.fits.lora import WarmUp
from coresetdb.ingest.passes.adapters import adapter_applied
from coresetdb.ingest.passes.forward import pass_over
from coresetdb.ingest.representations import registry, trim_basis
from coresetdb.ingest.representations.trim_basis import (
    OUTPUT,
    SampleStates,
    TrimBasis,
    overlaps,
    quantise,
    ranks_tried,
    scores_by_rank,
    top_overlap,
)
from coresetdb.ingest.representations.trim_scores import ClassTable
from coresetdb.schemas.errors import UsageError
from coresetdb.schemas.instruction import Instruction
from coresetdb.store.catalog import Artifact

WORDS = "the sum of two and three is five name a colour sky is blue what".split()


def many(count: int, seed: int = 0) -> list[Instruction]:
    draw = np.random.default_rng(seed)
    return [
        Instruction.from_turns(
            ("user", " ".join(draw.choice(WORDS, 5))),
            ("assistant", " ".join(draw.choice(WORDS, 7))),
        )
        for _ in range(count)
    ]


def run(fit, rows, kept=None):
    found: dict[str, Artifact] = dict(kept or {})
    told: list[float] = []
    sample = Sample([row.id for row in rows], rows, len(rows))
    fit.run(
        Fitting(
            tiny_backbone(),
            sample,
            dict(found),
            lambda name, artifact: found.setdefault(name, artifact),
            lambda share, what: told.append(share),
        )
    )
    return found, told


def states_of(backbone, rows):
    """The states of some rows, from a pass of their own."""
    states = SampleStates(rows, backbone.info.hidden_size)
    pass_over(backbone, rows, [states])
    return states


def test_codes_are_within_half_a_scale():
    vectors = (
        torch.randn(500, 48, generator=torch.manual_seed(0)) * torch.logspace(-6, 3, 500)[:, None]
    )
    codes, scales = quantise(vectors)
    assert codes.dtype == torch.int8 and scales.dtype == torch.float32
    assert codes.abs().amax(1).tolist() == [127] * 500
    error = (codes.float() * scales[:, None] - vectors).abs()
    assert (error <= 0.5001 * scales[:, None]).all()
    again, same = quantise(-vectors)
    assert torch.equal(again, -codes) and torch.equal(same, scales)


def test_a_token_of_zeros_has_codes_of_zero():
    codes, scales = quantise(torch.zeros(2, 4))
    assert codes.tolist() == [[0] * 4] * 2 and scales.tolist() == [0, 0]


def test_overlap_counts_the_best_twentieth():
    exact = np.arange(100.0)
    other = exact.copy()
    other[[99, 98]] = -1
    assert top_overlap(exact, exact) == 1
    assert top_overlap(exact, other) == pytest.approx(3 / 5)
    assert top_overlap(exact[:3], -exact[:3]) == 0  # at least one row is the best
    assert top_overlap(exact, other, least=10) == pytest.approx(8 / 10)
    assert top_overlap(exact[:12], -exact[:12], least=10) == 0  # a third: four rows


def test_ranks_end_with_the_width():
    assert ranks_tried(4096) == (32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 4096)
    assert ranks_tried(256) == (32, 64, 96, 128, 192, 256)
    assert ranks_tried(32) == (32,)


def test_trial_scores_equal_the_naive_reference_at_every_rank():
    backbone = tiny_backbone()
    eager = AutoModelForCausalLM.from_pretrained(
        backbone.info.folder, attn_implementation="eager"
    ).eval()
    rows = [backbone.encode(tiny_conversation) for tiny_conversation in tiny_conversations()]
    states = states_of(backbone, rows)
    directions, _ = states.directions()
    classes = reference.fingerprints(eager, rows[:3])
    seen = sorted(classes)
    table = ClassTable(
        np.array(seen, dtype=np.int32),
        np.array([classes[each] for each in seen], dtype=np.float32) @ directions,
        np.array(
            [
                seen.index(reference.nearest(eager, t, seen))
                for t in range(backbone.info.vocabulary)
            ],
            dtype=np.int32,
        ),
    )
    scores = scores_by_rank(states, directions, [table], [4, 32])
    assert scores.shape == (len(rows), 1, 3)
    for place, row in enumerate(rows):
        exact, low, whole = scores[place, 0]
        assert exact == pytest.approx(reference.score(eager, row, classes), abs=1e-4)
        assert low == pytest.approx(
            reference.score(eager, row, classes, directions[:, :4].astype(float)), abs=0.02
        )
        assert whole == pytest.approx(exact, abs=0.02)


def test_the_smallest_rank_that_is_enough_is_chosen(monkeypatch):
    monkeypatch.setattr(trim_basis, "RANKS", (4, 8, 16))
    rows = many(60)
    found, told = run(TrimBasis(rank=0, rows=60, layers=4, seed=0), rows)
    artifact = found[OUTPUT]
    tried = {int(rank): share for rank, share in artifact.facts["overlap"].items()}
    assert list(tried) == [4, 8, 16, 32]
    enough = [rank for rank, share in tried.items() if share >= 0.95]
    assert artifact.facts["rank"] == (enough[0] if enough else 32)
    assert artifact.arrays["basis"].shape == (32, artifact.facts["rank"])
    assert artifact.facts["kept"] == pytest.approx(
        artifact.arrays["spectrum"][: artifact.facts["rank"]].sum(), abs=1e-5
    )
    assert artifact.facts["rows"] == 60
    assert told == sorted(told) and told[-1] == 1
    monkeypatch.setattr(trim_basis, "ENOUGH", 0.0)
    easy, _ = run(TrimBasis(rank=0, rows=60, layers=4, seed=0), rows)
    assert easy[OUTPUT].facts["rank"] == 4


def test_a_fixed_rank_is_taken_after_one_pass():
    found, told = run(TrimBasis(rank=5, rows=60, layers=4, seed=0), many(60))
    assert found[OUTPUT].facts["rank"] == 5 and found[OUTPUT].facts["overlap"] == {}
    assert found[OUTPUT].arrays["basis"].shape == (32, 5)
    assert told[-1] == 1


def test_the_same_sample_and_seed_give_the_same_artifact_and_a_kept_one_stays():
    rows = many(40)
    fit = TrimBasis(rank=0, rows=40, layers=4, seed=0)
    one, other = run(fit, rows)[0], run(fit, rows)[0]
    assert one[OUTPUT].pack() == other[OUTPUT].pack()
    assert run(fit, rows, one)[1] == []
    backbone = tiny_backbone()
    encoded = [backbone.encode(row) for row in rows]
    states = states_of(backbone, encoded)
    given = (backbone, states, None, states.directions()[0], 4)
    first = overlaps(*given, 0)
    assert first == overlaps(*given, 0)
    assert first != overlaps(*given, 1)


def test_states_in_a_file_give_the_same_basis(monkeypatch):
    rows, fit = many(40), TrimBasis(rank=0, rows=40, layers=4, seed=0)
    held = run(fit, rows)[0][OUTPUT]
    monkeypatch.setattr(trim_basis, "STATES_IN_MEMORY", 0)
    assert run(fit, rows)[0][OUTPUT].pack() == held.pack()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trim_basis.os, "posix_fallocate", full)
    with pytest.raises(UsageError, match=r"No space left on device.*TMPDIR"):
        run(fit, rows)


def test_rows_of_others_in_the_pass_change_nothing():
    backbone = tiny_backbone()
    rows = [backbone.encode(row) for row in many(20)]
    alone = states_of(backbone, rows[:10])
    shared, other = SampleStates([*rows[:10]], 32), SampleStates(rows, 32)
    pass_over(backbone, rows, [shared, other])
    assert shared.places.tolist() == list(range(10))
    for one, both in zip(alone.directions(), shared.directions(), strict=True):
        assert np.allclose(np.abs(one), np.abs(both), atol=1e-3)
    (part, states), (_, all_states) = next(alone.parts(10_000)), next(shared.parts(10_000))
    assert part == slice(0, 10) and torch.allclose(states, all_states, atol=1e-5)
    assert [part for part, _ in shared.parts(1)] == [slice(i, i + 1) for i in range(10)]


def test_only_the_first_rows_of_the_sample_are_used():
    rows = many(40)
    fit = TrimBasis(rank=8, rows=10, layers=4, seed=0)
    assert run(fit, rows)[0][OUTPUT].pack() == run(fit, rows[:10])[0][OUTPUT].pack()
    assert [fit.sample_rows(total) for total in (3, 10, 1000)] == [3, 10, 10]


def test_a_sample_without_text_is_refused():
    empty = [Instruction.from_turns(("user", "")), *many(3)]
    with pytest.raises(
        UsageError, match="3 rows of the sample with text; a basis needs at least 4"
    ):
        run(TrimBasis(rank=0, rows=100, layers=4, seed=0), empty)


def test_with_a_warm_up_basis_codes_and_fingerprints_come_from_the_adapted_model():
    backbone, rows = tiny_backbone(), many(12)
    asked = registry.feature_spec(
        "trim", {"warmup": "lora", "epochs": 2, "rank": 32, "lora_rank": 4}
    )
    trim = registry.get("trim")
    warmup, basis = in_order(trim.fits(backbone.info, asked.options))
    assert warmup == WarmUp(epochs=2, rank=4) and isinstance(basis, TrimBasis)
    plain = trim.fits(backbone.info, registry.feature_spec("trim", {"rank": 32}).options)
    assert basis.digest({}) != plain[0].digest({})
    draw = np.random.default_rng(0)
    layer = "model.layers.1.self_attn.q_proj"
    adapter = Artifact(
        {
            f"{layer}.A": draw.normal(size=(4, 32)).astype(np.float32),
            f"{layer}.B": draw.normal(size=(32, 4)).astype(np.float32),
        },
        {"scaling": 1.0, "sample": [rows[1].id]},
    )
    kept = {"warm-up/1": Artifact({}), "warm-up/2": adapter}
    found = run(basis, rows, kept)[0]
    digests = {name: name for name in found}
    recipe = registry.recipe_for(asked, backbone.info, found, digests)
    featurizer = Featurizer(backbone, [recipe], artifacts=found)
    table = featurizer.featurize(rows)
    assert table["trim_in_fit"].to_pylist() == [False, True] + [False] * 10
    setup = featurizer.setup(recipe, "target")
    facts = trim.target_artifact(backbone, [backbone.encode(row) for row in rows[:2]], {}, setup)
    unadapted = run(TrimBasis(rank=32, rows=2000, layers=4, seed=0), rows)[0][OUTPUT]
    assert not np.allclose(unadapted.arrays["basis"], found[OUTPUT].arrays["basis"], atol=1e-2)
    row = backbone.encode(rows[0])
    ids = torch.tensor(row.ids.tolist())[None]
    with torch.inference_mode(), adapter_applied(backbone.model, adapter):
        states = backbone.states(ids, torch.ones_like(ids, dtype=torch.bool)).hidden[0].numpy()
    units = states / np.linalg.norm(states, axis=1, keepdims=True)
    codes = np.array(table["trim_codes"][0].as_py(), dtype=np.float32).reshape(-1, 32)
    stored = codes * np.array(table["trim_scales"][0].as_py(), dtype=np.float32)[:, None]
    assert np.abs(stored - units @ found[OUTPUT].arrays["basis"]).max() < 0.01
    assert facts is not None
    only_warm = {OUTPUT: found[OUTPUT], "warm-up/2": Artifact({}, {"scaling": 1.0})}
    bare = trim.target_artifact(
        backbone,
        [backbone.encode(row) for row in rows[:2]],
        {},
        registry.setup_of(recipe, backbone.info, only_warm, "target"),
    )
    assert bare is not None
    assert not np.allclose(bare.arrays["vectors"], facts.arrays["vectors"], atol=1e-2)


def test_an_unknown_warm_up_is_refused():
    with pytest.raises(UsageError, match="none or lora"):
        info = tiny_backbone().info
        registry.get("trim").fits(info, registry.feature_spec("trim", {"warmup": "yes"}).options)
