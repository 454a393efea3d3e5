"""What an export format is, and what formats share: tool calls and conversations cut in turns."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from ...schemas.canonical import canonical_json
from ...schemas.instruction import Instruction


class UnfitError(Exception):
    """A format cannot hold this row; the text is the reason, the same for all such rows."""


@dataclass(frozen=True)
class Converted:
    """A row in a format: its fields, and what the format could only say in another way.

    `traits` are facts about the row that decide which columns the file has and which trainers can
    read it, such as the names of optional columns that it fills.
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
        columns: name -> Arrow type, for the traits the exported rows have together.
        axolotl: entry of axolotl's `datasets`, or the reason why there is none, by those traits.
        llama_factory: entry of dataset_info.json, or the reason why there is none.
        turns: who speaks in which order, as LLaMA-Factory tells a broken conversation; None
            where the format cannot be broken.
    """

    name: str
    convert: Callable[[Instruction], Converted]
    columns: Callable[[Collection[str]], dict[str, pa.DataType]]
    axolotl: Callable[[Collection[str]], dict[str, Any] | str]
    llama_factory: Callable[[Collection[str]], dict[str, Any] | str]
    turns: Callable[[Mapping[str, Any]], list[str]] | None = field(default=None)


def call_type(ids: bool) -> pa.DataType:
    """A tool call as OpenAI writes it: arguments are a JSON text, so that types stay uniform."""
    function = pa.struct([pa.field("name", pa.string()), pa.field("arguments", pa.string())])
    call = [pa.field("type", pa.string()), pa.field("function", function)]
    return pa.struct([pa.field("id", pa.string()), *call] if ids else call)


def calls_of(text: str) -> list[dict[str, Any]]:
    """Tool calls, stored as JSON in any of the usual ways, in the form of `call_type`.

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
    """System text (None without) and (user, assistant) pairs of a plain conversation.

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
