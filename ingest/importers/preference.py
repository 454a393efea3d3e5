"""Preference data: the answer that was preferred becomes the conversation.

Read on request only, since half of what stands in a file is left out of the conversations.

Preference pairs keep the rejected answer as metadata. The chosen one is an Anthropic transcript,
turns, or text; before it stand turns or a plain prompt. KTO marks conversations with a truth value
(true, 1, "True", "desirable", ...); those marked false are rejected.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ...schemas.instruction import Message
from ..readers.options import ReadOptions
from .chat import COMPLETION, DIALOGUE, MESSAGES, SHAREGPT
from .importer import Fields, Importer, Parsed, Rejected, kind_of, parsed, truth_of
from .single_turn import ALPACA, DOLLY, FLAN, PAIRS, SingleTurn
from .turns import are_turns, keep_extras, read_turns

CHATS = ("conversations", "messages", "prompt")
PROMPTS = ("prompt", "question", "instruction")
PLAIN = SingleTurn(user=PROMPTS, context=("input",), answer=("chosen",), system=("system",))
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
    if not isinstance(chosen, str) or are_turns(chosen):
        return [_chosen_turns(record, chosen, options)]
    if chosen.startswith("\n\nHuman:"):
        return [parsed(record, ("chosen",), _transcript(chosen))]
    return [PLAIN.read(record, options)]


def _transcript(text: str) -> Iterator[Message]:
    """Anthropic's form: turns behind "Human:" and "Assistant:"."""
    parts = SPEAKER.split(text)[1:]
    for speaker, content in zip(parts[::2], parts[1::2], strict=True):
        yield Message(SPEAKERS[speaker], content)


def _chosen_turns(record: Fields, chosen: Any, options: ReadOptions) -> Parsed:
    """The turns of `chosen`, behind those of the prompt unless these are among them."""
    messages, extras = read_turns(chosen, "chosen", options)
    used = {"chosen"}
    prompts = [name for name in PROMPTS if isinstance(record.get(name), str)]
    chats = [name for name in CHATS if isinstance(record.get(name), list)]
    if any(message.role == "user" for message in messages):
        used.update(prompts)
    elif chats:
        used.add(chats[0])
        before, extras_before = read_turns(record[chats[0]], chats[0], options)
        messages, extras = [*before, *messages], [*extras_before, *extras]
    elif prompts:
        used.add(prompts[0])
        messages, extras = [Message("user", record[prompts[0]]), *messages], [{}, *extras]
    else:
        raise Rejected("missing field: prompt")
    conversation = parsed(record, used, messages)
    keep_extras(conversation.metadata, extras)
    return conversation


PREFERENCE = Importer(
    name="preference",
    reads="chosen, rejected, prompt? or conversations?",
    fits=_fits_preference,
    read=_read_preference,
    on_request="it keeps the chosen answers as conversations and the rejected ones as metadata",
    aliases=("dpo", "hh_rlhf"),
)


LABELS = (
    "label",
    "kto_tag",
    "desirable",
    "is_desirable",
    "preferred",
    "is_preferred",
    "is_chosen",
    "thumbs_up",
)
INNER = (MESSAGES, SHAREGPT, COMPLETION, DIALOGUE, FLAN, ALPACA, DOLLY, *PAIRS)
WORDS = {"desirable": True, "chosen": True, "preferred": True, "good": True} | {
    "undesirable": False, "rejected": False, "dispreferred": False, "bad": False
}  # fmt: skip


def preferred(value: Any) -> bool | None:
    """Whether a label says that an answer was preferred; None where it says neither.

    True, 1, 1.0, "True", "yes", "desirable" and their opposites count.
    """
    if isinstance(value, str) and value.strip().lower() in WORDS:
        return WORDS[value.strip().lower()]
    return truth_of(value)


def _label_of(record: Fields) -> str | None:
    """The column of the label, told by its name and its value."""
    names = (name for name in LABELS if record.get(name) is not None)
    return next((name for name in names if preferred(record[name]) is not None), None)


def _fits_kto(record: Fields) -> list[str] | None:
    label = _label_of(record)
    columns = next((used for inner in INNER if (used := inner.fits(record)) is not None), None)
    return None if columns is None or label is None else [*columns, label]


def _are_all_labelled(records: Sequence[Fields]) -> bool:
    """Whether all labels are truth values, rather than classes of which some are 0 or 1."""
    return all(
        preferred(record[name]) is not None
        for record in records
        for name in LABELS
        if record.get(name) is not None
    )


def _read_kto(record: Fields, options: ReadOptions) -> Iterable[Parsed | Rejected]:
    label = _label_of(record)
    if label is None:
        name = next((name for name in LABELS if record.get(name) is not None), None)
        if name is None:
            raise Rejected(f"missing field: {LABELS[0]}")
        raise Rejected(f"{name} is {kind_of(record[name])} that is neither true nor false")
    if not preferred(record[label]):
        raise Rejected(f"not preferred: {label} is false")
    inner = next((inner for inner in INNER if inner.fits(record) is not None), None)
    if inner is None:
        raise Rejected("missing field: messages")
    return inner.read(record, options)


KTO = Importer(
    name="kto",
    reads="messages, conversations, or a question and its answer; label true or false",
    fits=_fits_kto,
    read=_read_kto,
    on_request="it keeps only the conversations labelled true",
    holds=_are_all_labelled,
)
