"""Flags: answers that say nothing, and answers that seem to break off."""

# ruff: noqa: RUF001 (texts in many scripts)

from __future__ import annotations

import pytest

from coresetdb.ingest.representations.flags import (
    LONG,
    breaks_off,
    is_near_empty,
    representation,
)
from coresetdb.ingest.testing import check_representation

PROSE = "Rain falls on the hills and runs to the sea, and nobody counts the drops. " * 4
ZH = "雨落在山上，流入大海，没有人数过雨滴。" * 12


@pytest.mark.parametrize(
    "answer",
    [
        "",
        " \n",
        "...",
        "?!",
        "-",
        "N/A",
        "n/a.",
        "None",
        "<noinput>",
        "`null`",
        "TODO",
        "___",
        "<|endoftext|>",
        "</s>",
        ",<|endoftext|>",
        "**N/A**",
    ],
)
def test_answers_that_say_nothing(answer):
    assert is_near_empty(answer)


@pytest.mark.parametrize(
    "answer", ["B", "42", "yes", "No.", "是", "なし", "None of these", "x<|endoftext|>", "π", "٣"]
)
def test_short_answers_say_something(answer):
    assert not is_near_empty(answer)


@pytest.mark.parametrize(
    "answer",
    [
        PROSE + "Then the water rises once more and the people who live by the river must",
        PROSE + "Then the water rises once more, and the people who live by the river,",
        "Here is the code:\n```python\nprint(1)\n",
        ZH + "然后水再次上涨，住在河边的人们必须离开自己的家园，搬到更高的",
    ],
)
def test_answers_that_break_off(answer):
    assert breaks_off(answer)


@pytest.mark.parametrize(
    "answer",
    [
        PROSE,
        "Then the water rises and the people must",
        PROSE + "\n- apples and pears from the garden behind the old house on the hill",
        PROSE + "\n3. apples and pears from the garden behind the old house on the hill",
        PROSE + "\nSee https://example.org/a/long/address/of/a/page/about/rain/and/rivers",
        PROSE + "\nRain and rivers",
        PROSE + 'She said: "the water rises once more and the people must leave their homes now."',
        PROSE
        + "We thank you for your letter and remain, with our best wishes, sincerely yours, Ann",
        PROSE + "Enjoy the rain, the hills and everything the rivers bring! #rain #rivers #hills",
        PROSE + "\n| rain | hills | rivers | and so on, in a table of many columns | last one",
        "```python\nprint(1)\n```",
        ZH,
        "ฝนตกบนภูเขาและไหลลงสู่ทะเลไม่มีใครนับหยดน้ำ" * 12,
        "x" * (LONG - 1),
    ],
)
def test_answers_that_end(answer):
    assert not breaks_off(answer)


def test_the_contract():
    check_representation(representation, architectures=("llama",))
