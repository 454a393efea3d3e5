"""What an importer is, and the few words they all are written in.

An importer turns one JSON object into conversations. It refuses what it cannot read by raising
`Refused`, or by yielding it where one object holds several conversations.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from ...schemas.canonical import canonical_json
from ...schemas.instruction import Instruction, Message
from ..readers.json_rows import DECODER
from ..readers.options import ReadOptions

ID_FIELDS = (
    "id",
    "_id",
    "uuid",
    "uid",
    "dialogue_id",
    "conversation_id",
    "message_tree_id",
    "prompt_id",
)
"""Where a record's own id is looked for, in this order; it becomes `source_id`."""

Fields = dict[str, Any]


class Rejected(Exception):
    """A record, or a part of it, that cannot be a conversation: `reason` is short and countable."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Parsed:
    """A conversation, the fields outside it (JSON values), and the record's own id."""

    instruction: Instruction
    metadata: Fields = field(default_factory=dict)
    source_id: str | None = None


@dataclass(frozen=True)
class Importer:
    """How one shape is told and read.

    Attributes:
        name: what `--format` calls it.
        reads: its columns in words, for help and messages.
        fits: the columns it would use of an object, or None when the object has another shape.
        read: the conversations of an object, in order.
        on_request: why it is used only when named ("" for shapes found by themselves).
        positional: column names for tables without a header, by their number.
        aliases: other names for `--format`.
    """

    name: str
    reads: str
    fits: Callable[[Fields], Collection[str] | None]
    read: Callable[[Fields, ReadOptions], Iterable[Parsed | Rejected]]
    on_request: str = ""
    positional: tuple[tuple[str, ...], ...] = ()
    aliases: tuple[str, ...] = ()


def kind_of(value: Any) -> str:
    """A JSON value's kind, with its article."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a truth value"
    if isinstance(value, str):
        return "text"
    if isinstance(value, int | float):
        return "a number"
    return "a list" if isinstance(value, list) else "an object"


def text_of(value: Any, name: str) -> str:
    """`value` as text: text itself, "" for null, an integer in decimal.

    Raises:
        Refused: it is something whose text would be a guess (a float, a list, ...).
    """
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise Rejected(f"{name} is {kind_of(value)}, not text")


def required(record: Fields, name: str) -> str:
    """The text of a field that a record must have.

    Raises:
        Refused: it is missing, null or no text.
    """
    value = record.get(name)
    if value is None:
        raise Rejected(f"missing field: {name}")
    return value if isinstance(value, str) else text_of(value, name)


def answer_of(record: Fields, name: str, options: ReadOptions) -> str:
    """The text of the answer's field; null is an empty answer.

    Raises:
        Refused: the field is missing or no text.
    """
    if name not in record and not options.allow_empty_answer:
        raise Rejected(f"missing field: {name}")
    return text_of(record.get(name), name)


def looks_textual(record: Fields, names: Iterable[str]) -> bool:
    """Whether all these fields are there and each is text, an integer or null."""
    return all(
        name in record
        and (
            record[name] is None
            or isinstance(record[name], str)
            or (isinstance(record[name], int) and not isinstance(record[name], bool))
        )
        for name in names
    )


def with_input(instruction: str, given: str) -> str:
    """The instruction, a blank line and its input; the instruction alone where that is blank."""
    return f"{instruction}\n\n{given}" if given.strip() else instruction


def dialogue(system: str, *turns: tuple[str, str]) -> list[Message]:
    """Messages from (role, text) pairs behind a system text, which is left out when blank."""
    messages = [Message("system", system)] if system.strip() else []
    messages.extend(Message(role, text) for role, text in turns)
    return messages


def parsed(
    record: Fields, used: Collection[str], messages: Iterable[Message], tools: str | None = None
) -> Parsed:
    """A conversation with everything outside `used` as metadata and the record's own id."""
    instruction = Instruction(tuple(messages), tools)
    if all(name in used for name in record):
        return Parsed(instruction)
    metadata = {name: value for name, value in record.items() if name not in used}
    for name in ID_FIELDS:
        value = metadata.get(name)
        if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
            del metadata[name]
            return Parsed(instruction, metadata, str(value))
    return Parsed(instruction, metadata)


def as_canonical(value: Any, name: str) -> str | None:
    """A list or object, or JSON text of one, as canonical JSON; None where there is nothing.

    Raises:
        Refused: it is neither.
    """
    if isinstance(value, str) and value.strip():
        try:
            value = DECODER.decode(value)
        except (ValueError, RecursionError):
            raise Rejected(f"{name} is not JSON") from None
    if value is None or value == "" or value == [] or value == {}:
        return None
    if isinstance(value, str) and not value.strip():
        return None
    if not isinstance(value, list | dict):
        raise Rejected(f"{name} is {kind_of(value)}, not a list")
    return canonical_json(value)
