"""Turns: a conversation in any container in use, and what one turn becomes.

A list of turns may be JSON text, an object of lists ({role: [...], content: [...]}), a list of
texts (user and assistant alternate), a list of [question, answer] or of [role, text], or of objects
that hold a round ({user: ..., assistant: ...}). A turn is {role, content} or {from, value}, under
these or other names; content is text, or parts as OpenAI, Anthropic and Gemini write them. Items of
OpenAI's Responses, {type: function_call, ...}, are turns as well.

One turn may become several messages: Anthropic puts the results of tools into a user's turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle
from typing import Any

from ...schemas.canonical import canonical_json
from ...schemas.instruction import Message
from ..readers.options import ReadOptions
from .content import CALL_ID_KEYS, Parts, joined_text, parts_of, result_of
from .importer import Fields, Rejected, decoded, kind_of, text_of
from .padding import without_padding
from .roles import CALL, ROLES, known_role, plain, role_of
from .tools import call_of, calls_in, tool_calls_of

ROLE_KEYS = ("role", "from", "speaker", "sender", "author")
CONTENT_KEYS = ("content", "value", "text", "parts", "message", "utterance")
READ_KEYS = frozenset(("role", "from", "content", "value", "text"))
TURN_LISTS = ("messages", "conversations", "conversation", "items", "turns", "dialogue")
"""Where the turns stand in JSON text of an object."""

REASONING_KEYS = (
    "reasoning_content",
    "reasoning",
    "thinking",
    "thought",
    "thoughts",
    "think",
    "thinking_content",
    "reasoning_text",
)
UNTRAINED_KEYS = (
    "weight",
    "train",
    "training",
    "trainable",
    "train_on_turn",
    "loss",
    "loss_weight",
    "loss_scale",
    "loss_mask",
)
"""Fields by which a turn says, with 0 or false, that it is not trained on."""

PLAIN_ROLES = {name: role for name, role in ROLES.items() if role != CALL}
SIDES = {
    **{name: "user" for name in ("question", "query", "prompt", "instruction", "input")},
    **{name: "assistant" for name in ("answer", "response", "completion", "output")},
}

Extras = list[Fields]
"""For each message, the fields of its turn that a message has no place for."""


ITEMS = (
    "function_call",
    "function_call_output",
    "custom_tool_call",
    "custom_tool_call_output",
    "reasoning",
)
"""Items of OpenAI's Responses that are no messages; they have a `type` instead of a role."""


def are_turns(value: Any) -> bool:
    """Whether a value looks like a list of turns (or is empty, or JSON text of a list)."""
    if isinstance(value, str):
        return value.lstrip().startswith("[") or _holds_turns(value)
    if value is None or value == []:
        return True
    if isinstance(value, dict):
        return _are_columns(value)
    return isinstance(value, list) and (
        any(_is_turn(turn) for turn in _inner(value)) or are_texts(value) or are_rounds(value)
    )


def are_marked_turns(value: Any) -> bool:
    """Whether a value is surely turns: at least one, and it names its role.

    A list of texts or a text that begins with a bracket is not enough.
    """
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            value = decoded(value, "")
        except Rejected:
            return False
    if isinstance(value, dict):
        return _are_columns(value) or _is_turn(value)
    return isinstance(value, list) and any(_is_turn(turn) for turn in _inner(value))


def _inner(value: list[Any]) -> list[Any]:
    """The list of turns that is the only item of a list; any other list as it is."""
    return value[0] if len(value) == 1 and isinstance(value[0], list) else value


def are_texts(value: Any) -> bool:
    """Whether a value is a conversation without names: texts, or pairs of texts."""
    if not isinstance(value, list) or not value:
        return False
    if all(isinstance(turn, str) for turn in value):
        return len(value) > 1
    return all(
        isinstance(turn, list) and len(turn) == 2 and all(isinstance(text, str) for text in turn)
        for turn in value
    )


