"""The export formats: how each writes a conversation, and what axolotl and LLaMA-Factory need.

A format is a `Format`: `messages`, `prompt-completion`, `alpaca` and `sharegpt`, in this order.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import pyarrow as pa

from ..schemas.canonical import canonical_json
from ..schemas.instruction import Instruction, Message
from ..schemas.reasoning import as_blocks, as_fields, without_reasoning


class UnfitError(Exception):
    """A format cannot hold this row; the text is the reason, the same for all such rows."""


@dataclass(frozen=True)
class Converted:
    """A row in a format: its fields, and remarks on what the format had to write differently.

    `traits` decide which columns the file has and which trainers can read it, such as the names of
    optional columns that the row fills.
    """

    fields: dict[str, Any]
    traits: frozenset[str] = frozenset()
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Format:
    """An export format.

    Attributes:
        name: as `--format` takes it.
        convert: a row's fields; raises UnfitError.
        columns: name -> Arrow type, by the traits of all exported rows.
        axolotl: entry of axolotl's `datasets`, or why there is none, by those traits.
        llama_factory: entry of dataset_info.json, or why there is none, by those traits.
        every_trait: those that decide about columns.
        turns: the roles in order, by which LLaMA-Factory recognises a broken conversation; None
            where no conversation of the format can be broken.
        reasoning_field: whether reasoning can stand beside the text of an answer.
    """

    name: str
    convert: Callable[[Instruction], Converted]
    columns: Callable[[Collection[str]], dict[str, pa.DataType]]
    axolotl: Callable[[Collection[str]], dict[str, Any] | str]
    llama_factory: Callable[[Collection[str]], dict[str, Any] | str]
    every_trait: frozenset[str] = frozenset()
    turns: Callable[[Mapping[str, Any]], list[str]] | None = field(default=None)
    reasoning_field: bool = False


def call_type(ids: bool) -> pa.DataType:
    """The type of a tool call as OpenAI writes it; arguments are JSON text, so that rows agree."""
    function = pa.struct([pa.field("name", pa.string()), pa.field("arguments", pa.string())])
    call = [pa.field("type", pa.string()), pa.field("function", function)]
    return pa.struct([pa.field("id", pa.string()), *call] if ids else call)


def calls_of(text: str) -> list[dict[str, Any]]:
    """Convert tool calls, stored as JSON in any of the usual forms, to `call_type`.

    Raises:
        UnfitError: a call has no name.
    """
    stored = json.loads(text)
    calls = []
    for call in stored if isinstance(stored, list) else [stored]:
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise UnfitError("a tool call without a function name")
        arguments = function.get("arguments", function.get("parameters", {}))
        if not isinstance(arguments, str):
            arguments = canonical_json(arguments)
        calls.append(
            {
                "id": call.get("id"),
                "type": "function",
                "function": {"name": function["name"], "arguments": arguments},
            }
        )
    return calls


def uses_tools(instruction: Instruction) -> bool:
    """Whether tools are offered, called or answered in a conversation."""
    return instruction.tools is not None or any(
        message.tool_calls or message.role == "tool" for message in instruction.messages
    )


def exchanges(instruction: Instruction) -> tuple[str | None, list[tuple[str, str]]]:
    """Return the system text, or None, and the (user, assistant) pairs of a plain conversation.

    Raises:
        UnfitError: it uses tools, or user and assistant do not take turns.
    """
    if uses_tools(instruction):
        raise UnfitError("tool calls")
    messages = list(instruction.messages)
    system = messages.pop(0).content if messages and messages[0].role == "system" else None
    roles = [message.role for message in messages]
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
        raise UnfitError("user and assistant do not take turns")
    texts = [message.content for message in messages]
    return system, list(zip(texts[::2], texts[1::2], strict=True))


Reasoning = Literal["stored", "reasoning_content", "thinking", "inline", "drop"]
REASONING: tuple[Reasoning, ...] = get_args(Reasoning)
"""Where the reasoning of answers goes: where it was, as far as the format can; under one of these
keys; to a `<think>` block in the text; nowhere."""
REASONING_KEYS: tuple[Reasoning, ...] = ("reasoning_content", "thinking")

REASONING_JOINED = "reasoning stands in the answer as a <think> block"
REASONING_LEFT_OUT = "reasoning is left out"


def convert(instruction: Instruction, shape: Format, reasoning: Reasoning) -> Converted:
    """A row in a format, with its reasoning where an export wants it.

    Raises:
        UnfitError: the format cannot hold it, or nothing would be left of an answer.
    """
    if reasoning == "drop":
        bare = without_reasoning(instruction)
        if any(
            old.answers and not new.answers
            for old, new in zip(instruction.messages, bare.messages, strict=True)
        ):
            raise UnfitError("an answer of reasoning alone")
        remarks = (REASONING_LEFT_OUT,) if bare != instruction else ()
        return _remarked(shape.convert(bare), remarks)
    if reasoning in REASONING_KEYS:
        return _keyed(shape.convert(as_fields(instruction)), reasoning)
    joined = as_blocks(instruction)
    if reasoning == "inline":
        return shape.convert(joined)
    if not shape.reasoning_field and joined != instruction:
        return _remarked(shape.convert(joined), (REASONING_JOINED,))
    return shape.convert(instruction)


def _remarked(converted: Converted, remarks: tuple[str, ...]) -> Converted:
    return replace(converted, remarks=(*converted.remarks, *remarks))


def _keyed(converted: Converted, key: Reasoning) -> Converted:
    """The same with reasoning under another key."""
    usual = REASONING_KEYS[0]
    if key == usual or usual not in converted.traits:
        return converted
    for turn in converted.fields["messages"]:
        if usual in turn:
            turn[key] = turn.pop(usual)
    return replace(converted, traits=converted.traits - {usual} | {key})


_OPTIONAL_FIELDS = ("name", "tool_calls", "tool_call_id", *REASONING_KEYS, "train")

UNTRAINED = "`train` is false for an answer that is context only, which not every trainer reads"
UNTRAINED_HISTORY = "an answer in `history` is context only, and trainers may train on it"


def _messages_convert(instruction: Instruction) -> Converted:
    """What TRL, axolotl, open-instruct, ms-swift, unsloth and torchtune read.

    A message has `role` and `content`. Other fields appear, null where they do not apply, only if
    some exported row uses them: all rows of the file have one type.
    """
    messages, traits, remarks = [], set(), set()
    for message in instruction.messages:
        turn: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.name is not None:
            turn["name"] = message.name
        if message.tool_calls is not None:
            turn["tool_calls"] = calls_of(message.tool_calls)
            if any(call["id"] is not None for call in turn["tool_calls"]):
                traits.add("call_ids")
        if message.tool_call_id is not None:
            turn["tool_call_id"] = message.tool_call_id
        if message.reasoning is not None:
            turn["reasoning_content"] = message.reasoning
        if message.train is not None:
            turn["train"] = message.train
            remarks.add(UNTRAINED)
        traits |= set(_OPTIONAL_FIELDS) & turn.keys()
        if message.role == "tool":
            traits.add("tool_turns")
        messages.append(turn)
    fields: dict[str, Any] = {"messages": messages}
    if instruction.tools is not None:
        fields["tools"] = instruction.tools
        traits.add("tools")
    return Converted(fields, frozenset(traits), tuple(remarks))


def _messages_columns(traits: Collection[str]) -> dict[str, pa.DataType]:
    turn = [pa.field("role", pa.string()), pa.field("content", pa.string())]
    own = {"tool_calls": pa.list_(call_type("call_ids" in traits)), "train": pa.bool_()}
    turn += [
        pa.field(name, own.get(name, pa.string())) for name in _OPTIONAL_FIELDS if name in traits
    ]
    columns: dict[str, pa.DataType] = {"messages": pa.list_(pa.struct(turn))}
    return columns | ({"tools": pa.string()} if "tools" in traits else {})


def _axolotl_messages(traits: Collection[str]) -> dict[str, Any] | str:
    if "tools" in traits:
        return "axolotl wants `tools` as a list, here it is JSON text (as TRL reads it)"
    return _axolotl_chat("messages", "role", "content", traits)


def _axolotl_chat(field: str, role: str, content: str, traits: Collection[str]) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "type": "chat_template",
        "field_messages": field,
        "message_property_mappings": {"role": role, "content": content},
    }
    if "thinking" in traits:  # it reads `reasoning_content` by itself
        entry |= {"field_thinking": "thinking", "template_thinking_key": "thinking"}
    return entry | ({"message_field_training": "train"} if "train" in traits else {})


TRAINS_ON_ALL = "LLaMA-Factory trains on every answer, and some are context only"


def _llama_factory_messages(traits: Collection[str]) -> dict[str, Any] | str:
    if {"tools", "tool_calls", "tool_turns"} & set(traits):
        return "LLaMA-Factory reads tool calls in the sharegpt format: export --format sharegpt"
    if {*REASONING_KEYS} & set(traits):
        return "LLaMA-Factory reads reasoning in the answer: export --reasoning inline"
    if "train" in traits:
        return TRAINS_ON_ALL
    return {
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "system_tag": "system",
        },
    }


MESSAGES = Format(
    "messages",
    _messages_convert,
    _messages_columns,
    _axolotl_messages,
    _llama_factory_messages,
    frozenset({"tools"}),
    lambda fields: [turn["role"] for turn in fields["messages"]],
    reasoning_field=True,
)


SYSTEM_JOINED = "the system text stands before the prompt"


def _prompt_completion_convert(instruction: Instruction) -> Converted:
    """A question and an answer. A system text goes before the question, after it a blank line.

    Trainers that apply no template to plain texts (TRL) join the two as they are: for chat models
    use `messages`.
    """
    system, pairs = exchanges(instruction)
    if len(pairs) > 1:
        raise UnfitError("several turns")
    prompt, completion = pairs[0]
    if system is None:
        return Converted({"prompt": prompt, "completion": completion})
    joined = f"{system}\n\n{prompt}"
    return Converted({"prompt": joined, "completion": completion}, remarks=(SYSTEM_JOINED,))


PROMPT_COMPLETION = Format(
    "prompt-completion",
    _prompt_completion_convert,
    lambda traits: {"prompt": pa.string(), "completion": pa.string()},
    lambda traits: {
        "type": {
            "system_prompt": "",
            "field_instruction": "prompt",
            "field_output": "completion",
            "format": "{instruction}",
            "no_input_format": "{instruction}",
        }
    },
    lambda traits: {
        "formatting": "alpaca",
        "columns": {"prompt": "prompt", "response": "completion"},
    },
)


def _alpaca_convert(instruction: Instruction) -> Converted:
    """`input` is always empty: it is part of the instruction here. Earlier turns go to `history`.

    `system` and `history` are columns of the file where some row fills them.
    """
    system, pairs = exchanges(instruction)
    answers = [message for message in instruction.messages if message.role == "assistant"]
    if answers[-1].train is False:
        raise UnfitError("a last answer that is context only")
    question, answer = pairs[-1]
    fields: dict[str, Any] = {"instruction": question, "input": "", "output": answer}
    fields["system"] = system or ""
    fields["history"] = [list(pair) for pair in pairs[:-1]]
    traits = {name for name in ("system", "history") if fields[name]}
    remarks = (UNTRAINED_HISTORY,) if any(turn.train is False for turn in answers) else ()
    return Converted(fields, frozenset(traits), remarks)


def _alpaca_columns(traits: Collection[str]) -> dict[str, pa.DataType]:
    columns: dict[str, pa.DataType] = dict.fromkeys(("instruction", "input", "output"), pa.string())
    if "system" in traits:
        columns["system"] = pa.string()
    if "history" in traits:
        columns["history"] = pa.list_(pa.list_(pa.string()))
    return columns


def _axolotl_alpaca(traits: Collection[str]) -> dict[str, Any] | str:
    if traits:
        return f"axolotl's alpaca type reads no {' and no '.join(sorted(traits))}"
    return {"type": "alpaca"}


def _llama_factory_alpaca(traits: Collection[str]) -> dict[str, Any] | str:
    columns = {"prompt": "instruction", "query": "input", "response": "output"}
    return {"formatting": "alpaca", "columns": columns | {name: name for name in sorted(traits)}}


ALPACA = Format(
    "alpaca",
    _alpaca_convert,
    _alpaca_columns,
    _axolotl_alpaca,
    _llama_factory_alpaca,
    frozenset({"system", "history"}),
)


_SPEAKER = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}

NAMES_LEFT_OUT = "names and call ids of messages have no place in sharegpt"


def _sharegpt_convert(instruction: Instruction) -> Converted:
    """Turns of `from` and `value`, with tool calls as LLaMA-Factory reads them.

    A call is a turn of `function_call` whose value is the JSON of one call or a list of them, the
    answer of a tool a turn of `observation`. Call ids and tool names are left out, with a remark.
    """
    turns, traits, remarks = [], set(), set()
    for place, message in enumerate(instruction.messages):
        if message.role == "system" and place:
            raise UnfitError("a system text inside the conversation")
        if message.name is not None or message.tool_call_id is not None:
            remarks.add(NAMES_LEFT_OUT)
        if message.tool_calls is None:
            turn: dict[str, Any] = {"from": _SPEAKER[message.role], "value": message.content}
        else:
            traits.add("calls")
            turn = {"from": "function_call", "value": _sharegpt_calls(message, remarks)}
        if message.train is not None:
            turn["train"] = message.train
            traits.add("train")
            remarks.add(UNTRAINED)
        turns.append(turn)
    fields: dict[str, Any] = {"conversations": turns}
    if instruction.tools is not None:
        fields["tools"] = instruction.tools
        traits.add("tools")
    return Converted(fields, frozenset(traits), tuple(remarks))


def _sharegpt_calls(message: Message, remarks: set[str]) -> str:
    if message.content:
        raise UnfitError("text beside a tool call")
    assert message.tool_calls is not None
    calls = calls_of(message.tool_calls)
    if any(call["id"] is not None for call in calls):
        remarks.add(NAMES_LEFT_OUT)
    plain = [call["function"] for call in calls]
    for function in plain:
        with suppress(ValueError):  # arguments that are no JSON stay the text they are
            function["arguments"] = json.loads(function["arguments"])
    return canonical_json(plain[0] if len(plain) == 1 else plain)


def _sharegpt_columns(traits: Collection[str]) -> dict[str, pa.DataType]:
    turn = [pa.field("from", pa.string()), pa.field("value", pa.string())]
    turn += [pa.field("train", pa.bool_())] if "train" in traits else []
    columns: dict[str, pa.DataType] = {"conversations": pa.list_(pa.struct(turn))}
    return columns | ({"tools": pa.string()} if "tools" in traits else {})


def _axolotl_sharegpt(traits: Collection[str]) -> dict[str, Any] | str:
    if {"tools", "calls"} & set(traits):
        return "axolotl reads tool calls in the messages format: export --format messages"
    return _axolotl_chat("conversations", "from", "value", traits)


def _llama_factory_sharegpt(traits: Collection[str]) -> dict[str, Any] | str:
    if "train" in traits:
        return TRAINS_ON_ALL
    columns = {"messages": "conversations"} | ({"tools": "tools"} if "tools" in traits else {})
    return {"formatting": "sharegpt", "columns": columns}


def _sharegpt_roles(fields: Any) -> list[str]:
    plain = {"human": "user", "observation": "user", "gpt": "assistant"}
    plain["function_call"] = "assistant"
    return [plain.get(turn["from"], "system") for turn in fields["conversations"]]


SHAREGPT = Format(
    "sharegpt",
    _sharegpt_convert,
    _sharegpt_columns,
    _axolotl_sharegpt,
    _llama_factory_sharegpt,
    frozenset({"tools"}),
    _sharegpt_roles,
)
