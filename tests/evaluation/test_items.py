"""Examples that models are measured on: answers and choices, from fields or from the prompt."""

import json

import pytest

from coresetdb.evaluation.items import item_of, prompt_choices, read_items, with_answer
from coresetdb.evaluation.metrics import metrics_for
from coresetdb.ingest.readers.options import ReadOptions
from coresetdb.schemas.errors import UsageError
from coresetdb.schemas.instruction import Instruction, Record


def record(prompt, response, **fields):
    instruction = Instruction.from_turns(("user", prompt), ("assistant", response))
    return Record(instruction, "c", "f", 1, None, json.dumps(fields))


@pytest.mark.parametrize(
    ("prompt", "answer", "choices"),
    [
        ("Which?\nA. one\nB. two\nAnswer:", "B", ("A", "B")),
        ("Which?\n(A) one\n(B) two", "(B)", ("(A)", "(B)")),
        ("Which?\nA) one\nB) two\nC) three", "two", ("one", "two", "three")),
        ("Which?\n- one\n- two", "two", ("one", "two")),
        ("Which?\n- one\n- two", "three", ()),
        ("A. one thing only", "A", ()),
        ("B. two\nC. three", "B", ()),
        ("Why?", "Because.", ()),
    ],
)
def test_choices_are_read_from_the_prompt(prompt, answer, choices):
    assert prompt_choices(prompt, answer) == choices


def test_fields_say_what_is_accepted_and_what_can_be_chosen():
    item = item_of(record("Which?", "C", answer=["C", "c)"], choices=["A", "B", "C"]))
    assert item.accepted == ("C", "c)") and item.choices == ("A", "B", "C") and item.right == 2
    arc = item_of(record("Which?", "two", choices={"text": ["one", "two"], "label": ["A", "B"]}))
    assert arc.choices == ("one", "two") and arc.right == 1
    plain = item_of(record("How many?", "It is 7.", answer=7))
    assert plain.accepted == ("7",) and plain.choices == ()
    assert item_of(record("Say it.", " so ")).accepted == ("so",)


def test_an_answer_is_replaced_and_the_rest_stays():
    row = Instruction.from_turns(("system", "s"), ("user", "q"), ("assistant", "a"))
    changed = with_answer(row, "b")
    assert [turn.content for turn in changed.messages] == ["s", "q", "b"]


def test_the_targets_own_examples_and_those_without_an_answer_are_left_out_and_said():
    rows = [{"prompt": f"q{n}", "response": "a" if n else ""} for n in range(5)]
    taken = {Instruction.from_turns(("user", "q1"), ("assistant", "a")).id}
    read = read_items(rows, ReadOptions(), taken, limit=2)
    assert [item.instruction.messages[0].content for item in read.items] == ["q2", "q3"]
    said = "\n".join(read.notes)
    assert "1 example has no answer" in said and "1 example is among the target's own" in said
    assert "the first 2 of 3 examples" in said
    with pytest.raises(UsageError, match="no example is left"):
        read_items(rows[1:2], ReadOptions(), taken)


def test_metrics_follow_from_the_examples():
    choosing, writing = item_of(record("W?\n- a\n- b", "a")), item_of(record("W?", "a"))
    assert metrics_for([choosing]) == ("loss", "choice", "choice_likelihood")
    assert metrics_for([choosing, writing]) == ("loss", "exact_match")
    with pytest.raises(UsageError, match="1 example of 2 list no choices"):
        metrics_for([choosing, writing], ["choice"])
    with pytest.raises(UsageError, match="choose from loss"):
        metrics_for([choosing], ["accuracy"])