def _is_turn(turn: Any) -> bool:
    if not isinstance(turn, dict):
        return isinstance(turn, str) and _holds_turns(turn)
    if "role" in turn or "from" in turn or turn.get("type") in ITEMS:
        return True
    speaker = _speaker(turn)
    return isinstance(speaker, str) and plain(speaker) in ROLES


def _are_columns(value: dict[str, Any]) -> bool:
    """Whether an object of lists holds turns: roles in one list, contents in another."""
    return any(isinstance(value.get(key), list) for key in ROLE_KEYS)


def are_rounds(value: Any) -> bool:
    """Whether a value is a list of objects that each hold a round: {question, answer}, ..."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(turn, dict) and _round_of(turn) for turn in value)
    )


def _holds_turns(text: str) -> bool:
    """Whether JSON text of an object holds turns, or is one."""
    if not text.lstrip().startswith("{"):
        return False
    try:
        value = decoded(text, "")
    except Rejected:
        return False
    return isinstance(value, dict) and (
        _is_turn(value) or any(are_turns(value[key]) for key in TURN_LISTS if key in value)
    )


def unfolded(value: Any, name: str) -> tuple[Any, Fields]:
    """The turns of a value that is, or is JSON text of, an object around them; and what is beside.

    Raises:
        Rejected: it begins like JSON and is none.
    """
    if isinstance(value, str) and value.lstrip().startswith("{"):
        value = decoded(value, name)
    if isinstance(value, dict) and not _are_columns(value):
        below = next((key for key in TURN_LISTS if key in value), None)
        if below is not None:
            return value[below], {key: each for key, each in value.items() if key != below}
    return value, {}


def turn_list(value: Any, name: str, options: ReadOptions) -> list[Any]:
    """The turns of a conversation, whatever holds them, as a list of objects.

    Raises:
        Rejected: there are none, or the value holds no turns.
    """
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        value = decoded(value, name)
    if value is None:
        raise Rejected("no messages")
    if isinstance(value, dict):
        return _from_object(value, name)
    if not isinstance(value, list):
        raise Rejected(f"{name} is {kind_of(value)}, not a list")
    if all(isinstance(turn, dict) for turn in value):
        return value if not _has_rounds(value) else list(_split_rounds(value))
    if _inner(value) is not value and are_marked_turns(value):
        return turn_list(_inner(value), name, options)
    if all(_is_turn(turn) for turn in value):  # JSON texts, perhaps among objects
        return [decoded(turn, name) if isinstance(turn, str) else turn for turn in value]
    return _named(value, options) if are_texts(value) else value


def _from_object(value: dict[str, Any], name: str) -> list[Any]:
    """The turns of an object: lists side by side, or a single turn."""
    if _are_columns(value):
        lists = {key: each for key, each in value.items() if isinstance(each, list)}
        if len({len(each) for each in lists.values()}) != 1:
            raise Rejected(f"{name}: the lists of roles and contents differ in length")
        return [
            {key: each for key, each in zip(lists, turn, strict=True) if each is not None}
            for turn in zip(*lists.values(), strict=True)
        ]
    if _is_turn(value):
        return [value]
    raise Rejected(f"{name} is an object, not a list")


def _named(value: list[Any], options: ReadOptions) -> list[Fields]:
    """Texts that take turns, or pairs of texts, with their roles."""
    pairs = [turn for turn in value if isinstance(turn, list)]
    if pairs and all(known_role(first, options) for first, _ in pairs):
        return [{"role": first, "content": second} for first, second in pairs]
    texts = [text for pair in pairs for text in pair] if pairs else value
    sides = cycle(("user", "assistant"))
    return [{"role": role, "content": text} for role, text in zip(sides, texts, strict=False)]


def _has_rounds(turns: list[Any]) -> bool:
    return any(not _is_turn(turn) and _round_of(turn) for turn in turns)


def _round_of(turn: Fields) -> dict[str, str] | None:
    """Key -> role of an object that holds a round under its roles' names; None for another."""
    filled = {key: text for key, text in turn.items() if text is not None}
    roles = {key: SIDES.get(key.lower()) or PLAIN_ROLES.get(key.lower()) for key in filled}
    known = {key: role for key, role in roles.items() if role and isinstance(filled[key], str)}
    sides = set(known.values())
    is_round = "assistant" in sides or (len(filled) == 1 and sides & {"user", "system"})
    return known if is_round and len(known) == len(filled) else None


