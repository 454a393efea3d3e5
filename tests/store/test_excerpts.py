"""Excerpts that show a text are found in every script and under every escape."""

from __future__ import annotations

import json

import pytest

from coresetdb.store.excerpts import excerpts_showing

CHINESE = "患者张伟的身份证号码是一一零一零五、住在北京市朝阳区、患有糖尿病。"
ENGLISH = 'The report:\npatient John "Jack" Doe\tlives in Elm Street'


@pytest.mark.parametrize(
    ("text", "excerpt"),
    [
        (CHINESE, f'{{"prompt": "{CHINESE[:20]}'),
        (CHINESE, json.dumps({"prompt": CHINESE})[:200]),
        (CHINESE, "又及患者张伟的身份证号码是一一零"),
        (ENGLISH, json.dumps({"a": ENGLISH})),
        (ENGLISH, json.dumps({"a": json.dumps({"b": ENGLISH})})),
        (ENGLISH, json.dumps({"a": "report:\npatient John"})),
        (ENGLISH, "PATIENT  John — “Jack” doe"),
        (json.dumps({"name": "Łukasz Żółw"}), '{"name": "Łukasz Żółw", "x'),
        ("\\nabla f is \\nu times", '\\nabla f is \\nu times | "'),
        ("😀 says 張偉 to me now", json.dumps("😀 says 張偉 to me now")),
        ("张伟", '{"answer": "张伟"}'),
        ("张伟", json.dumps({"answer": "张伟"})),
        (ENGLISH, "elm street"),
        ("".join(chr(ord(letter) + 0xFEE0) for letter in "FullWidthText"), "full width text"),
    ],
)
def test_an_excerpt_that_shows_the_text_is_found(text, excerpt):
    assert excerpts_showing(["nothing at all", excerpt], [text]) == {1}


@pytest.mark.parametrize(
    ("text", "excerpt"),
    [
        (ENGLISH, '{"prompt": "A patient of another name"}'),
        (CHINESE, "今天天气很好、我们去公园散步、然后回家吃饭。"),
        ("4", '{"answer": "4"}'),
        ("yes", "yes"),
        ("张伟", "张伟强今天来了、他说他明天还会再来一次"),
        (ENGLISH, ""),
        ("", "something"),
    ],
)
def test_others_are_left(text, excerpt):
    assert excerpts_showing([excerpt], [text]) == set()


def test_a_cut_escape_at_the_end_does_no_harm():
    cut = json.dumps(CHINESE)[:-3]
    assert excerpts_showing([cut, "\\ud83d", "\\u12"], [CHINESE]) == {0}
