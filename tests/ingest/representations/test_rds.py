"""RDS+ against docs/methods.md, "rds", one example at a time."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch
from helpers.tiny_models import ARCHITECTURES, tiny_backbone, tiny_conversations

from coresetdb.ingest.featurizer import Featurizer
from coresetdb.ingest.representations.registry import fields_of, parse_features
from coresetdb.schemas.errors import UsageError
from coresetdb.schemas.instruction import Instruction


def naive_rds(model, ids) -> np.ndarray:
    """sum_p p / sum(p) * h_p, written as the paper says it."""
    with torch.no_grad():
        output = model(torch.tensor(ids.tolist())[None], output_hidden_states=True)
    states = output.hidden_states[-1][0].double().numpy()  # after the final norm
    total = np.zeros(states.shape[1])
    for position, state in enumerate(states, start=1):
        total += position * state
    return total / sum(range(1, len(states) + 1))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_equals_the_naive_reference(architecture):
    backbone = tiny_backbone(architecture)
    rows = tiny_conversations()
    features = Featurizer(backbone, parse_features("rds", backbone.info)).compute(rows)
    for index, row in enumerate(rows):
        expected = naive_rds(backbone.model, backbone.encode(row).ids)
        norm = np.linalg.norm(expected)
        assert np.linalg.norm(features.columns["rds"][index] - expected / norm) < 1e-4
        assert features.columns["rds_norm"][index] == pytest.approx(norm, rel=1e-4)
        assert features.columns["rds_reason"][index] is None


def test_stored_as_half_precision_unit_vectors_with_the_fingerprint():
    backbone = tiny_backbone()
    (recipe,) = parse_features("rds", backbone.info)
    table = Featurizer(backbone, [recipe]).featurize(tiny_conversations())
    width = backbone.info.hidden_size
    assert table.schema.field("rds").type == pa.list_(pa.float16(), width)
    for column in recipe.columns:
        metadata = table.schema.field(column).metadata
        assert metadata == {b"coresetdb:fingerprint": recipe.fingerprint.encode()}
    assert fields_of(recipe, backbone.info) == [table.schema.field(name) for name in recipe.columns]
    vectors = np.array(table["rds"].to_pylist(), dtype=np.float32)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)


def test_a_prompt_without_an_answer_has_a_vector():
    backbone = tiny_backbone()
    rows = [
        Instruction.from_turns(("user", "what is two?")),
        Instruction.from_turns(("user", "what is two?"), ("assistant", "")),
    ]
    table = Featurizer(backbone, parse_features("rds", backbone.info)).featurize(rows)
    assert table["rds_reason"].to_pylist() == [None, None]
    assert table["response_tokens"].to_pylist() == [0, 0]
    assert table["rds"][0] == table["rds"][1]


def test_a_vector_that_is_not_finite_is_null_with_a_reason():
    backbone = tiny_backbone()
    featurizer = Featurizer(backbone, parse_features("rds", backbone.info))
    weight = backbone.model.base_model.norm.weight
    kept = weight.clone()
    try:
        weight.fill_(float("inf"))
        table = featurizer.featurize(tiny_conversations()[:1])
        weight.fill_(0)
        zero = featurizer.featurize(tiny_conversations()[:1])
    finally:
        weight.copy_(kept)
    assert table["rds"].to_pylist() == [None]
    assert table["rds_norm"].to_pylist() == [None]
    assert table["rds_reason"].to_pylist() == ["the vector is not finite"]
    assert zero["rds_reason"].to_pylist() == ["the vector is zero"]


def test_stored_as_codes_of_the_same_vectors():
    backbone = tiny_backbone()
    (half,) = parse_features("rds", backbone.info)
    (recipe,) = parse_features("rds:stored=int8", backbone.info)
    assert (recipe.stored_dtype, recipe.options) == ("int8", {"stored": "int8"})
    assert (half.stored_dtype, half.options) == ("float16", {})
    assert recipe.fingerprint != half.fingerprint
    featurizer = Featurizer(backbone, [recipe])
    features = featurizer.compute(tiny_conversations())
    column = featurizer.table(features)["rds"].combine_chunks()
    assert column.type == pa.list_(pa.int8(), backbone.info.hidden_size)
    codes = np.array(column.to_pylist())
    for vector, row in zip(features.columns["rds"], codes, strict=True):
        assert row.tolist() == np.rint(vector * (127 / np.abs(vector).max())).tolist()


def test_another_type_is_refused():
    with pytest.raises(UsageError, match="rds: stored=int4: choose from float16, int8, int2"):
        parse_features("rds:stored=int4", tiny_backbone().info)