ORDER = ("system", "user", "tool", "assistant")
"""In which the sides of a round speak."""


def _split_rounds(turns: list[Any]) -> Iterator[Fields]:
    for turn in turns:
        sides = None if _is_turn(turn) else _round_of(turn)
        if sides is None:
            yield turn
            continue
        for role in ORDER:
            texts = [turn[key] for key, side in sides.items() if side == role]
            if texts:
                yield {"role": role, "content": "\n\n".join(texts)}


def read_turns(value: Any, name: str, options: ReadOptions) -> tuple[list[Message], Extras]:
    """The messages of a list of turns, and the extra fields of each message.

    Raises:
        Rejected: it is no list of turns, a role is unknown, or a part is not text.
    """
    messages: list[Message] = []
    extras: Extras = []
    reasoning: list[str] = []  # of items that stand before the answer they belong to
    joins = False  # whether a call may join the message before it
    for turn in turn_list(value, name, options):
        if isinstance(turn, dict) and turn.get("type") == "reasoning" and not _speaker(turn):
            said = joined_text(turn.get("summary")) or joined_text(turn.get("content"))
            reasoning.append(said or "")
            continue
        is_item = isinstance(turn, dict) and (turn.get("type") in ITEMS or _is_call_turn(turn))
        for message, extra in read_turn(turn, options):
            thoughts = "\n\n".join(filter(None, reasoning))
            if thoughts and message.role == "assistant":
                message = replace(message, reasoning=message.reasoning or thoughts)
                reasoning = []
            if is_item and joins and message.tool_calls and not message.content:
                messages[-1] = _with_calls(messages[-1], message)
                continue
            messages.append(message)
            extras.append(extra)
        joins = is_item and bool(messages) and messages[-1].role == "assistant"
    if thoughts := "\n\n".join(filter(None, reasoning)):  # and no answer after it
        messages.append(Message("assistant", "", reasoning=thoughts))
        extras.append({})
    return messages, extras


def _is_call_turn(turn: Fields) -> bool:
    """Whether a turn is a call of ms-swift's, of which those in a row belong to one answer."""
    return str(_speaker(turn)).lower().replace("-", "_") in ("tool_call", "tool_calls")


def _with_calls(message: Message, calling: Message) -> Message:
    calls = [
        call
        for each in (message, calling)
        if each.tool_calls
        for call in decoded(each.tool_calls, "tool_calls")
    ]
    return replace(
        message,
        tool_calls=canonical_json(calls),
        reasoning=message.reasoning or calling.reasoning,
    )


