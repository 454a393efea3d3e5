"""`--map`: the user says which column is what.

`messages=COL` reads a chat list; otherwise `assistant=COL` (and mostly `user=COL`) make the turns,
with `input`, `system`, `history` and `tools` as in Alpaca and ShareGPT. `a.b` reaches into objects.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ...schemas.errors import UsageError
from ..reading.read_options import ReadOptions
from .alpaca import history_of
from .messages import read_list
from .shape import (
    Fields,
    Found,
    Importer,
    Refused,
    answer_of,
    as_canonical,
    dialogue,
    found,
    required,
    text_of,
    with_input,
)

MISSING = object()


def mapped_importer(mapping: dict[str, str]) -> Importer:
    """An importer for the columns a user has named.

    Raises:
        UsageError: the mapping names neither `messages` nor `assistant`.
    """
    columns = {key: column for key, column in mapping.items() if key != "records"}
    if ("messages" in columns) == ("assistant" in columns):
        raise UsageError(
            "--map needs assistant=COLUMN (mostly with user=COLUMN) or messages=COLUMN, not both"
        )

    def fits(record: Fields) -> list[str] | None:
        there = [column for column in columns.values() if reach(record, column) is not MISSING]
        return there or None

    def read(record: Fields, options: ReadOptions) -> Iterable[Found | Refused]:
        given = {key: reach(record, column) for key, column in columns.items()}
        given = {key: value for key, value in given.items() if value is not MISSING}
        for key in ("messages", "user"):
            if key in columns and key not in given:
                raise Refused(f"missing field: {columns[key]}")
        if "assistant" in columns and "assistant" not in given and not options.allow_empty_answer:
            raise Refused(f"missing field: {columns['assistant']}")
        outside = {name: record[name] for name in record if name not in columns.values()}
        own_id = {"id": given.pop("id")} if "id" in given else {}
        if "messages" in given:
            conversation = read_list(given, ("messages",))
            rest = {**outside, **conversation.metadata, **own_id}
            instruction = conversation.instruction
            return [found(rest, (), instruction.messages, instruction.tools)]
        turns = history_of(given.get("history"))
        if "user" in columns:
            user = with_input(required(given, "user"), text_of(given.get("input"), "input"))
            turns.append(("user", user))
        turns.append(("assistant", answer_of({"assistant": None, **given}, "assistant", options)))
        system = text_of(given.get("system"), "system")
        tools = as_canonical(given.get("tools"), "tools")
        return [found({**outside, **own_id}, (), dialogue(system, *turns), tools)]

    reads = ", ".join(f"{key}={column}" for key, column in columns.items())
    return Importer(name="map", reads=reads, fits=fits, read=read)


def reach(record: Fields, column: str) -> Any:
    """The value of a column, or of a field inside objects named by dots; MISSING where absent."""
    if column in record:
        return record[column]
    value: Any = record
    for part in column.split("."):
        if not isinstance(value, dict) or part not in value:
            return MISSING
        value = value[part]
    return value
