"""SQuAD and its kin: paragraphs with questions, or one question a record; the first answer.

The user's turn is the passage, a blank line and the question. Read on request only: how a reading
test is put into words is a choice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ..reading.read_options import ReadOptions
from .shape import Fields, Found, Importer, Refused, dialogue, found, kind_of, required, text_of

_SQUAD_LIST = "paragraphs"
ONE = ("context", "question", "answers")


def _fits_squad(record: Fields) -> list[str] | None:
    if isinstance(record.get(_SQUAD_LIST), list):
        return [_SQUAD_LIST]
    return list(ONE) if all(name in record for name in ONE) else None


def _read_squad(record: Fields, options: ReadOptions) -> Iterator[Found | Refused]:
    if _SQUAD_LIST not in record:
        yield _read_squad_instance(record, options)
        return
    about = {name: value for name, value in record.items() if name != _SQUAD_LIST}
    for paragraph in _objects(record[_SQUAD_LIST], _SQUAD_LIST):
        around = {name: value for name, value in paragraph.items() if name != "qas"}
        for question in _objects(paragraph.get("qas"), "qas"):
            try:
                yield _read_squad_instance({**about, **around, **question}, options)
            except Refused as refusal:
                yield refusal


def _read_squad_instance(record: Fields, options: ReadOptions) -> Found:
    user = f"{required(record, 'context')}\n\n{required(record, 'question')}"
    answers: Any = record.get("answers")
    if isinstance(answers, dict):  # the columns that the Hub's version makes of the list
        answers = answers.get("text")
    first = answers[0] if isinstance(answers, list) and answers else None
    answer = text_of(first.get("text") if isinstance(first, dict) else first, "answers")
    return found(record, ONE, dialogue("", ("user", user), ("assistant", answer)))


def _objects(value: Any, name: str) -> Iterable[Fields]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise Refused(f"{name} is {kind_of(value)}, not a list of objects")
    return value


SQUAD = Importer(
    name="squad",
    reads="paragraphs [{context, qas [{question, answers}]}] (or context, question, answers)",
    fits=_fits_squad,
    read=_read_squad,
    on_request="it asks the question behind its passage and takes the first answer",
    aliases=("xquad", "tydiqa"),
)
