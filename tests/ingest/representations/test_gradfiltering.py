"""G-SNR against its definition: per-example autograd over peft's model, member by member."""

from __future__ import annotations

import math
import re
import statistics

import numpy as np
import pyarrow as pa
import pytest
import torch
from helpers.tiny_adapters import in_peft, run, same
from helpers.tiny_models import tiny_backbone, tiny_conversations

from coresetdb.ingest.featurizer import Featurizer
from coresetdb.ingest.fits.ensemble import HELD_OUT, Ensemble, judges, noise_prior
from coresetdb.ingest.fits.member_noise import Prior, prior_of
from coresetdb.ingest.models.backbone import Backbone
from coresetdb.ingest.models.describe import BackboneConfig
from coresetdb.ingest.passes import forward
from coresetdb.ingest.passes.forward import run_pass
from coresetdb.ingest.representations.gradfiltering import representation
from coresetdb.ingest.representations.gradfiltering_scores import (
    drops,
    noises,
    reliability,
    seen_gap,
    snr,
    spearman,
)
from coresetdb.ingest.representations.registry import feature_spec, recipe_for
from coresetdb.schemas.errors import UsageError
from coresetdb.schemas.instruction import Instruction

ROWS = tiny_conversations()
SAMPLE, OUTSIDE = ROWS[:7], ROWS[7:]
OPTIONS = {
    "members": 4,
    "rank": 4,
    "alpha": 8,
    "learning_rate": 2e-2,
    "at_least": len(SAMPLE),
    "share": 0.0,
}


def featurizer(backbone, asked, artifacts) -> Featurizer:
    digests = {name: f"digest of {name}" for name in artifacts}
    recipe = recipe_for(asked, backbone.info, artifacts, digests)
    return Featurizer(backbone, [recipe], artifacts={digests[n]: a for n, a in artifacts.items()})


def fitted(backbone, rows=SAMPLE, **options):
    asked = feature_spec("gradfiltering", {**OPTIONS, **options})
    (fit,) = representation.fits(backbone.info, asked.options)
    return asked, run(fit, backbone, rows)[0]


def naive_norms(backbone, adapter, rows, gradient="adapter") -> list[float]:
    """The gradient's norm for one row after the other, by autograd over peft's parameters.

    With `relative` every matrix's part is divided by the norm of the other one of its pair.
    """
    model = in_peft(backbone, adapter)
    named = {n: weight for n, weight in model.named_parameters() if weight.requires_grad}
    trained = list(named.values())
    other = {"lora_A": "lora_B", "lora_B": "lora_A"}
    scales = [1.0] * len(trained)
    if gradient == "relative":
        scales = [
            named[re.sub("lora_[AB]", lambda m: other[m[0]], name)].double().square().sum().item()
            for name in named
        ]
    norms = []
    for row in rows:
        encoded = backbone.encode(row)
        ids = torch.tensor(encoded.ids, dtype=torch.long)
        logits = model(input_ids=ids[None]).logits[0, :-1]
        nll = -logits.log_softmax(-1)[torch.arange(len(ids) - 1), ids[1:]]
        parts = torch.autograd.grad(nll[torch.tensor(encoded.response[1:])].mean(), trained)
        squares = [part.double().square().sum().item() for part in parts]
        norms.append(math.sqrt(sum(s / scale for s, scale in zip(squares, scales, strict=True))))
    return norms


def naive_drop(early: list[float], late: list[float]) -> float:
    before = sum(norm**2 for norm in early) / len(early)
    after = sum(norm**2 for norm in late) / len(late)
    return (before - after) / before


def naive_score(
    early: list[float], late: list[float], noise: str, prior: Prior | None = None
) -> float:
    spread = statistics.variance(late) if len(late) > 1 else 0.0
    nu = spread if noise == "raw" else spread / statistics.mean(late) ** 2
    if noise == "shrunk":
        own = len(late) - 1
        nu = (prior.freedom * prior.scale + own * nu) / (prior.freedom + own)
    drop = naive_drop(early, late)
    return drop / (nu + 1e-3) if drop > 0 else drop * (nu + 1e-3)


