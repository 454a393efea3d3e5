"""NAIT against its definition: token means, drifts, principal components, scores by plain loops."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from itertools import product

import numpy as np
import pyarrow as pa
import pytest
import torch
from helpers.naive_neurons import naive_layers, naive_neurons
from helpers.tiny_models import ARCHITECTURES, tiny_backbone, tiny_conversations

from coresetdb.ingest.conversations.tokenization import Encoded
from coresetdb.ingest.featurizer import Featurizer
from coresetdb.ingest.fits.fit import Fitting, Sample, in_order
from coresetdb.ingest.models.backbone import Backbone
from coresetdb.ingest.models.describe import BackboneConfig
from coresetdb.ingest.representations.nait_scores import directions_of
from coresetdb.ingest.representations.nait_width import overlaps
from coresetdb.ingest.representations.registry import (
    get,
    options_of,
    parse_features,
    parse_specs,
    recipe_for,
)
from coresetdb.ingest.representations.representation import BACKGROUND
from coresetdb.schemas.errors import BackboneError, UsageError
from coresetdb.schemas.instruction import Instruction
from coresetdb.store.catalog import Artifact
from coresetdb.store.rows import check_vectors

NAIT = get("nait")
PAPER = {"activation": "mean", "direction": "pca", "score": "dot"}


def naive_summaries(model, row, tokens="content", neuron="layer"):
    """Mean and drift of every layer, lists of (d,) float64."""
    chosen = {"content": row.content, "response": row.response, "all": row.content | True}[tokens]
    content = [place for place, use in enumerate(row.content) if use]
    means, drifts = [], []
    states_of = naive_layers if neuron == "layer" else naive_neurons
    for states in states_of(model, row.ids):
        total, count = np.zeros(states.shape[1]), 0
        for state, use in zip(states, chosen, strict=True):
            if use:
                total, count = total + state, count + 1
        means.append(total / count)
        drifts.append(states[content[-1]] - states[content[0]])
    return means, drifts


def naive_directions(drifts):
    """First principal component of each layer: (n, L, d) -> (L, d)."""
    directions = []
    for layer in range(drifts.shape[1]):
        own = drifts[:, layer]
        centred = own - own.mean(axis=0)
        _, vectors = np.linalg.eigh(centred.T @ centred)
        direction = vectors[:, -1]
        directions.append(-direction if own.mean(axis=0) @ direction < 0 else direction)
    return directions


def naive_means(drifts):
    """The mean drift of each layer, of unit length."""
    return [mean / np.linalg.norm(mean) for mean in drifts.mean(axis=0)]


def naive_contrasts(target, pool):
    """The target's mean summary less the pool's, of unit length, layer by layer."""
    directions = []
    for layer in range(len(pool[0])):
        difference = sum(row[layer] for row in target) / len(target)
        difference = difference - sum(row[layer] for row in pool) / len(pool)
        directions.append(difference / np.linalg.norm(difference))
    return directions


def naive_scores(summaries, directions, score="dot", pool=None):
    """sum_l <A^l, v_l>, each term as `score` has it."""
    scores = []
    for row in summaries:
        total = 0.0
        for layer, direction in enumerate(directions):
            term = row[layer] @ direction
            if score == "centred":
                centred = row[layer] - sum(other[layer] for other in pool) / len(pool)
                term = centred @ direction / np.linalg.norm(centred) / np.linalg.norm(direction)
                term /= len(directions)
            if score == "cosine":
                term /= np.linalg.norm(row[layer])
            if score == "zscore":
                terms = [other[layer] @ direction for other in pool]
                term = (term - np.mean(terms)) / np.std(terms, ddof=1)
            total += term
        scores.append(total)
    return np.array(scores)


def fitted(backbone, options, rows):
    """What the fits of a recipe learn from rows, by name."""
    artifacts: dict[str, Artifact] = {}
    sample = Sample([row.id for row in rows], rows, len(rows))
    for fit in in_order(NAIT.fits(backbone.info, options)):
        fit.run(Fitting(backbone, sample, artifacts, artifacts.__setitem__, lambda *told: None))
    return artifacts


def made(backbone, rows, wanted="nait", sample=None, of="pool", **arguments):
    """Columns of the rows, the featurizer and its recipe."""
    (asked,) = parse_specs(wanted)
    artifacts = fitted(backbone, asked.options, sample or rows)
    digests = {name: f"digest of {name}" for name in artifacts}
    recipe = recipe_for(asked, backbone.info, artifacts, digests)
    by_digest = {digests[name]: artifact for name, artifact in artifacts.items()}
    featurizer = Featurizer(backbone, [recipe], artifacts=by_digest, **arguments)
    return featurizer.compute(rows, of=of), featurizer, recipe


def scored(featurizer, recipe, rows, target, **asked):
    """Scores of rows, which are the pool, for a target, through the columns as they are stored."""
    of_target = featurizer.compute(target, of="target")
    usable = [each for each in of_target.encoded if isinstance(each, Encoded)]
    setup = featurizer.setup(recipe, of="target")
    facts = NAIT.target_artifact(featurizer.backbone, usable, of_target.columns, setup)
    facts = NAIT.with_examples(facts, featurizer.featurize(target))
    table = featurizer.featurize(rows)
    artifacts = {**setup.artifacts, BACKGROUND: NAIT.background([table.slice(0, 3), table[3:]])}
    scorer = NAIT.scorer(options_of(recipe), artifacts, facts, {**PAPER, **asked})
    (batch,) = table.select(list(scorer.columns)).combine_chunks().to_batches()
    return scorer.scores(batch), facts, scorer, batch


def error(got, expected):
    return np.linalg.norm(np.asarray(got) - expected) / np.linalg.norm(expected)


def builtin(dtype="float32"):
    torch.set_num_threads(1)
    return Backbone.load(BackboneConfig("builtin", "cpu", dtype))


@pytest.mark.parametrize("tokens", ["content", "response", "all"])
@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "builtin"])
def test_summaries_equal_the_naive_reference(architecture, tokens):
    backbone = builtin() if architecture == "builtin" else tiny_backbone(architecture)
    rows = tiny_conversations()
    found, _, _ = made(backbone, rows, f"nait:tokens={tokens}")
    layers = backbone.info.layers
    for index, row in enumerate(backbone.encode_all(rows)):
        means, drifts = naive_summaries(backbone.model, row, tokens)
        for name, expected in (("nait", means), ("nait_drift", drifts)):
            blocks = found.columns[name][index].reshape(layers, -1)
            norms = found.columns[f"{name}_norms"][index]
            for layer in range(layers):
                assert error(blocks[layer] * norms[layer], expected[layer]) < 1e-4
                assert np.linalg.norm(blocks[layer]) == pytest.approx(1, abs=1e-4)
        assert found.columns["nait_reason"][index] is None


@pytest.mark.parametrize("asked", [{}, {"activation": "drift"}, {"score": "cosine"}])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen3_moe", "builtin"])
def test_scores_equal_the_naive_reference(architecture, asked):
    backbone = builtin() if architecture == "builtin" else tiny_backbone(architecture)
    rows = tiny_conversations()
    pool, target = rows[4:], rows[:6]
    _, featurizer, recipe = made(backbone, rows)
    got, facts, scorer, batch = scored(featurizer, recipe, pool, target, **asked)
    examples = [naive_summaries(backbone.model, row) for row in backbone.encode_all(target)]
    directions = naive_directions(np.array([drifts for _, drifts in examples]))
    for ours, naive in zip(facts.arrays["directions"], directions, strict=True):
        assert ours @ naive > 0.999
    place = 1 if asked.get("activation") == "drift" else 0
    summaries = [naive_summaries(backbone.model, r)[place] for r in backbone.encode_all(pool)]
    expected = naive_scores(summaries, directions, asked.get("score", "dot"))
    assert error(got, expected) < 2e-3  # through float16
    terms = scorer.contributions(batch)
    assert terms.shape == (len(pool), backbone.info.layers)
    assert np.allclose(terms.sum(axis=1), got)


@pytest.mark.parametrize(
    "asked",
    [
        {"direction": "mean", "score": "cosine", "activation": "drift"},
        {"direction": "mean", "score": "centred"},
        {"direction": "contrast", "score": "centred"},
        {"direction": "contrast", "score": "centred", "activation": "drift"},
        {"direction": "contrast", "score": "dot"},
        {"direction": "pca", "score": "centred"},
    ],
    ids=lambda asked: "-".join(asked.values()),
)
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen3_moe", "builtin"])
def test_directions_and_centred_scores_equal_the_naive_reference(architecture, asked):
    backbone = builtin() if architecture == "builtin" else tiny_backbone(architecture)
    rows = tiny_conversations()
    pool, target = rows[4:], rows[:6]
    _, featurizer, recipe = made(backbone, rows)
    got, _, scorer, batch = scored(featurizer, recipe, pool, target, **asked)
    place = 1 if asked.get("activation") == "drift" else 0
    of_target = [naive_summaries(backbone.model, row) for row in backbone.encode_all(target)]
    of_pool = [naive_summaries(backbone.model, row)[place] for row in backbone.encode_all(pool)]
    drifts = np.array([drifts for _, drifts in of_target])
    directions = {
        "pca": lambda: naive_directions(drifts),
        "mean": lambda: naive_means(drifts),
        "contrast": lambda: naive_contrasts([each[place] for each in of_target], of_pool),
    }[asked["direction"]]()
    expected = naive_scores(of_pool, directions, asked["score"], pool=of_pool)
    assert error(got, expected) < 5e-3  # through float16, and a difference of means
    terms = scorer.contributions(batch)
    assert terms.shape == (len(pool), backbone.info.layers)
    assert np.allclose(terms.sum(axis=1), got)
    if asked["score"] == "centred":
        assert (np.abs(terms) <= 1 / backbone.info.layers + 1e-6).all()


def test_a_full_basis_loses_nothing_and_a_narrow_one_little(monkeypatch):
    """Uncentred bases: the score is exact where they are full, whatever the activation."""
    monkeypatch.setattr("coresetdb.ingest.representations.nait.FULL_NUMBERS", 0)
    backbone = tiny_backbone()
    rows = tiny_conversations()
    whole, featurizer, recipe = made(backbone, rows, "nait:width=0")
    assert "nait_kept" not in whole.columns
    ours = {"direction": "mean", "score": "centred"}, {"direction": "contrast", "score": "centred"}
    for activation, asked in product(("mean", "drift"), ({}, *ours)):
        asked = {"activation": activation, **asked}
        expected = scored(featurizer, recipe, rows, rows[:6], **asked)[0]
        more = rows + [replace_answer(row, word) for row in rows for word in ("five", "no?", "sky")]
        found, wide, of_wide = made(backbone, rows, "nait:width=32", sample=more)
        assert found.columns["nait"].shape == (len(rows), 2 * 32)
        assert np.allclose(found.columns["nait_kept"], 1, atol=1e-5)
        got = scored(wide, of_wide, rows, rows[:6], **asked)[0]
        assert error(got, expected) < (5e-3 if len(asked) > 1 else 2e-3)
        assert np.argsort(got).tolist() == np.argsort(expected).tolist()
        _, narrow, of_narrow = made(backbone, rows, "nait:width=8", sample=more)
        assert error(scored(narrow, of_narrow, rows, rows[:6], **asked)[0], expected) > 0


def replace_answer(row, word):
    turns = [(message.role, message.content) for message in row.messages]
    return Instruction.from_turns(*turns[:-1], ("assistant", word))


def test_a_basis_is_the_uncentred_singular_vectors_of_the_sample(monkeypatch):
    monkeypatch.setattr("coresetdb.ingest.representations.nait.FULL_NUMBERS", 0)
    backbone = tiny_backbone("gpt2")
    rows = tiny_conversations()
    (asked,) = parse_specs("nait:width=4")
    bases = fitted(backbone, asked.options, rows)["nait-bases"]
    summaries = [naive_summaries(backbone.model, row) for row in backbone.encode_all(rows)]
    for place, kind in enumerate(("mean", "drift")):
        for layer in range(backbone.info.layers):
            vectors = np.array([summary[place][layer] for summary in summaries])
            right = np.linalg.svd(vectors)[2][:4]
            basis = bases.arrays[kind][layer]
            assert np.allclose(basis @ basis.T, np.eye(4), atol=1e-5)
            assert np.linalg.norm(basis.T @ basis - right.T @ right) < 1e-3
            kept = np.linalg.norm(vectors @ right.T) ** 2 / np.linalg.norm(vectors) ** 2
            assert bases.facts["kept"][kind][layer] == pytest.approx(kept, abs=1e-5)


def test_kept_says_how_well_the_basis_fits(monkeypatch):
    monkeypatch.setattr("coresetdb.ingest.representations.nait.FULL_NUMBERS", 0)
    backbone = tiny_backbone()
    rows = tiny_conversations()
    found, _, recipe = made(backbone, rows, "nait:width=2", sample=rows[:6])
    assert "nait_kept" in recipe.columns
    blocks = [found.columns[name].reshape(len(rows), 2, 2) for name in ("nait", "nait_drift")]
    expected = np.mean([np.square(block).sum(2) for block in blocks], axis=(0, 2))
    assert np.allclose(found.columns["nait_kept"], expected, atol=1e-6)
    assert (found.columns["nait_kept"] < 1).all()


@pytest.mark.parametrize("activation", ["mean", "drift"])
@pytest.mark.parametrize("width", [0, 6])
def test_zscore_equals_the_naive_reference(monkeypatch, width, activation):
    monkeypatch.setattr("coresetdb.ingest.representations.nait.FULL_NUMBERS", 0)
    backbone = tiny_backbone()
    rows = tiny_conversations()
    _, featurizer, recipe = made(backbone, rows, f"nait:zscore=true:width={width}")
    got, facts, _, _ = scored(
        featurizer, recipe, rows, rows[:6], score="zscore", activation=activation
    )
    place = 0 if activation == "mean" else 1
    summaries = [naive_summaries(backbone.model, r)[place] for r in backbone.encode_all(rows)]
    directions = facts.arrays["directions"].astype(np.float64)
    if width:
        setup = featurizer.setup(recipe)
        bases = setup.artifacts["nait-bases"].arrays[activation]
        directions = [b.T @ (b @ v) for b, v in zip(bases, directions, strict=True)]
    expected = naive_scores(summaries, directions, "zscore", pool=summaries)
    assert error(got, expected) < 1e-2


def test_zscore_without_statistics_says_what_to_do():
    backbone = tiny_backbone()
    rows = tiny_conversations()
    _, featurizer, recipe = made(backbone, rows)
    with pytest.raises(UsageError, match=r"nait:zscore=true"):
        scored(featurizer, recipe, rows, rows[:6], score="zscore")
    with pytest.raises(UsageError, match=r"score=sum: choose from dot, cosine, zscore, centred"):
        scored(featurizer, recipe, rows, rows[:6], score="sum")
    with pytest.raises(UsageError, match=r"direction=up: choose from pca, mean, contrast"):
        scored(featurizer, recipe, rows, rows[:6], direction="up")


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox"])
def test_units_of_the_feed_forward_networks(architecture):
    backbone = tiny_backbone(architecture)
    rows = tiny_conversations()
    found, featurizer, recipe = made(backbone, rows, "nait:neuron=mlp:width=10")
    bases = featurizer.setup(recipe).artifacts["nait-bases"].arrays
    assert bases["mean"].shape == (2, 10, 48)
    for index, row in enumerate(backbone.encode_all(rows)):
        means, drifts = naive_summaries(backbone.model, row, neuron="mlp")
        for name, kind, expected in (("nait", "mean", means), ("nait_drift", "drift", drifts)):
            blocks = found.columns[name][index].reshape(2, -1)
            norms = found.columns[f"{name}_norms"][index]
            for layer in range(2):
                assert norms[layer] == pytest.approx(np.linalg.norm(expected[layer]), rel=1e-4)
                projected = bases[kind][layer] @ expected[layer]
                assert (
                    np.linalg.norm(blocks[layer] * norms[layer] - projected) < 1e-4 * norms[layer]
                )
    facts = scored(featurizer, recipe, rows, rows[:6])[1]
    assert facts.arrays["directions"].shape == (2, 48)


def test_a_mixture_of_experts_has_no_mlp_form():
    with pytest.raises(BackboneError, match="mixtures of experts"):
        made(tiny_backbone("mixtral"), tiny_conversations(), "nait:neuron=mlp")


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mixtral"])
def test_batches_order_and_padding_change_nothing(architecture):
    backbone = tiny_backbone(architecture)
    rows = tiny_conversations()
    expected = made(backbone, rows, tokens_per_batch=1)[0].columns
    for arguments in ({}, {"side": "left"}, {"tokens_per_batch": 100}):
        got = made(backbone, rows[::-1], **arguments)[0].columns
        for name in ("nait", "nait_norms", "nait_drift", "nait_drift_norms"):
            assert error(got[name][::-1], expected[name]) < 1e-4


def test_stored_as_half_precision_blocks():
    backbone = tiny_backbone()
    rows = tiny_conversations()
    computed, featurizer, _ = made(backbone, rows)
    table = featurizer.featurize(rows)
    assert table.schema.field("nait").type == pa.list_(pa.float16(), 2 * 32)
    assert table.schema.field("nait_norms").type == pa.list_(pa.float32(), 2)
    for name in ("nait", "nait_drift"):
        stored = np.array(table[name].to_pylist(), dtype=np.float32)
        assert np.abs(stored - computed.columns[name]).max() < 2**-11
        assert error(stored, computed.columns[name]) < 5e-4


def test_rows_without_a_summary_say_why():
    backbone = tiny_backbone()
    rows = [
        Instruction.from_turns(("user", "")),
        Instruction.from_turns(("user", "two")),
        Instruction.from_turns(("user", ""), ("assistant", "")),
    ]
    content = made(backbone, rows, sample=tiny_conversations())[0].columns
    no = "no content token"
    assert content["nait_reason"].tolist() == [no, None, no]
    assert np.isnan(content["nait_norms"]).all(axis=1).tolist() == [True, False, True]
    answers = made(backbone, rows, "nait:tokens=response", sample=tiny_conversations())[0].columns
    assert answers["nait_reason"].tolist() == [no, "no response token", no]
    assert np.isnan(answers["nait"]).all(axis=1).tolist() == [True, True, True]


def test_one_content_token_has_no_drift_and_says_so():
    backbone = tiny_backbone()
    rows = [Instruction.from_turns(("user", "a")), tiny_conversations()[0]]
    _, featurizer, _ = made(backbone, rows, sample=tiny_conversations())
    table = featurizer.featurize(rows)
    assert table["nait_reason"].to_pylist() == ["one content token: nothing drifts", None]
    for name in ("nait", "nait_norms", "nait_drift", "nait_drift_norms"):
        assert table[name].is_valid().to_pylist() == [False, True]
    # What goes to the store is sound: one such row must not stop an ingestion.
    check_vectors("pool", table.append_column("id", pa.array(["a", "b"])), "id")


def test_an_activation_that_is_not_finite_is_null_with_a_reason():
    backbone = tiny_backbone()
    _, featurizer, _ = made(backbone, tiny_conversations())
    weight = backbone.model.base_model.layers[1].mlp.down_proj.weight
    kept = weight.clone()
    try:
        weight.fill_(float("inf"))
        table = featurizer.featurize(tiny_conversations()[:1])
    finally:
        weight.copy_(kept)
    assert table["nait"].to_pylist() == [None]
    assert table["nait_reason"].to_pylist() == ["an activation is not finite"]


def test_two_examples_have_no_direction_and_say_so():
    backbone = tiny_backbone()
    rows = tiny_conversations()
    _, featurizer, recipe = made(backbone, rows)
    with pytest.raises(UsageError, match=r"at least 3 examples .* this target has 2"):
        scored(featurizer, recipe, rows, rows[:2])
    empty = [Instruction.from_turns(("user", ""))]
    with pytest.raises(UsageError, match=r"this target has 0"):
        scored(featurizer, recipe, rows, empty)


def test_what_is_said_about_a_direction():
    generator = np.random.default_rng(0)
    drifts = generator.standard_normal((20, 3, 5)).astype(np.float32)
    drifts[:, 0] += 10 * np.sign(generator.standard_normal((20, 1)))  # two heaps, mean in between
    drifts[:, 1, 2] = np.arange(20)  # a clear direction with a clear sign
    drifts[:, 2] = 1.0  # all the same
    facts = directions_of(drifts)
    assert facts.facts["examples"] == 20
    assert 1 not in facts.facts["undetermined"]
    assert 2 in facts.facts["undetermined"]
    assert not facts.arrays["directions"][2].any()
    assert facts.arrays["directions"][1, 2] > 0.9
    assert any("which way the direction points" in note for note in facts.facts["notes"])
    few = directions_of(drifts[:5])
    assert any("stable from 16 on" in note for note in few.facts["notes"])
    balanced = np.concatenate([drifts, -drifts])[:, :1]
    assert directions_of(balanced).facts["undetermined"] == [0]


def test_a_row_without_the_feature_scores_nothing():
    backbone = tiny_backbone()
    rows = [*tiny_conversations(), Instruction.from_turns(("user", ""))]
    _, featurizer, recipe = made(backbone, rows)
    scores = scored(featurizer, recipe, rows, rows[:6])[0]
    assert np.isnan(scores).tolist() == [False] * (len(rows) - 1) + [True]


def test_without_a_target_it_says_so():
    backbone = tiny_backbone()
    (recipe,) = parse_features("nait", backbone.info)
    with pytest.raises(UsageError, match="name a target"):
        NAIT.scorer(options_of(recipe), {}, None, NAIT.query_defaults)


@pytest.mark.parametrize(
    "wanted", ["nait:neuron=head", "nait:tokens=some", "nait:width=-1", "nait:neuron=mlp:width=0"]
)
def test_options_that_make_no_sense_are_refused(wanted):
    (asked,) = parse_specs(wanted)
    with pytest.raises(UsageError, match="nait: "):
        NAIT.fits(tiny_backbone().info, asked.options)


def test_wide_models_get_bases_by_themselves():
    info = replace(tiny_backbone().info, layers=32, hidden_size=4096, layer_width=4096)
    (asked,) = parse_specs("nait")
    (fit,) = NAIT.fits(info, asked.options)
    assert fit.name == "nait-bases" and fit.sample_rows(10**6) == 1024
    (full,) = parse_specs("nait:width=0")
    assert not NAIT.fits(info, full.options)
    (both,) = parse_specs("nait:zscore=true")
    assert [each.name for each in in_order(NAIT.fits(info, both.options))] == [
        "nait-bases",
        "nait-statistics",
    ]


def demo_rows(repository, file, count):
    """The first short conversations of one of the demo's files."""
    opened = gzip.open if file.endswith(".gz") else open
    rows = []
    with opened(repository / "demo" / file, "rt", encoding="utf-8") as lines:
        for line in lines:
            turns = [(load["role"], load["content"]) for load in json.loads(line)["messages"]]
            if sum(len(text) for _, text in turns) < 800:
                rows.append(Instruction.from_turns(*turns))
            if len(rows) == count:
                return rows
    return rows


