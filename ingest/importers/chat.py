"""Chat turns, in every dialect: {role, content} or {from, value}, content as text or parts.

Roles: human, prompter -> user; gpt, chatgpt, model, bing -> assistant; developer -> system;
observation, function -> tool; function_call is an assistant turn with tool calls. Upper and lower
case do not differ. An unknown role is refused by name.

OpenAI and Tulu: `messages` [{role, content}], maybe `tools`; content as text or parts.

OpenAssistant trees: `prompt` {text, replies [...]}; every path from root to leaf is a row.

Schema-Guided Dialogue as published: `turns` [{speaker, utterance, frames}].

ShareGPT: `conversations` [{from, value}] (also `conversation`, `items`), `system`, `tools`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ...schemas.canonical import canonical_json
from ...schemas.instruction import Instruction, Message
from ..readers.json_rows import DECODER
from ..readers.options import ReadOptions
from .importer import (
    Fields,
    Importer,
    Parsed,
    Rejected,
    as_canonical,
    kind_of,
    parsed,
    required,
    text_of,
)

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
            raise Rejected(f"{name} is not JSON") from None
    if value is None:
        raise Rejected("no messages")
    if not isinstance(value, list):
        raise Rejected(f"{name} is {kind_of(value)}, not a list")
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
        raise Rejected(f"a turn is {kind_of(turn)}, not an object")
    if len(turn) == 2:  # nearly every turn: two texts under plain names
        said, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        if isinstance(said, str) and isinstance(content, str) and said in PLAIN_ROLES:
            return Message(PLAIN_ROLES[said], content), {}
    raw_role = next((turn[key] for key in ROLE_KEYS if turn.get(key) is not None), None)
    if not isinstance(raw_role, str):
        raise Rejected("a turn has no role")
    role = ROLES.get(raw_role.lower())
    if role is None:
        raise Rejected(f"unknown role {raw_role[:40]!r}")
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
            raise Rejected(f"a content part is {kind_of(part)}, not an object")
        kind = part.get("type", "text")
        body = next((part[k] for k in ("text", "value", kind) if part.get(k) is not None), None)
        if kind == "text":
            texts.append(text_of(body, "content part"))
        elif kind in REASONING_PARTS:
            thoughts.append(text_of(body, "content part"))
        elif kind == "tool_call":
            calls.extend(_calls_in(body))
        else:
            raise Rejected(f"content part of type {str(kind)[:40]!r}")
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
            raise Rejected("function call is not JSON") from None
    calls = body if isinstance(body, list) else [body]
    if not calls or not all(isinstance(call, dict) and "name" in call for call in calls):
        raise Rejected("function call without a name")
    return [{"type": "function", "function": call} for call in calls]


_MESSAGES_LISTS = ("messages",)
BESIDE = ("system", "system_prompt", "tools", "functions")


def fits_list(record: Fields, lists: tuple[str, ...]) -> list[str] | None:
    """The first of `lists` that holds turns, as the one column used."""
    return next(([name] for name in lists if name in record and are_turns(record[name])), None)


def read_list(record: Fields, lists: tuple[str, ...]) -> Parsed:
    """The conversation in the first of `lists` that the record has, with system text and tools.

    Raises:
        Refused: there is no such list, or a turn in it cannot be read.
    """
    name = next((name for name in lists if name in record), None)
    if name is None:
        raise Rejected(f"missing field: {lists[0]}")
    messages, extras = read_turns(record[name], name)
    used = {name}
    for key in ("system", "system_prompt"):
        if isinstance(record.get(key), str) or (key in record and record[key] is None):
            used.add(key)
            system = text_of(record[key], key)
            if system.strip() and not (messages and messages[0].role == "system"):
                messages.insert(0, Message("system", system))
                extras.insert(0, {})
    tools = None
    for key in ("tools", "functions"):
        if key in record and tools is None:
            used.add(key)
            tools = as_canonical(record[key], key)
    conversation = parsed(record, used, messages, tools)
    keep_extras(conversation.metadata, extras)
    return conversation


def _read_messages(record: Fields, options: ReadOptions) -> Iterable[Parsed | Rejected]:
    return [read_list(record, _MESSAGES_LISTS)]


MESSAGES = Importer(
    name="messages",
    reads="messages [{role, content}], tools?",
    fits=lambda record: fits_list(record, _MESSAGES_LISTS),
    read=_read_messages,
    aliases=("openai", "tulu", "chatml"),
)


TREE = "prompt"
NODE_FIELDS = frozenset({"text", "role", "replies"})


def _fits_oasst(record: Fields) -> list[str] | None:
    root = record.get(TREE)
    return [TREE] if isinstance(root, dict) and "text" in root and "replies" in root else None


def _read_oasst(record: Fields, options: ReadOptions) -> Iterator[Parsed | Rejected]:
    if TREE not in record:
        raise Rejected(f"missing field: {TREE}")
    outside = {name: value for name, value in record.items() if name != TREE}
    waiting: list[tuple[object, tuple[Message, ...], Extras]] = [(record[TREE], (), [])]
    while waiting:
        node, before, extras_before = waiting.pop()
        try:
            message, extra = _node(node)
        except Rejected as refusal:
            yield refusal
            continue
        path, extras = (*before, message), [*extras_before, extra]
        replies = node.get("replies") if isinstance(node, dict) else None
        if replies:
            waiting.extend((reply, path, extras) for reply in reversed(replies))
            continue
        metadata = dict(outside)
        keep_extras(metadata, extras)
        leaf = extra.get("message_id")
        yield Parsed(Instruction(path), metadata, leaf if isinstance(leaf, str) else None)


def _node(node: object) -> tuple[Message, Fields]:
    if not isinstance(node, dict):
        raise Rejected(f"a reply is {kind_of(node)}, not an object")
    role = node.get("role")
    if not isinstance(role, str) or role.lower() not in ROLES:
        raise Rejected(f"unknown role {str(role)[:40]!r}")
    replies = node.get("replies")
    if replies is not None and not isinstance(replies, list):
        raise Rejected(f"replies is {kind_of(replies)}, not a list")
    extra = {k: v for k, v in node.items() if k not in NODE_FIELDS and v is not None}
    return Message(ROLES[role.lower()], text_of(node.get("text"), "text")), extra


OASST = Importer(
    name="oasst",
    reads="prompt {text, role, replies [...]}",
    fits=_fits_oasst,
    read=_read_oasst,
)


SPEAKERS = {"USER": "user", "SYSTEM": "assistant"}


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, dict) and "speaker" in turn and "utterance" in turn


def _fits_sgd(record: Fields) -> list[str] | None:
    turns = record.get("turns")
    return ["turns"] if isinstance(turns, list) and turns and _is_turn(turns[0]) else None


def _read_sgd(record: Fields, options: ReadOptions) -> Iterable[Parsed | Rejected]:
    turns = record.get("turns")
    if not isinstance(turns, list):
        raise Rejected("missing field: turns")
    messages: list[Message] = []
    extras: list[Fields] = []
    for turn in turns:
        if not isinstance(turn, dict):
            raise Rejected(f"a turn is {kind_of(turn)}, not an object")
        speaker = turn.get("speaker")
        if speaker not in SPEAKERS:
            raise Rejected(f"unknown role {str(speaker)[:40]!r}")
        messages.append(Message(SPEAKERS[speaker], required(turn, "utterance")))
        extras.append({k: v for k, v in turn.items() if k not in ("speaker", "utterance")})
    conversation = parsed(record, ("turns",), messages)
    keep_extras(conversation.metadata, extras)
    return [conversation]


SGD = Importer(
    name="sgd",
    reads="turns [{speaker, utterance}], dialogue_id",
    fits=_fits_sgd,
    read=_read_sgd,
)


_SHAREGPT_LISTS = ("conversations", "conversation", "items")


def _read_sharegpt(record: Fields, options: ReadOptions) -> Iterable[Parsed | Rejected]:
    return [read_list(record, _SHAREGPT_LISTS)]


SHAREGPT = Importer(
    name="sharegpt",
    reads="conversations [{from, value}], system?, tools?",
    fits=lambda record: fits_list(record, _SHAREGPT_LISTS),
    read=_read_sharegpt,
)
