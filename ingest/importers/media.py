"""Images, audio and video: a conversation about them cannot be kept, and says so.

A row tells of one by a column (`images`, `audio`, ...) that is not empty, by a mark in the prompt
(`<image>`, `<|audio|>`, ...) or by a part of content (content.py). Marks of HTML, such as
`<video src=...>`, `</audio>` or a `<video>` tag that a sentence is about, are text.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from ...schemas.instruction import Instruction
from .importer import Fields

KINDS = {"image": "an image", "audio": "audio", "video": "a video"}
STEMS = {"image": ("image", "img", "picture"), "audio": ("audio",), "video": ("video",)}
ENDINGS = ("", "s", "_path", "_paths", "_url", "_urls", "_file", "_files", "_bytes")
COLUMNS = {
    f"{stem}{ending}": kind for kind, stems in STEMS.items() for stem in stems for ending in ENDINGS
} | {"pixel_values": "image"}
"""Name of a column -> what it holds."""

MARK = re.compile(
    r"<\|?(?P<kind>image|audio|video)(?:[ _]?\d+|_pad|_placeholder)?\|?>|<\|vision_start\|>",
    re.IGNORECASE,
)
ABOUT = re.compile(r"[\"'`]|\s*(?:tag|element|attribute|placeholder|token|node)s?\b", re.IGNORECASE)
"""Behind a mark that a sentence is about."""


def media_of(record: Fields, instruction: Instruction, read: Collection[str]) -> str | None:
    """Why a record is about an image, audio or a video, or None where it is not.

    Args:
        instruction: the conversation that was read of it.
        read: columns that a user has named as text.
    """
    for name, value in record.items():
        kind = COLUMNS.get(name.lower())
        if kind and name not in read and _holds(value):
            return f"it has {KINDS[kind]}: {name}"
    for message in instruction.messages:
        if "<" not in message.content:
            continue
        for match in MARK.finditer(message.content):
            if is_placeholder(message.content, match) and (
                message.role != "assistant" or match.group() == message.content.strip()
            ):
                kind = (match["kind"] or "image").lower()
                return f"it has {KINDS[kind]}: {match.group()} in the text"
    return None


def _holds(value: Any) -> bool:
    """Whether a column holds something: not null, blank, or a list of such."""
    if isinstance(value, list):
        return any(_holds(item) for item in value)
    if isinstance(value, dict):
        return any(_holds(item) for item in value.values())
    return (
        bool(value.strip()) if isinstance(value, str) else value is not None and value is not False
    )


def is_placeholder(text: str, match: re.Match[str]) -> bool:
    """Whether a mark stands for what it names, rather than being HTML or a word of the text."""
    if match.group().startswith("<|"):
        return True
    kind = match["kind"]
    before, behind = text[: match.start()], text[match.end() :]
    if f"</{kind.lower()}>" in text.lower() or before.endswith(("`", '"', "'")):
        return False
    if ABOUT.match(behind):
        return False
    alone = not before.strip() or not behind.strip() or before.endswith((">", "\n"))
    return kind.lower() == "image" or alone or behind.startswith(("\n", "<"))