def spearman(one, other):
    ranks = [np.argsort(np.argsort(each)) for each in (one, other)]
    return np.corrcoef(*ranks)[0, 1]


def test_bf16_ranks_as_float32_on_the_proxy(repository):
    """Spearman of the scores at least 0.99, for either activation."""
    pool = demo_rows(repository, "pool.jsonl.gz", 40)
    target = demo_rows(repository, "python_functions.jsonl", 8)
    scores = {}
    for dtype in ("float32", "bfloat16"):
        backbone = builtin(dtype)
        _, featurizer, recipe = made(backbone, pool)
        for activation in ("mean", "drift"):
            got = scored(featurizer, recipe, pool, target, activation=activation)[0]
            scores[dtype, activation] = got
    for activation in ("mean", "drift"):
        one, other = (scores[dtype, activation] for dtype in ("float32", "bfloat16"))
        assert spearman(one, other) > 0.99


@pytest.mark.parametrize(
    "asked",
    [
        {"direction": "contrast", "score": "centred"},
        {"direction": "contrast", "score": "cosine"},
        {"direction": "pca", "score": "dot"},
    ],
    ids=lambda asked: "-".join(asked.values()),
)
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "builtin"])
def test_means_alone_in_int8_score_as_the_naive_reference(architecture, asked):
    backbone = builtin() if architecture == "builtin" else tiny_backbone(architecture)
    rows = tiny_conversations()
    pool, target = rows[4:], rows[:6]
    found, featurizer, recipe = made(backbone, rows, "nait:keep=mean:stored=int8")
    assert recipe.columns == ("nait", "nait_norms", "nait_reason")
    got, _, _, batch = scored(featurizer, recipe, pool, target, **asked)
    layers, width = backbone.info.layers, backbone.info.hidden_size
    assert batch.schema.field("nait").type == pa.list_(pa.list_(pa.int8(), width))
    of_target = [naive_summaries(backbone.model, row) for row in backbone.encode_all(target)]
    of_pool = [naive_summaries(backbone.model, row)[0] for row in backbone.encode_all(pool)]
    for codes, summary in zip(found.columns["nait"][4:], of_pool, strict=True):
        assert codes.shape == (layers, width)
        for block, state in zip(codes, summary, strict=True):
            assert np.abs(block - 127 * state / np.linalg.norm(state)).max() <= 0.51
    directions = (
        naive_directions(np.array([drifts for _, drifts in of_target]))
        if asked["direction"] == "pca"
        else naive_contrasts([means for means, _ in of_target], of_pool)
    )
    expected = naive_scores(of_pool, directions, asked["score"], pool=of_pool)
    assert error(got, expected) < 3e-2


