"""What an importer is, and the functions that importers are written with.

An importer turns one record, a JSON object, into conversations. It raises `Rejected` for what it
cannot read, or yields it where one record holds several conversations.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

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
MISSING = object()
"""What `reach` finds where a record has no such column."""


class Rejected(Exception):
    """Why a record, or a part of it, is no conversation; reasons are short and can be counted."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Parsed:
    """A conversation, the fields outside it (JSON values), and the record's own id."""

    instruction: Instruction
    metadata: Fields = field(default_factory=dict)
    source_id: str | None = None


def _always(records: Sequence[Fields]) -> bool:
    return True


@dataclass(frozen=True)
class Importer:
    """How records of one shape are recognised and read.

    Attributes:
        name: its name for `--format`.
        reads: its columns in words, for help and messages.
        fits: returns the columns it would use of a record, or None for a record of another shape.
        read: returns the conversations of a record, in order.
        on_request: why it is used only when named ("" for a shape that is detected).
        positional: names of the columns of a table without header, one tuple for each width.
        aliases: further names for `--format`.
        is_pair: whether it takes a column for the question and one for the answer, so that other
            columns of the conversation beside them (a context, choices, ...) would be left out.
        beside: columns that it reads where a record has them, though no shape is told by them.
        unanswered: whether its records lack the answer; only examples of a target may.
        holds: what must hold of the first records together, besides `fits`.
    """

    name: str
    reads: str
    fits: Callable[[Fields], Collection[str] | None]
    read: Callable[[Fields, ReadOptions], Iterable[Parsed | Rejected]]
    on_request: str = ""
    positional: tuple[tuple[str, ...], ...] = ()
    aliases: tuple[str, ...] = ()
    is_pair: bool = False
    beside: tuple[str, ...] = ()
    unanswered: bool = False
    holds: Callable[[Sequence[Fields]], bool] = _always


def reach(record: Fields, column: str) -> Any:
    """The value of a column, or of a field inside objects (`a.b`); MISSING where there is none."""
    if column in record:
        return record[column]
    value: Any = record if "." in column else None
    for part in column.split("."):
        if not isinstance(value, dict) or part not in value:
            return MISSING
        value = value[part]
    return value


def kind_of(value: Any) -> str:
    """The kind of a JSON value, with its article."""
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
        Rejected: it is something whose text would be a guess (a float, a list, ...).
    """
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise Rejected(f"{name} is {kind_of(value)}, not text")


def json_text(value: Any) -> str:
    """JSON text of a value, its fields in their own order.

    Raises:
        ValueError: it holds NaN or an infinity.
    """
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


ANSWER_FIELDS = frozenset(("aliases", "spans", "answer_start", "normalized_value"))
"""Fields of objects that describe an answer (SQuAD, TriviaQA, DROP) rather than being one."""


def text_or_json(value: Any, name: str) -> str:
    """As `text_of`; an object, and a list of objects, as JSON text: structured output.

    Raises:
        Rejected: the text would be a guess, or the object describes an answer.
    """
    if describes_answer(value):
        field = next((key for key in ("text", "value") if key in value), "FIELD")
        raise Rejected(f"{name} is an object, not text: --map assistant={name}.{field} reads it")
    return json_text(value) if are_objects(value) else text_of(value, name)


def describes_answer(value: Any) -> bool:
    """Whether a value is an object that holds an answer among other things about it."""
    return isinstance(value, dict) and not ANSWER_FIELDS.isdisjoint(value)


def are_objects(value: Any) -> bool:
    """Whether a value is an object, or a list of nothing but objects."""
    if isinstance(value, list):
        return bool(value) and all(isinstance(item, dict) for item in value)
    return isinstance(value, dict)


def required(record: Fields, name: str) -> str:
    """The text of a field that a record must have.

    Raises:
        Rejected: it is missing, null or no text.
    """
    value = record.get(name)
    if value is None:
        raise Rejected(f"missing field: {name}")
    return value if isinstance(value, str) else text_of(value, name)


def answer_of(record: Fields, name: str, options: ReadOptions) -> str:
    """The text of the field of the answer; null is an empty answer.

    Raises:
        Rejected: the field is missing or no text.
    """
    if name not in record and not options.allow_empty_answer:
        raise Rejected(f"missing field: {name}")
    return text_of(record.get(name), name)


TRUTH = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}


def truth_of(value: Any) -> bool | None:
    """The truth value that a value stands for: true, 1, 1.0, "True", "yes", ...; else None."""
    if isinstance(value, str):
        value = value.strip().lower()
        return TRUTH.get(value.removesuffix(".0"))
    return bool(value) if isinstance(value, int | float) and value in (0, 1) else None


def looks_textual(record: Fields, names: Iterable[str]) -> bool:
    """Whether a record has all these fields, each of them text, an integer or null."""
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
    """The instruction, a blank line and its input; the instruction alone if the input is blank."""
    return f"{instruction}\n\n{given}" if given.strip() else instruction


def dialogue(system: str, *turns: tuple[str, str]) -> list[Message]:
    """Messages from a system text, which is left out when blank, and (role, text) pairs."""
    messages = [Message("system", system)] if system.strip() else []
    messages.extend(Message(role, text) for role, text in turns)
    return messages


def parsed(
    record: Fields, used: Collection[str], messages: Iterable[Message], tools: str | None = None
) -> Parsed:
    """A conversation; fields of the record outside `used` become metadata and its own id."""
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


def decoded(text: str, name: str) -> Any:
    """The value that JSON text stands for.

    Raises:
        Rejected: it is not JSON.
    """
    try:
        return DECODER.decode(text)
    except (ValueError, RecursionError):
        raise Rejected(f"{name} is not JSON") from None
