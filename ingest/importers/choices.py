"""Choices: the answers a question offers, and which of them is right.

    question, choices [...], answer 1          MMLU, RACE, HellaSwag
    question, choices {text, label}, answer    ARC, CommonsenseQA, OpenBookQA
    goal, sol1, sol2, label                    PIQA, WinoGrande, COPA

The prompt lists the choices, one a line: `A. one` with `--choices letters`, `- one` with
`--choices text`. The answer is a label, a letter, a number or the text of a choice; which of these,
and whether numbers count from 0 or from 1, is told from the first records. True and false, without
choices, are yes and no.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from .importer import MISSING, Fields, Rejected, decoded, json_text, kind_of, reach, text_of

TEXT_KEYS = ("text", "texts", "choices", "value", "content", "option", "choice")
LABEL_KEYS = ("label", "labels", "key", "id", "letter")
KINDS = ("label", "letter", "from 0", "from 1", "text")
"""How an answer may name its choice; of two that explain the first records, the one before."""

NO_ANSWER = ("", "-1")
LETTER = re.compile(r"\W*(?:(?:option|choice|answer)\W+)?([A-Za-z])\W*", re.IGNORECASE)
NUMBER = re.compile(r"\d+$")
OWN_LETTER = re.compile(r"\s*\(?([A-Za-z])\s?[).:]\s*")


@dataclass(frozen=True)
class Choices:
    """The choices of one question.

    Attributes:
        texts: of all, in their order.
        labels: of all, or of none.
        named: whether the labels stand beside the texts, rather than in the columns' names.
    """

    texts: tuple[str, ...]
    labels: tuple[str, ...] = ()
    named: bool = True

    def shown(self, style: str) -> str:
        """The choices as the prompt lists them, one a line."""
        if style == "letters":
            pairs = zip(ascii_uppercase, self.texts, strict=False)
            return "\n".join(f"{letter}. {text}" for letter, text in pairs)
        return "\n".join(f"- {text}" for text in self.texts)

    def answer(self, index: int, style: str) -> str:
        """The answer that the choice with this index is."""
        return ascii_uppercase[index] if style == "letters" else self.texts[index]


def choices_of(record: Fields, columns: Sequence[str]) -> Choices:
    """The choices of a record: in one column as a list or object, or in a column each.

    Raises:
        Rejected: there are fewer than two, more than 26, or one is no text.
    """
    if len(columns) > 1:
        name = "+".join(columns)
        pairs = [(_number(column), reach(record, column)) for column in columns]
    else:
        (name,) = columns
        pairs = _pairs(reach(record, name), name)
    while pairs and pairs[-1][1] is None:  # the padding of a table
        pairs.pop()
    texts = [_text(value, name) for _, value in pairs]
    if len(texts) < 2 or len(texts) > len(ascii_uppercase):
        raise Rejected(f"{len(texts)} choices in {name}: 2 to {len(ascii_uppercase)} can be read")
    labels = [label for label, _ in pairs]
    known = tuple(str(label) for label in labels) if None not in labels else ()
    return Choices(_without_letters(texts), known, named=len(columns) == 1)


def _number(column: str) -> str | None:
    """The number that a column's name ends in: the label of its choice (WinoGrande)."""
    match = NUMBER.search(column)
    return match.group() if match else None


