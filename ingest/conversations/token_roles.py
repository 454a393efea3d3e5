"""The role of each token in a rendered conversation: template, prompt or answer.

A conversation is rendered with a placeholder for the text of every message. What stands between the
placeholders comes from the template and depends on the form of the conversation alone (roles,
tools, tool calls), so it is tokenised once per form.

Most templates render the first turns of a conversation the same whatever follows, so a turn ends
where the rendering of the turns up to it ends. Some rewrite history (Qwen3 gives an empty `<think>`
block to the last answer only): there a turn is found in the whole rendering, by its placeholder and
by the text that closes it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...schemas.instruction import Instruction
from .chat_template import ChatTemplate, RowRefusedError

# Private-use characters: no template trims, splits or looks for them.
PLACEHOLDER = re.compile("\ue000slot([0-9]+)\ue001")
_SPARE = "\ue000spare\ue001"

Messages = list[dict[str, Any]]


class HistoryRewrittenError(RowRefusedError):
    """The answers of this conversation cannot be located in its rendering."""

    def __init__(self) -> None:
        super().__init__(
            "the chat template rewrites history: a turn ends differently once more turns follow"
        )


@dataclass(frozen=True)
class AnswerSpan:
    """Positions in the rendering (characters): start of the turn, of its text, end of the turn."""

    start: int
    content: int
    end: int
    calls: bool


def placeholder(slot: int) -> str:
    """What stands for the text of a slot in a rendering."""
    return f"\ue000slot{slot}\ue001"


def find_answers(
    messages: Messages,
    tools: list[Any] | None,
    answering: Sequence[int],
    full: str,
    template: ChatTemplate,
) -> list[AnswerSpan]:
    """Locate each answer in a rendering.

    Args:
        messages: their texts are placeholders, or empty.
        answering: which messages are answers; each has a placeholder or tool calls.
        full: the rendering of all messages, with all their placeholders.

    Raises:
        RowRefusedError: the template cannot render the first turns by themselves.
        HistoryRewrittenError: the end of an answer cannot be located.
    """
    return [_find(index, messages, tools, full, template) for index in answering]


def history_notice(template: ChatTemplate) -> str | None:
    """A sentence about how a template treats earlier rounds; None if it renders them as usual."""
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
        "its chat template renders earlier answers differently from the last one; each is scored "
        "as it stands in the whole conversation, and a row whose text the template changes (as it "
        "may <think> blocks) will get no features (docs/backbones.md)"
    )


def _find(
    index: int, messages: Messages, tools: list[Any] | None, full: str, template: ChatTemplate
) -> AnswerSpan:
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
        return AnswerSpan(len(before), content, len(after), calls)
    start = _locate(index - 1, messages, tools, full, template)[1] if index else 0
    content, end = _locate(index, messages, tools, full, template)
    return AnswerSpan(start, content, end, calls)


def _locate(
    index: int, messages: Messages, tools: list[Any] | None, full: str, template: ChatTemplate
) -> tuple[int, int]:
    """Where the text of a turn begins in the whole rendering, and where the turn ends.

    What follows the text when the turn is the last one (its calls, its end of turn) must follow
    it in the whole rendering as well. A turn without text gets one for the comparison.
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


Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Turn:
    """The form of a message: everything but its text (`text` is "none", "blank" or "some")."""

    role: str
    text: str
    name: str | None
    tool_calls: str | None
    tool_call_id: str | None

    @property
    def answers(self) -> bool:
        """Whether it is an assistant turn with text or tool calls."""
        return self.role == "assistant" and (self.text == "some" or self.tool_calls is not None)


Form = tuple[tuple[Turn, ...], str | None]
"""The turns of a conversation and its tools (canonical JSON), which determine the layout."""


@dataclass(frozen=True)
class Piece:
    """Template text between two slots, as tokens.

    `header` marks tokens that open an answer, `response` its end-of-turn token (and the calls that
    the template writes for it), `content` tokens of the response other than special ones.
    """

    text: str
    ids: NDArray[np.int32]
    header: Mask
    response: Mask
    content: Mask


