"""All scalar losses against docs/methods.md, "losses", one example at a time."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.naive_gradients import backbone_of, naive, rows_of
from helpers.tiny_models import (
    ARCHITECTURES,
    BOS,
    END,
    tiny_backbone,
    tiny_conversations,
    tiny_folder,
)

from coresetdb.ingest.featurizer import Featurizer
from coresetdb.ingest.models.backbone import Backbone
from coresetdb.ingest.models.describe import BackboneConfig
from coresetdb.ingest.representations.losses import ResponseErrors
from coresetdb.ingest.representations.registry import parse_features
from coresetdb.schemas.errors import UsageError
from coresetdb.schemas.instruction import Instruction


def tokens_and_answers(backbone, turns) -> tuple[list[int], list[bool]]:
    """The tiny template written out by hand: <bos>(<|role|>text<|end|>)*, texts apart."""
    tokenizer = backbone.encoder._content_tokens  # special tokens are text to it

    def special(text: str) -> int:
        return tokenizer.token_to_id(text)

    ids, answers = [special(BOS)], [False]
    for role, text in turns:
        content = tokenizer.encode(text, add_special_tokens=False).ids
        ids += [special(f"<|{role}|>"), *content, special(END)]
        answers += [False] + [role == "assistant"] * (len(content) + 1)
    return ids, answers


def naive_nll(backbone, turns) -> float:
    ids, answers = tokens_and_answers(backbone, turns)
    with torch.no_grad():
        logits = backbone.model(torch.tensor(ids)[None]).logits[0].double()
    losses = [
        -torch.log_softmax(logits[position - 1], 0)[ids[position]].item()
        for position in range(1, len(ids))
        if answers[position]
    ]
    return sum(losses) / len(losses)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_equals_the_naive_reference(architecture):
    backbone = tiny_backbone(architecture)
    rows = tiny_conversations()
    columns = Featurizer(backbone, parse_features("losses", backbone.info)).compute(rows).columns
    for index, row in enumerate(rows):
        turns = [(message.role, message.content) for message in row.messages]
        nll = naive_nll(backbone, turns)
        alone = naive_nll(backbone, [turn for turn in turns if turn[0] == "assistant"])
        assert columns["nll"][index] == pytest.approx(nll, rel=1e-4)
        assert columns["ppl"][index] == pytest.approx(math.exp(nll), rel=1e-3)
        assert columns["nll_alone"][index] == pytest.approx(alone, rel=1e-4)
        assert columns["ifd"][index] == pytest.approx(nll / alone, rel=1e-4)
        assert columns["losses_reason"][index] is None


def test_without_an_answer_there_is_a_reason():
    backbone = tiny_backbone()
    rows = [
        Instruction.from_turns(("user", "what is two?")),
        Instruction.from_turns(("user", "what is two?"), ("assistant", "")),
        Instruction.from_turns(("user", "what is two?"), ("assistant", "two")),
    ]
    table = Featurizer(backbone, parse_features("losses", backbone.info)).featurize(rows)
    assert table["losses_reason"].to_pylist() == ["no response token"] * 2 + [None]
    for column in ("nll", "ppl", "nll_alone", "ifd"):
        values = table[column].to_pylist()
        assert values[:2] == [None, None] and values[2] > 0


def test_alone_is_an_option_that_saves_the_second_forward():
    backbone = tiny_backbone()
    forwards = 0

    def count(module, args, output):
        nonlocal forwards
        forwards += 1

    hook = backbone.model.base_model.register_forward_hook(count)
    try:
        spent = {}
        for features in ("rds,losses:alone=false", "rds,losses"):
            forwards = 0
            recipes = parse_features(features, backbone.info)
            table = Featurizer(backbone, recipes, 10_000).featurize(tiny_conversations())
            spent[features] = forwards
            assert ("ifd" in table.column_names) == (features == "rds,losses")
    finally:
        hook.remove()
    assert spent == {"rds,losses:alone=false": 1, "rds,losses": 2}


def test_a_cut_answer_is_scored_and_counted():
    backbone = Backbone.load(BackboneConfig(str(tiny_folder()), "cpu", "float32", max_length=20))
    row = Instruction.from_turns(("user", "name a colour"), ("assistant", "blue " * 60))
    table = Featurizer(backbone, parse_features("losses", backbone.info)).featurize([row])
    (only,) = table.to_pylist()
    assert (only["tokens"], only["response_tokens"], only["truncated"]) == (20, 19, True)
    assert only["losses_reason"] is None
    assert only["nll"] == pytest.approx(only["nll_alone"], rel=1e-5)  # no prompt is left


def naive_el2n(backbone, row) -> float:
    ids = torch.from_numpy(row.ids).long()
    with torch.no_grad():
        logits = backbone.model(ids[None]).logits[0].double()
    each = []
    for place in range(1, len(ids)):
        if row.response[place]:
            error = torch.softmax(logits[place - 1], 0)
            error[ids[place]] -= 1
            each.append(error.norm().item())
    return sum(each) / len(each)


@pytest.mark.parametrize("name", ("builtin", *ARCHITECTURES))
def test_el2n_and_the_gradients_norm(name):
    backbone = backbone_of(name)
    rows = rows_of(backbone)
    given = tiny_conversations()[: len(rows)]
    columns = {}
    for option in ("sketch", "exact"):
        recipes = parse_features(f"losses:alone=false:grad_norm={option}", backbone.info)
        columns |= Featurizer(backbone, recipes).compute(given).columns
    for index, row in enumerate(rows):
        assert columns["el2n"][index] == pytest.approx(naive_el2n(backbone, row), rel=1e-4)
        squared = sum(
            float(grad.double().square().sum())
            for parameter, grad in naive(name)[index].items()
            if ".layers." in parameter or ".h." in parameter
        )
        assert columns["grad_norm"][index] == pytest.approx(math.sqrt(squared), rel=1e-3)
    # The tiny models' layers are hardly wider than the folded sides.
    noise = columns["grad_norm_sketch"] / columns["grad_norm"] - 1
    assert abs(noise).max() < 0.15
    assert columns["losses_reason"].tolist() == [None] * len(rows)


def test_el2n_of_a_token_that_is_all_but_certain():
    """1 - p = 1e-6 must not be lost to the rounding of 1."""

    class Row:
        rows = (None,)

    reducer = ResponseErrors(Row())
    logits = torch.zeros(1, 3)
    logits[0, 0] = math.log(1e6)
    reducer.logits(logits, torch.tensor([0]), torch.tensor([0]))
    rest = 2 / (1e6 + 2)
    other = 1 / (1e6 + 2)
    expected = math.hypot(rest, other, other)
    assert reducer.columns()["el2n"][0] == pytest.approx(expected, rel=1e-5)


def test_the_norms_columns_are_named_by_how_they_were_made():
    info = tiny_backbone().info
    for option, column in (("none", None), ("sketch", "grad_norm_sketch"), ("exact", "grad_norm")):
        (recipe,) = parse_features(f"losses:grad_norm={option}", info)
        assert [name for name in recipe.columns if "grad" in name] == ([column] if column else [])
    with pytest.raises(UsageError, match="none, sketch, exact"):
        parse_features("losses:grad_norm=yes", info)
    row = Instruction.from_turns(("user", "what is two?"))
    recipes = parse_features("losses:grad_norm=exact", info)
    (only,) = Featurizer(tiny_backbone(), recipes).featurize([row]).to_pylist()
    assert only["grad_norm"] is None and only["losses_reason"] == "no response token"
