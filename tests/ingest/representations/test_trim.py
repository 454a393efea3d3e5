"""TRIM against docs/methods.md: fingerprints, stored tokens and scores, one example at a time."""

from __future__ import annotations

from functools import cache

import numpy as np
import pyarrow as pa
import pytest
import torch
from helpers import trim_reference as reference
from helpers.tiny_models import tiny_backbone, tiny_conversations
from transformers import AutoModelForCausalLM

from coresetdb.ingest.conversations.tokenization import Encoded
from coresetdb.ingest.featurizer import Featurizer
from coresetdb.ingest.fits.fit import Fitting, Sample
from coresetdb.ingest.models.backbone import Backbone
from coresetdb.ingest.models.batches import plan_batches
from coresetdb.ingest.models.describe import BackboneConfig
from coresetdb.ingest.passes.forward import pass_over
from coresetdb.ingest.representations import registry
from coresetdb.ingest.representations.trim_basis import OUTPUT, SampleStates
from coresetdb.ingest.representations.trim_codes import Steps
from coresetdb.ingest.representations.trim_fingerprints import fingerprints
from coresetdb.ingest.representations.trim_scores import (
    ClassTable,
    products,
    row_terms,
    score_tokens,
    variance_shares,
)
from coresetdb.schemas.errors import UsageError
from coresetdb.schemas.instruction import Instruction
from coresetdb.store.catalog import Artifact

MODELS = ("builtin", "gpt2", "gpt_neox", "qwen3_moe")
ASKED = {"scope": "content", "penalty": 0.5, "rest": "alike"}


@cache
def backbone_of(name: str) -> Backbone:
    if name == "builtin":
        return Backbone.load(BackboneConfig("builtin", "cpu", "float32"))
    return tiny_backbone(name)


@cache
def eager(name: str):
    """The same weights, loaded to attend by plain maps."""
    folder = backbone_of(name).info.folder
    return AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", dtype="float32"
    ).eval()


def pool() -> list[Instruction]:
    words = "the sum of two and three is five name a colour sky is blue what".split()
    draw = np.random.default_rng(3)
    made = [
        Instruction.from_turns(
            ("user", " ".join(draw.choice(words, 6))),
            ("assistant", " ".join(draw.choice(words, 9))),
        )
        for _ in range(20)
    ]
    return [*tiny_conversations(), *made]


def examples() -> list[Instruction]:
    one = Instruction.from_turns
    return [
        one(("user", "what is the sum of 4 and 9?"), ("assistant", "the sum is 13.")),
        one(("user", "name a colour"), ("assistant", "blue, as the sky is")),
        one(("system", "be brief"), ("user", "why?"), ("assistant", "two reasons: one and two")),
    ]


def fitted(backbone: Backbone, rows, **options) -> Artifact:
    """The artifact a fit on these rows leaves."""
    kept: dict[str, Artifact] = {}
    asked = registry.feature_spec("trim", options)
    (fit,) = registry.get("trim").fits(backbone.info, asked.options)
    sample = Sample([str(i) for i in range(len(rows))], rows, len(rows))
    fit.run(
        Fitting(backbone, sample, {}, lambda n, a: kept.setdefault(n, a), lambda share, what: None)
    )
    return kept[OUTPUT]


@cache
def made(name: str, rank: int = 0, bits: int = 8) -> tuple[Featurizer, Artifact]:
    """A featurizer of trim whose basis was fitted on the pool."""
    backbone = backbone_of(name)
    basis = fitted(backbone, pool(), rank=rank, bits=bits)
    return featurizer_of(backbone, basis, rank, bits), basis


def featurizer_of(
    backbone: Backbone, basis: Artifact, rank: int, bits: int = 8, **settings
) -> Featurizer:
    asked = registry.feature_spec("trim", {"rank": rank, "bits": bits})
    recipe = registry.recipe_for(asked, backbone.info, {OUTPUT: basis}, {OUTPUT: "digest"})
    return Featurizer(backbone, [recipe], artifacts={"digest": basis}, **settings)


