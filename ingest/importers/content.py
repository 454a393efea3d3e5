"""Content: the text, reasoning, tool calls and results in a turn's content, in any form in use.

Content is text, or a list of parts as OpenAI ({type: text}), Anthropic ({type: tool_use}) and
Gemini ({text}, {functionCall}) write them. What a tool answers may be any JSON value, and is kept
as JSON text. A part that is none of these, such as an image, rejects the record by name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ...schemas.instruction import Message
from .importer import Fields, Rejected, json_text, kind_of, text_of
from .padding import without_padding
from .roles import CALL
from .tools import call_of, calls_in

CALL_ID_KEYS = ("tool_call_id", "tool_use_id", "call_id")
TEXT_PARTS = ("text", "input_text", "output_text", "summary_text", "reasoning_text", "refusal")
REASONING_PARTS = ("reasoning", "thinking", "thought", "think", "reasoning_content")
CALL_PARTS = ("tool_call", "function_call", "tool_use", "toolUse", "functionCall", "toolCall")
RESULT_PARTS = (
    "tool_result",
    "toolResult",
    "function_call_output",
    "tool_response",
    "functionResponse",
)
MEDIA_PARTS = (
    *(f"{before}{what}{after}" for what in ("image", "audio", "video", "file", "document")
      for before in ("", "input_", "output_") for after in ("", "_url")),
    "image_file",
)  # fmt: skip
KINDS = frozenset(
    (*TEXT_PARTS, *REASONING_PARTS, *CALL_PARTS, *RESULT_PARTS, *MEDIA_PARTS, "redacted_thinking")
)
UNTYPED = (*CALL_PARTS, *RESULT_PARTS, "inlineData", "fileData", "inline_data", "file_data")
"""Parts that have no `type` but a single key, which says it (Gemini, Bedrock)."""


@dataclass
class Parts:
    """What the content of a turn holds: texts, reasoning, calls, and results of tools."""

    texts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    calls: list[Any] = field(default_factory=list)
    results: list[Fields] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The texts in one."""
        return "".join(self.texts)


def parts_of(raw: Any, role: str) -> Parts:
    """The parts of a turn's content; what a tool answers may be any JSON value.

    Raises:
        Rejected: a part is neither text nor reasoning nor a tool's, such as an image.
    """
    if isinstance(raw, str):
        return Parts([raw])
    if isinstance(raw, dict):
        inner = raw.get("parts")
        raw = inner if isinstance(inner, list) else [raw] if _is_part(raw) else raw
    if role in ("tool", CALL) and raw is not None and not _are_parts(raw):
        return Parts([json_text(raw)])
    if not isinstance(raw, list):
        return Parts([text_of(raw, "content")])
    parts = Parts()
    for part in raw:
        _read_part(part, parts)
    return parts


def _are_parts(raw: Any) -> bool:
    """Whether a list holds parts of content, rather than data."""
    return isinstance(raw, list) and all(_is_part(part) for part in raw)


def _is_part(part: Any) -> bool:
    """Whether a value is surely a part of content: text, or an object of a known kind."""
    if not isinstance(part, dict):
        return isinstance(part, str)
    kind = part.get("type")
    if isinstance(kind, str):
        return kind in KINDS
    filled = [key for key, value in part.items() if value is not None]
    return len(filled) == 1 and (filled == ["text"] or filled[0] in UNTYPED)


def _kind(part: Fields) -> str:
    """What kind of part an object is; "" for an object that is none."""
    kind = part.get("type")
    if isinstance(kind, str):
        return kind
    untyped = next((key for key in UNTYPED if part.get(key) is not None), None)
    return untyped or ("text" if isinstance(part.get("text"), str) else "")


def _read_part(part: Any, parts: Parts) -> None:
    if isinstance(part, str):
        parts.texts.append(part)
        return
    if not isinstance(part, dict):
        raise Rejected(f"a content part is {kind_of(part)}, not an object")
    kind = _kind(part)
    body = next((part[k] for k in ("text", "value", kind) if part.get(k) is not None), None)
    filled = [str(key) for key, value in part.items() if value is not None]
    if not kind:
        if body is None and filled:
            raise Rejected(f"content part of type {filled[0][:40]!r}")
        kind = "text"
    if kind in TEXT_PARTS:
        if isinstance(body, dict):
            body = body.get("value")
        thought = part.get("thought") is True  # Gemini marks its reasoning so
        (parts.thoughts if thought else parts.texts).append(text_of(body, "content part"))
    elif kind in REASONING_PARTS:
        if body is None:
            body = part.get("content", part.get("summary"))
        parts.thoughts.append(joined_text(body) or "")
    elif kind == "redacted_thinking":  # ciphered; nothing in it can be read
        return
    elif kind in CALL_PARTS:
        parts.calls.extend(_calls_of_part(part, body))
    elif kind in RESULT_PARTS:
        parts.results.append(body if isinstance(body, dict) and kind != "tool_response" else part)
    else:
        raise Rejected(f"content part of type {kind[:40]!r}")


def _calls_of_part(part: Fields, body: Any) -> list[Any]:
    """The calls of a part: its body in OpenAI's form or text of it, or {id, name, input}."""
    call = part if body is None else body
    if not isinstance(call, dict) or "function" in call or (call is body and "arguments" in call):
        return calls_in(call)
    call = without_padding(call)
    given = (call[key] for key in ("arguments", "input", "args") if call.get(key) is not None)
    if not isinstance(call.get("name"), str):
        raise Rejected("function call without a name")
    ids = ("call_id", "toolUseId", "id")
    call_id = next((call[key] for key in ids if call.get(key) is not None), None)
    return [call_of(call_id, {"name": call["name"], "arguments": next(given, {})})]


def result_of(part: Fields) -> Message:
    """What a tool answered, from a part or item; JSON text where it is not text."""
    keys = ("content", "output", "response", "result", "text", "value")
    raw = next((part[key] for key in keys if part.get(key) is not None), None)
    if isinstance(raw, list) and _are_parts(raw):
        inner = parts_of(raw, "user")
        text = inner.text
    else:
        text = raw if isinstance(raw, str) else "" if raw is None else json_text(raw)
    ids = (*CALL_ID_KEYS, "toolUseId", "id")
    call_id = next((part[key] for key in ids if part.get(key) is not None), None)
    name = part.get("name")
    return Message(
        "tool",
        text,
        name=name if isinstance(name, str) else None,
        tool_call_id=None if call_id is None else text_of(call_id, "tool_call_id"),
    )


def joined_text(value: Any) -> str | None:
    """Text, or a list of texts or parts with a blank line between them; None for other values."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        return None
    texts: list[str] = []
    for part in value:
        text = part if isinstance(part, str) else None
        if isinstance(part, dict):
            found = (part.get(key) for key in ("text", "thinking", "value", "content"))
            text = next((each for each in found if isinstance(each, str)), None)
        if text is None:
            return None
        texts.append(text)
    return "\n\n".join(texts)


def text_of_parts(raw: Any, name: str) -> str:
    """The text of a system prompt: text, parts, or an object with parts; "" for null.

    Raises:
        Rejected: a part of it is no text.
    """
    if raw is None:
        return ""
    if isinstance(raw, dict) and isinstance(raw.get("content"), str | list):
        raw = raw["content"]
    parts = parts_of(raw, "system")
    if parts.calls or parts.results:
        raise Rejected(f"{name} is {kind_of(raw)}, not text")
    return "\n\n".join(parts.texts)
