"""Preference pairs: the chosen answer becomes the conversation, the rejected one metadata.

Read on request only, since half of what stands in the file is left out of the conversations.
Anthropic transcripts, chat lists, single turns behind `conversations` or `messages`, and plain
answers behind `prompt`, `question` or `instruction`.

KTO: a conversation and a truth value `label`; only what is labelled true is kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from ...schemas.instruction import Message
from ..readers.options import ReadOptions
from .chat import MESSAGES, SHAREGPT, Extras, are_turns, keep_extras, read_turn, read_turns
from .importer import (
    Fields,
    Importer,
    Parsed,
    Rejected,
    dialogue,
    parsed,
    required,
    text_of,
    with_input,
)
from .single_turn import FLAN

LABEL = "label"
INNER = (MESSAGES, SHAREGPT, FLAN)


def _fits_kto(record: Fields) -> list[str] | None:
    if not isinstance(record.get(LABEL), bool):
        return None
    columns = next((used for inner in INNER if (used := inner.fits(record)) is not None), None)
    return None if columns is None else [*columns, LABEL]


def _read_kto(record: Fields, options: ReadOptions) -> Iterable[Parsed | Rejected]:
    label = record.get(LABEL)
    if not isinstance(label, bool):
        raise Rejected(f"missing field: {LABEL}")
    if not label:
        raise Rejected("not preferred: label is false")
    inner = next((inner for inner in INNER if inner.fits(record) is not None), None)
    if inner is None:
        raise Rejected("missing field: messages")
    return inner.read(record, options)


KTO = Importer(
    name="kto",
    reads="messages or conversations, label",
    fits=_fits_kto,
    read=_read_kto,
    on_request="it keeps only the conversations labelled true",
)


CHATS = ("conversations", "messages", "prompt")
PROMPTS = ("prompt", "question", "instruction")
SPEAKER = re.compile(r"\n\n(Human|Assistant): ?")
SPEAKERS = {"Human": "user", "Assistant": "assistant"}


def _fits_preference(record: Fields) -> list[str] | None:
    if "chosen" not in record or "rejected" not in record:
        return None
    before = (*CHATS, *PROMPTS, "input", "system")
    return ["chosen", "rejected", *(name for name in before if name in record)]


def _read_preference(record: Fields, options: ReadOptions) -> Iterable[Parsed | Rejected]:
    chosen = record.get("chosen")
    if chosen is None:
        raise Rejected("missing field: chosen")
    extras: Extras = []
    used = {"chosen"}
    if isinstance(chosen, str) and not are_turns(chosen):
        messages = _from_text(record, chosen, used)
    else:
        messages, extras = _from_turns(record, chosen, used)
    conversation = parsed(record, used, messages)
    keep_extras(conversation.metadata, extras)
    return [conversation]


def _from_text(record: Fields, chosen: str, used: set[str]) -> list[Message]:
    if chosen.startswith("\n\nHuman:"):
        parts = SPEAKER.split(chosen)[1:]
        return [
            Message(SPEAKERS[speaker], text)
            for speaker, text in zip(parts[::2], parts[1::2], strict=True)
        ]
    name = next((name for name in PROMPTS if isinstance(record.get(name), str)), None)
    if name is None:
        raise Rejected("missing field: prompt")
    used.update((name, "input", "system"))
    user = with_input(required(record, name), text_of(record.get("input"), "input"))
    system = text_of(record.get("system"), "system")
    return dialogue(system, ("user", user), ("assistant", chosen))


def _from_turns(record: Fields, chosen: Any, used: set[str]) -> tuple[list[Message], Extras]:
    if isinstance(chosen, dict):
        message, extra = read_turn(chosen)
        messages, extras = [message], [extra]
    else:
        messages, extras = read_turns(chosen, "chosen")
    if any(message.role == "user" for message in messages):
        used.update(name for name in PROMPTS if isinstance(record.get(name), str))
        return messages, extras  # the prompt stands inside already
    name = next((n for n in CHATS if isinstance(record.get(n), list)), None)
    if name is not None:
        used.add(name)
        before, extras_before = read_turns(record[name], name)
        return [*before, *messages], [*extras_before, *extras]
    name = next((n for n in PROMPTS if isinstance(record.get(n), str)), None)
    if name is None:
        raise Rejected("missing field: prompt")
    used.add(name)
    return [Message("user", required(record, name)), *messages], [{}, *extras]


PREFERENCE = Importer(
    name="preference",
    reads="chosen, rejected, prompt? or conversations?",
    fits=_fits_preference,
    read=_read_preference,
    on_request="it keeps the chosen answers as conversations and the rejected ones as metadata",
    aliases=("dpo", "hh_rlhf"),
)