def _pairs(value: Any, name: str) -> list[tuple[Any, Any]]:
    """(label or None, text) of every choice in a column."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        value = decoded(value, name)
    if isinstance(value, list):
        return [_pair(item) for item in value]
    if value is None or value is MISSING:
        raise Rejected(f"missing field: {name}")
    if not isinstance(value, dict):
        raise Rejected(f"{name} is {kind_of(value)}, not a list of choices")
    texts = next((value[key] for key in TEXT_KEYS if isinstance(value.get(key), list)), None)
    if texts is None:  # label -> text
        return [(label, text) for label, text in value.items() if text is not None]
    labels = next((value[key] for key in LABEL_KEYS if isinstance(value.get(key), list)), None)
    if labels is None or len(labels) != len(texts) or len(set(map(str, labels))) < len(labels):
        labels = [None] * len(texts)  # none, or whether each is right (TruthfulQA)
    return list(zip(labels, texts, strict=True))


def _pair(item: Any) -> tuple[Any, Any]:
    """(label or None, text) of one choice in a list."""
    if not isinstance(item, dict):
        return None, item
    text = next((item[key] for key in TEXT_KEYS if item.get(key) is not None), item)
    return next((item[key] for key in LABEL_KEYS if item.get(key) is not None), None), text


def _text(value: Any, name: str) -> str:
    if isinstance(value, bool):
        return yes_or_no(value)
    if isinstance(value, float):
        return json_text(value)
    text = text_of(None if value is MISSING else value, f"a choice in {name}")
    if not text.strip():
        raise Rejected(f"a choice in {name} is empty")
    return text


def _without_letters(texts: list[str]) -> tuple[str, ...]:
    """The texts without letters of their own, where each begins with its own: `A) one`."""
    found = [OWN_LETTER.match(text) for text in texts]
    letters = [match.group(1).upper() for match in found if match]
    if letters != list(ascii_uppercase[: len(texts)]):
        return tuple(texts)
    return tuple(text[match.end() :] for text, match in zip(texts, found, strict=True) if match)


def yes_or_no(value: bool) -> str:
    """A truth value as an answer in words."""
    return "yes" if value else "no"


def kind_of_answers(answers: Iterable[tuple[Any, Choices]], first_choice: int | None) -> str:
    """How most of these answers name their choice: one of `KINDS`.

    Args:
        answers: answers as they stand in the first records, each with its choices.
        first_choice: the number of the first choice, if a user has said it.
    """
    counts: Counter[str] = Counter()
    for answer, choices in answers:
        counts.update(_explained(answer, choices))
    if first_choice is not None:
        counts.pop(f"from {1 - first_choice}", None)
    return max(KINDS, key=lambda kind: counts[kind])


def _explained(answer: Any, choices: Choices) -> Iterator[str]:
    for kind in KINDS:
        if _index(answer, choices, kind) is not None:
            yield kind


def index_of(answer: Any, choices: Choices, kind: str) -> int | None:
    """Which choice an answer names; None where there is no answer.

    Args:
        kind: how the answers of the file name theirs; the text of a choice always does.

    Raises:
        Rejected: it names none of the choices.
    """
    if answer is None or str(answer).strip() in NO_ANSWER:
        return None
    others = ("letter", "text") if kind == "label" else ("text",)
    if str(answer).strip().isdecimal():
        others = ()
    candidates = (_index(answer, choices, each) for each in (kind, *others))
    index = next((each for each in candidates if each is not None), None)
    if index is None:
        shown = json_text(answer)[:40]
        numbered = f", numbered {kind}" if kind.startswith("from") else ""
        count = len(choices.texts)
        raise Rejected(f"answer is none of the choices: {shown}; there are {count}{numbered}")
    return index


def _index(answer: Any, choices: Choices, kind: str) -> int | None:
    """Which choice an answer names, if it is of that kind."""
    if isinstance(answer, list):
        answer = _one_of(answer, len(choices.texts), kind)
    if answer is None or isinstance(answer, list | dict):
        return None
    if isinstance(answer, bool):
        answer = yes_or_no(answer)
    text = str(int(answer)) if isinstance(answer, float) and answer.is_integer() else str(answer)
    text = text.strip()
    if kind == "text":
        return _position(text, [choice.strip() for choice in choices.texts])
    if kind == "label" and not isinstance(answer, str) and not choices.named:
        return None  # a number is no label where columns are numbered
    if kind == "label":
        return _position(text.strip("().: ").lower(), [each.lower() for each in choices.labels])
    if kind == "letter":
        match = LETTER.fullmatch(text)
        index = ascii_uppercase.index(match.group(1).upper()) if match else -1
    else:
        index = int(text) - int(kind[-1]) if text.isdecimal() else -1
    return index if 0 <= index < len(choices.texts) else None


def _one_of(answers: list[Any], count: int, kind: str) -> Any:
    """The one answer of a list: its only item, or the place of its only 1 (one for each choice)."""
    if len(answers) == 1:
        return answers[0]
    marked = [place for place, each in enumerate(answers) if each in (1, True)]
    is_marking = len(answers) == count and all(each in (0, 1) for each in answers)
    return marked[0] if is_marking and len(marked) == 1 and kind == "from 0" else None


def _position(text: str, texts: Sequence[str]) -> int | None:
    """Where a text stands in a list that holds it once."""
    return texts.index(text) if texts.count(text) == 1 else None
