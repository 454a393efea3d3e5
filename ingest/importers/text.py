"""Plain text: the whole text is one assistant turn with nothing before it. On request only."""

from __future__ import annotations

from collections.abc import Iterable

from ...schemas.instruction import Message
from ..reading.read_options import ReadOptions
from .shape import Fields, Found, Importer, Refused, found, looks_textual, required


def _fits_text(record: Fields) -> list[str] | None:
    return ["text"] if looks_textual(record, ("text",)) else None


def _read_text(record: Fields, options: ReadOptions) -> Iterable[Found | Refused]:
    return [found(record, ("text",), [Message("assistant", required(record, "text"))])]


TEXT = Importer(
    name="text",
    reads="text",
    fits=_fits_text,
    read=_read_text,
    on_request="the text becomes one assistant turn with no user before it",
    positional=(("text",),),
    aliases=("plain",),
)
