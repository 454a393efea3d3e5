"""The role of each token in a rendered conversation: template, prompt or answer.

A conversation is rendered with a placeholder for every text. What stands between the placeholders
comes from the template and depends on the form of the conversation alone (roles, tools, tool
calls), so it is tokenised once per form.

Most templates render the first turns of a conversation the same whatever follows, so a turn ends
where the rendering of the turns up to it ends. Some rewrite history (Qwen3 gives an empty `<think>`
block to the last answer only, gpt-oss ends the last one with a token of its own): there a turn is
found in the whole rendering, by its placeholders and by the text that closes it.

An answer is what the model would write: its texts, what the template puts between reasoning and
content, tool calls, and the token that ends the turn. Answers that are not trained on are prompt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .chat_template import ChatTemplate, RowRefusedError
from .forms import (
    CALL_FORMS,
    PLACEHOLDER,
    CallForm,
    Dialect,
    Form,
    marked_calls,
    messages_of,
    placeholder,
    with_content,
)

_SPARE, _NEXT = "\ue000spare\ue001", "\ue000next\ue001"

Messages = list[dict[str, Any]]


class HistoryRewrittenError(RowRefusedError):
    """The answers of this conversation cannot be located in its rendering."""

    def __init__(self) -> None:
        super().__init__(
            "the chat template rewrites history: a turn ends differently once more turns follow"
        )


@dataclass(frozen=True)
class AnswerSpan:
    """Positions in the rendering (characters).

    Attributes:
        start: of the turn.
        content: where the model begins to write.
        texts: where the last text of the turn ends.
        end: of the turn.
        calls: whether the turn has tool calls.
        calls_first: whether they stand before its text.
        written: whether what follows its texts is written by the model up to the end of the turn,
            even where no special token ends it: calls, or the end of reasoning.
    """

    start: int
    content: int
    texts: int
    end: int
    calls: bool
    calls_first: bool
    written: bool


@dataclass(frozen=True)
class Rendered:
    """A conversation with placeholders for its texts, and its rendering.

    Attributes:
        messages: as the template gets them.
        marks: the placeholders of each message that are in the rendering, in order.
        reasons: of each message, whether the first of its marks stands for reasoning.
        calls_first: the messages whose tool calls stand before their content.
        tools: as the template gets them.
        full: the rendering of all messages.
        special_text: matches the text of any special token.
    """

    messages: Messages
    marks: Sequence[Sequence[str]]
    reasons: Sequence[bool]
    calls_first: Collection[int]
    tools: list[Any] | None
    full: str
    template: ChatTemplate
    special_text: re.Pattern[str]

    def render(self, count: int, generation: bool = False) -> str:
        """The rendering of the first messages alone."""
        return self.template.render(self.messages[:count], self.tools, generation)


def find_answer(index: int, given: Rendered) -> AnswerSpan:
    """Locate an answer in a rendering.

    Args:
        index: of a message that has a mark or tool calls.

    Raises:
        RowRefusedError: the template cannot render the first turns by themselves.
        HistoryRewrittenError: the end of the answer cannot be located.
    """
    full, marks = given.full, given.marks[index]
    before = given.render(index) if index else ""
    after = given.render(index + 1)
    if full.startswith(after) and after.startswith(before):
        start, end = len(before), len(after)
        content = None
    else:
        start = _locate(index - 1, given)[1] if index else 0
        content, end = _locate(index, given)
    places = [full.find(mark, start, end) for mark in marks]
    if any(place < 0 for place in places):
        raise RowRefusedError("the chat template moves the text of an answer elsewhere")
    calls_first = index in given.calls_first
    if places and not given.reasons[index] and not calls_first:
        content = places[0]
    elif places or content is None:
        opening = given.render(index, generation=True)
        if opening.startswith(before) and full.startswith(opening[len(before) :], start):
            content = start + len(opening) - len(before)
        else:
            content = places[0] if places else _common_prefix(opening, full)
            begun = (match.span() for match in given.special_text.finditer(full, start, end))
            content = next((first for first, last in begun if first < content < last), content)
    texts = places[-1] + len(marks[-1]) if places else content
    calls = "tool_calls" in given.messages[index]
    written = calls or len(marks) == given.reasons[index]
    return AnswerSpan(start, content, texts, end, calls, calls_first, written)


def _locate(index: int, given: Rendered) -> tuple[int | None, int]:
    """Where the text of a turn begins in the whole rendering, and where the turn ends.

    A turn of tool calls alone may have no place for a text; its text then begins nowhere.
    """
    try:
        return _by_text(index, given)
    except RowRefusedError:
        end = _end_of_calls(index, given)
        if end is None:
            raise
        return None, end


def _by_text(index: int, given: Rendered) -> tuple[int, int]:
    """Locate a turn by its text.

    What follows the text when the turn is the last one (its calls, its end of turn) must follow
    it in the whole rendering as well, or else end where the next turn begins. A turn without text
    gets one for the comparison.
    """
    full = given.full
    mark, messages = _with_mark(index, given)
    whole = given.template.render(messages, given.tools)
    first = given.template.render(messages[: index + 1], given.tools)
    if whole.count(mark) != 1 or first.count(mark) != 1:
        raise HistoryRewrittenError
    opening, _, following = whole.partition(mark)
    closing = first.partition(mark)[2]
    if not following.startswith(closing):
        closing = _other_closing(index, closing, mark, messages, given)
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


def _end_of_calls(index: int, given: Rendered) -> int | None:
    """Where a turn of calls alone ends: what follows a word in its last call follows it always."""
    messages = list(given.messages)
    marked, words = marked_calls(messages[index : index + 1], names=False)
    if given.marks[index][given.reasons[index] :] or not words[0]:
        return None
    messages[index], mark = marked[0], words[0][-1]
    following = given.template.render(messages, given.tools).partition(mark)[2]
    closing = given.template.render(messages[: index + 1], given.tools).partition(mark)[2]
    rest = following.removeprefix(closing)
    clear = closing and mark not in following and following.startswith(closing)
    return len(given.full) - len(rest) if clear and given.full.endswith(rest) else None


def _with_mark(index: int, given: Rendered) -> tuple[str, Messages]:
    """The last placeholder of a message, and the messages; one without content gets one."""
    marks = given.marks[index]
    if len(marks) > given.reasons[index]:
        return marks[-1], given.messages
    messages = list(given.messages)
    messages[index] = with_content(messages[index], _SPARE)
    return _SPARE, messages


def _other_closing(index: int, closing: str, mark: str, messages: Messages, given: Rendered) -> str:
    """What closes a turn in the middle, where it closes otherwise than at the end.

    It is what stands before the header of the next turn, and that header is what the next turn
    begins with when it stands alone. Where the template puts a turn of its own before that, which
    closes alike, the header cannot be told from the closing: then the turn closes with as many
    special tokens as at the end.

    Args:
        closing: at the end.
        mark, messages: of the turn, as `_with_mark` gives them.
    """
    if index + 1 >= len(messages):
        raise HistoryRewrittenError
    following = next(iter(given.marks[index + 1]), "")
    if not following:
        following, messages = _NEXT, list(messages)
        messages[index + 1] = with_content(messages[index + 1], _NEXT)
    whole = given.template.render(messages, given.tools)
    text, found, _ = whole.partition(mark)[2].partition(following)
    if not found or PLACEHOLDER.search(text):
        raise HistoryRewrittenError
    try:
        alone = given.template.render([messages[index + 1]]).partition(following)[0]
    except RowRefusedError:
        raise HistoryRewrittenError from None
    alone = alone.removeprefix(given.template.special.get("bos_token", ""))
    cut = len(text) - _common_prefix(text[::-1], alone[::-1])
    if text[cut:] == alone:
        return text[:cut]
    specials = [match.span() for match in given.special_text.finditer(text)]
    cut = next((last for first, last in specials if first < cut < last), cut)
    begins = next((first for first, _ in specials if first >= cut), len(text))
    if cut and begins < len(text) and not text[cut:begins].strip():
        return text[:cut]
    count = len(given.special_text.findall(closing))
    if cut or not count or not specials:
        raise HistoryRewrittenError
    return text[: specials[count - 1][1]] if count < len(specials) else ""


def _common_prefix(left: str, right: str) -> int:
    for position, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return position
    return min(len(left), len(right))


Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Piece:
    """Template text between two slots, as tokens.

    `header` marks tokens that open an answer, `response` its end-of-turn token (and the calls that
    the template writes for it), `content` those of the calls.
    """

    text: str
    ids: NDArray[np.int32]
    header: Mask
    response: Mask
    content: Mask


@dataclass(frozen=True)
class Slot:
    """A place for a text.

    Attributes:
        kind: "reasoning" or "content" of a turn, or "literal", a string in a tool or a name.
        text: the place of the text among those of `form_of`; -1 for a literal.
        literal: the string.
        response: whether the model writes it.
    """

    kind: str
    text: int
    literal: str
    response: bool


@dataclass(frozen=True)
class Layout:
    """pieces[0] slots[0] pieces[1] ... pieces[-1]: one piece more than slots.

    `calls` is the form in which the template takes tool calls.
    """

    pieces: tuple[Piece, ...]
    slots: tuple[Slot, ...]
    calls: CallForm


@dataclass(frozen=True)
class PieceTokens:
    """Tokens of a template text: ids and each token's first and one-past-last character."""

    ids: Sequence[int]
    spans: Sequence[tuple[int, int]]