@pytest.mark.parametrize(
    ("architecture", "gradient"),
    [
        ("builtin", "relative"),
        ("llama", "adapter"),
        ("gpt2", "adapter"),
        ("gpt2", "relative"),
        ("qwen3_moe", "relative"),
    ],
)
def test_equals_the_naive_reference(architecture, gradient):
    backbone = (
        Backbone.load(BackboneConfig("builtin", "cpu", "float32"))
        if architecture == "builtin"
        else tiny_backbone(architecture)
    )
    model = "builtin" if architecture == "builtin" else str(backbone.info.folder)
    noise = {"llama": "normalised", "gpt2": "raw"}.get(architecture, "shrunk")
    asked, artifacts = fitted(backbone, model=model, noise=noise, gradient=gradient)
    columns = featurizer(backbone, asked, artifacts).compute(ROWS).columns
    expected = np.transpose(
        [
            naive_norms(backbone, artifacts[f"ensemble/{member}/{which}"], ROWS, gradient)
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
            naive_score(
                [norms[m] for m in judging],
                [norms[4 + m] for m in judging],
                noise,
                noise_prior(artifacts, gradient),
            )
        )
        assert columns["gradfiltering_reason"][index] is None
    scores = columns["gradfiltering"]
    assert np.linalg.norm(scores - expected_scores) < 1e-3 * np.linalg.norm(expected_scores)
    assert np.argsort(scores).tolist() == np.argsort(expected_scores).tolist()


@pytest.mark.parametrize("noise", ["shrunk", "normalised", "raw"])
@pytest.mark.parametrize("members", [4, 6])
def test_the_score_is_the_formula(noise, members):
    prior = Prior(0.3, 2.5)
    draw = np.random.default_rng(0)
    early, late = draw.lognormal(size=(2, 50, members))
    early[:25] *= 3
    chosen = np.array([judges(np.array([half]), members)[0] for half in draw.integers(0, 2, 50)])
    chosen[::5] = True
    found = snr(early, late, chosen, noise, prior)
    expected = [
        naive_score(e[c].tolist(), late_[c].tolist(), noise, prior)
        for e, late_, c in zip(early, late, chosen, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert (found > 0).any() and (found < 0).any()


def test_scores_from_the_stored_norms():
    """The stored score again, and what another noise would have given."""
    backbone = tiny_backbone("gpt2")
    model = str(backbone.info.folder)
    asked, artifacts = fitted(backbone, model=model, noise="shrunk")
    rows = [*ROWS, Instruction.from_turns(("user", "no answer"))]
    table = featurizer(backbone, asked, artifacts).featurize(rows)
    others = {
        noise: featurizer(
            backbone, feature_spec("gradfiltering", {**asked.options, "noise": noise}), artifacts
        ).featurize(rows)["gradfiltering"]
        for noise in ("shrunk", "normalised", "raw")
    }

    def scores(options, made=asked.options, known=artifacts):
        scorer = representation.scorer(
            made, known, None, {**representation.query_defaults, **options}
        )
        (batch,) = table.select(list(scorer.columns)).combine_chunks().to_batches()
        return scorer.scores(batch)

    assert np.array_equal(scores({}), table["gradfiltering"].to_numpy(), equal_nan=True)
    for noise, expected in others.items():
        found = scores({"noise": noise})
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected.to_numpy(), rtol=1e-6)
    norms = table["gradfiltering_norms"].to_pylist()
    expected = [
        math.nan if row is None else naive_drop(row[: len(row) // 2], row[len(row) // 2 :])
        for row in norms
    ]
    np.testing.assert_allclose(scores({"score": "drop"}), expected, rtol=1e-5)
    with pytest.raises(UsageError, match="noise=raw has no effect on score=drop"):
        scores({"score": "drop", "noise": "raw"})
    older = {name: each for name, each in artifacts.items() if name != HELD_OUT}
    before = {**asked.options, "noise": "normalised"}
    with pytest.raises(UsageError, match="Make the feature again: coresetdb featurize STORE"):
        scores({"noise": "shrunk"}, before, older)
    assert np.isfinite(scores({"noise": "raw"}, before, older)[:-1]).all()


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
    asked, artifacts = fitted(backbone, model=model, noise="normalised")
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


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen3_moe"])
def test_what_the_members_lose_on_rows_they_were_not_trained_on(architecture):
    backbone = tiny_backbone(architecture)
    fit = Ensemble(rank=4, alpha=8, learning_rate=1e-2, batch=2, at_least=7, share=0.0)
    kept, _ = run(fit, backbone, SAMPLE)
    held_out = kept[HELD_OUT].facts
    samples = [set(kept[f"ensemble/{half}/late"].facts["sample"]) for half in range(2)]
    of_half = [[row for row in SAMPLE if row.id in sample] for sample in samples]
    variances = {"adapter": [], "relative": []}
    for half, rows in enumerate(of_half):
        judging = [1 - half, 3 - half]
        for gradient, own in variances.items():
            late = [
                naive_norms(backbone, kept[f"ensemble/{m}/late"], rows, gradient) for m in judging
            ]
            own += [
                statistics.variance(norms) / statistics.mean(norms) ** 2
                for norms in zip(*late, strict=True)
            ]
    for which in ("early", "late"):
        losses = [
            statistics.mean(
                naive_loss(backbone, kept[f"ensemble/{m}/{which}"], row)
                for row in of_half[1 - m % 2]
            )
            for m in range(4)
        ]
        assert held_out["loss"][which] == pytest.approx(statistics.mean(losses), rel=1e-5)
    assert held_out["rows"] == len(SAMPLE)
    for gradient, own in variances.items():
        found, expected = noise_prior(kept, gradient), prior_of(np.array(own), 1)
        assert found.scale == pytest.approx(expected.scale, rel=1e-2)
        assert found.freedom == pytest.approx(expected.freedom, rel=1e-2)


def naive_loss(backbone, adapter, row) -> float:
    encoded = backbone.encode(row)
    ids = torch.tensor(encoded.ids, dtype=torch.long)
    with torch.no_grad():
        logits = in_peft(backbone, adapter)(input_ids=ids[None]).logits[0, :-1]
    nll = -logits.log_softmax(-1)[torch.arange(len(ids) - 1), ids[1:]]
    return nll[torch.tensor(encoded.response[1:])].mean().item()


@pytest.mark.parametrize(("learning_rate", "warned"), [(1e-2, False), (1e-30, True)])
def test_it_warns_where_the_members_did_not_learn(learning_rate, warned):
    fit = Ensemble(rank=4, alpha=8, learning_rate=learning_rate, batch=2, at_least=7, share=0.0)
    said = []
    backbone = tiny_backbone()
    run(fit, backbone, SAMPLE, say=said.append)
    assert said[0].startswith("mean loss of 7 rows at members that were not trained on them: ")
    assert [sentence for sentence in said if "did not fall" in sentence] == said[1:]
    assert len(said) == 1 + warned
    if warned:
        assert said[1].endswith("or a larger sample (share, at_least)")


def test_what_rows_it_cannot_score_it_says_why():
    backbone = tiny_backbone("gpt2")
    asked, artifacts = fitted(backbone, model=str(backbone.info.folder))
    rows = [Instruction.from_turns(("user", "what is two?")), ROWS[0]]
    each = featurizer(backbone, asked, artifacts)
    table = each.featurize(rows)
    assert table["gradfiltering_reason"].to_pylist() == ["no response token", None]
    assert table["gradfiltering"].null_count == table["gradfiltering_norms"].null_count == 1
    assert table["gradfiltering_in_fit"].to_pylist()[1] in (0, 1)
    scorer = representation.scorer(asked.options, artifacts, None, representation.query_defaults)
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
        ({"gradient": "whole"}, "relative, adapter"),
        ({"noise": "none"}, "shrunk, normalised, raw"),
        ({"judges": "some"}, "half, all"),
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


def naive_spearman(one, other):
    def ranks(values):
        return [
            sum(other < value for other in values) + (values.count(value) + 1) / 2
            for value in values
        ]

    return statistics.correlation(ranks(one), ranks(other))


def test_ranks_that_tie():
    draw = np.random.default_rng(0)
    one, other = draw.integers(0, 5, (2, 40)).astype(float)
    assert spearman(one, other) == pytest.approx(naive_spearman(one.tolist(), other.tolist()))
    one[3], other[4] = np.nan, np.inf
    rest = np.delete(np.arange(40), [3, 4])
    assert spearman(one, other) == pytest.approx(spearman(one[rest], other[rest]))
    assert math.isnan(spearman(one, np.ones(40))) and math.isnan(spearman(one[:1], other[:1]))


@pytest.mark.parametrize("noise", ["shrunk", "normalised", "raw"])
def test_how_far_two_halves_of_the_judges_agree(noise):
    draw = np.random.default_rng(0)
    prior = Prior(0.2, 3.0)
    rows = [draw.lognormal(size=2 * judges).tolist() for judges in [4] * 30 + [8] * 10 + [2] * 5]
    table = pa.table({"gradfiltering_norms": pa.array([*rows, None], pa.list_(pa.float32()))})
    found = reliability(table, noise, prior)
    scores, fallen = ([], []), ([], [])
    negative = 0
    for row in rows:
        early, late = row[: len(row) // 2], row[len(row) // 2 :]
        negative += naive_drop(early, late) < 0
        for half in range(2):
            parts = early[half::2], late[half::2]
            fallen[half].append(naive_drop(*parts))
            if noise == "shrunk" or len(parts[0]) > 1:
                scores[half].append(naive_score(*parts, noise, prior))
    assert len(scores[0]) == (45 if noise == "shrunk" else 40)
    assert found["negative_drops"] == negative / len(rows)
    assert found["halves_agree"] == pytest.approx(naive_spearman(*scores))
    assert found["halves_agree_on_drops"] == pytest.approx(naive_spearman(*fallen))


def test_reliability_of_nothing():
    empty = pa.table({"gradfiltering_norms": pa.array([None], pa.list_(pa.float32()))})
    assert all(math.isnan(value) for value in reliability(empty, "raw", None).values())
    two_judges = pa.table(
        {"gradfiltering_norms": pa.array([[2.0, 2.0, 1.0, 1.0]] * 3, pa.list_(pa.float32()))}
    )
    found = reliability(two_judges, "normalised", None)
    assert found["negative_drops"] == 0 and math.isnan(found["halves_agree"])


def test_drop_and_noise_of_one_judge():
    one = np.array([[True, False]])
    early, late = np.array([[2.0, np.nan]]), np.array([[1.0, np.nan]])
    assert drops(early, late, one)[0] == 0.75
    assert noises(late, one, "shrunk", Prior(0.5, 2.0))[0] == 0.5
    assert np.isnan(noises(late, one, "normalised")[0])
