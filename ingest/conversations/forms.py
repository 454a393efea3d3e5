"""The form of a conversation: everything about it but its texts; and what a template gets for it.

A form determines where the template puts the texts, so it is laid out once for all its
conversations. The two texts of a turn, its reasoning and its content, are kept apart from it.

Templates differ in what they take, and a `Dialect` says what one takes: contents as text or as
lists of parts, and the key under which reasoning is found. What a template has no key for stands
in the content as a `<think>` block, as it is written in most data.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ...schemas.instruction import ANSWER, THINK, Instruction, Message
from ...schemas.reasoning import thinking_in
from .chat_template import ChatTemplate, RowRefusedError

REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
"""Of a message, as Qwen3, GLM and others; OpenRouter and vLLM; gpt-oss read it."""

THINKING_PART = "thinking part"
"""In place of a key: Magistral reads reasoning from a part of the content."""

CallForm = Literal["objects", "texts", "full objects", "full texts"]
CALL_FORMS: tuple[CallForm, ...] = ("objects", "texts", "full objects", "full texts")
"""How tool calls are given: their arguments as objects or JSON text; `full` calls have the keys id,
type and function, also where the row left some out. Tried in this order."""

# Private-use characters: no template trims, splits or looks for them.
PLACEHOLDER = re.compile("\ue000slot([0-9]+)\ue001")


def placeholder(slot: int) -> str:
    """What stands for the text of a slot in a rendering."""
    return f"\ue000slot{slot}\ue001"


@dataclass(frozen=True)
class Dialect:
    """What a template takes.

    Attributes:
        parts: contents as lists of parts, not as text.
        reasoning: the key of reasoning, None where the template has none.
        blocks: whether it shows reasoning that stands in the last answer as a `<think>` block.
    """

    parts: bool = False
    reasoning: str | None = None
    blocks: bool = True


@dataclass(frozen=True)
class Thought:
    """Reasoning of a turn, given by the dialect's key (or not at all, where there is none), or
    inside the content between two texts.

    `blank` reasoning has no text of its own: all of it stands in `before`.
    """

    before: str | None = None
    after: str = ""
    blank: bool = False


@dataclass(frozen=True)
class Turn:
    """The form of a message: everything but its texts (`text` is "none", "blank" or "some")."""

    role: str
    text: str
    name: str | None
    tool_calls: str | None
    tool_call_id: str | None
    thought: Thought | None = None
    trained: bool = True

    @property
    def thinks(self) -> bool:
        """Whether it has a text of reasoning."""
        return self.thought is not None and not self.thought.blank

    @property
    def answers(self) -> bool:
        """Whether it is an assistant turn with text, reasoning or tool calls."""
        return self.role == "assistant" and (
            self.text == "some" or self.tool_calls is not None or self.thinks
        )


Form = tuple[tuple[Turn, ...], str | None]
"""The turns of a conversation and its tools (canonical JSON), which determine the layout."""

Reading = Literal["whole", "split", "keyed"]
"""How reasoning is given to a template: in the content as one text with the answer; in the content,
but as a text of its own; under the template's key where the message has it as a field."""


def readings_of(instruction: Instruction, dialect: Dialect) -> tuple[Reading, ...]:
    """In which ways a conversation can be given to a template, the first choice first."""
    answers = [message for message in instruction.messages if message.role == "assistant"]
    keyed = dialect.reasoning is not None or not dialect.blocks
    if keyed and any(answer.reasoning is not None for answer in answers):
        return ("keyed",)
    if any(
        answer.reasoning is not None or thinking_in(answer.content) is not None
        for answer in answers
    ):
        return ("whole", "split")
    return ("whole",)


