"""The reasoning of an answer: as a field, as a block in its text, or left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from .instruction import Instruction, Message

_BLOCKS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("[THINK]", "[/THINK]"),
)
"""Tags around reasoning inside a text."""


def thinking_in(content: str) -> tuple[str, str, str, str] | None:
    """Split an answer that begins with a block of reasoning; None for any other.

    The block is `<think>...</think>`, `<thinking>...` or `[THINK]...[/THINK]`. An answer with a
    closing `</think>` alone begins with reasoning too: some templates open the block themselves.

    Returns:
        What stands before the reasoning (the opening tag), the reasoning without the space around
        it, what stands after it (the closing tag and space), and the answer. Joined they are
        `content`; the reasoning of an empty block is "".
    """
    if "</think" not in content and "[/THINK]" not in content:
        return None
    begun = content.lstrip()
    for opening, closing in _BLOCKS:
        if begun.startswith(opening) and closing in begun:
            before, _, rest = content.partition(opening)
            return _split(before + opening, rest, closing)
    if "</think>" in content and "<think>" not in content:
        return _split("", content, "</think>")
    return None


def _split(before: str, text: str, closing: str) -> tuple[str, str, str, str]:
    inner, _, rest = text.partition(closing)
    reasoning, answer = inner.strip(), rest.lstrip()
    start = len(inner) - len(inner.lstrip())
    after = inner[start + len(reasoning) :] + closing + rest[: len(rest) - len(answer)]
    return before + inner[:start], reasoning, after, answer


def as_blocks(instruction: Instruction) -> Instruction:
    """The same conversation with all reasoning in the texts of the answers."""
    return _mapped(instruction, lambda turn: replace(turn, content=turn.text, reasoning=None))


def as_fields(instruction: Instruction) -> Instruction:
    """The same conversation with all reasoning in fields of its own; empty blocks stay."""

    def moved(turn: Message) -> Message:
        thinking = thinking_in(turn.content) if turn.reasoning is None else None
        if thinking is None or not thinking[1]:
            return turn
        return replace(turn, content=thinking[3], reasoning=thinking[1])

    return _mapped(instruction, moved)


def without_reasoning(instruction: Instruction) -> Instruction:
    """The same conversation without the reasoning of its answers."""

    def bare(turn: Message) -> Message:
        thinking = thinking_in(turn.content) if turn.reasoning is None else None
        return replace(turn, content=thinking[3] if thinking else turn.content, reasoning=None)

    return _mapped(instruction, bare)


def _mapped(instruction: Instruction, change: Callable[[Message], Message]) -> Instruction:
    turns = (change(turn) if turn.role == "assistant" else turn for turn in instruction.messages)
    return replace(instruction, messages=tuple(turns))