def facts_of(featurizer: Featurizer, rows: list[Instruction]) -> Artifact:
    (recipe,) = featurizer.recipes
    encoded = [featurizer.backbone.encode(row) for row in rows]
    facts = registry.get("trim").target_artifact(
        featurizer.backbone, encoded, {}, featurizer.setup(recipe, "target")
    )
    assert facts is not None
    return Artifact.unpack(facts.pack())


def scorer_of(featurizer: Featurizer, facts: Artifact, **asked):
    (recipe,) = featurizer.recipes
    artifacts = featurizer.setup(recipe).artifacts
    return registry.get("trim").scorer(
        registry.options_of(recipe), artifacts, facts, {**ASKED, **asked}
    )


def batch_of(featurizer: Featurizer, rows: list[Instruction]) -> pa.RecordBatch:
    (batch,) = featurizer.featurize(rows).combine_chunks().to_batches()
    return batch


def error(got: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("name", MODELS)
def test_fingerprints_equal_the_naive_reference(name):
    backbone = backbone_of(name)
    rows = [backbone.encode(example) for example in examples()]
    found = fingerprints(backbone, rows, layers=4)
    expected = reference.fingerprints(eager(name), rows)
    assert found.classes.tolist() == sorted(expected)
    for token, vector in zip(found.classes.tolist(), found.vectors, strict=True):
        assert error(vector, expected[token]) < 1e-3


@pytest.mark.parametrize("name", MODELS)
def test_the_basis_is_the_uncentred_svd_of_the_content_tokens(name):
    backbone = backbone_of(name)
    rows = [backbone.encode(each) for each in pool()]
    states = SampleStates(rows, backbone.info.hidden_size, keep=False)
    pass_over(backbone, rows, [states])
    directions, shares = states.directions()
    units = []
    for row in rows:
        states, _ = reference.run(eager(name), row)
        units += [state / np.linalg.norm(state) for state in states[row.content]]
    _, values, vectors = np.linalg.svd(np.array(units), full_matrices=False)
    strengths = np.zeros(len(shares))
    strengths[: len(values)] = values**2 / (values**2).sum()
    assert np.allclose(shares, strengths, atol=1e-4)
    assert np.allclose(directions.T @ directions, np.eye(len(directions)), atol=1e-4)
    for place in np.flatnonzero(strengths[:8] - strengths[1:9] > 1e-3):  # well apart: unique
        alone = all(abs(strengths[place] - other) > 1e-3 for other in np.delete(strengths, place))
        if alone:
            assert abs(directions[:, place] @ vectors[place]) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("whole", "rest"), [(True, "alike"), (False, "alike"), (False, "none")])
def test_scores_before_quantising_equal_the_naive_reference(name, whole, rest):
    backbone = backbone_of(name)
    width = backbone.info.hidden_size
    rank = width if whole else width // 4
    featurizer, basis = made(name, rank)
    facts = ClassTable.of(facts_of(featurizer, examples()))
    rows = [backbone.encode(each) for each in pool()]
    classes = reference.fingerprints(
        eager(name), [backbone.encode(example) for example in examples()]
    )
    columns = basis.arrays["basis"].astype(np.float64)
    got, expected = [], []
    for row in rows:
        states, _ = reference.run(eager(name), row)
        units = states / np.linalg.norm(states, axis=1, keepdims=True)
        projected = (units @ columns).astype(np.float32)
        scored = score_tokens(row.ids, projected, None, facts, 0.5, rest).scores
        got.append(row_terms(scored, row.content, np.array([len(row)])).scores[0])
        kept = None if whole else columns
        expected.append(reference.score(eager(name), row, classes, kept, rest=rest))
    assert error(np.array(got), np.array(expected)) < 1e-3
    assert same_order(np.array(got), np.array(expected))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("scope", ["content", "prompt", "response", "all"])
