"""MADS against docs/methods.md, "mads", one row, one unit at a time."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
import torch
from helpers.naive_neurons import naive_neurons
from helpers.tiny_models import ARCHITECTURES, tiny_backbone, tiny_conversations

from coresetdb.ingest.featurizer import Featurizer
from coresetdb.ingest.models.backbone import Backbone
from coresetdb.ingest.models.batches import make_batch
from coresetdb.ingest.models.describe import BackboneConfig
from coresetdb.ingest.passes.reducer import Neurons
from coresetdb.ingest.representations.mads import TopUnits, active_units
from coresetdb.ingest.representations.mads_profile import (
    ProfileScorer,
    rows_with_units,
    sets_of,
)
from coresetdb.ingest.representations.registry import get, parse_features
from coresetdb.ingest.representations.representation import BACKGROUND
from coresetdb.schemas.errors import UsageError
from coresetdb.schemas.instruction import Instruction
from coresetdb.store.catalog import Artifact


def naive_mads(model, row, share, tokens="response"):
    """Ids and values: the maximum of each unit, then the largest of each layer."""
    chosen = {"response": row.response, "content": row.content, "all": row.content | True}[tokens]
    ids, values, start = [], [], 0
    for layer in naive_neurons(model, row.ids):
        units = layer.shape[1]
        highest = []
        for unit in range(units):
            seen = [v for v, use in zip(layer[:, unit], chosen, strict=True) if use]
            seen = [v for v in seen if not math.isnan(v)]
            if seen:
                highest.append((-max(seen), unit))
        active = sorted(highest)[: max(1, math.ceil(round(share * units, 9)))]
        for unit in sorted(unit for _, unit in active):
            ids.append(start + unit)
            values.append(next(-v for v, u in active if u == unit))
        start += units
    return ids, values


def features(backbone, rows, wanted="mads", **arguments):
    recipes = parse_features(wanted, backbone.info)
    return Featurizer(backbone, recipes, **arguments).compute(rows).columns


@pytest.mark.parametrize(
    ("wanted", "share", "tokens"),
    [("mads", 0.01, "response"), ("mads:share=0.1:tokens=all", 0.1, "all")],
)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_equals_the_naive_reference(architecture, wanted, share, tokens):
    backbone = tiny_backbone(architecture)
    rows = tiny_conversations()
    columns = features(backbone, rows, wanted)
    for index, row in enumerate(backbone.encode_all(rows)):
        ids, values = naive_mads(backbone.model, row, share, tokens)
        assert columns["mads"][index].tolist() == ids
        assert np.allclose(columns["mads_values"][index], values, rtol=1e-4, atol=1e-5)
        assert columns["mads_reason"][index] is None


def test_equals_the_naive_reference_on_the_proxy():
    torch.set_num_threads(1)
    backbone = Backbone.load(BackboneConfig("builtin", "cpu", "float32"))
    rows = tiny_conversations()
    columns = features(backbone, rows, "mads:tokens=content")
    for index, row in enumerate(backbone.encode_all(rows)):
        ids, values = naive_mads(backbone.model, row, 0.01, "content")
        assert len(ids) == 5 * 8
        assert columns["mads"][index].tolist() == ids
        assert np.allclose(columns["mads_values"][index], values, rtol=1e-4, atol=1e-5)


def test_bf16_finds_most_of_the_same_neurons_on_the_proxy():
    """Mean Jaccard of a row's sets in both (docs/methods.md has a larger sample)."""
    torch.set_num_threads(1)
    sets = []
    for dtype in ("float32", "bfloat16"):
        backbone = Backbone.load(BackboneConfig("builtin", "cpu", dtype))
        sets.append(
            [set(feature.tolist()) for feature in features(backbone, tiny_conversations())["mads"]]
        )
    overlap = [len(one & other) / len(one | other) for one, other in zip(*sets, strict=True)]
    assert np.mean(overlap) > 0.85


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen3_moe"])
def test_batches_order_and_padding_change_nothing(architecture):
    backbone = tiny_backbone(architecture)
    rows = tiny_conversations()
    expected = features(backbone, rows, tokens_per_batch=1)  # each row by itself
    for arguments in ({}, {"side": "left"}, {"tokens_per_batch": 100}):
        got = features(backbone, rows[::-1], **arguments)
        for name in ("mads", "mads_values"):
            for one, other in zip(expected[name], got[name][::-1], strict=True):
                assert np.allclose(one, other, rtol=1e-4, atol=1e-5)


