"""What counts as a word, in any script, and which words a conversation says."""

import unicodedata

import pytest

from coresetdb.query.rules.examples import conversation_words, ngrams, words_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("What's 12.5 + x_1?  NO", ["what", "s", "12", "5", "x_1", "no"]),
        ("Straße STRASSE", ["strasse", "strasse"]),
        ("ﬁne \uff21\uff11", ["fine", "a1"]),
        ("été E\u0301te\u0301", ["été", "été"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("日本のGPT4です", ["日", "本", "の", "gpt4", "で", "す"]),
        ("กิน", ["กิ", "น"]),
        ("안녕 세계", ["안녕", "세계"]),
        ("ap\u00adple pe\u200bar", ["apple", "pear"]),
        ("p\u2066l\u2069um c\u061ch\u180eerry", ["plum", "cherry"]),
        ("— … !", []),
    ],
)
def test_words(text, words):
    expected = [unicodedata.normalize("NFKC", word) for word in words]
    assert words_of(text) == expected
    assert words_of(text.upper()) == words_of(text.upper().lower())


def test_runs():
    assert ngrams(["a", "b", "c"], 2) == ["a b", "b c"]
    assert ngrams(["a"], 2) == []


def test_what_a_conversation_says():
    said = conversation_words(
        [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "One?"},
            {"role": "assistant", "content": "", "tool_calls": '[{"name":"f"}]'},
            {"role": "tool", "content": "Two"},
            {"role": "assistant", "content": "Three"},
        ]
    )
    assert said.everything == ["be", "kind", "one", "name", "f", "two", "three"]
    assert said.whole == ["one", "name", "f", "two", "three"]
    assert said.question == ["one", "name", "f", "two"]
    assert conversation_words([{"role": "user", "content": "One?"}]).question == ["one"]
