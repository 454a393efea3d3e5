"""What a row is: a conversation, its tools, and the place it was seen.

Equal content is one row. Its identity is the 128-bit BLAKE2b of the canonical JSON of messages and
tools; text is kept exactly as it came (no Unicode or white-space normalisation), absent fields are
left out of the canonical form, so fields added later change no id.

In a table, reasoning stands in the text of its message as a `<think>` block, where whatever reads
text finds it; the column `turn_marks` says how much of the text it is, and which answers are not
trained on. A row without either has null there, and so has every row of a table without the column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .canonical import digest_of

ROLES = ("system", "user", "assistant", "tool")


THINK, ANSWER = "<think>\n", "\n</think>\n\n"
"""Before and after reasoning where it is written into a text, as Qwen3 and DeepSeek-R1 do."""

Marks = list[dict[str, Any]]
"""A value of the column `turn_marks`: for every message {reasoning, train}, both null mostly."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn.

    Attributes:
        role: one of `ROLES`.
        content: "" where there is none. A `<think>` block that came inside a text stays there.
        name: of the speaker, or of the tool that answers.
        tool_calls: a canonical JSON string.
        tool_call_id: the call that a tool answers.
        reasoning: of an answer, where it came as a field or part of its own; never "".
        train: False for an answer that is context only (weight 0); never True, which is the rule.
    """

    role: str
    content: str
    name: str | None = None
    tool_calls: str | None = None
    tool_call_id: str | None = None
    reasoning: str | None = None
    train: bool | None = None

    @property
    def text(self) -> str:
        """All that the turn says: its reasoning, if it has any, as a `<think>` block, and content.

        This is the content of a message in a table.
        """
        if self.reasoning is None:
            return self.content
        return THINK + self.reasoning + ANSWER + self.content

    @property
    def answers(self) -> bool:
        """Whether it is an assistant turn with reasoning, text or tool calls."""
        return self.role == "assistant" and bool(
            self.content.strip() or self.tool_calls or self.reasoning
        )

    def as_dict(self) -> dict[str, Any]:
        """The fields that are set, of which the id is taken; `role` and `content` always are."""
        fields = {
            "role": self.role,
            "content": self.content,
            "name": self.name,
            "tool_calls": self.tool_calls,
            "tool_call_id": self.tool_call_id,
            "reasoning": self.reasoning,
            "train": self.train,
        }
        return {key: value for key, value in fields.items() if value is not None}

    def as_stored(self) -> dict[str, str]:
        """A turn of the column `messages`."""
        fields = {
            "role": self.role,
            "content": self.text,
            "name": self.name,
            "tool_calls": self.tool_calls,
            "tool_call_id": self.tool_call_id,
        }
        return {key: value for key, value in fields.items() if value is not None}

    @classmethod
    def from_stored(cls, turn: Mapping[str, Any], mark: Mapping[str, Any] | None = None) -> Message:
        """The message of a turn as Arrow gives it back, and of its mark, if it has one."""
        text, mark = turn["content"], mark or {}
        content, reasoning = text, None
        if (length := mark.get("reasoning")) is not None:
            end = len(THINK) + length
            reasoning, content = text[len(THINK) : end], text[end + len(ANSWER) :]
        return cls(
            turn["role"],
            content,
            turn.get("name"),
            turn.get("tool_calls"),
            turn.get("tool_call_id"),
            reasoning,
            mark.get("train"),
        )


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

    @property
    def marks(self) -> Marks | None:
        """The value of the column `turn_marks`; None where no message needs a mark."""
        if all(turn.reasoning is None and turn.train is None for turn in self.messages):
            return None
        return [
            {
                "reasoning": None if turn.reasoning is None else len(turn.reasoning),
                "train": turn.train,
            }
            for turn in self.messages
        ]

    @classmethod
    def from_row(
        cls,
        messages: Sequence[Mapping[str, Any]],
        tools: str | None,
        marks: Sequence[Mapping[str, Any]] | None = None,
    ) -> Instruction:
        """The instruction stored in a table row (columns as Arrow gives them back).

        Args:
            messages, tools: the columns of these names.
            marks: the column `turn_marks`, where the table has it.
        """
        return cls(
            tuple(map(Message.from_stored, messages, marks or [None] * len(messages))), tools
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

    A row needs at least one assistant turn with text, reasoning or tool calls that is trained on,
    known roles, and text that UTF-8 can hold. Targets may have an empty answer
    (`allow_empty_answer`).
    """
    if not instruction.messages:
        return "no messages"
    for message in instruction.messages:
        if message.role not in ROLES:
            return f"unknown role {message.role!r}"
    answers = [message for message in instruction.messages if message.role == "assistant"]
    if not answers and not allow_empty_answer:
        return "no assistant turn"
    given = [answer for answer in answers if answer.answers]
    if not allow_empty_answer and not given:
        return "empty response"
    if not allow_empty_answer and all(answer.train is False for answer in given):
        return "no answer is trained on (weight 0, train false or loss false in every one)"
    try:
        _ = instruction.id
    except UnicodeEncodeError:
        return "lone surrogate: the text has no UTF-8 form"
    return None
