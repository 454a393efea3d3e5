"""Reasoning and marks of messages: identity, what a table holds of them, and where they can go."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coresetdb.schemas.conversations import (
    TURN_MARKS,
    as_columns,
    conversation_columns,
    conversations_in,
)
from coresetdb.schemas.instruction import Instruction, Message, unusable
from coresetdb.schemas.reasoning import as_blocks, as_fields, thinking_in, without_reasoning
from coresetdb.schemas.tables import MESSAGES

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
MESSAGE = st.builds(
    Message,
    st.sampled_from(["user", "assistant"]),
    TEXT | st.sampled_from(["<think>\nhm\n</think>\n\nfive", "</think>", "\n\n"]),
    reasoning=st.none() | TEXT.filter(bool) | st.sampled_from(["a </think> b", "\n</think>\n\n"]),
    train=st.sampled_from([None, False]),
)


def asked(answer: str, **fields) -> Instruction:
    return Instruction((Message("user", "two?"), Message("assistant", answer, **fields)))


def table_of(rows: list[Instruction]) -> pa.Table:
    columns = as_columns(rows)
    types = {"messages": MESSAGES, "tools": pa.string(), TURN_MARKS.name: TURN_MARKS.type}
    return pa.table({name: pa.array(values, types[name]) for name, values in columns.items()})


def test_rows_that_say_nothing_new_keep_their_ids():
    plain = Instruction.from_turns(("user", "2+3?"), ("assistant", "<think>hm</think>5"))
    assert plain.id == "da5892c887adc4669cf5c44cd6a4a049"
    assert asked("five", reasoning=None, train=None).id == asked("five").id


def test_rows_that_differ_in_reasoning_or_training_alone_are_two():
    rows = [
        asked("five"),
        asked("five", reasoning="two and three"),
        asked("five", reasoning="three and two"),
        asked("five", train=False),
        asked("<think>\ntwo and three\n</think>\n\nfive"),
    ]
    assert len({row.id for row in rows}) == len(rows)


@given(st.lists(st.lists(MESSAGE, min_size=1, max_size=4), min_size=1, max_size=4))
def test_a_table_gives_back_what_it_got(conversations):
    rows = [Instruction(tuple(messages)) for messages in conversations]
    table = table_of(rows)
    assert conversations_in(table) == rows
    needed = any(turn.reasoning or turn.train is False for row in rows for turn in row.messages)
    assert (TURN_MARKS.name in table.column_names) == needed
    assert conversation_columns(table.schema) == table.column_names


def test_whoever_reads_the_texts_of_a_table_reads_the_reasoning():
    table = table_of([asked("five", reasoning="two and three"), asked("six")])
    texts = [row["messages"][1]["content"] for row in table.to_pylist()]
    assert texts == ["<think>\ntwo and three\n</think>\n\nfive", "six"]
    assert table[TURN_MARKS.name].to_pylist()[1] is None


@pytest.mark.parametrize(
    ("content", "reasoning", "answer"),
    [
        ("<think>\nhm\n</think>\n\nfive", "hm", "five"),
        ("\n<think>hm</think>five", "hm", "five"),
        ("<thinking>hm</thinking>\nfive", "hm", "five"),
        ("[THINK]hm[/THINK]five", "hm", "five"),
        ("hm\n</think>\n\nfive", "hm", "five"),
        ("<think>\n\n</think>\n\nfive", "", "five"),
        ("<think>hm</think>", "hm", ""),
        ("<think>a</think>b</think>c", "a", "b</think>c"),
    ],
)
def test_blocks_of_reasoning_are_found(content, reasoning, answer):
    split = thinking_in(content)
    assert split is not None
    assert "".join(split) == content
    assert (split[1], split[3]) == (reasoning, answer)


@pytest.mark.parametrize("content", ["five", "<think>five", "so <think>hm</think> five", ""])
def test_other_texts_hold_none(content):
    assert thinking_in(content) is None


@given(TEXT, TEXT, TEXT)
def test_what_is_split_is_whole(before, inside, after):
    content = f"{before}<think>{inside}</think>{after}"
    split = thinking_in(content)
    assert split is None or "".join(split) == content


def test_reasoning_goes_where_it_is_wanted():
    field, block = asked("five", reasoning="hm"), asked("<think>\nhm\n</think>\n\nfive")
    assert as_blocks(field) == block and as_fields(block) == field
    assert as_blocks(block) == block and as_fields(field) == field
    assert without_reasoning(field) == without_reasoning(block) == asked("five")
    said = Instruction.from_turns(("user", "<think>hm</think>two?"), ("assistant", "five"))
    assert as_fields(said) == as_blocks(said) == without_reasoning(said) == said


def test_what_is_an_answer():
    assert unusable(asked("", reasoning="hm")) is None
    assert unusable(asked("", tool_calls="[{}]")) is None
    assert unusable(asked(" ")) == "empty response"
    assert "no answer is trained on" in (unusable(asked("five", train=False)) or "")
    both = (*asked("bad", train=False).messages, *asked("good").messages)
    assert unusable(Instruction(both)) is None
    assert unusable(asked("five", train=False), allow_empty_answer=True) is None