def test_stored_scores_come_near_the_exact_ones(name, scope):
    backbone = backbone_of(name)
    featurizer, _ = made(name, backbone.info.hidden_size)
    facts = facts_of(featurizer, examples())
    rows = [*pool(), Instruction.from_turns(("user", "nobody answers"))]
    got = scorer_of(featurizer, facts, scope=scope).scores(batch_of(featurizer, rows))
    classes = reference.fingerprints(
        eager(name), [backbone.encode(example) for example in examples()]
    )
    expected = [
        reference.score(eager(name), backbone.encode(row), classes, scope=scope) for row in rows
    ]
    assert np.array_equal(np.isnan(got), np.isnan(expected))
    assert np.isnan(got[-1]) == (scope == "response")
    assert np.nanmax(np.abs(got - expected)) < 0.01  # int8


@pytest.mark.parametrize("name", MODELS)
def test_scores_from_4_bits_come_near_the_exact_ones(name):
    backbone = backbone_of(name)
    width = backbone.info.hidden_size
    featurizer, basis = made(name, width, 4)
    facts = facts_of(featurizer, examples())
    batch = batch_of(featurizer, pool())
    assert "trim_scales" not in batch.schema.names
    assert batch.schema.field("trim_codes").type.value_type.list_size == width // 2
    got = scorer_of(featurizer, facts).scores(batch)
    classes = reference.fingerprints(
        eager(name), [backbone.encode(example) for example in examples()]
    )
    expected = [reference.score(eager(name), backbone.encode(row), classes) for row in pool()]
    assert np.abs(got - expected).max() < 0.15
    assert np.corrcoef(got, expected)[0, 1] > 0.95
    stored = scorer_of(featurizer, facts).tokens(batch)
    steps = Steps.of_arrays(basis.arrays)
    numbers = np.empty((len(stored.tokens), width), np.float32)
    codes = batch.column("trim_codes").flatten().flatten().to_numpy().reshape(-1, width // 2)
    steps.unpack(codes, numbers)
    table = ClassTable.of(facts)
    own = numbers.astype(np.float64)
    vectors = table.vectors[table.nearest[stored.tokens]].astype(np.float64)
    cosines = (own * vectors).sum(1)
    inside = (own**2).sum(1) * (vectors**2).sum(1)
    outside = np.clip(1 - (own**2).sum(1), 0, 1) * np.clip(1 - (vectors**2).sum(1), 0, 1)
    cosines *= 1 + np.sqrt(outside / inside)
    cosines = np.where(stored.seen, cosines, cosines - 0.5 * np.abs(cosines))
    assert error(stored.scores, cosines) < 1e-4


def test_another_number_of_bits_is_refused():
    with pytest.raises(UsageError, match="trim: bits 2: give 4 or 8"):
        fitted(backbone_of("builtin"), pool(), bits=2)


def same_order(got: np.ndarray, expected: np.ndarray, tie: float = 1e-5) -> bool:
    """Whether two rankings agree but for scores that differ by less than `tie`."""
    ordered = expected[np.argsort(-got, kind="stable")]
    return bool((np.diff(ordered) < tie).all())


@pytest.mark.parametrize("name", ["builtin", "gpt2"])
def test_batch_order_and_padding_side_change_nothing(name):
    featurizer, basis = made(name, 32)
    rows = pool()
    order = np.random.default_rng(0).permutation(len(rows))
    facts = facts_of(featurizer, examples())
    scores = []
    for settings in ({"tokens_per_batch": 1}, {"tokens_per_batch": 1 << 14}, {"side": "left"}):
        each = featurizer_of(featurizer.backbone, basis, 32, **settings)
        table = each.featurize([rows[i] for i in order]).take(np.argsort(order))
        (batch,) = table.combine_chunks().to_batches()
        scores.append(scorer_of(featurizer, facts).scores(batch))
        assert table["trim"].to_pylist() == [each.backbone.encode(r).ids.tolist() for r in rows]
    lengths = [len(featurizer.backbone.encode(row)) for row in rows]
    assert len(plan_batches(lengths, 1, 0)) == len(rows)
    for other in scores[1:]:
        # A code on the edge between two numbers may fall either way.
        assert error(other, scores[0]) < 1e-3
        assert same_order(other, scores[0], 1e-3)


def test_bfloat16_ranks_as_float32_does():
    rows = pool()
    featurizer, basis = made("builtin", 32)
    half = Backbone.load(BackboneConfig("builtin", "cpu", "bfloat16"))
    scores = []
    for each in (featurizer, featurizer_of(half, basis, 32)):
        scorer = scorer_of(each, facts_of(each, examples()))
        scores.append(scorer.scores(batch_of(each, rows)))
    ranks = [np.argsort(np.argsort(score)) for score in scores]
    assert np.corrcoef(*ranks)[0, 1] >= 0.99


def test_what_is_stored():
    featurizer, basis = made("gpt2", 8)
    rows = pool()
    table = featurizer.featurize(rows)
    for place, row in enumerate(rows):
        encoded = featurizer.backbone.encode(row)
        states, _ = reference.run(eager("gpt2"), encoded)
        units = states / np.linalg.norm(states, axis=1, keepdims=True)
        projected = units @ basis.arrays["basis"]
        codes = np.array(table["trim_codes"][place].as_py(), dtype=np.float32).reshape(-1, 8)
        scales = np.array(table["trim_scales"][place].as_py(), dtype=np.float32)
        assert table["trim"][place].as_py() == encoded.ids.tolist()
        assert np.abs(codes).max(1).tolist() == [127] * len(encoded)
        assert (np.abs(codes * scales[:, None] - projected) <= scales[:, None] * 0.501).all()
        flags = [1 * c + 2 * r for c, r in zip(encoded.content, encoded.response, strict=True)]
        assert table["trim_scope"][place].as_py() == flags
        kept = (projected[encoded.content] ** 2).sum(1).mean()
        assert table["trim_kept"][place].as_py() == pytest.approx(kept, rel=1e-4)
        assert table["trim_reason"][place].as_py() is None


def test_a_row_without_text_or_with_a_broken_state_says_so():
    featurizer, basis = made("gpt2", 8)
    empty = Instruction.from_turns(("user", ""))
    table = featurizer_of(featurizer.backbone, basis, 8).featurize([empty, *examples()])
    assert table["trim_reason"].to_pylist() == ["no token of content", None, None, None]
    for column in table.column_names:
        if column.startswith("trim") and column != "trim_reason":
            assert table[column].is_valid().to_pylist() == [False, True, True, True], column
    facts = facts_of(featurizer, examples())
    (batch,) = table.combine_chunks().to_batches()
    scores = scorer_of(featurizer, facts).scores(batch)
    alone = scorer_of(featurizer, facts).scores(batch.slice(2, 1))
    assert np.isnan(scores[0])
    assert scores[2] == alone[0]
    weight = featurizer.backbone.model.base_model.ln_f.weight
    before = weight.clone()
    try:
        weight.fill_(float("nan"))
        broken = featurizer.featurize(examples())
    finally:
        weight.copy_(before)
    assert broken["trim_reason"].to_pylist() == ["a state is zero or not finite"] * 3
    assert broken["trim"].null_count == broken["trim_kept"].null_count == 3


def test_a_target_needs_text_and_what_is_asked_is_checked():
    featurizer, _ = made("gpt2", 8)
    refused = facts_of(featurizer, [Instruction.from_turns(("user", ""))])
    assert "text" in refused.facts["refused"] and not refused.arrays
    facts = facts_of(featurizer, examples())
    with pytest.raises(UsageError, match="choose from content, prompt, response, all"):
        scorer_of(featurizer, facts, scope="answer")
    with pytest.raises(UsageError, match="choose from alike, none"):
        scorer_of(featurizer, facts, rest="some")
    with pytest.raises(UsageError, match="from 0 to 1"):
        scorer_of(featurizer, facts, penalty=1.5)


@pytest.mark.parametrize(
    "options", [{"rank": 33}, {"rank": -1}, {"layers": 0}, {"sample": 1}, {"seed": -1}]
)
def test_options_out_of_range_are_refused(options):
    asked = registry.feature_spec("trim", options)
    with pytest.raises(UsageError, match=next(iter(options))):
        registry.get("trim").fits(backbone_of("gpt2").info, asked.options)


def test_classes_the_pool_lacks_and_tokens_the_target_lacks():
    backbone = backbone_of("gpt2")
    featurizer, _ = made("gpt2", backbone.info.hidden_size)
    strangers = [Instruction.from_turns(("user", "ZZZ"), ("assistant", "QQQ"))]
    facts = facts_of(featurizer, strangers)
    rows = [Instruction.from_turns(("user", "sky"), ("assistant", "blue"))]
    batch = batch_of(featurizer, rows)
    scorer = scorer_of(featurizer, facts)
    scored = scorer.tokens(batch)
    counted = scorer.counted(batch)
    assert counted.sum() and not scored.seen[counted].any()
    assert set(scored.classes.tolist()) <= set(facts.arrays["classes"].tolist())
    classes = reference.fingerprints(eager("gpt2"), [backbone.encode(strangers[0])])
    expected = reference.score(eager("gpt2"), backbone.encode(rows[0]), classes)
    assert scorer.scores(batch)[0] == pytest.approx(expected, abs=0.01)
    for token, each in zip(scored.tokens.tolist(), scored.classes.tolist(), strict=True):
        assert each == reference.nearest(eager("gpt2"), token, sorted(classes))


def test_a_penalty_never_helps_and_its_variance_shares_add_up():
    featurizer, _ = made("gpt2", 32)
    facts = facts_of(featurizer, examples())
    batch = batch_of(featurizer, pool())
    free, half, full = (
        scorer_of(featurizer, facts, penalty=penalty).tokens(batch) for penalty in (1.0, 0.5, 0.0)
    )
    assert (half.scores <= free.scores).all() and (full.scores <= half.scores).all()
    seen = free.seen
    assert seen.any() and not seen.all()
    assert np.array_equal(free.scores[seen], full.scores[seen])
    positive = ~seen & (free.scores > 0)
    assert np.allclose(half.scores[positive], 0.5 * free.scores[positive])
    terms = scorer_of(featurizer, facts).terms(batch)
    shares = variance_shares(terms)
    assert sum(shares.values()) == pytest.approx(1)
    halves = np.stack([terms.mean, terms.greatest]).astype(np.float64) / 2
    covariance = np.cov(halves)
    assert shares["mean"] == pytest.approx(covariance[0].sum() / covariance.sum(), rel=1e-6)


def test_a_state_or_a_fingerprint_outside_the_basis_scores_nothing():
    table = ClassTable(
        np.array([0, 1], np.int32),
        np.array([[0, 0], [0.6, 0]], np.float32),
        np.array([0, 1], np.int32),
    )
    states = np.array([[0.5, 0.5], [0, 0], [0.8, 0]], np.float32)
    scored = score_tokens(np.array([0, 1, 1], np.int32), states, None, table)
    assert scored.scores.tolist() == pytest.approx([0, 0, 0.8 * 0.6 + 0.6 * 0.8])


@pytest.mark.parametrize("kind", [np.int8, np.float32])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 9000])
def test_products_of_many_tokens_are_those_of_each(monkeypatch, kind, threads, count):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    generator = np.random.default_rng(count)
    vectors = generator.standard_normal((7, 50)).astype(np.float32)
    codes = generator.integers(-127, 128, (count, 50)).astype(kind)
    places = generator.integers(0, 7, count).astype(np.int32)
    scores, lengths = products(codes, vectors, places)
    exact = codes.astype(np.float64)
    expected = (exact * vectors[places].astype(np.float64)).sum(axis=1)
    assert scores.tolist() == pytest.approx(expected.tolist(), rel=1e-5, abs=2e-3)
    assert lengths.tolist() == np.square(exact).sum(axis=1).tolist()  # whole and below 2^24


def test_encoded_rows_of_one_token():
    backbone = backbone_of("gpt2")
    row = backbone.encode(Instruction.from_turns(("user", "?")))
    assert isinstance(row, Encoded) and row.content.sum() == 1
    found = fingerprints(backbone, [row], layers=4)
    states, _ = reference.run(eager("gpt2"), row)
    place = int(np.flatnonzero(row.content)[0])
    assert found.classes.tolist() == [row.ids[place]]
    assert error(found.vectors[0], states[place] / np.linalg.norm(states[place])) < 1e-4
