"""Losses and choices of a real, tiny model against one row at a time."""

import json

import numpy as np
import pytest
import torch

from coresetdb.evaluation.items import item_of, with_answer
from coresetdb.evaluation.metrics import measure
from coresetdb.ingest.models.backbone import Backbone
from coresetdb.ingest.models.describe import BackboneConfig
from coresetdb.schemas.instruction import Instruction, Record

QUESTIONS = [("Which is red?", "the rose", ["the sky", "the rose"]), ("Two or three?", "2", "2 3")]


@pytest.fixture(scope="module")
def backbone(tiny_llama):
    return Backbone.load(BackboneConfig(str(tiny_llama), dtype="float32"))


@pytest.fixture(scope="module")
def items():
    def item(prompt, response, choices):
        choices = choices.split() if isinstance(choices, str) else choices
        instruction = Instruction.from_turns(("user", prompt), ("assistant", response))
        fields = json.dumps({"choices": choices})
        return item_of(Record(instruction, "c", "f", 1, None, fields))

    return [item(*each) for each in QUESTIONS]


def naive_loss(backbone, instruction):
    row = backbone.encode(instruction)
    ids = torch.from_numpy(row.ids.astype(np.int64))
    logits = backbone.model(ids[None]).logits[0].float().log_softmax(-1)
    places = [place for place in range(1, len(row)) if row.response[place]]
    return -float(np.mean([logits[place - 1, ids[place]].item() for place in places]))


@torch.no_grad()
def test_losses_and_choices_equal_one_row_at_a_time(backbone, items):
    values = measure(backbone, items, ("loss", "choice", "choice_likelihood"))
    for item in items:
        assert values["loss"][item.id] == pytest.approx(
            naive_loss(backbone, item.instruction), abs=1e-5
        )
        own = [
            -naive_loss(backbone, with_answer(item.instruction, choice)) for choice in item.choices
        ]
        assert values["choice"][item.id] == float(np.argmax(own) == item.right)
        share = np.exp(own[item.right]) / np.exp(own).sum()
        assert values["choice_likelihood"][item.id] == pytest.approx(share, abs=1e-5)


def test_an_answer_that_is_also_a_choice_is_seen_once(backbone, items, monkeypatch):
    from coresetdb.evaluation import metrics

    seen = []
    losses = metrics.response_losses

    def counted(model, rows, report=None):
        seen.append(len(rows))
        return losses(model, rows)

    monkeypatch.setattr(metrics, "response_losses", counted)
    both = measure(backbone, items, ("loss", "choice"))
    assert seen == [4]  # two choices for each of two items, one of them the answer
    assert measure(backbone, items, ("loss",))["loss"] == pytest.approx(both["loss"], abs=1e-5)