@dataclass(frozen=True)
class Slot:
    """A place for a text: that of message `message`, or `literal`, a string in a tool."""

    message: int | None
    literal: str | None
    response: bool


@dataclass(frozen=True)
class Layout:
    """pieces[0] slots[0] pieces[1] ... pieces[-1]: one piece more than slots."""

    pieces: tuple[Piece, ...]
    slots: tuple[Slot, ...]


@dataclass(frozen=True)
class PieceTokens:
    """Tokens of a template text: ids and each token's first and one-past-last character."""

    ids: Sequence[int]
    spans: Sequence[tuple[int, int]]


def form_of(instruction: Instruction) -> Form:
    """The form of a conversation; an unanswered assistant turn at its end is left out."""
    turns = [
        Turn(
            message.role,
            "some" if message.content.strip() else "blank" if message.content else "none",
            message.name,
            message.tool_calls,
            message.tool_call_id,
        )
        for message in instruction.messages
    ]
    while turns and turns[-1].role == "assistant" and not turns[-1].answers:
        turns.pop()
    if not turns:
        raise RowRefusedError("nothing to render: the conversation has no text")
    return tuple(turns), instruction.tools


def messages_of(
    form: Form, texts: Sequence[str], guard: Callable[[str], str] = str
) -> tuple[list[dict[str, Any]], list[Any] | None]:
    """Messages and tools as templates expect them; `guard` is applied to every inner string."""
    turns, tools = form
    messages: list[dict[str, Any]] = []
    for turn, text in zip(turns, texts, strict=True):
        message: dict[str, Any] = {"role": turn.role, "content": text}
        if turn.name is not None:
            message["name"] = guard(turn.name)
        if turn.tool_calls is not None:
            message["tool_calls"] = _guarded(_with_parsed_arguments(turn.tool_calls), guard)
        if turn.tool_call_id is not None:
            message["tool_call_id"] = guard(turn.tool_call_id)
        messages.append(message)
    return messages, None if tools is None else _guarded(json.loads(tools), guard)


def build_layout(
    form: Form,
    template: ChatTemplate,
    tokenize: Callable[[str, bool], PieceTokens],
    special_ids: frozenset[int],
    special_text: re.Pattern[str],
) -> Layout:
    """The layout of all conversations of one form.

    Args:
        tokenize: (text, whether it opens the rendering) -> tokens, special ones among them.
        special_ids: of the tokenizer.
        special_text: matches the text of any special token; strings of tools and names that hold
            one become slots, so that they stay text.

    Raises:
        RowRefusedError: the template cannot render this form, leaves a text of it out, or rewrites
            history so that answers cannot be located.
    """
    turns, _ = form
    slots: list[Slot] = []
    texts: list[str] = []
    for index, turn in enumerate(turns):
        if turn.text == "none":
            texts.append("")
            continue
        texts.append(placeholder(len(slots)))
        slots.append(Slot(index, None, turn.answers))

    def guard(text: str) -> str:
        if not special_text.search(text):
            return text
        slots.append(Slot(None, text, False))
        return placeholder(len(slots) - 1)

    messages, tools = messages_of(form, texts, guard)
    full = template.render(messages, tools)
    for turn, mark in zip(turns, texts, strict=True):
        if mark not in full:
            whose = "an answer" if turn.answers else "a message"
            raise RowRefusedError(f"the chat template leaves the text of {whose} out")
    answering = [index for index, turn in enumerate(turns) if turn.answers]
    answers = find_answers(messages, tools, answering, full, template)
    pieces: list[Piece] = []
    placed: list[Slot] = []
    start = 0
    for match in [*PLACEHOLDER.finditer(full), None]:
        end = match.start() if match else len(full)
        pieces.append(_piece(full[start:end], start, answers, tokenize, special_ids))
        if match:
            slot = slots[int(match[1])]
            inside = any(span.content <= match.start() < span.end for span in answers)
            placed.append(Slot(slot.message, slot.literal, inside))
            start = match.end()
    return Layout(tuple(pieces), tuple(placed))


