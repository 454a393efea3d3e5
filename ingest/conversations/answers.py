"""Where the answers stand in a rendered conversation whose texts are placeholders.

Most templates render the first turns of a conversation always the same, so a turn is over where
the rendering of the turns up to it is. Some rewrite history (Qwen3 gives an empty `<think>` block
to the last answer only): there a turn is found in the whole rendering, by its placeholder and by
the text that closes it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .chat_template import ChatTemplate, RowRefusedError

# Private-use characters: no template trims, splits or looks for them.
PLACEHOLDER = re.compile("\ue000slot([0-9]+)\ue001")
_SPARE = "\ue000spare\ue001"

Messages = list[dict[str, Any]]


class HistoryRewrittenError(RowRefusedError):
    """The answers of this conversation cannot be told from the rest of its rendering."""

    def __init__(self) -> None:
        super().__init__(
            "the chat template rewrites history: earlier turns end otherwise once more turns follow"
        )


@dataclass(frozen=True)
class Answer:
    """Character positions in the rendering: turn begins, answer begins, turn is over."""

    start: int
    content: int
    end: int
    calls: bool


def placeholder(slot: int) -> str:
    """What stands in a rendering for the text of that slot."""
    return f"\ue000slot{slot}\ue001"


def find_answers(
    messages: Messages,
    tools: list[Any] | None,
    answering: Sequence[int],
    full: str,
    template: ChatTemplate,
) -> list[Answer]:
    """Where each answer stands.

    Args:
        messages: their texts are placeholders, or empty.
        answering: which messages are answers; each has a placeholder or tool calls.
        full: the rendering of all messages; holds every placeholder of a message.

    Raises:
        RowRefusedError: the template refuses the first turns by themselves.
        HistoryRewrittenError: the end of an answer cannot be told.
    """
    return [_find(index, messages, tools, full, template) for index in answering]


def history_notice(template: ChatTemplate) -> str | None:
    """What a user should know about how a template treats earlier rounds; None for nothing."""
    roles = ("user", "assistant", "user", "assistant")
    messages = [{"role": role, "content": placeholder(n)} for n, role in enumerate(roles)]
    try:
        full = template.render(messages)
        if full.startswith(template.render(messages[:2])):
            return None
        find_answers(messages, None, (1, 3), full, template)
    except HistoryRewrittenError:
        return (
            "its chat template rewrites history, so conversations of several rounds will get no "
            "features (docs/backbones.md says what to do)"
        )
    except RowRefusedError:
        return None  # it is not about history, and each row will say why
    return (
        "its chat template renders earlier answers otherwise than the last one; each is scored as "
        "it stands in the whole conversation, and a row whose text the template changes (as it "
        "may <think> blocks) will get no features (docs/backbones.md)"
    )


def _find(
    index: int, messages: Messages, tools: list[Any] | None, full: str, template: ChatTemplate
) -> Answer:
    calls = "tool_calls" in messages[index]
    before = template.render(messages[:index], tools) if index else ""
    after = template.render(messages[: index + 1], tools)
    if full.startswith(after) and after.startswith(before):
        if mark := messages[index]["content"]:
            content = full.find(mark, len(before), len(after))
            if content < 0:
                raise RowRefusedError("the chat template moves the text of an answer elsewhere")
        else:
            opening = template.render(messages[:index], tools, generation=True)
            content = _common_prefix(opening, full)
        return Answer(len(before), content, len(after), calls)
    start = _locate(index - 1, messages, tools, full, template)[1] if index else 0
    content, end = _locate(index, messages, tools, full, template)
    return Answer(start, content, end, calls)


def _locate(
    index: int, messages: Messages, tools: list[Any] | None, full: str, template: ChatTemplate
) -> tuple[int, int]:
    """Where a turn's text begins in the whole rendering, and where the turn is over.

    What follows the text when the turn is the last one (its calls, its end of turn) must follow
    it in the whole as well. A turn without text is given one for the time of the comparison.
    """
    mark = messages[index]["content"] or _SPARE
    given = [*messages[:index], {**messages[index], "content": mark}, *messages[index + 1 :]]
    whole = template.render(given, tools)
    first = template.render(given[: index + 1], tools)
    if whole.count(mark) != 1 or first.count(mark) != 1:
        raise HistoryRewrittenError
    opening, _, following = whole.partition(mark)
    closing = first.partition(mark)[2]
    rest = following.removeprefix(closing)
    end = len(full) - len(rest)
    if not (
        following.startswith(closing)
        and full.startswith(opening)
        and full.endswith(rest)
        and end >= len(opening)
    ):
        raise HistoryRewrittenError
    return len(opening), end


def _common_prefix(left: str, right: str) -> int:
    for position, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return position
    return min(len(left), len(right))