def test_how_many_units_are_active():
    assert [active_units(units, 0.01) for units in (1, 48, 100, 101, 700, 704)] == [
        1,
        1,
        1,
        2,
        7,
        8,
    ]
    assert active_units(48, 1.0) == 48


def test_equal_values_go_to_the_lower_unit():
    backbone = tiny_backbone()
    (row,) = backbone.encode_all(tiny_conversations()[:1])
    batch = make_batch([row], 0, backbone.device)
    reducer = TopUnits(batch, "all", 0.5)
    values = torch.zeros(1, len(row), 6)
    values[0, 2, 4] = 1.0
    reducer.neurons(Neurons(0, 0, 6, 0, values))
    assert reducer.columns()["ids"][0].tolist() == [0, 1, 4]


def test_experts_without_a_token_are_never_active():
    """Two answer tokens reach some of the experts; the other units have no value at all."""
    backbone = tiny_backbone("qwen3_moe")
    rows = [Instruction.from_turns(("user", "?"), ("assistant", word)) for word in "abcdef"]
    columns = features(backbone, rows, "mads:share=1.0")
    sizes = []
    for index, row in enumerate(backbone.encode_all(rows)):
        layers = naive_neurons(backbone.model, row.ids)
        reached = [~np.isnan(layer[row.response]).all(0) for layer in layers]
        assert columns["mads"][index].tolist() == np.flatnonzero(np.concatenate(reached)).tolist()
        sizes.append(len(columns["mads"][index]))
    assert min(sizes) < 2 * 4 * 16


def test_without_an_answer_there_is_a_reason():
    backbone = tiny_backbone()
    rows = [
        Instruction.from_turns(("user", "what is two?")),
        *tiny_conversations()[:1],
        Instruction.from_turns(("user", "what is two?"), ("assistant", "")),
    ]
    table = Featurizer(backbone, parse_features("mads", backbone.info)).featurize(rows)
    no = "no response token"
    assert table["mads_reason"].to_pylist() == [no, None, no]
    assert table["mads"].is_valid().to_pylist() == [False, True, False]
    assert table["mads_values"].is_valid().to_pylist() == [False, True, False]


def test_a_value_that_is_not_finite_is_a_reason():
    backbone = tiny_backbone()
    weight = backbone.model.base_model.layers[1].mlp.gate_proj.weight
    kept = weight.clone()
    try:
        weight.fill_(float("nan"))
        columns = features(backbone, tiny_conversations()[:1])
    finally:
        weight.copy_(kept)
    assert columns["mads"].tolist() == [None]
    assert columns["mads_reason"].tolist() == ["an activation is not finite"]


def test_storage():
    backbone = tiny_backbone()
    rows = tiny_conversations()
    featurizer = Featurizer(backbone, parse_features("mads", backbone.info))
    table = featurizer.featurize(rows)
    computed = featurizer.compute(rows).columns
    assert table.schema.field("mads").type == pa.list_(pa.int32())
    assert table.schema.field("mads_values").type == pa.list_(pa.float16())
    for index in range(len(rows)):
        assert table["mads"][index].as_py() == computed["mads"][index].tolist()
        stored = np.array(table["mads_values"][index].as_py(), dtype=np.float32)
        assert np.allclose(stored, computed["mads_values"][index], rtol=2**-11, atol=1e-7)


def test_a_value_beyond_half_precision_is_kept_at_its_end():
    backbone = tiny_backbone()
    weight = backbone.model.base_model.layers[1].mlp.up_proj.weight
    kept = weight.clone()
    try:
        weight.mul_(1e6)
        table = Featurizer(backbone, parse_features("mads", backbone.info)).featurize(
            tiny_conversations()[:1]
        )
    finally:
        weight.copy_(kept)
    assert max(table["mads_values"][0].as_py()) == 65504.0


