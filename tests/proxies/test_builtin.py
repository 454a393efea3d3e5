"""The proxy that ships: small enough, lossless in, and a language model rather than a token."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from coresetdb.ingest.featurizer import Featurizer
from coresetdb.ingest.models.backbone import Backbone
from coresetdb.ingest.models.describe import BackboneConfig
from coresetdb.ingest.representations.registry import parse_features
from coresetdb.schemas.instruction import Instruction

MAX_PARAMETERS = 5_500_000
MAX_BYTES = 12_000_000

# Written for this test: not in the training data.
STORIES = [
    ("Where did the cat sleep?", "The cat slept on the old chair beside the window all day."),
    ("Why is the road wet?", "The road is wet because it rained a lot during the night."),
    ("What is a library for?", "A library is a place where people can read and borrow books."),
]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone.load(BackboneConfig("builtin", "cpu", "float32"))


def test_it_is_as_small_as_its_card_says(backbone, repository):
    assert sum(weight.numel() for weight in backbone.model.parameters()) <= MAX_PARAMETERS
    folder = repository / "proxies" / "builtin"
    assert sum(file.stat().st_size for file in folder.iterdir()) <= MAX_BYTES


def test_the_committed_evaluation_meets_what_the_card_promises(repository):
    results = json.loads((repository / "proxies" / "results.json").read_text())
    verdict = results["verdict"]
    assert verdict["holds"]
    assert verdict["whole"] <= 1.35 and verdict["worst_below_xz"] >= 0.4
    card = (repository / "proxies" / "CARD.md").read_text()
    assert f"{verdict['whole']:.3f} bits per byte" in card


@settings(max_examples=50)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_its_tokenizer_loses_nothing(text):
    tokenizer = tokenizer_of(Path(__file__).parents[2] / "proxies" / "builtin")
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids) == text


@cache
def tokenizer_of(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def test_plain_sentences_cost_less_than_three_bits_a_byte(backbone):
    """New text, so far above the held-out figure; a unigram model needs about four and a half."""
    rows = [Instruction.from_turns(("user", ask), ("assistant", say)) for ask, say in STORIES]
    made = Featurizer(backbone, parse_features("losses", backbone.info)).featurize(rows)
    nats = sum(
        row["nll"] * row["response_tokens"]
        for row in made.select(["nll", "response_tokens"]).to_pylist()
    )
    assert nats / math.log(2) / sum(len(say) for _, say in STORIES) < 3.0


def test_a_fitting_answer_costs_less_than_another(backbone):
    asks, says = zip(*STORIES, strict=True)
    featurizer = Featurizer(backbone, parse_features("losses", backbone.info))

    def nll(answers):
        rows = [
            Instruction.from_turns(("user", ask), ("assistant", say))
            for ask, say in zip(asks, answers, strict=True)
        ]
        return sum(featurizer.featurize(rows)["nll"].to_pylist())

    assert nll(says) < nll(says[1:] + says[:1])
