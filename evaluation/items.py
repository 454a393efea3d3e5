"""What a trained model is measured on: examples with their accepted answers and choices."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..ingest.sources import read_examples
from ..schemas.errors import UsageError
from ..schemas.instruction import Instruction, Record
from ..schemas.plain_text import count_of

if TYPE_CHECKING:
    from ..ingest.readers.options import ReadOptions
    from ..ingest.sources import SourceData

ANSWER_FIELD = "answer"
CHOICE_FIELDS = ("choices", "options")

_LETTERED = re.compile(r"^\s*\(?([A-Z])[.):]\s*(\S.*?)\s*$", re.MULTILINE)
_LISTED = re.compile(r"^\s*[-*]\s+(\S.*?)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Item:
    """An example with an answer.

    Attributes:
        instruction: its last turn is the answer.
        accepted: short answers, each of which is right; the whole answer where there are none.
        choices: answers to choose from, () where there are none; `right` is the place of the right
            one among them.
    """

    instruction: Instruction
    accepted: tuple[str, ...]
    choices: tuple[str, ...] = ()
    right: int = -1

    @property
    def id(self) -> str:
        """The instruction's id."""
        return self.instruction.id


@dataclass(frozen=True)
class Items:
    """The items of an evaluation file, and what became of its other records.

    Attributes:
        notes: sentences for the user.
    """

    items: tuple[Item, ...]
    notes: tuple[str, ...]


def read_items(
    sources: SourceData, options: ReadOptions, taken: Collection[str], limit: int | None = None
) -> Items:
    """Read the examples that models are measured on.

    Args:
        options: how the files are read.
        taken: ids of the target's own examples, which no model may be measured on.
        limit: the first so many of them.

    Raises:
        InputError: a file cannot be read, or has no usable example.
        UsageError: no example with an answer is left.
    """
    read = read_examples(sources, options, "Give a file of prompts with their answers")
    notes = list(read.decisions) + list(read.remarks)
    if read.rejected:
        notes.append(
            f"{count_of(len(read.rejected), 'record was', 'records were')} not usable, the first "
            f"because: {read.rejected[0].reason}"
        )
    answered = [each for each in read.records if each.instruction.messages[-1].answers]
    if len(answered) < len(read.records):
        without = len(read.records) - len(answered)
        notes.append(f"{count_of(without, 'example has', 'examples have')} no answer; left out")
    apart = [each for each in answered if each.instruction.id not in taken]
    if len(apart) < len(answered):
        shared = len(answered) - len(apart)
        are = count_of(shared, "example is", "examples are")
        notes.append(f"{are} among the target's own examples; left out")
    if not apart:
        raise UsageError(
            "no example is left to measure models on: they need an answer, and must not be the "
            "target's own examples"
        )
    if limit is not None and len(apart) > limit:
        notes.append(f"measured on the first {limit:,} of {count_of(len(apart), 'example')}")
        apart = apart[:limit]
    return Items(tuple(map(item_of, apart)), tuple(notes))


def item_of(record: Record) -> Item:
    """Return the item of a record: accepted answers and choices from its fields or its prompt."""
    turns = record.instruction.messages
    answer = turns[-1].content.strip()
    fields = json.loads(record.metadata)
    accepted = _texts(fields.get(ANSWER_FIELD)) or (answer,)
    prompt = next((turn.content for turn in reversed(turns[:-1]) if turn.role == "user"), "")
    choices = _field_choices(fields) or prompt_choices(prompt, answer)
    right = next((n for n, choice in enumerate(choices) if choice == answer), -1)
    if right < 0:
        right = next((n for n, choice in enumerate(choices) if choice in accepted), -1)
    if right < 0 or len(choices) < 2:
        return Item(record.instruction, accepted)
    return Item(record.instruction, accepted, choices, right)


def _texts(value: Any) -> tuple[str, ...]:
    """Return the texts of a field: one, or a list of them."""
    values = value if isinstance(value, list) else [value]
    return tuple(
        str(each).strip()
        for each in values
        if isinstance(each, str | int | float) and not isinstance(each, bool) and str(each).strip()
    )


def _field_choices(fields: Mapping[str, Any]) -> tuple[str, ...]:
    for name in CHOICE_FIELDS:
        value = fields.get(name)
        if isinstance(value, Mapping):  # as ARC has them: {"text": [...], "label": [...]}
            value = value.get("text")
        if isinstance(value, list) and len(texts := _texts(value)) == len(value) > 1:
            return texts
    return ()


def prompt_choices(prompt: str, answer: str) -> tuple[str, ...]:
    """Return the choices that a prompt lists, one a line, as the answer would name them.

    Lettered lines (`A. one`, `(B) two`) are chosen from by letter or by text, lines of a list
    (`- one`) by text; () where the answer names none of them.
    """
    lettered = _LETTERED.findall(prompt)
    letters = [letter for letter, _ in lettered]
    if len(lettered) > 1 and letters == [chr(ord("A") + n) for n in range(len(letters))]:
        texts = tuple(text for _, text in lettered)
        for form in ("{}", "({})", "{}."):
            named = tuple(form.format(letter) for letter in letters)
            if answer in named:
                return named
        if answer in texts:
            return texts
    listed = tuple(_LISTED.findall(prompt))
    return listed if answer in listed and len(set(listed)) == len(listed) else ()


def with_answer(instruction: Instruction, answer: str) -> Instruction:
    """Return a conversation with another last answer."""
    *before, last = instruction.messages
    changed = type(last)(last.role, answer, last.name)
    return Instruction((*before, changed), instruction.tools)


def ids_of_items(items: Sequence[Item]) -> list[str]:
    """Return the ids of items, in order."""
    return [item.id for item in items]