def form_of(instruction: Instruction, reading: Reading = "whole") -> tuple[Form, list[str]]:
    """The form of a conversation, and two texts for each of its turns: reasoning and content.

    An unanswered assistant turn at its end is left out.

    Raises:
        RowRefusedError: nothing is left.
    """
    turns: list[Turn] = []
    texts: list[str] = []
    for message in instruction.messages:
        thought, reasoning, content = _parts_of(message, reading)
        turns.append(
            Turn(
                message.role,
                "some" if content.strip() else "blank" if content else "none",
                message.name,
                message.tool_calls,
                message.tool_call_id,
                thought,
                message.train is not False,
            )
        )
        texts += [reasoning, content]
    while turns and turns[-1].role == "assistant" and not turns[-1].answers:
        turns.pop()
    if not turns:
        raise RowRefusedError("nothing to render: the conversation has no text")
    return (tuple(turns), instruction.tools), texts[: 2 * len(turns)]


def _parts_of(message: Message, reading: Reading) -> tuple[Thought | None, str, str]:
    if message.role != "assistant" or reading == "whole":
        return None, "", message.text
    if message.reasoning is not None:
        if reading == "keyed":
            return Thought(), message.reasoning, message.content
        return Thought(THINK, ANSWER), message.reasoning, message.content
    thinking = thinking_in(message.content)
    if thinking is None:
        return None, "", message.content
    before, reasoning, after, content = thinking
    return Thought(before, after, blank=not reasoning), reasoning, content


def hidden_reasoning(
    instruction: Instruction, turns: Collection[int]
) -> tuple[Instruction, dict[int, tuple[str, str]]]:
    """Hide the reasoning of some turns from a template that would leave it out.

    Returns:
        The conversation without it, and for each of the turns what belongs before and after its
        content. The content of an answer of reasoning alone is that reasoning.
    """
    messages, around = list(instruction.messages), {}
    for turn in turns:
        _, reasoning, content = _parts_of(messages[turn], "split")
        whole, body = messages[turn].text, content or reasoning
        before = whole[: whole.rindex(body)]
        around[turn] = (before, whole[len(before) + len(body) :])
        messages[turn] = replace(messages[turn], reasoning=None, content=body)
    return Instruction(tuple(messages), instruction.tools), around


def messages_of(
    form: Form,
    texts: Sequence[str],
    dialect: Dialect,
    calls: CallForm = "objects",
    guard: Callable[[str], str] = str,
) -> tuple[list[dict[str, Any]], list[Any] | None]:
    """Messages and tools as a template expects them.

    Args:
        texts: two for each turn, as `form_of` gives them.
        calls: how tool calls are given.
        guard: is applied to every string of tools, tool calls and names.
    """
    turns, tools = form
    messages: list[dict[str, Any]] = []
    for turn, reasoning, content in zip(turns, texts[::2], texts[1::2], strict=True):
        message: dict[str, Any] = {"role": turn.role}
        parts: list[dict[str, Any]] = []
        if turn.thought is not None and turn.thought.before is not None:
            content = turn.thought.before + reasoning + turn.thought.after + content
        elif turn.thought is not None and dialect.reasoning == THINKING_PART:
            parts.append({"type": "thinking", "thinking": reasoning})
        elif turn.thought is not None and dialect.reasoning is not None:
            message[dialect.reasoning] = reasoning
        if dialect.parts or parts:
            message["content"] = [*parts, {"type": "text", "text": content}]
        else:
            message["content"] = content
        if turn.name is not None:
            message["name"] = guard(turn.name)
        if turn.tool_calls is not None:
            message["tool_calls"] = _guarded(_calls(turn.tool_calls, calls), guard)
        if turn.tool_call_id is not None:
            message["tool_call_id"] = guard(turn.tool_call_id)
        messages.append(message)
    return messages, None if tools is None else _guarded(json.loads(tools), guard)


def with_content(message: dict[str, Any], suffix: str) -> dict[str, Any]:
    """A message for a template with a text added to its content."""
    content = message["content"]
    if isinstance(content, str):
        return {**message, "content": content + suffix}
    text = content[-1]
    return {**message, "content": [*content[:-1], {**text, "text": text["text"] + suffix}]}


def dialect_of(template: ChatTemplate) -> Dialect:
    """Find out what a template takes, by trying it."""
    parts = not _shows(template, Dialect()) and _shows(template, Dialect(parts=True))
    blocks = _shows(template, Dialect(parts), Thought(THINK, ANSWER))
    for key in (*REASONING_KEYS, THINKING_PART):
        dialect = Dialect(parts, key, blocks)
        if _shows(template, dialect, Thought()):
            return dialect
    return Dialect(parts, None, blocks)


