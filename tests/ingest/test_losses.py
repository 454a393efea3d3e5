"""nll, ppl, nll_alone and ifd against METHODS 6, one example at a time."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_models import ARCHITECTURES, BOS, END, tiny_backbone, tiny_conversations, tiny_folder

from coresetdb.ingest.backbone import Backbone, BackboneConfig
from coresetdb.ingest.featurizer import Featurizer
from coresetdb.ingest.representations.registry import parse_features
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
