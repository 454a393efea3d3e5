"""What a row is: a conversation, its tools, and the place it was seen.

Equal content is one row. Its identity is the 128-bit BLAKE2b of the canonical JSON of messages and
tools; text is kept exactly as it came (no Unicode or white-space normalisation), absent fields are
left out of the canonical form, so fields added later change no id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .canonical import digest_of

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `tool_calls` is a canonical JSON string; `content` is "" where there is none."""

    role: str
    content: str
    name: str | None = None
    tool_calls: str | None = None
    tool_call_id: str | None = None

    def as_dict(self) -> dict[str, str]:
        """The fields that are set; `role` and `content` always are."""
        fields = {
            "role": self.role,
            "content": self.content,
            "name": self.name,
            "tool_calls": self.tool_calls,
            "tool_call_id": self.tool_call_id,
        }
        return {key: value for key, value in fields.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Instruction:
    """A conversation and the tools offered in it (a canonical JSON string, or None)."""

    messages: tuple[Message, ...]
    tools: str | None = None

    @property
    def id(self) -> str:
        """32 hexadecimal digits, the same wherever and whenever the content is the same.

        Raises:
            UnicodeEncodeError: a text holds a lone surrogate.
        """
        content: dict[str, Any] = {"messages": [message.as_dict() for message in self.messages]}
        if self.tools is not None:
            content["tools"] = self.tools
        return digest_of(content)

    @classmethod
    def from_turns(cls, *turns: tuple[str, str]) -> Instruction:
        """An instruction from (role, content) pairs."""
        return cls(tuple(Message(role, content) for role, content in turns))

    @classmethod
    def from_row(cls, messages: Sequence[dict[str, Any]], tools: str | None) -> Instruction:
        """The instruction stored in a table row (`messages` as Arrow gives them back)."""
        return cls(
            tuple(
                Message(
                    turn["role"],
                    turn["content"],
                    turn.get("name"),
                    turn.get("tool_calls"),
                    turn.get("tool_call_id"),
                )
                for turn in messages
            ),
            tools,
        )


@dataclass(frozen=True, slots=True)
class Record:
    """An instruction as one place of one file held it.

    `line` counts from 1: the physical line in line-based files, the record's number in arrays and
    tables. `metadata` is canonical JSON of every field outside the conversation.
    """

    instruction: Instruction
    corpus: str
    file: str
    line: int
    source_id: str | None = None
    metadata: str = "{}"


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that could not be used: where it stood, why, and its first characters."""

    corpus: str
    file: str
    line: int
    reason: str
    excerpt: str = ""


def unusable(instruction: Instruction, *, allow_empty_answer: bool = False) -> str | None:
    """Why a conversation cannot be a row of the pool, or None when it can.

    A row needs at least one assistant turn with text or tool calls, known roles, and text that
    UTF-8 can hold. Targets may have an empty answer (`allow_empty_answer`).
    """
    if not instruction.messages:
        return "no messages"
    for message in instruction.messages:
        if message.role not in ROLES:
            return f"unknown role {message.role!r}"
    answers = [message for message in instruction.messages if message.role == "assistant"]
    if not answers and not allow_empty_answer:
        return "no assistant turn"
    if not allow_empty_answer and not any(
        answer.content.strip() or answer.tool_calls for answer in answers
    ):
        return "empty response"
    try:
        _ = instruction.id
    except UnicodeEncodeError:
        return "lone surrogate: the text has no UTF-8 form"
    return None