def _shows(template: ChatTemplate, dialect: Dialect, thought: Thought | None = None) -> bool:
    """Whether a template shows a question, and the answer to it if that begins with a thought."""
    turns = (Turn("user", "some", None, None, None),)
    if thought:
        turns += (Turn("assistant", "some", None, None, None, thought),)
    texts = [placeholder(number) for number in range(2 * len(turns))]
    messages, _ = messages_of((turns, None), texts, dialect)
    try:
        rendered = template.render(messages)
    except RowRefusedError:
        return False
    if dialect.reasoning == THINKING_PART and "thinking" in rendered.replace("<thinking>", ""):
        return False  # it writes lists out as they are
    return all(
        content in rendered and (turn.thought is None or reasoning in rendered)
        for turn, reasoning, content in zip(turns, texts[::2], texts[1::2], strict=True)
    )


def marked_calls(
    messages: Sequence[dict[str, Any]], names: bool = True
) -> tuple[list[dict[str, Any]], list[list[str]]]:
    """Messages whose tool calls have other names (if `names`) and arguments, and what these are.

    A template that shows the calls shows these words, for each message its own; plain ones, which
    nothing escapes.
    """
    marks: list[list[str]] = []
    marked: list[dict[str, Any]] = []
    for number, message in enumerate(messages):
        calls, turn_marks = message.get("tool_calls"), []
        if isinstance(calls, list):
            message = {
                **message,
                "tool_calls": [_marked(call, turn_marks, number, names) for call in calls],
            }
        marked.append(message)
        marks.append(turn_marks)
    return marked, marks


def _marked(call: Any, marks: list[str], turn: int, names: bool) -> Any:
    if not isinstance(call, dict):
        return call
    inner = call.get("function")
    function: dict[str, Any] = dict(inner) if isinstance(inner, dict) else dict(call)
    if names and isinstance(function.get("name"), str):
        marks.append(f"coresetdbturn{turn}call{len(marks)}x")
        function["name"] = marks[-1]
    arguments = function.get("arguments")
    if isinstance(arguments, dict) and arguments:
        marks.append(f"coresetdbturn{turn}argument{len(marks)}x")
        function["arguments"] = {**arguments, "coresetdb": marks[-1]}
    elif isinstance(arguments, str) and arguments.strip() not in ("", "{}"):
        marks.append(f"coresetdbturn{turn}argument{len(marks)}x")
        function["arguments"] = arguments + marks[-1]
    return {**call, "function": function} if isinstance(inner, dict) else function


def _calls(tool_calls: str, form: CallForm) -> Any:
    """Tool calls with their arguments as objects or as text: OpenAI keeps text, most templates want
    an object, some want text.
    """
    calls = json.loads(tool_calls)
    if not isinstance(calls, list):
        if not form.startswith("full"):
            return calls
        calls = [calls]
    formed = []
    for number, call in enumerate(calls):
        if not isinstance(call, dict):
            formed.append(call)
            continue
        inner = call.get("function")
        function: dict[str, Any] = dict(inner) if isinstance(inner, dict) else dict(call)
        if form.endswith("objects"):
            function = _with_object(function)
        elif not isinstance(function.get("arguments", ""), str):
            function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
        if isinstance(inner, dict):
            formed.append({**call, "function": function})
        elif form.startswith("full"):
            formed.append({"function": function})
        else:
            formed.append(function)
        if form.startswith("full"):
            formed[-1] = {"id": f"call_{number}", "type": "function"} | formed[-1]
    return formed


def _with_object(function: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(function.get("arguments"), str):
        return function
    try:
        parsed = json.loads(function["arguments"])
    except ValueError:
        return function  # free text as arguments stays text
    return {**function, "arguments": parsed} if isinstance(parsed, dict) else function


def _guarded(value: Any, guard: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return guard(value)
    if isinstance(value, list):
        return [_guarded(each, guard) for each in value]
    if isinstance(value, dict):
        return {key: _guarded(each, guard) for key, each in value.items()}
    return value