def build_layout(
    form: Form,
    template: ChatTemplate,
    dialect: Dialect,
    tokenize: Callable[[str, bool], PieceTokens],
    special_ids: frozenset[int],
    special_text: re.Pattern[str],
) -> Layout:
    """The layout of all conversations of one form.

    Args:
        dialect: of the template.
        tokenize: (text, whether it opens the rendering) -> tokens, special ones among them.
        special_ids: of the tokenizer.
        special_text: matches the text of any special token; strings of tools and names that hold
            one become slots, so that they stay text.

    Raises:
        RowRefusedError: the template cannot render this form, leaves a text or a tool call of it
            out, or rewrites history so that answers cannot be located.
    """
    calling = any(turn.tool_calls is not None for turn in form[0])
    refused: list[RowRefusedError] = []
    for calls in CALL_FORMS if calling else CALL_FORMS[:1]:
        try:
            slots, rendered = rendered_form(form, template, dialect, calls, special_text)
        except RowRefusedError as error:
            refused.append(error)
            continue
        answers = [
            find_answer(index, rendered)
            for index, turn in enumerate(form[0])
            if turn.answers and turn.trained
        ]
        return _laid_out(slots, rendered.full, answers, calls, tokenize, special_ids)
    raise refused[0]


def rendered_form(
    form: Form,
    template: ChatTemplate,
    dialect: Dialect,
    calls: CallForm,
    special_text: re.Pattern[str],
) -> tuple[list[Slot], Rendered]:
    """Render a form with placeholders, and make sure that nothing is left out but reasoning."""
    turns, _ = form
    slots: list[Slot] = []
    texts: list[str] = []

    def slot(kind: str, text: int, literal: str = "") -> str:
        slots.append(Slot(kind, text, literal, False))
        return placeholder(len(slots) - 1)

    for index, turn in enumerate(turns):
        texts.append(slot("reasoning", 2 * index) if turn.thinks else "")
        texts.append("" if turn.text == "none" else slot("content", 2 * index + 1))

    def guard(text: str) -> str:
        return slot("literal", -1, text) if special_text.search(text) else text

    messages, tools = messages_of(form, texts, dialect, calls, guard)
    full = template.render(messages, tools)
    marks: list[list[str]] = []
    for turn, reasoning, content in zip(turns, texts[::2], texts[1::2], strict=True):
        if content not in full:
            whose = "an answer" if turn.answers else "a message"
            raise RowRefusedError(f"the chat template leaves the text of {whose} out")
        marks.append([mark for mark in (reasoning, content) if mark and mark in full])
        if turn.thinks and not marks[-1] and turn.tool_calls is None:
            raise RowRefusedError(
                "the chat template leaves the reasoning of an answer out, and the answer says "
                "nothing else"
            )
    first = _calls_first(messages, texts, tools, template)
    reasons = [bool(own) and own[0] == texts[2 * index] for index, own in enumerate(marks)]
    return slots, Rendered(messages, marks, reasons, first, tools, full, template, special_text)


