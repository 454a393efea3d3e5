"""Features depend on the row alone: not on its batch, its place or the padding."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from helpers.tiny_models import (
    ARCHITECTURES,
    VOCABULARY,
    tiny_backbone,
    tiny_conversations,
    tiny_folder,
)

from coresetdb.ingest.featurizer import Featurizer
from coresetdb.ingest.models.backbone import Backbone
from coresetdb.ingest.models.batches import plan_batches
from coresetdb.ingest.models.describe import BackboneConfig
from coresetdb.ingest.passes.reducer import Pass, PassInputs, Reducer
from coresetdb.ingest.representations.registry import feature_spec, parse_features
from coresetdb.ingest.representations.representation import Representation
from coresetdb.schemas.errors import FingerprintError, UsageError
from coresetdb.schemas.instruction import Instruction

NUMBERS = ("rds", "rds_norm", "nll", "ppl", "nll_alone", "ifd", "el2n")


def features(backbone, rows, **settings):
    return Featurizer(backbone, parse_features("rds,losses", backbone.info), **settings).compute(
        rows
    )


def error(got: np.ndarray, expected: np.ndarray) -> float:
    """Norm-wise relative."""
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_batch_size_order_and_padding_side_do_not_matter(architecture):
    backbone = tiny_backbone(architecture)
    rows = tiny_conversations() * 6  # 66 rows
    one_by_one = features(backbone, rows, tokens_per_batch=1).columns
    order = list(range(len(rows)))
    random.Random(0).shuffle(order)
    shuffled = features(backbone, [rows[i] for i in order], tokens_per_batch=64 * 256).columns
    left = features(backbone, rows, tokens_per_batch=64 * 256, side="left").columns
    together = features(backbone, rows, tokens_per_batch=64 * 256).columns
    for name in NUMBERS:
        assert error(together[name], one_by_one[name]) < 1e-4
        assert error(left[name], one_by_one[name]) < 1e-4
        assert error(shuffled[name], one_by_one[name][order]) < 1e-4
    assert len(plan_batches([len(backbone.encode(row)) for row in rows], 64 * 256, 1000)) < 3


@pytest.mark.parametrize("architecture", ("llama", "gpt2", "qwen3_moe"))
def test_bfloat16_is_close(architecture):
    rows = tiny_conversations()
    exact = features(tiny_backbone(architecture), rows).columns
    rough = features(tiny_backbone(architecture, "bfloat16"), rows).columns
    cosine = (exact["rds"] * rough["rds"]).sum(1)
    # A rounded router may pick another expert: one token of a row then differs wholly.
    assert cosine.min() > (0.9 if "moe" in architecture else 0.99)
    assert np.median(np.abs(rough["nll"] / exact["nll"] - 1)) < 0.05


def test_columns_and_their_order():
    backbone = tiny_backbone()
    recipes = parse_features("rds,losses", backbone.info)
    rows = tiny_conversations()
    table = Featurizer(backbone, recipes).featurize(rows)
    assert table.column_names == [
        *("tokens", "prompt_tokens", "response_tokens", "truncated"),
        *("rds", "rds_norm", "rds_reason"),
        *("nll", "ppl", "nll_alone", "ifd", "el2n", "losses_reason"),
    ]
    encoded = [backbone.encode(row) for row in rows]
    assert table["tokens"].to_pylist() == [len(row) for row in encoded]
    assert table["response_tokens"].to_pylist() == [row.response_tokens for row in encoded]
    assert table["prompt_tokens"].to_pylist() == [row.prompt_tokens for row in encoded]
    empty = Featurizer(backbone, recipes).featurize([])
    assert empty.schema == table.schema and empty.num_rows == 0


def test_a_refused_row_keeps_its_place_with_a_reason(tmp_path):
    from helpers.tiny_models import TEMPLATE, save_tiny_model

    refusing = (
        "{%- if messages[0].role == 'system' -%}"
        "{{- raise_exception('System role not supported') -}}{%- endif -%}" + TEMPLATE
    )
    save_tiny_model(tmp_path, template=refusing)
    backbone = Backbone.load(BackboneConfig(str(tmp_path), "cpu", "float32"))
    rows = tiny_conversations()
    recipes = parse_features("rds,losses", backbone.info)
    table = Featurizer(backbone, recipes).featurize(rows)
    for index, row in enumerate(rows):
        refused = row.messages[0].role == "system"
        assert (table["tokens"][index].as_py() is None) == refused
        for column in ("rds", "nll"):
            assert (table[column][index].as_py() is None) == refused
        for column in ("rds_reason", "losses_reason"):
            reason = table[column][index].as_py()
            assert ("System role not supported" in reason) if refused else (reason is None)
    only_refused = Featurizer(backbone, recipes).featurize([rows[8]])
    assert only_refused.schema == table.schema
    assert only_refused["rds"].to_pylist() == [None]


def test_no_tensor_of_rows_by_tokens_by_vocabulary_is_made(monkeypatch):
    backbone = tiny_backbone()
    monkeypatch.setattr("coresetdb.ingest.models.backbone.LOGIT_ELEMENTS", 16 * VOCABULARY)
    seen: list[int] = []
    head = backbone.model.get_output_embeddings()
    hook = head.register_forward_hook(lambda module, args, output: seen.append(output.numel()))
    try:
        features(backbone, tiny_conversations())
    finally:
        hook.remove()
    assert seen and max(seen) <= 16 * VOCABULARY


def test_progress_counts_every_row_once():
    backbone = tiny_backbone()
    rows = tiny_conversations()
    told: list[tuple[int, int]] = []
    featurizer = Featurizer(backbone, parse_features("rds,losses", backbone.info), 128)
    table = featurizer.featurize(rows, on_batch=lambda count, tokens: told.append((count, tokens)))
    assert sum(count for count, _ in told) == len(rows)
    assert sum(tokens for _, tokens in told) == sum(table["tokens"].to_pylist())


def test_recipes_of_another_backbone_are_refused():
    ours, other = tiny_backbone("llama"), tiny_backbone("gpt2")
    with pytest.raises(FingerprintError, match=r"another backbone.*weights"):
        Featurizer(ours, parse_features("rds", other.info))


def test_feature_lists():
    info = tiny_backbone().info
    rds, losses = parse_features(" rds+ , losses ", info)
    assert (rds.representation, losses.representation) == ("rds", "losses")
    assert losses.options == {"alone": True, "grad_norm": "none"}
    assert parse_features("rds,losses", info, present=[rds]) == [losses]
    (second,) = parse_features("losses:alone=false", info, present=[rds, losses])
    suffix = f"__{second.fingerprint[:8]}"
    own = ("nll", "ppl", "el2n", "losses_reason")
    assert second.columns == tuple(f"{column}{suffix}" for column in own)
    for text, complaint in (
        ("rds,lexikal", r"unknown feature 'lexikal': .*\. Did you mean lexical\?"),
        ("rds,nonsense", "unknown feature 'nonsense': known are .*losses, .*rds"),
        ("losses:speed=1", "losses has no option 'speed': it has alone"),
        ("rds:x=1", "rds has no option 'x': it has stored"),
        ("lexical:x=1", "lexical has no option 'x': it has"),
        ("flags:x=1", "flags has no option 'x': it has none"),
        ("losses:alone=perhaps", "option alone is of type bool"),
        ("losses:alone", "write options as losses:option=value"),
        (" , ", "no features named"),
    ):
        with pytest.raises(UsageError, match=complaint):
            parse_features(text, info)
    with pytest.raises(UsageError, match="option alone is of type bool"):
        feature_spec("losses", {"alone": 1})


def test_a_second_recipe_fills_columns_of_its_own():
    backbone = tiny_backbone()
    first = parse_features("losses", backbone.info)
    second = parse_features("losses:alone=false", backbone.info, present=first)
    table = Featurizer(backbone, [*first, *second]).featurize(tiny_conversations())
    assert table["nll"].to_pylist() == table[second[0].columns[0]].to_pylist()


def test_the_fingerprint_holds_truncation_but_neither_device_nor_dtype():
    folder = str(tiny_folder())
    prints = {
        (length, dtype): parse_features(
            "rds", Backbone.load(BackboneConfig(folder, "cpu", dtype, length)).info
        )[0].fingerprint
        for length in (32, 64)
        for dtype in ("float32", "bfloat16")
    }
    assert prints[32, "float32"] == prints[32, "bfloat16"] != prints[64, "float32"]


def test_a_third_party_representation_is_found(monkeypatch):
    """An entry point's object is used like a built-in one."""
    from importlib.metadata import EntryPoint

    from coresetdb.ingest.representations import registry

    entry = EntryPoint("length", f"{__name__}:LENGTH", registry.ENTRY_POINTS)
    monkeypatch.setattr(EntryPoint, "load", lambda self: LENGTH)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
    registry.forget_installed()
    try:
        assert registry.names() == sorted([*registry.BUILTIN, "length"])
        backbone = tiny_backbone()
        table = Featurizer(backbone, parse_features("length,rds", backbone.info)).featurize(
            tiny_conversations()
        )
    finally:
        registry.forget_installed()
    assert table["length"].to_pylist() == table["tokens"].to_pylist()


class Length(Representation):
    """Number of positions that have a state: a representation as a third party writes one."""

    name, version = "length", 1

    def fields(self, setup):
        import pyarrow as pa

        return [pa.field("length", pa.float32()), pa.field("length_reason", pa.string())]

    def passes(self, setup):
        return {Pass(): PassInputs(hidden=True)}

    def reducer(self, each, batch, setup):
        return CountStates(batch)

    def finish(self, rows, passed, setup):
        reason = np.full(len(rows), None, dtype=object)
        return {"length": passed[Pass()]["length"], "length_reason": reason}


class CountStates(Reducer):
    def __init__(self, batch):
        self.mask = batch.mask

    def hidden(self, states: torch.Tensor) -> None:
        assert states.shape[:2] == self.mask.shape

    def columns(self):
        return {"length": self.mask.sum(1).float().numpy()}


LENGTH = Length()


def test_rows_longer_than_the_batch_budget_still_run():
    backbone = tiny_backbone()
    row = Instruction.from_turns(("user", "sky " * 30), ("assistant", "blue"))
    columns = features(backbone, [row], tokens_per_batch=4).columns
    assert np.isfinite(columns["nll"]).all()
