"""Every shape with a small example: what it becomes, what stays metadata, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.files import write_jsonl
from hypothesis import given
from hypothesis import strategies as st

from coresetdb.ingest.importers.detection import importer_named, importers
from coresetdb.ingest.readers.options import ReadOptions
from coresetdb.ingest.sources import open_source
from coresetdb.schemas.errors import AmbiguousFormatError, UsageError
from coresetdb.schemas.instruction import Instruction, Message, Record


def read(tmp_path: Path, *rows: Any, **options: Any) -> list[Any]:
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    source = open_source(str(path), ReadOptions(**options))
    read.decision = source.decision  # type: ignore[attr-defined]
    return list(source)


def turns(item: Any) -> list[tuple[str, str]]:
    assert isinstance(item, Record), item
    return [(message.role, message.content) for message in item.instruction.messages]


UA = [("user", "u"), ("assistant", "a")]
CALL = '[{"function":{"arguments":{"x":1},"name":"f"},"type":"function"}]'

SINGLE = {
    "alpaca": ({"instruction": "u", "input": " ", "output": "a"}, UA),
    "alpaca with input": (
        {"instruction": "u", "input": "i", "output": "a"},
        [("user", "u\n\ni"), ("assistant", "a")],
    ),
    "alpaca with history": (
        {"instruction": "u", "output": "a", "system": "s", "history": [["h", "g"]]},
        [("system", "s"), ("user", "h"), ("assistant", "g"), *UA],
    ),
    "dolly": (
        {"instruction": "u", "context": "c", "response": "a"},
        [("user", "u\n\nc"), ("assistant", "a")],
    ),
    "gpteacher": (
        {"instruction": "u", "input": "c", "response": "a"},
        [("user", "u\n\nc"), ("assistant", "a")],
    ),
    "flan": ({"inputs": "u", "targets": "a"}, UA),
    "flan cot": ({"input": "u", "target": "a"}, UA),
    "p3": ({"prompt": "u", "completion": "a"}, UA),
    "ni flat": (
        {"definition": "d", "input": "i", "output": ["a", "b"]},
        [("user", "d\n\ni"), ("assistant", "a")],
    ),
    "ni text": (
        {"definition": ["d"], "inputs": "i", "targets": "a"},
        [("user", "d\n\ni"), ("assistant", "a")],
    ),
    "targets": ({"prompt": "u", "target": "a"}, UA),
    "question": ({"question": "u", "answer": "a"}, UA),
    "openorca": (
        {"system_prompt": "s", "question": "u", "response": "a"},
        [("system", "s"), *UA],
    ),
    "query": ({"query": "u", "response": "a"}, UA),
    "problem": ({"problem": "u", "solution": "a"}, UA),
    "prompt": ({"prompt": "u", "response": "a"}, UA),
    "code": ({"text": "u", "code": "a"}, UA),
    "input": ({"input": "u", "output": "a"}, UA),
    "self-instruct": (
        {"instruction": "u", "instances": [{"input": "i", "output": "a"}]},
        [("user", "u\n\ni"), ("assistant", "a")],
    ),
    "messages": (
        {"messages": [{"role": "developer", "content": "s"}, {"role": "User", "content": "u"},
                      {"role": "assistant", "content": "a"}]},
        [("system", "s"), *UA],
    ),
    "messages in text": (
        {"messages": '[{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]'},
        UA,
    ),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}],
         "system": "s"},
        [("system", "s"), *UA],
    ),
    "sharegpt names": (
        {"items": [{"from": "prompter", "value": "u"}, {"from": "bing", "value": "a"}]},
        UA,
    ),
    "sgd": (
        {"turns": [{"speaker": "USER", "utterance": "u", "frames": []},
                   {"speaker": "SYSTEM", "utterance": "a", "frames": []}]},
        UA,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SINGLE)
def test_one_conversation(tmp_path: Path, name: str) -> None:
    row, expected = SINGLE[name]
    (item,) = read(tmp_path, {"id": 7, **row, "kind": ["x", None], "score": 0.5})
    assert turns(item) == expected
    assert item.source_id == "7"
    metadata = json.loads(item.metadata)
    assert {"kind": ["x", None], "score": 0.5}.items() <= metadata.items()
    assert set(metadata) <= {"kind", "score", "other_outputs", "message_extras"}


REQUESTED = {
    "preference": [
        ({"chosen": "\n\nHuman: u\n\nAssistant: a", "rejected": "\n\nHuman: u"}, UA),
        ({"prompt": "u", "chosen": "a", "rejected": "b"}, UA),
        ({"instruction": "u", "input": "i", "chosen": "a", "rejected": "b"},
         [("user", "u\n\ni"), ("assistant", "a")]),
        ({"prompt": "u", "chosen": [{"role": "user", "content": "u"},
                                    {"role": "assistant", "content": "a"}], "rejected": []}, UA),
        ({"prompt": [{"role": "user", "content": "u"}],
          "chosen": [{"role": "assistant", "content": "a"}], "rejected": []}, UA),
        ({"prompt": "u", "chosen": [{"role": "assistant", "content": "a"}], "rejected": []}, UA),
        ({"conversations": [{"from": "human", "value": "u"}],
          "chosen": {"from": "gpt", "value": "a"}, "rejected": {"from": "gpt", "value": "b"}}, UA),
    ],
    "kto": [
        ({"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}],
          "label": True}, UA),
        ({"prompt": "u", "completion": "a", "label": True}, UA),
    ],
    "squad": [
        ({"context": "c", "question": "u", "answers": {"text": ["a", "b"], "answer_start": [0, 1]}},
         [("user", "c\n\nu"), ("assistant", "a")]),
        ({"title": "t", "paragraphs": [{"context": "c", "qas": [
            {"id": "7", "question": "u", "answers": [{"text": "a"}]}]}]},
         [("user", "c\n\nu"), ("assistant", "a")]),
    ],
    "text": [({"text": "a"}, [("assistant", "a")])],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "number"), [(name, i) for name, rows in REQUESTED.items() for i in range(len(rows))]
)
def test_shapes_read_on_request(tmp_path: Path, name: str, number: int) -> None:
    row, expected = REQUESTED[name][number]
    with pytest.raises(AmbiguousFormatError, match=f"--format .*{name}"):
        read(tmp_path, row)
    (item,) = read(tmp_path, row, format=name)
    assert turns(item) == expected


def test_the_rejected_side_is_metadata(tmp_path: Path) -> None:
    row = {"prompt": "u", "chosen": "a", "rejected": "b", "source": "s"}
    (item,) = read(tmp_path, row, format="dpo")
    assert json.loads(item.metadata) == {"rejected": "b", "source": "s"}


def test_what_is_not_preferred(tmp_path: Path) -> None:
    row = {"prompt": "u", "completion": "a", "label": False}
    (item,) = read(tmp_path, row, format="kto")
    assert item.reason == "not preferred: label is false"


def test_explanation_before_the_target(tmp_path: Path) -> None:
    row = {"input": "u", "target": "a", "explanation": "because"}
    (plain,) = read(tmp_path, row)
    assert turns(plain) == UA
    assert json.loads(plain.metadata) == {"explanation": "because"}
    (explained,) = read(tmp_path, row, explanation=True)
    assert turns(explained) == [("user", "u"), ("assistant", "because\na")]
    assert explained.metadata == "{}"


def test_tools(tmp_path: Path) -> None:
    openai = {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "u"}, "v"]},
            {"role": "assistant", "content": None, "tool_calls": json.loads(CALL)},
            {"role": "tool", "content": "r", "tool_call_id": "1", "name": "f"},
            {"role": "assistant", "content": "a"},
        ],
        "tools": [{"name": "f"}],
    }
    sharegpt = {
        "conversations": [
            {"from": "human", "value": "uv"},
            {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
            {"from": "observation", "value": "r"},
            {"from": "gpt", "value": "a"},
        ],
        "tools": '[{"name": "f"}]',
    }
    (one,) = read(tmp_path, openai)
    (two,) = read(tmp_path, sharegpt)
    expected = (
        Message("user", "uv"),
        Message("assistant", "", tool_calls=CALL),
        Message("tool", "r"),
        Message("assistant", "a"),
    )
    assert two.instruction == Instruction(expected, '[{"name":"f"}]')
    tool = Message("tool", "r", name="f", tool_call_id="1")
    assert one.instruction == Instruction((*expected[:2], tool, expected[3]), '[{"name":"f"}]')


def test_parts_and_what_has_no_place(tmp_path: Path) -> None:
    row = {
        "messages": [
            {"role": "user", "content": [{"type": "text", "value": "u"}], "loss_weight": 0.0},
            {
                "role": "assistant",
                "content": [
                    {"type": "reasoning", "value": "hm"},
                    {"type": "tool_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
                ],
            },
        ]
    }
    (item,) = read(tmp_path, row)
    assert item.instruction.messages == (
        Message("user", "u"),
        Message("assistant", "", tool_calls=CALL, reasoning="hm"),
    )
    assert json.loads(item.metadata)["message_extras"] == [{"loss_weight": 0.0}, {}]


def chat(*messages: Any) -> dict[str, Any]:
    return {"messages": list(messages)}


U = {"role": "user", "content": "u"}
A = {"role": "assistant", "content": "a"}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (chat(), "no messages"),
        ({"messages": None}, "no messages"),
        ({"messages": "text"}, "messages is text, not a list"),
        ({"messages": "[broken"}, "messages is not JSON"),
        ({"other": 1}, "missing field: messages"),
        (chat(U), "no assistant turn"),
        (chat(U, {"role": "assistant", "content": None}), "empty response"),
        (
            chat(U, {"role": "stranger", "content": "a"}),
            "unknown role 'stranger': --role stranger=user reads it "
            "(or =assistant, =system, =tool)",
        ),
        (chat(U, {"role": None, "content": "a"}), "a turn has no role"),
        (chat(U, {"role": ["user"], "content": "a"}), "a turn has no role"),
        (chat(U, ["assistant", "a"]), "a turn is a list, not an object"),
        (chat(U, {"role": "assistant", "content": {"x": 1}}), "content is an object, not text"),
        (
            chat({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, A),
            "content part of type 'image_url'",
        ),
        (chat(U, {"role": "assistant", "tool_calls": "f("}), "tool_calls is not JSON"),
        (chat(U, {"role": "function_call", "content": "{}"}), "function call without a name"),
        (chat(U, {"role": "function_call", "content": "f()"}), "function call is not JSON"),
        ({**chat(U, A), "tools": 3}, "tools is a number, not a list"),
    ],
)
def test_chats_that_are_refused(tmp_path: Path, row: dict, reason: str) -> None:
    (item,) = read(tmp_path, row, format="messages")
    assert item.reason == reason


def test_one_bad_record_of_several(tmp_path: Path) -> None:
    task = {
        "Definition": "d",
        "Instances": [{"input": "i", "output": []}, 3, {"input": "j", "output": "a"}],
    }
    items = read(tmp_path, task, task)
    assert [getattr(item, "reason", "") for item in items] == [
        "empty response",
        "an instance is a number, not an object",
        "",
    ] * 2
    assert [item.line for item in items] == [1, 1, 1, 2, 2, 2]


def test_trees_give_every_path(tmp_path: Path) -> None:
    def node(text: str, role: str, *replies: Any) -> dict[str, Any]:
        return {"message_id": text, "text": text, "role": role, "replies": list(replies)}

    tree = node(
        "q",
        "prompter",
        node("a1", "assistant", node("q2", "prompter", node("b1", "assistant"))),
        node("a2", "assistant"),
        node("x", "stranger"),
    )
    items = read(tmp_path, {"message_tree_id": "t", "prompt": tree})
    assert turns(items[0]) == [
        ("user", "q"), ("assistant", "a1"), ("user", "q2"), ("assistant", "b1"),
    ]  # fmt: skip
    assert turns(items[1]) == [("user", "q"), ("assistant", "a2")]
    assert [item.source_id for item in items[:2]] == ["b1", "a2"]
    assert items[2].reason.startswith("unknown role 'stranger': --role stranger=user")


def test_empty_answers_of_targets(tmp_path: Path) -> None:
    rows = [
        {"prompt": "u", "target": None},
        {"prompt": "u", "target": ""},
        {"prompt": "u", "target": "a"},
    ]
    refused = read(tmp_path, *rows)
    assert [getattr(item, "reason", "") for item in refused] == ["empty response"] * 2 + [""]
    allowed = read(tmp_path, *rows, allow_empty_answer=True)
    assert [turns(item) for item in allowed] == [UA[:1], UA[:1], UA]


ASKING = {
    "two pairs": ({"question": "u", "answer": "a", "response": "b"}, "question_response"),
    "chat and pair": ({**chat(U, A), "instruction": "u", "output": "a"}, "alpaca"),
    "two chats": ({**chat(U, A), "conversations": [U, A]}, "sharegpt"),
    "unknown columns": ({"en_instruction": "u", "en_output": "a"}, "--map user=COLUMN"),
}


@pytest.mark.parametrize("name", ASKING)
def test_ambiguous_files_ask(tmp_path: Path, name: str) -> None:
    row, said = ASKING[name]
    with pytest.raises(AmbiguousFormatError, match=said) as error:
        read(tmp_path, row)
    assert error.value.exit_code == 2


DECIDED = {
    "more columns win": ({"definition": "d", "input": "i", "output": "o"}, "natural_instructions"),
    "a target beside its short answer": (
        {"prompt": "u", "target": "t", "answer": "a"}, "prompt_target",
    ),
    "text beside code": ({"text": "u", "code": "a"}, "text_code"),
    "other case": ({"Instruction": "u", " Output ": "a"}, "alpaca"),
}  # fmt: skip


@pytest.mark.parametrize("name", DECIDED)
def test_decided_files(tmp_path: Path, name: str) -> None:
    row, format_name = DECIDED[name]
    (item,) = read(tmp_path, row)
    assert isinstance(item, Record)
    assert read.decision.startswith(f"{format_name} (")  # type: ignore[attr-defined]


def test_the_majority_decides(tmp_path: Path) -> None:
    rows = [{"question": "u", "answer": "a"}] * 3 + [{"prompt": "u", "response": "a"}] * 2
    items = read(tmp_path, *rows)
    assert [getattr(item, "reason", "") for item in items] == [""] * 3 + [
        "missing field: question"
    ] * 2


def test_map(tmp_path: Path) -> None:
    row = {"q": "u", "more": "i", "deep": {"a": "a"}, "sys": "s", "key": 5, "left": 1}
    mapping = {"user": "q", "input": "more", "assistant": "deep.a", "system": "sys", "id": "key"}
    (item,) = read(tmp_path, row, mapping=mapping)
    assert turns(item) == [("system", "s"), ("user", "u\n\ni"), ("assistant", "a")]
    assert item.source_id == "5"
    assert json.loads(item.metadata) == {"deep": {"a": "a"}, "left": 1}
    row = {"talk": [U, A], "functions": [{"name": "f"}]}
    (item,) = read(tmp_path, row, mapping={"messages": "talk", "tools": "functions"})
    assert turns(item) == UA
    assert item.instruction.tools == '[{"name":"f"}]'
    (item,) = read(
        tmp_path, {"q": "u", "r": "a"}, format="alpaca", mapping={"instruction": "q", "output": "r"}
    )
    assert turns(item) == UA


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mapping": {"usr": "q"}}, "unknown key"),
        ({"mapping": {"user": "q"}}, "needs assistant"),
        ({"mapping": {"user": "q", "assistant": "zz"}}, "'zz'"),
        ({"format": "alpacca"}, "did you mean alpaca"),
        ({"format": "map"}, "needs --map"),
    ],
)
def test_calls_that_are_wrong(tmp_path: Path, options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read(tmp_path, {"q": "u", "r": "a"}, **options)


def test_parse_mapping() -> None:
    assert ReadOptions.parse_mapping("user=a, assistant=b.c") == {"user": "a", "assistant": "b.c"}
    assert ReadOptions.parse_mapping(None) == {}
    for text in ("user", "user=", "=a", "user=a,user=b"):
        with pytest.raises(UsageError, match="KEY=COLUMN"):
            ReadOptions.parse_mapping(text)


def test_options_as_data() -> None:
    options = ReadOptions(format="flan", mapping={"input": "q"}, explanation=True)
    assert ReadOptions.from_dict(json.loads(json.dumps(options.as_dict()))) == options


def test_every_alias_is_one_importers() -> None:
    names = [
        name for importer in importers().values() for name in (importer.name, *importer.aliases)
    ]
    assert len(names) == len(set(names))
    assert importer_named("OpenAI").name == "messages"


def test_an_importer_of_another_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from coresetdb.ingest.importers import detection
    from coresetdb.ingest.importers.importer import Importer, dialogue, parsed

    mine = Importer(
        name="riddles",
        reads="riddle, solved",
        fits=lambda record: ["riddle", "solved"] if "riddle" in record else None,
        read=lambda record, options: [
            parsed(record, ("riddle", "solved"),
                  dialogue("", ("user", record["riddle"]), ("assistant", record["solved"])))
        ],
    )  # fmt: skip

    class Entry:
        name = value = "riddles"

        def load(self) -> Importer:
            return mine

    detection.importers.cache_clear()
    monkeypatch.setattr(detection, "entry_points", lambda group: [Entry()])
    try:
        (item,) = read(tmp_path, {"riddle": "u", "solved": "a"})
        assert turns(item) == UA
    finally:
        detection.importers.cache_clear()


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5), TEXT)
def test_text_survives_unchanged(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]], name: str
) -> None:
    path = tmp_path_factory.mktemp("t") / "rows.jsonl"
    rows = [{"question": q, "answer": a, "about": {name: q}} for q, a in pairs]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_bytes(text.encode())
    for item, (question, answer) in zip(open_source(str(path)), pairs, strict=True):
        if answer.strip():
            assert turns(item) == [("user", question), ("assistant", answer)]
            assert json.loads(item.metadata) == {"about": {name: question}}
        else:
            assert item.reason == "empty response"