def _calls_first(
    messages: Messages, texts: Sequence[str], tools: list[Any] | None, template: ChatTemplate
) -> set[int]:
    """Make sure that a template shows every tool call; which calls stand before their content?

    Raises:
        RowRefusedError: it leaves one out.
    """
    marked, marks = marked_calls(messages)
    if not any(marks):
        return set()
    try:
        shown = template.render(marked, tools)
    except RowRefusedError:  # it checks names or arguments, so it does not pass them by
        return set()
    if any(mark not in shown for own in marks for mark in own):
        raise RowRefusedError("the chat template leaves a tool call out")
    return {
        index
        for index, own in enumerate(marks)
        if own and texts[2 * index + 1] and shown.index(own[0]) < shown.index(texts[2 * index + 1])
    }


def _laid_out(
    slots: Sequence[Slot],
    full: str,
    answers: Sequence[AnswerSpan],
    calls: CallForm,
    tokenize: Callable[[str, bool], PieceTokens],
    special_ids: frozenset[int],
) -> Layout:
    pieces: list[Piece] = []
    placed: list[Slot] = []
    start = 0
    for match in [*PLACEHOLDER.finditer(full), None]:
        end = match.start() if match else len(full)
        pieces.append(_piece(full[start:end], start, answers, tokenize, special_ids))
        if match:
            slot = slots[int(match[1])]
            inside = any(span.content <= match.start() < span.end for span in answers)
            placed.append(replace(slot, response=inside))
            start = match.end()
    return Layout(tuple(pieces), tuple(placed), calls)


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
        within = (first >= answer.content) & (last <= answer.texts)
        response |= within
        tail = (first >= answer.content) & (last <= answer.end)
        # The turn ends with its last special token; line breaks after it belong to the template.
        ends = np.flatnonzero(tail & special)
        if len(ends):
            tail[ends[-1] + 1 :] = False
            response |= tail
        elif answer.written:
            response |= tail
        called = within if answer.calls_first else tail & ~within
        content |= called & response & ~special & answer.calls
    return Piece(text, ids, header, response, content)


def place_texts(layout: Layout, texts: Sequence[str], rendered: str) -> list[str]:
    """The text of each slot in a real rendering: unchanged, trimmed, or escaped for JSON.

    Raises:
        RowRefusedError: the rendering is not the layout with these texts in its slots.
    """
    given = [slot.literal if slot.kind == "literal" else texts[slot.text] for slot in layout.slots]
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
    breaks = [text.strip("\n"), text.lstrip("\n"), text.rstrip("\n")]
    stripped = [text.strip(), text.lstrip(), text.rstrip(), *breaks]
    forms = [text, *stripped, escaped]
    return list(dict.fromkeys(forms))


def _joined(layout: Layout, texts: Sequence[str]) -> str:
    parts = [layout.pieces[0].text]
    for text, piece in zip(texts, layout.pieces[1:], strict=True):
        parts += [text, piece.text]
    return "".join(parts)