def test_means_alone_need_no_second_token_and_have_no_drift():
    backbone = tiny_backbone()
    rows = [*tiny_conversations(), Instruction.from_turns(("user", "x"))]
    both, *_ = made(backbone, rows)
    mean, featurizer, recipe = made(backbone, rows, "nait:keep=mean")
    assert both.columns["nait_reason"][-1] == "one content token: nothing drifts"
    assert mean.columns["nait_reason"][-1] is None
    for asked in ({"activation": "drift"}, {"direction": "mean"}):
        with pytest.raises(UsageError, match=r"needs drifts.*nait:keep=both"):
            scored(featurizer, recipe, rows[4:], rows[:6], **asked)
    blank = Instruction.from_turns(("user", ""))
    table = featurizer.featurize([rows[0], blank])
    assert table["nait"].null_count == 1 and table["nait_reason"][1].as_py()


def naive_overlap(summaries, bases, width, stored, targets):
    """Share of the best ten of the other rows by whole means that stored ones find."""
    rows, layers = summaries.shape[:2]
    kept = np.empty((rows, layers, width))
    for row in range(rows):
        for layer in range(layers):
            state = summaries[row, layer]
            block = bases[layer][:width] @ (state / np.linalg.norm(state))
            block = np.round(127 * block) / 127 if stored == "int8" else np.float16(block)
            kept[row, layer] = block * np.linalg.norm(state)
    shares = []
    for members in targets:
        best = []
        for each in (summaries.astype(float), kept):
            directions = naive_contrasts(each[members], each)
            scores = naive_scores(each, directions, "centred", pool=each)
            others = [row for row in range(rows) if row not in members]
            others.sort(key=lambda row, scores=scores: -scores[row])
            best.append(set(others[:10]))
        shares.append(len(best[0] & best[1]) / len(best[0]))
    return np.mean(shares)


