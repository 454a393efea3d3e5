"""`--map` with several columns and with choices, on the shapes of well-known benchmarks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.reading import opened, read, reasons, turns

from coresetdb.ingest.importers.choices import kind_of_answers
from coresetdb.schemas.errors import AmbiguousFormatError, MappingError, UsageError
from coresetdb.schemas.instruction import Message, Record

MMLU = [
    {"question": "q", "subject": "s", "choices": ["one", "two", "three", "five"], "answer": answer}
    for answer in (1, 0, 3)
]
LISTED = "q\n\nA. one\nB. two\nC. three\nD. five"
DASHED = "q\n\n- one\n- two\n- three\n- five"


def asked(item: Any) -> tuple[str, str]:
    (_, question), (_, answer) = turns(item)
    return question, answer


def test_columns_put_together(tmp_path: Path) -> None:
    row = {"context": "c", "question": "q", "rationale": "r", "answer": "a", "left": 1, "cot": "t"}
    mapping = {"user": "context+question", "assistant": "rationale+answer", "reasoning": "cot"}
    blank = {**row, "context": " ", "cot": None}
    (item, other) = read(tmp_path, row, blank, mapping=mapping)
    assert isinstance(item, Record)
    assert turns(item) == [("user", "c\n\nq"), ("assistant", "r\n\na")]
    assert item.instruction.messages[1] == Message("assistant", "r\n\na", reasoning="t")
    assert json.loads(item.metadata) == {"left": 1}
    assert asked(other) == ("q", "r\n\na")
    (item,) = read(tmp_path, {"a+b": "u", "c": "a"}, mapping={"user": "a+b", "assistant": "c"})
    assert asked(item) == ("u", "a")
    row = {"parts": ["p", "q"], "deep": {"x": "y"}, "c": "a"}
    (item,) = read(tmp_path, row, mapping={"user": "parts + deep.x", "assistant": "c"})
    assert asked(item) == ("p\n\nq\n\ny", "a")


def test_columns_without_a_header(tmp_path: Path) -> None:
    from coresetdb.ingest.readers.options import ReadOptions
    from coresetdb.ingest.sources import open_source

    path = tmp_path / "t.csv"
    path.write_text("c,q,a\nd,r,b\n")
    mapping = {"user": "1+2", "assistant": "3"}
    items = list(open_source(str(path), ReadOptions(mapping=mapping)))
    assert [asked(item) for item in items] == [("c\n\nq", "a"), ("d\n\nr", "b")]


def test_a_column_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MappingError, match="names the column 'contxt'"):
        read(tmp_path, *MMLU, mapping={"user": "contxt+question", "assistant": "answer"})


MAPPING = {"user": "question+choices", "assistant": "answer"}


def test_letters_and_text(tmp_path: Path) -> None:
    items = read(tmp_path, *MMLU, mapping=MAPPING, choices="letters")
    assert [asked(item) for item in items] == [(LISTED, "B"), (LISTED, "A"), (LISTED, "D")]
    items = read(tmp_path, *MMLU, mapping=MAPPING, choices="text")
    assert [asked(item) for item in items] == [(DASHED, "two"), (DASHED, "one"), (DASHED, "five")]
    assert isinstance(items[0], Record)
    assert json.loads(items[0].metadata) == {"subject": "s"}


TEXTS = ["one", "two", "three"]
BENCHMARKS: dict[str, tuple[list[dict[str, Any]], dict[str, str], list[str]]] = {
    "ARC": (
        [{"question": "q", "choices": {"text": TEXTS, "label": list(labels)}, "answerKey": key}
         for labels, key in (("ABC", "B"), ("123", "3"), ("ABC", "A"))],
        {"user": "question+choices", "assistant": "answerKey"},
        ["B", "C", "A"],
    ),
    "CommonsenseQA, raw": (
        [{"question": {"stem": "q", "choices": [{"label": a, "text": t}
                                                for a, t in zip("ABC", TEXTS, strict=True)]},
          "answerKey": key} for key in "CA"],
        {"user": "question.stem+question.choices", "assistant": "answerKey"},
        ["C", "A"],
    ),
    "HellaSwag": (
        [{"ctx": "q", "endings": TEXTS, "label": label} for label in ("2", "0", "1")],
        {"user": "ctx+endings", "assistant": "label"},
        ["C", "A", "B"],
    ),
    "RACE": (
        [{"article": "", "question": "q", "options": TEXTS, "answer": answer} for answer in "BCA"],
        {"user": "article+question+options", "assistant": "answer"},
        ["B", "C", "A"],
    ),
    "MedQA": (
        [{"question": "q", "options": {"A": "one", "B": "two", "C": "three", "D": None},
          "answer": "two", "answer_idx": "B"}],
        {"user": "question+options", "assistant": "answer_idx"},
        ["B"],
    ),
    "text answers": (
        [{"question": "q", "options": TEXTS, "answer": answer} for answer in ("two", " three ")],
        {"user": "question+options", "assistant": "answer"},
        ["B", "C"],
    ),
    "JSON text": (
        [{"question": "q", "options": json.dumps(TEXTS), "answer": "(B)"}],
        {"user": "question+options", "assistant": "answer"},
        ["B"],
    ),
    "AQUA": (
        [{"question": "q", "options": ["A)one", "B)two", "C)three"], "correct": "C"}],
        {"user": "question+options", "assistant": "correct"},
        ["C"],
    ),
    "PIQA": (
        [{"goal": "q", "sol1": "one", "sol2": "two", "label": label} for label in (1, 0)],
        {"user": "goal+sol1+sol2", "assistant": "label"},
        ["B", "A"],
    ),
    "PIQA, named": (
        [{"goal": "q", "sol1": "one", "sol2": "two", "label": label} for label in (1, 0)],
        {"user": "goal+choices", "choices": "sol1+sol2", "assistant": "label"},
        ["B", "A"],
    ),
    "WinoGrande": (
        [{"sentence": "q", "option1": "one", "option2": "two", "answer": "1"}],
        {"user": "sentence+option1+option2", "assistant": "answer"},
        ["A"],
    ),
    "SIQA": (
        [{"context": "", "question": "q", "answerA": "one", "answerB": "two", "answerC": "three",
          "label": label} for label in "132"],
        {"user": "context+question+answerA+answerB+answerC", "assistant": "label"},
        ["A", "C", "B"],
    ),
    "COPA": (
        [{"premise": "q", "choice1": "one", "choice2": "two", "label": label} for label in (1, 0)],
        {"user": "premise+choice1+choice2", "assistant": "label"},
        ["B", "A"],
    ),
    "CMMLU": (
        [{"Question": "q", "A": "one", "B": "two", "C": "three", "Answer": "C"}],
        {"user": "Question+A+B+C", "assistant": "Answer"},
        ["C"],
    ),
    "SciQ": (
        [{"question": "q", "distractor1": "one", "distractor2": "two", "correct_answer": "three"}],
        {"user": "question+choices", "choices": "distractor1+distractor2+correct_answer",
         "assistant": "correct_answer"},
        ["C"],
    ),
    "TruthfulQA": (
        [{"question": "q", "mc1_targets": {"choices": TEXTS, "labels": [0, 1, 0]}}],
        {"user": "question+mc1_targets", "assistant": "mc1_targets.labels"},
        ["B"],
    ),
    "floats of pandas": (
        [{"question": "q", "options": TEXTS, "answer": answer} for answer in (0.0, 2.0)],
        {"user": "question+options", "assistant": "answer"},
        ["A", "C"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BENCHMARKS)
def test_benchmarks(tmp_path: Path, name: str) -> None:
    rows, mapping, letters = BENCHMARKS[name]
    items = read(tmp_path, *rows, mapping=mapping, choices="letters")
    assert [asked(item)[1] for item in items] == letters
    shown = {asked(item)[0].partition("\n\n")[2] for item in items}
    assert shown <= {"A. one\nB. two\nC. three", "A. one\nB. two"}
    assert all(asked(item)[0].startswith("q\n\n") for item in items)
    answers = [asked(item)[1] for item in read(tmp_path, *rows, mapping=mapping, choices="text")]
    assert answers == [TEXTS["ABC".index(letter)] for letter in letters]


def test_choices_that_the_prompt_does_not_show(tmp_path: Path) -> None:
    row = {"ctx": "q", "endings": TEXTS, "label": "2"}
    mapping = {"user": "ctx", "choices": "endings", "assistant": "label"}
    (item,) = read(tmp_path, row, mapping=mapping, choices="text")
    assert asked(item) == ("q", "three")
    with pytest.raises(MappingError, match=r"user=ctx\+choices"):
        read(tmp_path, row, mapping=mapping, choices="letters")


def test_truth_values(tmp_path: Path) -> None:
    mapping = {"user": "passage+question", "assistant": "answer"}
    for answers in ((True, False), ("True", "False"), (1, 0)):
        rows = [{"passage": "p", "question": "q", "answer": answer} for answer in answers]
        items = read(tmp_path, *rows, mapping=mapping, choices="text")
        assert [asked(item) for item in items] == [("p\n\nq", "yes"), ("p\n\nq", "no")]
    rows = [{"passage": "p", "question": "q", "answer": answer} for answer in (True, False)]
    with pytest.raises(MappingError, match="--choices text"):
        read(tmp_path, *rows, mapping=mapping)
    with pytest.raises(MappingError, match="--choices text"):
        read(tmp_path, *rows, mapping=mapping, choices="letters")


def test_answers_that_name_no_choice(tmp_path: Path) -> None:
    bad = [4, "E", None, -1, "", "six", [0, 1]]
    rows = [*MMLU, *({**MMLU[0], "answer": answer} for answer in bad)]
    items = read(tmp_path, *rows, mapping=MAPPING, choices="letters")
    counted = "answer is none of the choices: {}; there are 4, numbered from 0"
    assert reasons(items[3:]) == [
        counted.format(4), counted.format('"E"'), "empty response", "empty response",
        "empty response", counted.format('"six"'), counted.format("[0, 1]"),
    ]  # fmt: skip
    unanswered = read(tmp_path, *rows, mapping=MAPPING, choices="letters", allow_empty_answer=True)
    assert turns(unanswered[5]) == turns(unanswered[6]) == [("user", LISTED)]


def test_choices_that_cannot_be_read(tmp_path: Path) -> None:
    bad = [["one"], [], ["one", None, "two"], ["one", " "], "one, two", None, [{"x": 1}, {"x": 2}]]
    rows = [*MMLU, *({**MMLU[0], "choices": choices} for choices in bad)]
    items = read(tmp_path, *rows, mapping=MAPPING, choices="letters")
    assert reasons(items[3:]) == [
        "1 choices in choices: 2 to 26 can be read", "0 choices in choices: 2 to 26 can be read",
        "a choice in choices is empty", "a choice in choices is empty",
        "choices is text, not a list of choices", "missing field: choices",
        "a choice in choices is an object, not text",
    ]  # fmt: skip


def test_how_answers_count(tmp_path: Path) -> None:
    def decision(*answers: Any, **options: Any) -> str:
        rows = [{**MMLU[0], "answer": answer} for answer in answers]
        return opened(tmp_path, *rows, mapping=MAPPING, choices="text", **options).decision

    assert "numbered from 0" in decision(0, 3)
    assert "numbered from 1" in decision(1, 4)
    assert "the first records leave it open (otherwise --first-choice 1)" in decision(1, 2)
    assert "numbered from 1" in decision(1, 2, first_choice=1)
    assert "answers are the letter of a choice" in decision("A", "d")
    assert "answers are the text of a choice" in decision("one")
    rows = [{**MMLU[0], "choices": ["3", "7", "12"], "answer": answer} for answer in ("7", "12")]
    items = read(tmp_path, *rows, mapping=MAPPING, choices="letters")
    assert [asked(item)[1] for item in items] == ["B", "C"]
    assert kind_of_answers([], None) == "label"


def test_what_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(MappingError, match="--choices letters"):
        read(tmp_path, *MMLU, mapping=MAPPING)
    with pytest.raises(MappingError, match=r"choices=COLUMN"):
        read(
            tmp_path, {"q": "u", "r": "a"}, mapping={"user": "q", "assistant": "r"}, choices="text"
        )
    with pytest.raises(MappingError, match="no answer in 'subject' is one of the choices"):
        mapping = {"user": "question+choices", "assistant": "subject"}
        read(tmp_path, *MMLU, mapping=mapping, choices="text")
    with pytest.raises(UsageError, match="letters or text"):
        read(tmp_path, *MMLU, mapping=MAPPING, choices="numbers")


SUGGESTED = {
    "context": ({"context": "c", "question": "q", "answer": "a"},
                '--map "user=context+question,assistant=answer"'),
    "MMLU": (MMLU[0], '--map "user=question+choices,assistant=answer" --choices letters'),
    "RACE": (
        {"example_id": "1", "article": "t", "question": "q", "options": TEXTS, "answer": "B"},
        '--map "user=article+question+options,assistant=answer" --choices letters',
    ),
    "reasoning": (
        {"question": "q", "cot": "t", "hint": "h", "rationale": "r", "answer": "a"},
        '--map "user=question+hint,reasoning=cot,assistant=rationale+answer"',
    ),
    "instruction first": (
        {"instruction": "i", "input": "n", "passage": "p", "output": "o"},
        '--map "user=instruction+passage+input,assistant=output"',
    ),
    "system": (
        {"prompt": "p", "completion": "c", "system": "s"},
        '--map "user=prompt,assistant=completion,system=system"',
    ),
    "other case": (
        {"Question": "q", "A": "one", "B": "two", "Answer": "B"},
        '--map "user=Question+choices,choices=A+B,assistant=Answer" --choices letters',
    ),
    "HellaSwag": (
        {"ind": 1, "ctx": "q", "endings": TEXTS, "source_id": "x", "label": "2"},
        '--map "user=ctx+endings,assistant=label" --choices letters',
    ),
    "PIQA": (
        {"goal": "q", "sol1": "one", "sol2": "two", "label": 1},
        '--map "user=goal+choices,choices=sol1+sol2,assistant=label" --choices letters',
    ),
    "BoolQ": (
        {"question": "q", "passage": "p", "answer": True},
        '--map "user=passage+question,assistant=answer" --choices text',
    ),
    "SciQ": (
        {"question": "q", "distractor1": "one", "distractor2": "two", "correct_answer": "three"},
        '--map "user=question+choices,choices=distractor1+distractor2+correct_answer,'
        'assistant=correct_answer" --choices letters',
    ),
    "OpenBookQA": (
        {"id": "7", "question_stem": "q", "choices": {"text": TEXTS, "label": ["A", "B", "C"]},
         "answerKey": "A"},
        '--map "user=question_stem+choices,assistant=answerKey" --choices letters',
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SUGGESTED)
def test_the_error_shows_what_to_type_and_it_works(tmp_path: Path, name: str) -> None:
    import shlex

    from coresetdb.ingest.readers.options import ReadOptions

    row, options = SUGGESTED[name]
    with pytest.raises(AmbiguousFormatError) as error:
        read(tmp_path, row, row)
    assert error.value.options == options
    assert options in str(error.value)
    words = shlex.split(options)
    typed = dict(zip(words[::2], words[1::2], strict=True))
    mapping = ReadOptions.parse_mapping(typed["--map"])
    items = read(tmp_path, row, row, mapping=mapping, choices=typed.get("--choices"))
    assert reasons(items) == ["", ""]


METADATA = {"id": "7", "source": "s", "category": "c", "difficulty": "hard", "subject": "x",
            "url": "u", "topic": "t", "score": 0.5, "reasoning": True, "steps": 4, "context": None,
            "hint": " ", "choices": [], "tags": ["x", "y"], "lang": "en",
            "text": "short"}  # fmt: skip


def test_metadata_does_not_stop(tmp_path: Path) -> None:
    for pair in (("question", "answer"), ("prompt", "response"), ("prompt", "completion")):
        source = opened(tmp_path, {pair[0]: "u", pair[1]: "a", **METADATA})
        assert [turns(item) for item in source] == [[("user", "u"), ("assistant", "a")]]


def test_a_context_that_begins_late_is_said(tmp_path: Path) -> None:
    pair = {"question": "u", "answer": "a"}
    rows = [*[{**pair, "context": ""}] * 60, {**pair, "context": "c"}, {**pair, "hint": "h"}]
    source = opened(tmp_path, *rows)
    assert len(list(source)) == 62
    assert sorted(source.remarks) == [
        f"1 record with {name!r}, which is kept as metadata only and was empty in the first "
        "records; --map reads it"
        for name in ("context", "hint")
    ]
    named = opened(tmp_path, *rows, format="question_answer")
    assert list(named) and not named.remarks


def test_a_format_that_is_named_or_uses_the_column_goes_on(tmp_path: Path) -> None:
    row = {"context": "c", "question": "q", "answer": "a"}
    (item,) = read(tmp_path, row, format="question_answer")
    assert asked(item) == ("q", "a")
    for row in (
        {"instruction": "u", "input": "i", "output": "a"},
        {"instruction": "u", "context": "i", "response": "a"},
        {"input": "u", "target": "a", "explanation": "e"},
        {"system_prompt": "s", "question": "u", "response": "a"},
        {"instruction": "u", "output": "a", "text": "Below is an instruction.\n\n### u\n\na it is"},
    ):
        (item,) = read(tmp_path, row)
        assert isinstance(item, Record)


def test_prompts_of_targets_stop_as_well(tmp_path: Path) -> None:
    row = {"question": "q", "choices": TEXTS}
    with pytest.raises(AmbiguousFormatError) as error:
        read(tmp_path, row, allow_empty_answer=True)
    assert error.value.options == '--map "user=question+choices" --choices letters'
    mapping = {"user": "question+choices"}
    (item,) = read(tmp_path, row, mapping=mapping, choices="letters", allow_empty_answer=True)
    assert turns(item) == [("user", "q\n\nA. one\nB. two\nC. three")]