def naive_overlap(row, examples, pool, idf):
    """The mean over examples of the share of their neurons, weighted, that the row has too."""

    def weight(unit):
        return math.log((len(pool) + 1) / (sum(unit in other for other in pool) + 1)) if idf else 1

    shares = []
    for example in examples:
        total = sum(weight(unit) for unit in example)
        shares.append(sum(weight(unit) for unit in example if unit in row) / total if total else 0)
    return sum(shares) / len(shares)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen3_moe"])
@pytest.mark.parametrize("idf", [True, False])
def test_overlap_with_a_target(architecture, idf):
    backbone = tiny_backbone(architecture)
    rows = [*tiny_conversations(), Instruction.from_turns(("user", "no answer"))]
    encoded = [backbone.encode(row) for row in rows]
    sets = [set(naive_mads(backbone.model, row, 0.1)[0]) for row in encoded[:-1]]
    table = Featurizer(backbone, parse_features("mads:share=0.1", backbone.info)).featurize(rows)
    present = table.filter(table["mads"].is_valid())
    mads = get("mads")
    examples = mads.with_examples(Artifact({}), present.slice(0, 3))
    parts = [present.slice(start, 2) for start in range(0, present.num_rows, 2)]
    background = {BACKGROUND: mads.background(parts)} if idf else {}
    assert bool(mads.background_columns({"idf": idf})) == idf
    scorer = mads.scorer({}, background, examples, {"idf": idf})
    (batch,) = table.select(["mads"]).combine_chunks().to_batches()
    found = scorer.scores(batch)
    assert found.dtype == np.float32 and np.isnan(found[-1])
    expected = [naive_overlap(row, sets[:3], sets, idf) for row in sets]
    np.testing.assert_allclose(found[:-1], expected, rtol=1e-6)
    assert len({round(score, 6) for score in expected}) > 3
    alone = [scorer.scores(batch.slice(place, 1))[0] for place in range(len(rows))]
    assert np.array_equal(alone, found, equal_nan=True)


def test_overlap_without_layers_is_the_ranking_of_its_source():
    """NAG: in every layer each neuron's share of all activations, averaged over the layers."""
    draw = np.random.default_rng(0)
    layers, units, active = 3, 20, 4

    def drawn(count):
        return [
            [
                sorted(layer * units + draw.choice(units, active, replace=False))
                for layer in range(layers)
            ]
            for _ in range(count)
        ]

    examples, rows = drawn(5), drawn(30)
    profile = [
        Counter(unit for example in examples for unit in example[layer]) for layer in range(3)
    ]
    expected = [
        sum(
            sum(of_layer[unit] for unit in row[layer]) / of_layer.total()
            for layer, of_layer in enumerate(profile)
        )
        / layers
        for row in rows
    ]

    def table(some):
        flat = [np.concatenate(row).tolist() for row in some]
        return pa.table({"mads": pa.array(flat, pa.list_(pa.int32()))})

    scorer = ProfileScorer(sets_of(table(examples)), None)
    (batch,) = table(rows).to_batches()
    np.testing.assert_allclose(scorer.scores(batch), expected, rtol=1e-6)


def test_units_that_every_row_has_count_nothing():
    sets = pa.table({"mads": pa.array([[0, 1], [0, 2], [0, 9]], pa.list_(pa.int32()))})
    scorer = ProfileScorer(sets_of(sets.slice(0, 1)), rows_with_units([sets]))
    (batch,) = sets.to_batches()
    assert scorer.scores(batch).tolist() == [1.0, 0.0, 0.0]
    only_common = ProfileScorer(
        sets_of(pa.table({"mads": pa.array([[0]], pa.list_(pa.int32()))})), rows_with_units([sets])
    )
    assert only_common.scores(batch).tolist() == [0.0, 0.0, 0.0]
    empty = pa.record_batch({"mads": pa.array([[], None, [1]], pa.list_(pa.int32()))})
    assert np.array_equal(scorer.scores(empty), [0.0, np.nan, 1.0], equal_nan=True)


@pytest.mark.parametrize("wanted", ["mads:share=0.0", "mads:share=1.5", "mads:tokens=answers"])
def test_options_that_make_no_sense_are_refused(wanted):
    from coresetdb.ingest.representations.registry import get, parse_specs

    (asked,) = parse_specs(wanted)
    with pytest.raises(UsageError, match="mads: "):
        get("mads").fits(tiny_backbone().info, asked.options)
