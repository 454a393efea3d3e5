"""`messages`: what TRL, axolotl, open-instruct, ms-swift, unsloth and torchtune read.

Every message has exactly `role` and `content`; tool fields appear, null where they do not apply,
only when some exported row uses them, so that all rows have one type.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pyarrow as pa

from ...schemas.instruction import Instruction
from .shape import Converted, Format, call_type, calls_of

_TOOL_FIELDS = ("name", "tool_calls", "tool_call_id")


def _messages_convert(instruction: Instruction) -> Converted:
    messages, traits = [], set()
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
        traits |= set(_TOOL_FIELDS) & turn.keys()
        if message.role == "tool":
            traits.add("tool_turns")
        messages.append(turn)
    fields: dict[str, Any] = {"messages": messages}
    if instruction.tools is not None:
        fields["tools"] = instruction.tools
        traits.add("tools")
    return Converted(fields, frozenset(traits))


def _messages_columns(traits: Collection[str]) -> dict[str, pa.DataType]:
    turn = [pa.field("role", pa.string()), pa.field("content", pa.string())]
    calls = pa.list_(call_type("call_ids" in traits))
    turn += [
        pa.field(name, calls if name == "tool_calls" else pa.string())
        for name in _TOOL_FIELDS
        if name in traits
    ]
    columns: dict[str, pa.DataType] = {"messages": pa.list_(pa.struct(turn))}
    return columns | ({"tools": pa.string()} if "tools" in traits else {})


def _axolotl_messages(traits: Collection[str]) -> dict[str, Any] | str:
    if "tools" in traits:
        return "axolotl wants `tools` as a list, here it is JSON text (as TRL reads it)"
    return {
        "type": "chat_template",
        "field_messages": "messages",
        "message_property_mappings": {"role": "role", "content": "content"},
    }


def _llama_factory_messages(traits: Collection[str]) -> dict[str, Any] | str:
    if {"tools", "tool_calls", "tool_turns"} & set(traits):
        return "LLaMA-Factory reads tool calls in the sharegpt format: export --format sharegpt"
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
    lambda fields: [turn["role"] for turn in fields["messages"]],
)