def _piece(
    text: str,
    offset: int,
    answers: Sequence[AnswerSpan],
    tokenize: Callable[[str, bool], PieceTokens],
    special_ids: frozenset[int],
) -> Piece:
    tokens = tokenize(text, offset == 0)
    ids = np.asarray(tokens.ids, dtype=np.int32)
    spans = np.asarray(tokens.spans, dtype=np.int64).reshape(-1, 2) + offset
    first, last = spans[:, 0], spans[:, 1]
    special = np.isin(ids, list(special_ids))
    header, response, content = (np.zeros(len(ids), dtype=bool) for _ in range(3))
    for answer in answers:
        header |= (last > answer.start) & (last <= answer.content)
        tail = (first >= answer.content) & (last <= answer.end)
        # The turn ends with its last special token; line breaks after it belong to the template.
        ends = np.flatnonzero(tail & special)
        if len(ends):
            tail[ends[-1] + 1 :] = False
            response |= tail
        elif answer.calls:
            response |= tail
        content |= tail & response & ~special & answer.calls
    return Piece(text, ids, header, response, content)


def place_texts(layout: Layout, texts: Sequence[str], rendered: str) -> list[str]:
    """The text of each slot in a real rendering: unchanged, trimmed, or escaped for JSON.

    Raises:
        RowRefusedError: the rendering is not the layout with these texts in its slots.
    """
    given = [
        texts[slot.message] if slot.message is not None else slot.literal or ""
        for slot in layout.slots
    ]
    if _joined(layout, given) == rendered:
        return given
    # Positions reachable after each piece, each with the texts that led there.
    reached: dict[int, list[str]] = {}
    if rendered.startswith(layout.pieces[0].text):
        reached[len(layout.pieces[0].text)] = []
    for text, piece in zip(given, layout.pieces[1:], strict=True):
        onward: dict[int, list[str]] = {}
        for position, path in reached.items():
            for form in _forms(text):
                if rendered.startswith(form + piece.text, position):
                    onward.setdefault(position + len(form) + len(piece.text), [*path, form])
        reached = onward
    if len(rendered) not in reached:
        raise RowRefusedError("the chat template changes the text of a message")
    return reached[len(rendered)]


def _forms(text: str) -> list[str]:
    escaped = json.dumps(text, ensure_ascii=False)[1:-1]
    stripped = [text.strip(), text.lstrip(), text.rstrip(), text.strip("\n"), text.lstrip("\n")]
    forms = [text, *stripped, escaped]
    return list(dict.fromkeys(forms))


def _joined(layout: Layout, texts: Sequence[str]) -> str:
    parts = [layout.pieces[0].text]
    for text, piece in zip(texts, layout.pieces[1:], strict=True):
        parts += [text, piece.text]
    return "".join(parts)


def _with_parsed_arguments(tool_calls: str) -> Any:
    """Tool calls with their arguments as objects: OpenAI keeps a string, templates want a dict."""
    calls = json.loads(tool_calls)
    for call in calls if isinstance(calls, list) else []:
        function = call.get("function", call) if isinstance(call, dict) else {}
        if isinstance(function, dict) and isinstance(function.get("arguments"), str):
            try:
                parsed = json.loads(function["arguments"])
            except ValueError:
                continue  # free text as arguments stays text
            if isinstance(parsed, dict):
                function["arguments"] = parsed
    return calls


def _guarded(value: Any, guard: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return guard(value)
    if isinstance(value, list):
        return [_guarded(each, guard) for each in value]
    if isinstance(value, dict):
        return {key: _guarded(each, guard) for key, each in value.items()}
    return value
