"""`sharegpt`: conversations of from and value, with tool calls as LLaMA-Factory reads them.

A call is a turn of `function_call` whose value is the JSON of one call or a list of them, a tool's
answer a turn of `observation`. Call ids and tool names have no place there and are counted.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

import pyarrow as pa

from ...schemas.canonical import canonical_json
from ...schemas.instruction import Instruction, Message
from .shape import Converted, Format, UnfitError, calls_of

_SPEAKER = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}

NAMES_LEFT_OUT = "names and call ids of messages have no place in sharegpt"


def _sharegpt_convert(instruction: Instruction) -> Converted:
    turns, traits, remarks = [], set(), set()
    for place, message in enumerate(instruction.messages):
        if message.role == "system" and place:
            raise UnfitError("a system text inside the conversation")
        if message.name is not None or message.tool_call_id is not None:
            remarks.add(NAMES_LEFT_OUT)
        if message.tool_calls is None:
            turns.append({"from": _SPEAKER[message.role], "value": message.content})
            continue
        traits.add("calls")
        turns.append({"from": "function_call", "value": _sharegpt_calls(message, remarks)})
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
    plain = [
        {"name": call["function"]["name"], "arguments": _sharegpt_parsed(call["function"]["arguments"])}
        for call in calls
    ]
    return canonical_json(plain[0] if len(plain) == 1 else plain)


def _sharegpt_parsed(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except ValueError:  # arguments that are no JSON stay the text they are
        return arguments


def _sharegpt_columns(traits: Collection[str]) -> dict[str, pa.DataType]:
    turn = pa.struct([pa.field("from", pa.string()), pa.field("value", pa.string())])
    columns: dict[str, pa.DataType] = {"conversations": pa.list_(turn)}
    return columns | ({"tools": pa.string()} if "tools" in traits else {})


def _axolotl_sharegpt(traits: Collection[str]) -> dict[str, Any] | str:
    if traits:
        return "axolotl reads tool calls in the messages format: export --format messages"
    return {
        "type": "chat_template",
        "field_messages": "conversations",
        "message_property_mappings": {"role": "from", "content": "value"},
    }


def _llama_factory_sharegpt(traits: Collection[str]) -> dict[str, Any] | str:
    columns = {"messages": "conversations"} | ({"tools": "tools"} if "tools" in traits else {})
    return {"formatting": "sharegpt", "columns": columns}


def _sharegpt_roles(fields: Any) -> list[str]:
    plain = {"human": "user", "observation": "user", "gpt": "assistant"}
    plain["function_call"] = "assistant"
    return [plain.get(turn["from"], "system") for turn in fields["conversations"]]


SHAREGPT = Format("sharegpt", _sharegpt_convert, _sharegpt_columns, _axolotl_sharegpt, _llama_factory_sharegpt, _sharegpt_roles)
