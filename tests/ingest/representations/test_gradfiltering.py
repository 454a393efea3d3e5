"""G-SNR against its definition: per-example autograd over peft's model, member by member."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pyarrow as pa
import pytest
import torch
from helpers.tiny_adapters import in_peft, run, same
from helpers.tiny_models import tiny_backbone, tiny_conversations

from coresetdb.ingest.featurizer import Featurizer
from coresetdb.ingest.models.backbone import Backbone
from coresetdb.ingest.models.describe import BackboneConfig
from coresetdb.ingest.passes import forward
from coresetdb.ingest.passes.forward import run_pass
from coresetdb.ingest.representations.gradfiltering import (
    Ensemble,
    judges,
    representation,
    seen_gap,
    snr,
)
from coresetdb.ingest.representations.registry import feature_spec, recipe_for
from coresetdb.schemas.errors import UsageError
from coresetdb.schemas.instruction import Instruction

ROWS = tiny_conversations()
SAMPLE, OUTSIDE = ROWS[:7], ROWS[7:]
OPTIONS = {"rank": 4, "alpha": 8, "learning_rate": 2e-2, "at_least": len(SAMPLE), "share": 0.0}


def featurizer(backbone, asked, artifacts) -> Featurizer:
    digests = {name: f"digest of {name}" for name in artifacts}
    recipe = recipe_for(asked, backbone.info, artifacts, digests)
    return Featurizer(backbone, [recipe], artifacts={digests[n]: a for n, a in artifacts.items()})


def fitted(backbone, rows=SAMPLE, **options):
    asked = feature_spec("gradfiltering", {**OPTIONS, **options})
    (fit,) = representation.fits(backbone.info, asked.options)
    return asked, run(fit, backbone, rows)[0]


def naive_norms(backbone, adapter, rows) -> list[float]:
    """The gradient's norm for one row after the other, by autograd over peft's parameters."""
    model = in_peft(backbone, adapter)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    norms = []
    for row in rows:
        encoded = backbone.encode(row)
        ids = torch.tensor(encoded.ids, dtype=torch.long)
        logits = model(input_ids=ids[None]).logits[0, :-1]
        nll = -logits.log_softmax(-1)[torch.arange(len(ids) - 1), ids[1:]]
        parts = torch.autograd.grad(nll[torch.tensor(encoded.response[1:])].mean(), trained)
        norms.append(math.sqrt(sum(part.double().square().sum().item() for part in parts)))
    return norms


def naive_score(early: list[float], late: list[float], noise: str) -> float:
    before = sum(norm**2 for norm in early) / len(early)
    after = sum(norm**2 for norm in late) / len(late)
    spread = statistics.variance(late)
    nu = spread if noise == "raw" else spread / statistics.mean(late) ** 2
    drop = (before - after) / before
    return drop / (nu + 1e-3) if drop > 0 else drop * (nu + 1e-3)


@pytest.mark.parametrize("architecture", ["builtin", "gpt2", "qwen3_moe"])
def test_equals_the_naive_reference(architecture):
    backbone = (
        Backbone.load(BackboneConfig("builtin", "cpu", "float32"))
        if architecture == "builtin"
        else tiny_backbone(architecture)
    )
    model = "builtin" if architecture == "builtin" else str(backbone.info.folder)
    noise = "raw" if architecture == "gpt2" else "normalised"
    asked, artifacts = fitted(backbone, model=model, noise=noise)
    columns = featurizer(backbone, asked, artifacts).compute(ROWS).columns
    expected = np.transpose(
        [
            naive_norms(backbone, artifacts[f"ensemble/{member}/{which}"], ROWS)
            for which in ("early", "late")
            for member in range(4)
        ]
    )
    expected_scores = []
    for index, row in enumerate(ROWS):
        norms = expected[index].tolist()
        taught = [m for m in range(4) if row.id in artifacts[f"ensemble/{m}/late"].facts["sample"]]
        assert taught in ([0, 2], [1, 3]) if row in SAMPLE else taught == []
        in_fit = columns["gradfiltering_in_fit"][index]
        assert in_fit == taught[0] if taught else np.isnan(in_fit)
        half = taught[0] if taught else int(row.id[-1], 16) % 2
        judging = [1 - half, 3 - half]
        by_judges = [norms[m] for m in judging] + [norms[4 + m] for m in judging]
        for column, parts in (("norms", by_judges), ("seen", [norms[4 + m] for m in taught])):
            found = columns[f"gradfiltering_{column}"][index]
            assert len(found) == len(parts)
            assert np.linalg.norm(found - parts) <= 1e-3 * np.linalg.norm(parts)
        expected_scores.append(
            naive_score([norms[m] for m in judging], [norms[4 + m] for m in judging], noise)
        )
        assert columns["gradfiltering_reason"][index] is None
    scores = columns["gradfiltering"]
    assert np.linalg.norm(scores - expected_scores) < 1e-3 * np.linalg.norm(expected_scores)
    assert np.argsort(scores).tolist() == np.argsort(expected_scores).tolist()


@pytest.mark.parametrize("noise", ["normalised", "raw"])
@pytest.mark.parametrize("members", [4, 6])
def test_the_score_is_the_formula(noise, members):
    draw = np.random.default_rng(0)
    early, late = draw.lognormal(size=(2, 50, members))
    early[:25] *= 3
    chosen = np.array([judges(np.array([half]), members)[0] for half in draw.integers(0, 2, 50)])
    chosen[::5] = True
    found = snr(early, late, chosen, noise)
    expected = [
        naive_score(e[c].tolist(), late_[c].tolist(), noise)
        for e, late_, c in zip(early, late, chosen, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert (found > 0).any() and (found < 0).any()


def test_noise_never_helps():
    late = np.array([[2.0, 2.0], [1.5, 2.5], [1.0, 3.0]])
    late *= np.sqrt(4.0 / (late**2).mean(1, keepdims=True))  # equal mean squares: equal drops
    both = np.ones((3, 2), dtype=bool)
    for early in (3.0, 1.0):
        scores = snr(np.full((3, 2), early), late, both, "normalised")
        assert (np.diff(scores) < 0).all()


def test_a_model_of_its_own_gives_what_a_store_of_that_model_gives():
    small, large = tiny_backbone("gpt2"), tiny_backbone("llama")
    name = str(small.info.folder)
    rows = [*ROWS, Instruction.from_turns(("user", "no answer"))]
    asked, artifacts = fitted(small, model=name)
    assert fitted(large, model=name)[1].keys() == artifacts.keys()
    for member, artifact in fitted(large, model=name)[1].items():
        assert same(artifact, artifacts[member])
    inside, outside = (featurizer(each, asked, artifacts) for each in (small, large))
    assert inside.recipes[0].backbone == outside.recipes[0].backbone == small.info.identity
    one, other = (each.table(each.compute(rows)) for each in (inside, outside))
    for column in inside.recipes[0].columns:
        assert one[column].equals(other[column])
    assert representation.passes(inside.setup(inside.recipes[0]))
    assert not representation.passes(outside.setup(outside.recipes[0]))


def test_judges_all_uses_every_member_for_rows_outside():
    backbone = tiny_backbone("gpt2")
    model = str(backbone.info.folder)
    asked, artifacts = fitted(backbone, model=model)
    everyone = feature_spec("gradfiltering", {**asked.options, "judges": "all"})
    one, other = (
        featurizer(backbone, each, artifacts).compute(ROWS).columns for each in (asked, everyone)
    )
    inside = len(SAMPLE)
    assert np.array_equal(one["gradfiltering"][:inside], other["gradfiltering"][:inside])
    assert not (one["gradfiltering"][inside:] == other["gradfiltering"][inside:]).any()
    norms = other["gradfiltering_norms"][inside:]
    for score, row in zip(other["gradfiltering"][inside:], norms, strict=True):
        early, late = np.split(row, 2)
        assert len(early) == len(late) == 4
        expected = naive_score(early.tolist(), late.tolist(), "normalised")
        assert score == pytest.approx(expected, rel=1e-4)


def test_no_pass_is_run_over_rows_it_does_not_judge(monkeypatch):
    backbone = tiny_backbone("gpt2")
    asked, artifacts = fitted(backbone, model=str(backbone.info.folder))
    seen = []

    def spy(backbone, batch, readers, adapter):
        seen.extend((adapter.facts["epoch"], row.id) for row in batch.rows)
        run_pass(backbone, batch, readers, adapter)

    monkeypatch.setattr(forward, "run_pass", spy)
    told = []
    featurizer(backbone, asked, artifacts).compute(ROWS, on_batch=lambda *each: told.append(each))
    for row in ROWS:
        assert [seen.count((epoch, row.id)) for epoch in (1, 2)] == [2, 4 if row in SAMPLE else 2]
    assert sum(rows for rows, _ in told) == len(ROWS)
    assert sum(tokens for _, tokens in told) == sum(map(len, backbone.encode_all(ROWS)))
    assert len(told) > 4, "progress is told within a shard, pass by pass"
    one_half = [row for row in OUTSIDE if int(row.id[-1], 16) % 2][:1]
    alone = featurizer(backbone, asked, artifacts).compute(one_half).columns
    assert np.isfinite(alone["gradfiltering"]).all()


def test_members_differ_in_seed_and_rows_and_go_on_where_they_were_killed():
    backbone = tiny_backbone()
    fit = Ensemble(rank=4, alpha=8, learning_rate=1e-2, batch=2, at_least=7, share=0.0)
    whole, told = run(fit, backbone, SAMPLE)
    assert list(whole) == list(fit.outputs())
    samples = [whole[f"ensemble/{m}/late"].facts["sample"] for m in range(4)]
    assert samples[0] == samples[2] and samples[1] == samples[3]
    assert sorted(samples[0] + samples[1]) == sorted(row.id for row in SAMPLE)
    for one in range(4):
        for other in range(one):
            assert not same(whole[f"ensemble/{one}/early"], whole[f"ensemble/{other}/early"])
        early, late = (whole[f"ensemble/{one}/{which}"] for which in ("early", "late"))
        assert late.facts["loss"] < early.facts["loss"]
        assert not any(key.endswith((".m", ".v")) for key in late.arrays)
    fractions = [fraction for fraction, _ in told]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    begun, _ = run(fit, backbone, SAMPLE, stop_after="ensemble/1/early")
    assert list(begun) == ["ensemble/0/early", "ensemble/0/late", "ensemble/1/early"]
    resumed, _ = run(fit, backbone, SAMPLE, begun)
    assert all(same(resumed[name], whole[name]) for name in whole)


def test_what_rows_it_cannot_score_it_says_why():
    backbone = tiny_backbone("gpt2")
    asked, artifacts = fitted(backbone, model=str(backbone.info.folder))
    rows = [Instruction.from_turns(("user", "what is two?")), ROWS[0]]
    each = featurizer(backbone, asked, artifacts)
    table = each.featurize(rows)
    assert table["gradfiltering_reason"].to_pylist() == ["no response token", None]
    assert table["gradfiltering"].null_count == table["gradfiltering_norms"].null_count == 1
    assert table["gradfiltering_in_fit"].to_pylist()[1] in (0, 1)
    scorer = representation.scorer(asked.options, artifacts, None, {})
    (batch,) = table.select(list(scorer.columns)).to_batches()
    scores = scorer.scores(batch)
    assert scores.dtype == np.float32
    assert np.isnan(scores[0]) and scores[1] == table["gradfiltering"][1].as_py()


@pytest.mark.parametrize(
    "options, said",
    [
        ({"members": 2}, "members=2"),
        ({"members": 5}, "members=5"),
        ({"epochs": 1}, "epochs=1"),
        ({"rank": 0}, "rank 0"),
        ({"seed": -1}, "seed -1"),
        ({"share": 5.0}, "share 5.0"),
        ({"noise": "none"}, "normalised or raw"),
        ({"judges": "some"}, "half or all"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, said):
    asked = feature_spec("gradfiltering", options)
    with pytest.raises(UsageError, match=said):
        representation.fits(tiny_backbone().info, asked.options)


def test_the_gap_between_seen_and_unseen_rows():
    norms = [[1.0, 1.0, 2.0, 2.0], [1.0, 1.0, 4.0, 4.0], [1.0, 1.0, 1.0, 3.0, 3.0, 3.0], None]
    seen = [[1.0, 1.0], [2.0, 2.0], [], None]
    kind = pa.list_(pa.float32())
    table = pa.table(
        {"gradfiltering_norms": pa.array(norms, kind), "gradfiltering_seen": pa.array(seen, kind)}
    )
    gap = seen_gap(table)
    assert (gap["rows_in_fit"], gap["rows_outside"]) == (2, 1)
    assert gap["seen_over_unseen"] == pytest.approx(0.5)
    assert gap["outside_over_unseen"] == pytest.approx(3 / math.sqrt(8))
    empty = seen_gap(table.slice(0, 0))
    assert empty["rows_in_fit"] == 0 and math.isnan(empty["seen_over_unseen"])
