"""Conversations as columns of a table: `messages`, `tools` and, where it is needed, `turn_marks`.

`turn_marks` is declared in a table when its first row comes that needs one, so that stores made
before it existed go on as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from .instruction import Instruction

TURN_MARKS = pa.field(
    "turn_marks",
    pa.list_(pa.struct([pa.field("reasoning", pa.int32()), pa.field("train", pa.bool_())])),
)
"""For every message of a row, how many characters of its content are reasoning that came as a field
of its own, and false where an answer is not trained on; null for a row without either."""

CONVERSATION = ("messages", "tools", TURN_MARKS.name)


def conversation_columns(schema: pa.Schema) -> list[str]:
    """Name the columns of a table that hold its conversations."""
    return [name for name in CONVERSATION if name in schema.names]


def as_columns(instructions: Sequence[Instruction]) -> dict[str, list[Any]]:
    """Return the values of these columns, `turn_marks` only if a conversation needs one."""
    columns: dict[str, list[Any]] = {
        "messages": [[turn.as_stored() for turn in row.messages] for row in instructions],
        "tools": [row.tools for row in instructions],
    }
    marks = [row.marks for row in instructions]
    return columns | ({TURN_MARKS.name: marks} if any(marks) else {})


def conversations_in(rows: pa.Table) -> list[Instruction]:
    """Return the conversations of rows that have these columns."""
    messages, tools = rows["messages"].to_pylist(), rows["tools"].to_pylist()
    marked = TURN_MARKS.name in rows.column_names
    marks = rows[TURN_MARKS.name].to_pylist() if marked else [None] * len(rows)
    return list(map(Instruction.from_row, messages, tools, marks))
