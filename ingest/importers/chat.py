"""Chats: a conversation as turns (OpenAI, ShareGPT, TRL, Gemini, SGD) or as a tree of them (OASST).

turns.py reads the turns, whatever holds them and whatever they are called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ...schemas.instruction import Instruction, Message
from ..readers.options import ReadOptions
from .content import text_of_parts
from .importer import (
    MISSING,
    Fields,
    Importer,
    Parsed,
    Rejected,
    kind_of,
    parsed,
    reach,
    required,
    text_of,
)
from .roles import CALL, role_of
from .tools import tools_of
from .turns import (
    Extras,
    are_marked_turns,
    are_rounds,
    are_texts,
    are_turns,
    keep_extras,
    read_turns,
    unfolded,
)

SYSTEM = (
    "system",
    "system_prompt",
    "system_message",
    "system_instruction",
    "systemInstruction",
)
TOOLS = ("tools", "functions", "available_tools", "tool_definitions")


@dataclass(frozen=True, kw_only=True)
class Chat:
    """The columns of a chat; of several names, a record's first one counts.

    Attributes:
        turns: the list of turns, or the lists of them that follow one another.
        system: a system text, unless the turns begin with one.
        tools: descriptions of the tools.
        is_chat: whether the value of a column is taken for turns.
    """

    turns: tuple[str, ...]
    system: tuple[str, ...] = SYSTEM
    tools: tuple[str, ...] = TOOLS
    is_chat: Callable[[Any], bool] = are_turns

    def fits(self, record: Fields) -> list[str] | None:
        """The column of turns that a record has, or None when it has another shape."""
        fitting = (name for name in self.turns if name in record and self.is_chat(record[name]))
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
        value, beside = unfolded(reach(record, column), column)
        record = {**beside, **record}
        messages, extras = read_turns(value, column, options)
        return self.conversation(record, {column}, messages, extras)

    def conversation(
        self, record: Fields, used: set[str], messages: list[Message], extras: Extras
    ) -> Parsed:
        """The conversation of these turns, with the system text and the tools beside them."""
        for name in self.system:
            value = reach(record, name)
            if value is MISSING or (value is not None and not _can_be_text(value)):
                continue
            used.add(name)
            text = value if isinstance(value, str) else text_of_parts(value, name)
            if text.strip() and not (messages and messages[0].role == "system"):
                messages.insert(0, Message("system", text))
                extras.insert(0, {})
        tools = None
        for name in self.tools:
            value = reach(record, name)
            if value is not MISSING and tools is None:
                used.add(name)
                tools = tools_of(value, name)
        conversation = parsed(record, used, messages, tools)
        keep_extras(conversation.metadata, extras)
        return conversation


def _can_be_text(value: Any) -> bool:
    """Whether a column beside the turns holds a system text, perhaps in parts (Anthropic)."""
    return isinstance(value, str | list | dict)


_MESSAGES = Chat(turns=("messages",))
MESSAGES = Importer(
    name="messages",
    reads="messages [{role, content}], system?, tools?",
    fits=_MESSAGES.fits,
    read=lambda record, options: [_MESSAGES.read(record, options)],
    aliases=("openai", "tulu", "chatml"),
)


def _are_named(value: Any) -> bool:
    """Turns, but no mere list of texts."""
    return are_turns(value) and not (value and are_texts(value))


_SHAREGPT = Chat(turns=("conversations", "conversation", "items"))
_ITEMS = Chat(turns=("items",), is_chat=_are_named)
SHAREGPT = Importer(
    name="sharegpt",
    reads="conversations [{from, value}], system?, tools?",
    fits=lambda record: (_ITEMS if "items" in record else _SHAREGPT).fits(record),
    read=lambda record, options: [_SHAREGPT.read(record, options)],
)


def _is_dialogue(value: Any) -> bool:
    return bool(value) and (are_marked_turns(value) or are_texts(value))


QUESTIONS_AND_ANSWERS = frozenset(
    "question answer prompt response completion instruction input output query problem solution "
    "inputs targets target text".split()
)


def _fits_dialogue(record: Fields) -> list[str] | None:
    """The column of turns; a list of texts beside a question or an answer is taken for none."""
    if _fits_sgd(record):
        return None
    columns = _ROUNDS.fits(record) or _DIALOGUE.fits(record)
    if columns and not are_marked_turns(record[columns[0]]):
        return None if QUESTIONS_AND_ANSWERS & record.keys() else columns
    return columns


DIALOGUES = ("dialogue", "dialogues", "dialog", "dialogs", "chat", "turns", "utterances", "rounds")
_ROUNDS = Chat(turns=DIALOGUES, is_chat=are_rounds)
_DIALOGUE = Chat(turns=(*DIALOGUES, "thread", "contents", "data"), is_chat=_is_dialogue)
DIALOGUE = Importer(
    name="dialogue",
    reads="dialogue, turns, data, contents, ... [{role, content}] or [text, text, ...], system?",
    fits=_fits_dialogue,
    read=lambda record, options: [_DIALOGUE.read(record, options)],
    aliases=("ultrachat", "gemini"),
)


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """Turns in two columns: those before the answer, and the answer; one of them may be text.

    Attributes:
        before, answer: names of the columns; a record's first one of each counts.
        chat: reads what stands beside them.
    """

    before: tuple[str, ...]
    answer: tuple[str, ...]
    chat: Chat

    def columns(self, record: Fields) -> tuple[str | None, str | None]:
        """The columns of a record, None where it has none."""
        before = next((name for name in self.before if name in record), None)
        return before, next((name for name in self.answer if name in record), None)

    def fits(self, record: Fields) -> list[str] | None:
        """The two columns where one of them holds turns; None for another shape."""
        before, answer = self.columns(record)
        if before is None or answer is None or "chosen" in record:
            return None
        turns = [are_marked_turns(record[name]) for name in (before, answer)]
        both = all(
            is_chat or isinstance(record[name], str | None)
            for name, is_chat in zip((before, answer), turns, strict=True)
        )
        return [before, answer] if any(turns) and both else None

    def read(self, record: Fields, options: ReadOptions) -> Parsed:
        """The conversation of a record.

        Raises:
            Rejected: a column is missing, or holds neither turns nor text.
        """
        before, answer = self.columns(record)
        if before is None:
            raise Rejected(f"missing field: {self.before[0]}")
        if answer is None and not options.allow_empty_answer:
            raise Rejected(f"missing field: {self.answer[0]}")
        messages, extras = messages_of(record[before], before, "user", options)
        if answer is not None and record[answer] is not None:
            more, extras_of_more = messages_of(record[answer], answer, "assistant", options)
            messages, extras = [*messages, *more], [*extras, *extras_of_more]
        used = {name for name in (before, answer) if name}
        return self.chat.conversation(record, used, messages, extras)


def messages_of(
    value: Any, name: str, role: str, options: ReadOptions
) -> tuple[list[Message], Extras]:
    """The messages of one column: turns, or a text that `role` says."""
    if isinstance(value, str) and not are_marked_turns(value):
        return [Message(role, value)], [{}]
    return read_turns(value, name, options)


_COMPLETION = Exchange(
    before=("prompt", "input", "inputs", "question", "query", "instruction"),
    answer=("completion", "response", "output", "outputs", "answer", "target", "targets", "reply"),
    chat=Chat(turns=(), system=(*SYSTEM, "instructions")),
)
COMPLETION = Importer(
    name="completion",
    reads="prompt [{role, content}], completion [{role, content}], system?, tools?",
    fits=_COMPLETION.fits,
    read=lambda record, options: [_COMPLETION.read(record, options)],
    aliases=("trl", "responses"),
)


_TURN_PROMPTS = Chat(turns=("prompt", "input"), is_chat=are_marked_turns)
TURN_PROMPTS = Importer(
    name="turn_prompts",
    reads="prompt [{role, content}], without an answer",
    fits=lambda record: None if _COMPLETION.fits(record) else _TURN_PROMPTS.fits(record),
    read=lambda record, options: [_TURN_PROMPTS.read(record, options)],
    unanswered=True,
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
            message, extra = _node(node, options)
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


def _node(node: object, options: ReadOptions) -> tuple[Message, Fields]:
    if not isinstance(node, dict):
        raise Rejected(f"a reply is {kind_of(node)}, not an object")
    role = node.get("role")
    if not isinstance(role, str):
        raise Rejected(f"unknown role {str(role)[:40]!r}")
    role = role_of(role, options)
    role = "assistant" if role == CALL else role
    replies = node.get("replies")
    if replies is not None and not isinstance(replies, list):
        raise Rejected(f"replies is {kind_of(replies)}, not a list")
    extra = {k: v for k, v in node.items() if k not in NODE_FIELDS and v is not None}
    return Message(role, text_of(node.get("text"), "text")), extra


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
        role = SPEAKERS.get(str(speaker)) or options.roles.get(str(speaker))
        if role is None:
            raise Rejected(f"unknown role {str(speaker)[:40]!r}")
        messages.append(Message(role, required(turn, "utterance")))
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