@pytest.mark.parametrize("stored", ["float16", "int8"])
def test_overlaps_of_widths_equal_the_naive_reference(stored):
    generator = np.random.default_rng(5)
    topics = generator.standard_normal((4, 3, 24))
    summaries = topics[generator.integers(0, 4, 60)] + generator.standard_normal((60, 3, 24)) + 2
    summaries = summaries.astype(np.float32)
    bases = np.stack([np.linalg.svd(summaries[:, layer])[2] for layer in range(3)])
    found = overlaps(summaries, bases.astype(np.float32), stored, seed=0)
    assert list(found) == [8, 12, 16, 24]
    drawn = np.random.default_rng(0).choice(60, 16, replace=False)
    centred = summaries - summaries.mean(axis=0)
    centred /= np.linalg.norm(centred, axis=2, keepdims=True)
    alike = np.einsum("tld,nld->tn", centred[drawn], centred)
    targets = [np.argsort(-row)[:15].tolist() for row in alike]
    for width, share in found.items():
        expected = naive_overlap(summaries, bases, width, stored, targets)
        assert share == pytest.approx(expected, abs=0.03), width  # a tie at the edge may turn
    assert found[8] < found[24]


def test_the_width_is_what_the_overlap_asks_for():
    backbone = tiny_backbone()
    rows = tiny_conversations() * 3
    asked = "nait:keep=mean:stored=int8:overlap={}"
    (spec,) = parse_specs(asked.format(0.95))
    bases = fitted(backbone, spec.options, rows)["nait-bases"]
    assert list(bases.arrays) == ["mean"]
    layers, width, numbers = bases.arrays["mean"].shape
    assert (layers, numbers) == (backbone.info.layers, backbone.info.hidden_size)
    tried = {int(each): share for each, share in bases.facts["overlap"].items()}
    needed = min(0.95, max(tried.values()))
    assert width == min(w for w, share in tried.items() if share >= needed)
    for wrong in ("overlap=1.5", "keep=drift", "stored=int4"):
        with pytest.raises(UsageError, match=f"nait: {wrong.split('=')[0]}"):
            NAIT.fits(backbone.info, parse_specs(f"nait:{wrong}")[0].options)
