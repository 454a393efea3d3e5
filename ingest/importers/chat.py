"""Chats: a conversation as a list of turns (OpenAI, ShareGPT, SGD) or as a tree of them (OASST).

A turn is {role, content} or {from, value}; content is text, or a list of parts. Roles in any case:
human, prompter -> user; gpt, chatgpt, model, bing -> assistant; developer -> system; observation,
function -> tool; function_call is an assistant turn with tool calls. A turn of another role is
rejected by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ...schemas.canonical import canonical_json
from ...schemas.instruction import Instruction, Message
from ..readers.options import ReadOptions
from .importer import (
    MISSING,
    Fields,
    Importer,
    Parsed,
    Rejected,
    as_canonical,
    decoded,
    kind_of,
    parsed,
    reach,
    required,
    text_of,
)
from .padding import without_padding

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
"""For each turn, the fields that a message has no place for (a weight, reasoning, annotations)."""


def are_turns(value: Any) -> bool:
    """Whether a value looks like a list of turns (or is empty, or JSON text of a list)."""
    if isinstance(value, str):
        return value.lstrip().startswith("[")
    if value is None or value == []:
        return True
    return isinstance(value, list) and any(
        isinstance(turn, dict) and any(key in turn for key in ROLE_KEYS) for turn in value
    )


def read_turns(value: Any, name: str) -> tuple[list[Message], Extras]:
    """The messages of a list of turns, and the extra fields of each turn.

    Raises:
        Rejected: it is not a list of turns, a role is unknown, or a part is not text.
    """
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = decoded(value, name)
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
    """The message of one turn, and the turn's extra fields.

    Raises:
        Rejected: as `read_turns`.
    """
    if not isinstance(turn, dict):
        raise Rejected(f"a turn is {kind_of(turn)}, not an object")
    if len(turn) == 2:  # nearly every turn: two texts under plain names
        name, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        if isinstance(name, str) and isinstance(content, str) and name in PLAIN_ROLES:
            return Message(PLAIN_ROLES[name], content), {}
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
    if isinstance(call := extra.pop("function_call", None), dict):
        calls = [*calls, {"type": "function", "function": call}]
    if reasoning:
        extra["reasoning"] = reasoning
    tool_calls = (
        canonical_json(without_padding(calls))
        if calls
        else as_canonical(turn.get("tool_calls"), "tool_calls")
    )
    call_id, sender = turn.get("tool_call_id"), turn.get("name")
    message = Message(
        role,
        content,
        name=sender if isinstance(sender, str) else None,
        tool_calls=tool_calls,
        tool_call_id=None if call_id is None else text_of(call_id, "tool_call_id"),
    )
    return message, extra


def keep_extras(metadata: Fields, extras: Extras) -> None:
    """Put the extra fields of turns, if there are any, into the metadata: an object per turn."""
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
        Rejected: it is none of these.
    """
    if isinstance(body, str):
        body = decoded(body, "function call")
    calls = body if isinstance(body, list) else [body]
    if not calls or not all(isinstance(call, dict) and "name" in call for call in calls):
        raise Rejected("function call without a name")
    return [{"type": "function", "function": call} for call in calls]


@dataclass(frozen=True, kw_only=True)
class Chat:
    """The columns of a chat; of several names, a record's first one counts.

    Attributes:
        turns: the list of turns.
        system: a system text, unless the turns begin with one.
        tools: descriptions of the tools.
    """

    turns: tuple[str, ...]
    system: tuple[str, ...] = ("system", "system_prompt")
    tools: tuple[str, ...] = ("tools", "functions")

    def fits(self, record: Fields) -> list[str] | None:
        """The column of turns that a record has, or None when it has another shape."""
        fitting = (name for name in self.turns if name in record and are_turns(record[name]))
        return next(([name] for name in fitting), None)

    def read(self, record: Fields, options: ReadOptions) -> Parsed:
        """The conversation of a record; columns outside this shape become its metadata.

        Raises:
            Rejected: there is no list of turns, or a turn in it cannot be read.
        """
        present = (name for name in self.turns if reach(record, name) is not MISSING)
        column = next(present, None)
        if column is None:
            raise Rejected(f"missing field: {self.turns[0]}")
        messages, extras = read_turns(reach(record, column), column)
        used = {column}
        for name in self.system:
            value = reach(record, name)
            if value is None or isinstance(value, str):
                used.add(name)
                if value and value.strip() and not (messages and messages[0].role == "system"):
                    messages.insert(0, Message("system", value))
                    extras.insert(0, {})
        tools = None
        for name in self.tools:
            value = reach(record, name)
            if value is not MISSING and tools is None:
                used.add(name)
                tools = as_canonical(value, name)
        conversation = parsed(record, used, messages, tools)
        keep_extras(conversation.metadata, extras)
        return conversation


_MESSAGES = Chat(turns=("messages",))
MESSAGES = Importer(
    name="messages",
    reads="messages [{role, content}], tools?",
    fits=_MESSAGES.fits,
    read=lambda record, options: [_MESSAGES.read(record, options)],
    aliases=("openai", "tulu", "chatml"),
)

_SHAREGPT = Chat(turns=("conversations", "conversation", "items"))
SHAREGPT = Importer(
    name="sharegpt",
    reads="conversations [{from, value}], system?, tools?",
    fits=_SHAREGPT.fits,
    read=lambda record, options: [_SHAREGPT.read(record, options)],
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
        except Rejected as rejected:
            yield rejected
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
