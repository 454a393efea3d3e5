"""SQuAD and its kin: paragraphs with questions, or one question a record; the first answer.

The user's turn is the passage, a blank line and the question. Read on request only: how a reading
test is put into words is a choice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ..reading.read_options import ReadOptions
from .shape import Fields, Found, Importer, Refused, dialogue, found, kind_of, required, text_of

NESTED = "paragraphs"
ONE = ("context", "question", "answers")


def _fits(record: Fields) -> list[str] | None:
    if isinstance(record.get(NESTED), list):
        return [NESTED]
    return list(ONE) if all(name in record for name in ONE) else None


def _read(record: Fields, options: ReadOptions) -> Iterator[Found | Refused]:
    if NESTED not in record:
        yield _read_one(record, options)
        return
    about = {name: value for name, value in record.items() if name != NESTED}
    for paragraph in _objects(record[NESTED], NESTED):
        around = {name: value for name, value in paragraph.items() if name != "qas"}
        for question in _objects(paragraph.get("qas"), "qas"):
            try:
                yield _read_one({**about, **around, **question}, options)
            except Refused as refusal:
                yield refusal


def _read_one(record: Fields, options: ReadOptions) -> Found:
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


IMPORTER = Importer(
    name="squad",
    reads="paragraphs [{context, qas [{question, answers}]}] (or context, question, answers)",
    fits=_fits,
    read=_read,
    on_request="it asks the question behind its passage and takes the first answer",
    aliases=("xquad", "tydiqa"),
)
