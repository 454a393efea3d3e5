"""A question and its answer, under the names in use; each pair of names is a format of its own.

A file with two such pairs (prompt, response, target) is ambiguous and asks.
"""

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
)

PAIRS = (
    ("prompt", "target"),
    ("prompt", "response"),
    ("question", "answer"),
    ("question", "response"),
    ("query", "response"),
    ("problem", "solution"),
    ("text", "code"),
    ("input", "output"),
)
_SYSTEM_COLUMNS = ("system", "system_prompt")


def _pair_importer(user: str, assistant: str) -> Importer:
    used = (user, assistant, *_SYSTEM_COLUMNS)

    def fits(record: Fields) -> list[str] | None:
        return [user, assistant] if looks_textual(record, (user, assistant)) else None

    def read(record: Fields, options: ReadOptions) -> Iterable[Found | Refused]:
        prompt, answer = required(record, user), answer_of(record, assistant, options)
        system = next((text_of(record[name], name) for name in _SYSTEM_COLUMNS if record.get(name)), "")
        return [found(record, used, dialogue(system, ("user", prompt), ("assistant", answer)))]

    return Importer(
        name=f"{user}_{assistant}",
        reads=f"{user}, {assistant}, system?",
        fits=fits,
        read=read,
        positional=((user, assistant),),
    )


PAIR_IMPORTERS = tuple(_pair_importer(user, assistant) for user, assistant in PAIRS)