def read_turn(turn: Any, options: ReadOptions) -> list[tuple[Message, Fields]]:
    """The messages of one turn, mostly one, each with the turn's extra fields.

    Raises:
        Rejected: as `read_turns`.
    """
    if not isinstance(turn, dict):
        raise Rejected(f"a turn is {kind_of(turn)}, not an object")
    if len(turn) == 2 and not options.roles:  # nearly every turn: two texts under plain names
        name, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        if isinstance(name, str) and isinstance(content, str) and name in PLAIN_ROLES:
            return [(Message(PLAIN_ROLES[name], content), {})]
    raw_role = _speaker(turn)
    if raw_role is None and turn.get("type") in ITEMS:
        return [(_item(turn), {})]
    if not isinstance(raw_role, str):
        raise Rejected("a turn has no role")
    role = role_of(raw_role, options)
    key = next((key for key in CONTENT_KEYS if turn.get(key) is not None), None)
    used = {*READ_KEYS, key, *(key for key in ROLE_KEYS if turn.get(key) == raw_role)}
    extra = {k: v for k, v in turn.items() if k not in used and v is not None}
    parts = parts_of(None if key is None else turn[key], role)
    calls = extra.pop("tool_calls", None)
    if role == CALL:
        role = "assistant"
        if calls is None or parts.text.strip():
            parts = Parts(calls=calls_in(parts.text))
    if isinstance(call := extra.pop("function_call", None), dict):
        parts.calls.append(call_of(None, without_padding(call)))
    if extra.get("type") == "message":  # an item of Responses
        del extra["type"]
    call_id = _pop_first(extra, CALL_ID_KEYS)
    sender = extra.pop("name", None)
    reasoning, train = "", None
    if role == "assistant":
        reasoning, train = _reasoning(extra, parts), _train(extra)
    elif parts.thoughts:
        extra["reasoning"] = "\n\n".join(parts.thoughts)
    read = [(result_of(result), {}) for result in parts.results]
    if parts.results and not parts.text and not parts.calls:
        return read
    message = Message(
        role,
        parts.text,
        name=sender if isinstance(sender, str) else None,
        tool_calls=canonical_json(parts.calls) if parts.calls else tool_calls_of(calls),
        tool_call_id=None if call_id is None else text_of(call_id, "tool_call_id"),
        reasoning=reasoning if reasoning.strip() else None,
        train=train,
    )
    return [*read, (message, extra)]


def _speaker(turn: Fields) -> Any:
    """What the turn calls its speaker; None where it does not say."""
    for key in ROLE_KEYS:
        speaker = turn.get(key)
        if isinstance(speaker, dict):  # ChatGPT's export: author {role}
            speaker = speaker.get("role")
        if speaker is not None:
            return speaker
    return None


def _pop_first(fields: Fields, names: tuple[str, ...]) -> Any:
    """The first of these fields that is there, which is taken out."""
    return next((fields.pop(name) for name in names if fields.get(name) is not None), None)


def _reasoning(extra: Fields, parts: Parts) -> str:
    """The reasoning of an answer, from its parts or from fields, which are taken out of `extra`."""
    thoughts = list(parts.thoughts)
    for key in REASONING_KEYS:
        if key in extra and (text := joined_text(extra[key])) is not None:
            del extra[key]
            if text.strip() and text not in thoughts:
                thoughts.append(text)
    return "\n\n".join(thoughts)


def _train(extra: Fields) -> bool | None:
    """False for an answer that says it is not trained on.

    What says so is taken out of `extra`, and so is what says the rule; a fraction stays.
    """
    train = None
    for key in UNTRAINED_KEYS:
        share = _share(extra.get(key))
        if share in (0.0, 1.0):
            del extra[key]
            train = False if share == 0.0 else train
    return train


def _share(value: Any) -> float | None:
    """0.0 and 1.0 for false and true in any spelling, another number as it is; else None."""
    if isinstance(value, str):
        value = {"false": 0, "no": 0, "true": 1, "yes": 1}.get(value.strip().lower(), value)
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _item(turn: Fields) -> Message:
    """The message of an item of OpenAI's Responses that is a call or its result."""
    if turn["type"].endswith("_output"):
        return result_of(turn)
    turn = without_padding(turn)
    name, arguments = turn.get("name"), turn.get("arguments", turn.get("input"))
    if not isinstance(name, str):
        raise Rejected("function call without a name")
    call = call_of(turn.get("call_id"), {"name": name, "arguments": arguments})
    return Message("assistant", "", tool_calls=canonical_json([call]))


def keep_extras(metadata: Fields, extras: Extras) -> None:
    """Put the extra fields of turns, if there are any, into the metadata: an object per message."""
    if any(extras):
        metadata["message_extras"] = extras
