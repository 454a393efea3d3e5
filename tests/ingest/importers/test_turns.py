"""Turns in every container, under every name, and with every kind of content."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.reading import opened, read, reasons, turns

from coresetdb.schemas.errors import UsageError
from coresetdb.schemas.instruction import Message, Record

UA = [("user", "u"), ("assistant", "a")]
FOUR = [*UA, ("user", "v"), ("assistant", "b")]
OPENAI = [{"role": role, "content": text} for role, text in FOUR]


def call(name: str, arguments: Any, **ids: str) -> dict[str, Any]:
    return {**ids, "type": "function", "function": {"name": name, "arguments": arguments}}


def canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


CONTAINERS: dict[str, dict[str, Any]] = {
    "dict of lists": {"messages": {"role": [r for r, _ in FOUR], "content": [c for _, c in FOUR]}},
    "dict of lists, ShareGPT": {
        "conversations": {"from": ["human", "gpt"] * 2, "value": [c for _, c in FOUR]}
    },
    "texts in turn": {"data": [c for _, c in FOUR]},
    "texts in turn as dialogue": {"dialogue": [c for _, c in FOUR]},
    "texts in turn as messages": {"messages": [c for _, c in FOUR]},
    "pairs": {"conversation": [["u", "a"], ["v", "b"]]},
    "role and text": {
        "conversations": [["human", "u"], ["gpt", "a"], ["human", "v"], ["gpt", "b"]]
    },
    "rounds": {"conversation": [{"human": "u", "bot": "a"}, {"human": "v", "bot": "b"}]},
    "rounds of questions": {"dialog": [{"question": "u", "answer": "a"},
                                       {"question": "v", "answer": "b"}]},
    "one key a turn": {"messages": [{"user": "u"}, {"ai": "a"}, {"user": "v"}, {"ai": "b"}]},
    "JSON text": {"messages": json.dumps(OPENAI)},
    "JSON text of columns": {"messages": json.dumps({"role": [r for r, _ in FOUR],
                                                     "content": [c for _, c in FOUR]})},
    "JSON text around them": {"conversation": json.dumps({"messages": OPENAI})},
    "JSON texts": {"messages": [json.dumps(turn) for turn in OPENAI]},
    "a list in a list": {"messages": [OPENAI]},
    "other keys": {"turns": [{"speaker": r, "text": c} for r, c in FOUR]},
    "Gemini": {"contents": [{"role": "model" if r == "assistant" else r, "parts": [{"text": c}]}
                            for r, c in FOUR]},
    "TRL": {"prompt": OPENAI[:3], "completion": OPENAI[3:]},
    "TRL, one turn": {"prompt": OPENAI[:3], "completion": OPENAI[3]},
    "TRL, text completion": {"prompt": OPENAI[:3], "completion": "b"},
    "Responses": {"input": OPENAI[:3], "output": [
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "b"}]}
    ]},
}  # fmt: skip


@pytest.mark.parametrize("name", CONTAINERS)
@pytest.mark.parametrize("system", [False, True], ids=["plain", "system"])
def test_containers(tmp_path: Path, name: str, system: bool) -> None:
    beside = {"system": "s", "tools": [call("f", {})]} if system else {}
    (item,) = read(tmp_path, {"id": "7", **CONTAINERS[name], **beside})
    assert turns(item) == [("system", "s")] * system + FOUR
    assert isinstance(item, Record)
    assert (item.instruction.tools is not None) == system
    assert item.source_id == "7"


def test_texts_beside_a_question_are_no_conversation(tmp_path: Path) -> None:
    for column in ("data", "items", "contents"):
        source = opened(tmp_path, {"question": "u", "answer": "a", column: ["x", "y"]})
        assert source.format == "question_answer"
        assert [turns(item) for item in source] == [UA]


ROLES = {
    "user": "user human Human prompter USER client customer input question instruction",
    "assistant": "assistant gpt ai bot Chatbot model bard bing ChatGPT agent output answer",
    "system": "system developer System",
    "tool": "tool ipython environment tool_response function_response function-response "
    "tool_result tool-output observation user_tool function Tool_Response",
}


@pytest.mark.parametrize(
    ("name", "role"), [(name, role) for role, names in ROLES.items() for name in names.split()]
)
@pytest.mark.parametrize(
    "keys", [("role", "content"), ("from", "value")], ids=["openai", "sharegpt"]
)
def test_roles(tmp_path: Path, name: str, role: str, keys: tuple[str, str]) -> None:
    said = [("user", "u"), (name, "x"), ("assistant", "a")]
    column = "messages" if keys[0] == "role" else "conversations"
    (item,) = read(tmp_path, {column: [dict(zip(keys, turn, strict=True)) for turn in said]})
    assert turns(item) == [("user", "u"), (role, "x"), ("assistant", "a")]


def test_unknown_roles_are_offered_a_meaning(tmp_path: Path) -> None:
    row = {"messages": [{"role": "Game Master", "content": "s"}, *OPENAI[:2]]}
    source = opened(tmp_path, row, row)
    assert (
        reasons(list(source))
        == [
            "unknown role 'Game Master': --role 'Game Master=user' reads it "
            "(or =assistant, =system, =tool)"
        ]
        * 2
    )
    assert source.remarks == [
        "2 records rejected for the unknown role 'Game Master': "
        "--role 'Game Master=user' reads it (or =assistant, =system, =tool)"
    ]
    (item, _) = read(tmp_path, row, row, roles={"game-master": "system"})
    assert turns(item) == [("system", "s"), *UA]
    (item,) = read(tmp_path, {"messages": OPENAI[:2]}, roles={"user": "system"})
    assert turns(item) == [("system", "u"), ("assistant", "a")]
    with pytest.raises(UsageError, match=r"the roles are user, assistant, system, tool"):
        read(tmp_path, row, roles={"x": "narrator"})


def test_tool_calls_as_turns(tmp_path: Path) -> None:
    f, g = {"name": "f", "arguments": {"x": 1}}, {"name": "g", "arguments": {}}
    row = {
        "messages": [
            {"role": "user", "content": "u"},
            {"role": "tool_call", "content": json.dumps(f)},
            {"role": "tool_call", "content": g},
            {"role": "tool_response", "content": {"t": 1.5, "ok": True}},
            {"role": "tool", "content": [{"t": 2}]},
            {"role": "tool", "content": 21},
            {"role": "tool", "content": {"type": "sunny", "text": "warm", "deg": [20]}},
            {"role": "assistant", "content": "a"},
        ]
    }
    (item,) = read(tmp_path, row)
    assert isinstance(item, Record)
    calls = canonical([call("f", {"x": 1}), call("g", {})])
    assert item.instruction.messages == (
        Message("user", "u"),
        Message("assistant", "", tool_calls=calls),
        Message("tool", '{"t": 1.5, "ok": true}'),
        Message("tool", '[{"t": 2}]'),
        Message("tool", "21"),
        Message("tool", '{"type": "sunny", "text": "warm", "deg": [20]}'),
        Message("assistant", "a"),
    )


ANTHROPIC = {
    "system": [{"type": "text", "text": "s"}],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "u"}]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "hm", "signature": "xx"},
            {"type": "text", "text": "a"},
            {"type": "tool_use", "id": "1", "name": "f", "input": {"x": 1}},
            {"type": "tool_use", "id": "2", "name": "g", "input": {}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "1", "content": "r"},
            {"type": "tool_result", "tool_use_id": "2", "content": [{"type": "text", "text": "q"}]},
            {"type": "text", "text": "v"},
        ]},
        {"role": "assistant", "content": "b"},
    ],
}  # fmt: skip
RESPONSES = {
    "instructions": "s",
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "u"}]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a"}]},
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": '{"x": 1}'},
        {"type": "function_call", "call_id": "2", "name": "g", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": "r"},
        {"type": "function_call_output", "call_id": "2", "output": "q"},
        {"role": "user", "content": "v"},
    ],
    "output": [{"role": "assistant", "content": [{"type": "output_text", "text": "b"}]}],
}
GEMINI = {
    "systemInstruction": {"parts": [{"text": "s"}]},
    "contents": [
        {"role": "user", "parts": [{"text": "u"}]},
        {"role": "model", "parts": [
            {"text": "hm", "thought": True},
            {"text": "a"},
            {"functionCall": {"name": "f", "args": {"x": 1}}},
        ]},
        {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {"r": 1}}}]},
        {"role": "model", "parts": [{"text": "b"}]},
    ],
}  # fmt: skip


def messages_of(item: Any) -> tuple[Message, ...]:
    assert isinstance(item, Record), item
    return item.instruction.messages


def test_anthropic(tmp_path: Path) -> None:
    (item,) = read(tmp_path, ANTHROPIC)
    calls = canonical([call("f", {"x": 1}, id="1"), call("g", {}, id="2")])
    assert messages_of(item) == (
        Message("system", "s"),
        Message("user", "u"),
        Message("assistant", "a", tool_calls=calls, reasoning="hm"),
        Message("tool", "r", tool_call_id="1"),
        Message("tool", "q", tool_call_id="2"),
        Message("user", "v"),
        Message("assistant", "b"),
    )


def test_responses(tmp_path: Path) -> None:
    (item,) = read(tmp_path, RESPONSES)
    calls = canonical([call("f", '{"x": 1}', id="1"), call("g", "{}", id="2")])
    assert messages_of(item) == (
        Message("system", "s"),
        Message("user", "u"),
        Message("assistant", "a", reasoning="hm"),
        Message("assistant", "", tool_calls=calls),
        Message("tool", "r", tool_call_id="1"),
        Message("tool", "q", tool_call_id="2"),
        Message("user", "v"),
        Message("assistant", "b"),
    )


def test_gemini(tmp_path: Path) -> None:
    (item,) = read(tmp_path, GEMINI)
    assert messages_of(item) == (
        Message("system", "s"),
        Message("user", "u"),
        Message("assistant", "a", tool_calls=canonical([call("f", {"x": 1})]), reasoning="hm"),
        Message("tool", '{"r": 1}', name="f"),
        Message("assistant", "b"),
    )


@pytest.mark.parametrize(
    "said",
    [
        {"reasoning_content": "hm"},
        {"reasoning": "hm"},
        {"thinking": "hm"},
        {"thought": ["hm"]},
        {"reasoning": [{"type": "text", "text": "hm"}]},
        {"content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a"}]},
        {"content": [{"type": "reasoning", "text": "hm"}, "a"]},
        {"reasoning": "hm", "reasoning_content": "hm"},
    ],
    ids=str,
)
def test_reasoning_is_part_of_an_answer(tmp_path: Path, said: dict[str, Any]) -> None:
    answer = {"role": "assistant", "content": "a", **said}
    (item,) = read(tmp_path, {"messages": [OPENAI[0], answer]})
    assert messages_of(item)[-1] == Message("assistant", "a", reasoning="hm")
    assert isinstance(item, Record) and item.metadata == "{}"


def test_reasoning_that_says_nothing(tmp_path: Path) -> None:
    answers = [
        {"role": "assistant", "content": "a", "reasoning_content": said} for said in (" ", None)
    ]
    for item in read(tmp_path, *({"messages": [OPENAI[0], answer]} for answer in answers)):
        assert messages_of(item)[-1] == Message("assistant", "a")
    (item,) = read(tmp_path, {"messages": [{**OPENAI[0], "thinking": "why"}, OPENAI[1]]})
    assert isinstance(item, Record)
    assert json.loads(item.metadata) == {"message_extras": [{"thinking": "why"}, {}]}


@pytest.mark.parametrize(
    "mark",
    [{"weight": 0}, {"weight": "0"}, {"weight": 0.0}, {"train": False}, {"loss": "false"},
     {"training": False}, {"loss_weight": 0.0}],
    ids=str,
)  # fmt: skip
def test_answers_that_are_not_trained_on(tmp_path: Path, mark: dict[str, Any]) -> None:
    (item,) = read(tmp_path, {"messages": [OPENAI[0], {**OPENAI[1], **mark}, *OPENAI[2:]]})
    assert [message.train for message in messages_of(item)] == [None, False, None, None]
    assert isinstance(item, Record) and item.metadata == "{}"


def test_weights_that_are_the_rule_or_a_fraction(tmp_path: Path) -> None:
    plain, whole, part = read(
        tmp_path,
        {"messages": OPENAI[:2]},
        {"messages": [OPENAI[0], {**OPENAI[1], "weight": 1, "train": True}]},
        {"messages": [OPENAI[0], {**OPENAI[1], "weight": 0.5}]},
    )
    assert messages_of(plain) == messages_of(whole) == messages_of(part)
    assert isinstance(part, Record) and isinstance(whole, Record)
    assert whole.metadata == "{}"
    assert json.loads(part.metadata) == {"message_extras": [{}, {"weight": 0.5}]}


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        ({"role": "user", "content": [{"type": "image"}]}, "content part of type 'image'"),
        ({"role": "user", "parts": [{"inlineData": {}}]}, "content part of type 'inlineData'"),
        ({"role": "user", "parts": [{"executableCode": {"code": "x"}}]},
         "content part of type 'executableCode'"),
        ({"role": "tool", "content": [{"type": "image_url", "image_url": {}}]},
         "content part of type 'image_url'"),
        ({"type": "function_call", "arguments": "{}"}, "function call without a name"),
        ({"role": "tool_call", "content": "f(x)"}, "function call is not JSON"),
        ({"role": "user", "content": [{"type": "tool_result", "content": [{"type": "image"}]}]},
         "content part of type 'image'"),
    ],
    ids=str,
)  # fmt: skip
def test_content_that_is_refused(tmp_path: Path, turn: dict[str, Any], reason: str) -> None:
    items = read(tmp_path, {"messages": [OPENAI[0], turn, OPENAI[1]]})
    assert reasons(items) == [reason]


def test_lists_of_different_length(tmp_path: Path) -> None:
    items = read(tmp_path, {"messages": {"role": ["user", "assistant"], "content": ["u"]}})
    assert reasons(items) == ["messages: the lists of roles and contents differ in length"]


TOOLS = {
    "wrapped": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    "Anthropic": [{"name": "f", "input_schema": {"type": "object"}}],
    "Responses": [{"type": "function", "name": "f", "parameters": {"type": "object"}}],
    "Gemini": [{"functionDeclarations": [{"name": "f", "parameters": {"type": "object"}}]}],
    "without type": [{"function": {"name": "f", "parameters": {"type": "object"}}}],
}


@pytest.mark.parametrize("form", TOOLS)
@pytest.mark.parametrize("how", ["list", "text", "texts"])
def test_tools_have_one_form(tmp_path: Path, form: str, how: str) -> None:
    tools: Any = TOOLS[form]
    tools = {"list": tools, "text": json.dumps(tools), "texts": [json.dumps(t) for t in tools]}[how]
    (item,) = read(tmp_path, {"messages": OPENAI, "tools": tools})
    assert isinstance(item, Record)
    assert item.instruction.tools == canonical(TOOLS["wrapped"])


def test_bare_tools_stay_bare(tmp_path: Path) -> None:
    bare = [{"name": "f", "description": "d", "parameters": {}}]
    (item,) = read(tmp_path, {"messages": OPENAI, "tools": bare})
    assert isinstance(item, Record)
    assert item.instruction.tools == canonical(bare)  # rows of earlier versions keep their ids


def test_prompts_alone_are_examples_of_a_target(tmp_path: Path) -> None:
    for row in (
        {"prompt": "u", "kind": "x"},
        {"question": "u"},
        {"instruction": "u", "input": ""},
        {"prompt": OPENAI[:1]},
        {"messages": OPENAI[:1]},
    ):
        (item,) = read(tmp_path, row, row, allow_empty_answer=True)[:1]
        assert turns(item) == [("user", "u")]
    (item,) = read(tmp_path, {"instruction": "u", "input": "i"}, allow_empty_answer=True)
    assert turns(item) == [("user", "u\n\ni")]
    (item,) = read(tmp_path, {"q": "u"}, allow_empty_answer=True, mapping={"user": "q"})
    assert turns(item) == [("user", "u")]
