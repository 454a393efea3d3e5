"""Schema-Guided Dialogue as published: `turns` [{speaker, utterance, frames}]."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ...schemas.instruction import Message
from ..reading.read_options import ReadOptions
from .shape import Fields, Found, Importer, Refused, found, kind_of, required
from .turns import keep_extras

SPEAKERS = {"USER": "user", "SYSTEM": "assistant"}


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, dict) and "speaker" in turn and "utterance" in turn


def _fits_sgd(record: Fields) -> list[str] | None:
    turns = record.get("turns")
    return ["turns"] if isinstance(turns, list) and turns and _is_turn(turns[0]) else None


def _read_sgd(record: Fields, options: ReadOptions) -> Iterable[Found | Refused]:
    turns = record.get("turns")
    if not isinstance(turns, list):
        raise Refused("missing field: turns")
    messages: list[Message] = []
    extras: list[Fields] = []
    for turn in turns:
        if not isinstance(turn, dict):
            raise Refused(f"a turn is {kind_of(turn)}, not an object")
        speaker = turn.get("speaker")
        if speaker not in SPEAKERS:
            raise Refused(f"unknown role {str(speaker)[:40]!r}")
        messages.append(Message(SPEAKERS[speaker], required(turn, "utterance")))
        extras.append({k: v for k, v in turn.items() if k not in ("speaker", "utterance")})
    conversation = found(record, ("turns",), messages)
    keep_extras(conversation.metadata, extras)
    return [conversation]


SGD = Importer(
    name="sgd",
    reads="turns [{speaker, utterance}], dialogue_id",
    fits=_fits_sgd,
    read=_read_sgd,
)
