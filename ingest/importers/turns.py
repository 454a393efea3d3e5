"""Chat turns, in every dialect: {role, content} or {from, value}, content as text or parts.

Roles: human, prompter -> user; gpt, chatgpt, model, bing -> assistant; developer -> system;
observation, function -> tool; function_call is an assistant turn with tool calls. Upper and lower
case do not differ. An unknown role is refused by name.
"""

from __future__ import annotations

from typing import Any

from ...schemas.canonical import canonical_json
from ...schemas.instruction import Message
from ..readers.json_scan import DECODER
from .shape import Fields, Refused, as_canonical, kind_of, text_of

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bing": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
PLAIN_ROLES = {name: role for name, role in ROLES.items() if name != "function_call"}
ROLE_KEYS = ("role", "from")
CONTENT_KEYS = ("content", "value", "text")
READ_KEYS = frozenset((*ROLE_KEYS, *CONTENT_KEYS, "name", "tool_calls", "tool_call_id"))
REASONING_PARTS = ("reasoning", "thinking")

Extras = list[Fields]
"""Per turn, the fields that a message has no place for (a weight, a reasoning, annotations)."""


def are_turns(value: Any) -> bool:
    """Whether a field's value looks like a list of turns (or is empty, or JSON text of a list)."""
    if isinstance(value, str):
        return value.lstrip().startswith("[")
    if value is None or value == []:
        return True
    return isinstance(value, list) and any(
        isinstance(turn, dict) and any(key in turn for key in ROLE_KEYS) for turn in value
    )


def read_turns(value: Any, name: str) -> tuple[list[Message], Extras]:
    """The messages of a list of turns and what each turn held besides.

    Raises:
        Refused: it is no list of turns, a role is unknown, a part is no text.
    """
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = DECODER.decode(value)
        except (ValueError, RecursionError):
            raise Refused(f"{name} is not JSON") from None
    if value is None:
        raise Refused("no messages")
    if not isinstance(value, list):
        raise Refused(f"{name} is {kind_of(value)}, not a list")
    messages: list[Message] = []
    extras: Extras = []
    for turn in value:
        message, extra = read_turn(turn)
        messages.append(message)
        extras.append(extra)
    return messages, extras


def read_turn(turn: Any) -> tuple[Message, Fields]:
    """One turn and what it held besides.

    Raises:
        Refused: as `read_turns`.
    """
    if not isinstance(turn, dict):
        raise Refused(f"a turn is {kind_of(turn)}, not an object")
    if len(turn) == 2:  # nearly every turn: two texts under plain names
        said, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        if isinstance(said, str) and isinstance(content, str) and said in PLAIN_ROLES:
            return Message(PLAIN_ROLES[said], content), {}
    raw_role = next((turn[key] for key in ROLE_KEYS if turn.get(key) is not None), None)
    if not isinstance(raw_role, str):
        raise Refused("a turn has no role")
    role = ROLES.get(raw_role.lower())
    if role is None:
        raise Refused(f"unknown role {raw_role[:40]!r}")
    raw = next((turn[key] for key in CONTENT_KEYS if turn.get(key) is not None), None)
    extra = {k: v for k, v in turn.items() if k not in READ_KEYS and v is not None}
    content, calls, reasoning = _content(raw)
    if raw_role.lower() == "function_call":
        content, calls = "", _calls_in(content)
    if isinstance(given := extra.pop("function_call", None), dict):
        calls = [*calls, {"type": "function", "function": given}]
    if reasoning:
        extra["reasoning"] = reasoning
    tool_calls = (
        canonical_json(calls) if calls else as_canonical(turn.get("tool_calls"), "tool_calls")
    )
    identity = turn.get("tool_call_id")
    sender = turn.get("name")
    message = Message(
        role,
        content,
        name=sender if isinstance(sender, str) else None,
        tool_calls=tool_calls,
        tool_call_id=None if identity is None else text_of(identity, "tool_call_id"),
    )
    return message, extra


def keep_extras(metadata: Fields, extras: Extras) -> None:
    """Put what turns held besides into the metadata, one object a turn, if any held something."""
    if any(extras):
        metadata["message_extras"] = extras


def _content(raw: Any) -> tuple[str, list[Any], str]:
    """Text, tool calls and reasoning of a turn's content."""
    if not isinstance(raw, list):
        return text_of(raw, "content"), [], ""
    texts: list[str] = []
    calls: list[Any] = []
    thoughts: list[str] = []
    for part in raw:
        if isinstance(part, str):
            texts.append(part)
            continue
        if not isinstance(part, dict):
            raise Refused(f"a content part is {kind_of(part)}, not an object")
        kind = part.get("type", "text")
        body = next((part[k] for k in ("text", "value", kind) if part.get(k) is not None), None)
        if kind == "text":
            texts.append(text_of(body, "content part"))
        elif kind in REASONING_PARTS:
            thoughts.append(text_of(body, "content part"))
        elif kind == "tool_call":
            calls.extend(_calls_in(body))
        else:
            raise Refused(f"content part of type {str(kind)[:40]!r}")
    return "".join(texts), calls, "\n\n".join(thoughts)


def _calls_in(body: Any) -> list[Any]:
    """Tool calls in OpenAI's form from {name, arguments}, a list of such, or JSON text of either.

    Raises:
        Refused: it is none of these.
    """
    if isinstance(body, str):
        try:
            body = DECODER.decode(body)
        except (ValueError, RecursionError):
            raise Refused("function call is not JSON") from None
    calls = body if isinstance(body, list) else [body]
    if not calls or not all(isinstance(call, dict) and "name" in call for call in calls):
        raise Refused("function call without a name")
    return [{"type": "function", "function": call} for call in calls]
