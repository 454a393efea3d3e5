"""Lexical: which words a conversation has, in which order, and under which ids."""

from __future__ import annotations

import hashlib

import pytest
from helpers.tiny_models import tiny_backbone, tiny_conversations

from coresetdb.ingest.featurizer import Featurizer
from coresetdb.ingest.representations.lexical import NO_WORD, word_ids
from coresetdb.ingest.representations.registry import parse_features
from coresetdb.schemas.instruction import Instruction, Message


def ids(words: str) -> list[int]:
    digests = (hashlib.blake2b(word.encode(), digest_size=4).digest() for word in words.split())
    return [int.from_bytes(digest, "big") % 2**31 for digest in digests]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The cat, the CAT!", "the cat the cat"),
        ("snake_case x2 3.14", "snake_case x2 3 14"),
        ("Straße İstanbul", "strasse i̇stanbul".replace("\u0307", " ")),
        ("it's\n\nfine", "it s fine"),
        ("机器学习 is ML", "机 器 学 习 is ml"),
        ("カタカナ、ひらがな。", "カ タ カ ナ ひ ら が な"),
        ("Привет мир", "привет мир"),
        ("... \n !?", ""),
    ],
)
def test_words(text, words):
    row = Instruction.from_turns(("user", text))
    assert word_ids(row).tolist() == ids(words)


def test_all_turns_and_tool_calls_in_order():
    call = Message("assistant", "", tool_calls='[{"name":"add"}]')
    row = Instruction(
        (Message("system", "Be brief"), Message("user", "2 and 3"), call, Message("tool", "5"))
    )
    assert word_ids(row).tolist() == ids("be brief 2 and 3 name add 5")


def test_columns_and_the_reason_of_a_row_without_words():
    backbone = tiny_backbone()
    rows = [*tiny_conversations(), Instruction.from_turns(("user", "?"), ("assistant", "!"))]
    featurizer = Featurizer(backbone, parse_features("lexical", backbone.info))
    assert featurizer.passes() == {}, "no model runs"
    table = featurizer.featurize(rows)
    assert table["lexical_reason"].to_pylist() == [None] * (len(rows) - 1) + [NO_WORD]
    stored = table["lexical"].to_pylist()
    assert stored == [*(word_ids(row).tolist() for row in rows[:-1]), None]
    counts = table["lexical_words"].to_pylist()
    assert counts == [each and len(each) for each in stored]
    target = featurizer.featurize(rows, of="target")
    assert target["lexical"].to_pylist() == stored


def test_the_recipe_does_not_depend_on_the_backbone():
    (one,) = parse_features("lexical", tiny_backbone("llama").info)
    (other,) = parse_features("lexical", tiny_backbone("gpt2").info)
    assert one.fingerprint == other.fingerprint
