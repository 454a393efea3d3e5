"""Dolly and GPTeacher: `instruction`, `context` or `input`?, `response`."""

from __future__ import annotations

from collections.abc import Iterable

from ..reading.read_options import ReadOptions
from .shape import (
    Fields,
    Found,
    Importer,
    Refused,
    answer_of,
    dialogue,
    found,
    looks_textual,
    required,
    text_of,
    with_input,
)

_DOLLY_COLUMNS = ("instruction", "context", "input", "response", "system")


def _fits_dolly(record: Fields) -> list[str] | None:
    if not looks_textual(record, ("instruction", "response")):
        return None
    return [name for name in _DOLLY_COLUMNS if name in record]


def _read_dolly(record: Fields, options: ReadOptions) -> Iterable[Found | Refused]:
    user = required(record, "instruction")
    for name in ("context", "input"):
        user = with_input(user, text_of(record.get(name), name))
    response = answer_of(record, "response", options)
    system = text_of(record.get("system"), "system")
    return [found(record, _DOLLY_COLUMNS, dialogue(system, ("user", user), ("assistant", response)))]


DOLLY = Importer(
    name="dolly",
    reads="instruction, context? or input?, response",
    fits=_fits_dolly,
    read=_read_dolly,
    positional=(("instruction", "context", "response"),),
    aliases=("gpteacher",),
)
