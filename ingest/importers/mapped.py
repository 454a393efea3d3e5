"""`--map`: the user says which columns make which turn.

    --map user=question,assistant=answer
    --map "user=context+question,assistant=answer"
    --map "user=question+choices,assistant=answer" --choices letters
    --map "user=goal+choices,choices=sol1+sol2,assistant=label" --choices text
    --map messages=talk,tools=functions

Columns put together with a plus stand one below the other, with a blank line between them; blank
ones are left out. `choices=` names the columns of the choices, which `user=...+choices` shows;
without it, the one column of lists or objects in `user` holds them, or columns with numbered names.
Where `user` shows none, they only tell the answer. `reasoning=` is the reasoning of the answer.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ...schemas.errors import MappingError, UsageError
from ...schemas.instruction import Message
from ..readers.options import ReadOptions
from .chat import Chat, messages_of
from .choices import Choices, choices_of, index_of, kind_of_answers, yes_or_no
from .importer import (
    MISSING,
    Fields,
    Importer,
    Parsed,
    Rejected,
    dialogue,
    parsed,
    reach,
    text_of,
    text_or_json,
    truth_of,
    with_input,
)
from .single_turn import history_of
from .tools import tools_of

Names = tuple[str, ...]
ALL_CHOICES = "choices"
"""In `user`, this stands for the columns that `choices=` names."""

NUMBERED = re.compile(r"(?P<stem>.*?)[ _-]?(?P<number>\d+|[A-Za-z])$")


def mapped_importer(file: str, records: Sequence[Fields], options: ReadOptions) -> Importer:
    """An importer for the columns that a user has named.

    Args:
        file: its name, for errors.
        records: its first records.

    Raises:
        UsageError: the mapping names neither `messages` nor `assistant`, or both.
        MappingError: a column that it names is not there, or is not what it is said to be.
    """
    known = dict.fromkeys(name for record in records for name in record)
    columns = options.columns_in(known)
    answered = "assistant" in columns or (options.allow_empty_answer and "user" in columns)
    if ("messages" in columns) == answered:
        raise UsageError(
            "--map needs assistant=COLUMN (mostly with user=COLUMN) or messages=COLUMN, not both"
        )
    named = {name for names in columns.values() for name in names}
    if ALL_CHOICES in columns:
        named -= {ALL_CHOICES} - {*columns[ALL_CHOICES]}
    for column in (name for names in columns.values() for name in names if name in named):
        check_column(file, records, column)
    if "messages" in columns:
        shape: MappedChat | MappedTurns = MappedChat(columns)
    else:
        shape = _turns(file, records, columns, options)

    def read(record: Fields, options: ReadOptions) -> Iterable[Parsed | Rejected]:
        own_id = reach(record, columns["id"][0]) if "id" in columns else MISSING
        if own_id is not MISSING:
            others = {name: value for name, value in record.items() if name != columns["id"][0]}
            record = {**others, "id": own_id}
        return [shape.read(record, options)]

    def fits(record: Fields) -> list[str] | None:
        return [name for name in named if reach(record, name) is not MISSING] or None

    words = [f"{key}={'+'.join(names)}" for key, names in columns.items()]
    return Importer(name="map", reads=", ".join([*words, *shape.words]), fits=fits, read=read)


def check_column(file: str, records: Sequence[Fields], column: str) -> None:
    """Refuse a column of `--map` that the first records do not have.

    Raises:
        MappingError: none of them has it.
    """
    first = column.split(".")[0]
    if not any(column in record or first in record for record in records):
        raise MappingError(
            file,
            f"--map names the column {column!r}, but its columns are {shown_columns(records)}",
            "Correct --map",
        )


SHOWN_COLUMNS = 12


def shown_columns(records: Sequence[Fields]) -> str:
    """The columns of records, for an error; the first dozen where there are more."""
    names = list(dict.fromkeys(name for record in records for name in record))
    shown = ", ".join(str(name)[:40] for name in names[:SHOWN_COLUMNS])
    more = len(names) - SHOWN_COLUMNS
    return f"{shown}, and {more} more" if more > 0 else shown or "none"


@dataclass(frozen=True)
class MappedChat:
    """Turns in the columns that `messages=` names, one list after the other."""

    columns: dict[str, Names]
    words: tuple[str, ...] = ()

    def read(self, record: Fields, options: ReadOptions) -> Parsed:
        """The conversation of a record.

        Raises:
            Rejected: a list of turns is missing or cannot be read.
        """
        turns = self.columns["messages"]
        beside = Chat(
            turns=turns[:1],
            system=self.columns.get("system", ()),
            tools=self.columns.get("tools", ()),
        )
        if len(turns) == 1:
            return beside.read(record, options)
        messages: list[Message] = []
        extras: list[Fields] = []
        for name, role in zip(turns, ("user", *["assistant"] * len(turns)), strict=False):
            value = reach(record, name)
            if value is MISSING:
                raise Rejected(f"missing field: {name}")
            if value is not None:
                more, extras_of_more = messages_of(value, name, role, options)
                messages, extras = [*messages, *more], [*extras, *extras_of_more]
        return beside.conversation(record, {*turns}, messages, extras)


@dataclass(frozen=True)
class MappedTurns:
    """Columns that make a question and its answer.

    Attributes:
        columns: `--map`'s keys -> columns; in `user`, `ALL_CHOICES` stands for the choices.
        choices: the columns of the choices; () where there are none.
        answer: the column of `assistant` that names a choice.
        answers: how answers name their choice (choices.py).
        words: what was told from the first records, for the user.
    """

    columns: dict[str, Names]
    choices: Names = ()
    answer: str = ""
    answers: str = ""
    words: tuple[str, ...] = ()

    def read(self, record: Fields, options: ReadOptions) -> Parsed:
        """The conversation of a record; columns outside the mapping become its metadata.

        Raises:
            Rejected: a column is missing, a value is no text, an answer is none of the choices.
        """
        get = self.columns.get
        choices = choices_of(record, self.choices) if self.choices else None
        turns = history_of(record, get("history", ()))
        if "user" in self.columns:
            turns.append(("user", self._question(record, choices, options)))
        turns.append(("assistant", self._answer(record, choices, options)))
        system = _together(record, get("system", ()))
        messages = dialogue(system, *turns)
        reasoning = _together(record, get("reasoning", ()))
        if reasoning.strip():
            messages[-1] = Message("assistant", messages[-1].content, reasoning=reasoning)
        tools = None
        for name in get("tools", ()):
            value = reach(record, name)
            tools = None if value is MISSING else tools_of(value, name)
        used = {name for key, names in self.columns.items() if key != "id" for name in names}
        return parsed(record, used | {*self.choices}, messages, tools)

    def _question(self, record: Fields, choices: Choices | None, options: ReadOptions) -> str:
        names = self.columns["user"]
        if len(names) == 1 and names[0] != ALL_CHOICES:
            value = reach(record, names[0])
            if value is MISSING or value is None:
                raise Rejected(f"missing field: {names[0]}")
            question = _text(value, names[0])
        else:
            parts = [
                choices.shown(options.choices or "")
                if choices and name == ALL_CHOICES
                else _text(reach(record, name), name)
                for name in names
            ]
            question = "\n\n".join(part for part in parts if part.strip())
            if not question:
                raise Rejected(f"missing field: {names[0]}")
        for name in self.columns.get("input", ()):
            value = reach(record, name)
            question = with_input(question, "" if value is MISSING else text_or_json(value, name))
        return question

    def _answer(self, record: Fields, choices: Choices | None, options: ReadOptions) -> str:
        names = self.columns.get("assistant", ())
        parts: list[str] = []
        for name in names:
            value = reach(record, name)
            if value is MISSING and len(names) == 1 and not options.allow_empty_answer:
                raise Rejected(f"missing field: {name}")
            value = None if value is MISSING else value
            if name == self.answer and options.choices:
                text = self._chosen(value, choices, options.choices)
                if not text:
                    return ""
            else:
                text = text_or_json(value, name)
            parts.append(text)
        return parts[0] if len(parts) == 1 else "\n\n".join(part for part in parts if part.strip())

    def _chosen(self, value: Any, choices: Choices | None, style: str) -> str:
        """The answer that names a choice, as a letter or text; "" where there is none."""
        if choices is None:
            truth = truth_of(value)
            if truth is None and value is not None:
                raise Rejected(f"answer is neither true nor false: {str(value)[:40]!r}")
            return "" if truth is None else yes_or_no(truth)
        index = index_of(value, choices, self.answers)
        return "" if index is None else choices.answer(index, style)


def _text(value: Any, name: str) -> str:
    """Text of a value in a question; paragraphs for a list of texts."""
    if value is MISSING:
        return ""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return "\n\n".join(value)
    return text_of(value, name)


def _together(record: Fields, names: Names) -> str:
    """The texts of columns, one below the other; "" where all are blank or missing."""
    texts = [_text(reach(record, name), name) for name in names]
    return texts[0] if len(texts) == 1 else "\n\n".join(text for text in texts if text.strip())


# -- from the first records ------------------------------------------------------------------


def _turns(
    file: str, records: Sequence[Fields], columns: dict[str, Names], options: ReadOptions
) -> MappedTurns:
    """The shape of a question and its answer, as far as the first records tell it.

    Raises:
        MappingError: a column holds lists, or answers are truth values, and `--choices` is missing;
            or there are no choices, or the answer's letters would stand for nothing.
    """
    choices = _choice_columns(file, records, columns, options)
    answers = columns.get("assistant", ())
    if not options.choices:
        _check_without_choices(file, records, columns, choices)
        return MappedTurns(columns)
    user = columns.get("user", ())
    shown = ALL_CHOICES in user or bool({*choices} & {*user})
    if ALL_CHOICES not in user:
        columns = {**columns, "user": _standing_for(user, choices)}
    if choices and options.choices == "letters" and not shown:
        raise MappingError(
            file,
            "--choices letters answers with letters that the prompt does not show",
            f"Write user={'+'.join((*user, ALL_CHOICES))}, or --choices text",
        )
    if not choices:
        return _truths(file, records, columns, options)
    answers_in = {name: _answers(records, name, choices) for name in answers}
    kinds = {name: kind_of_answers(each, options.first_choice) for name, each in answers_in.items()}
    explained = {
        name: sum(_is_explained(*pair, kinds[name]) for pair in pairs)
        for name, pairs in answers_in.items()
    }
    answer = max(answers, key=lambda name: explained[name]) if answers else ""
    kind = kinds.get(answer, "text")
    if answers_in.get(answer) and not explained[answer]:
        first = next(iter(answers_in[answer]))[0]
        raise MappingError(
            file,
            f"no answer in {answer!r} is one of the choices in {'+'.join(choices)}: {first!r}",
            "Name the columns of the right answer and of its choices with --map",
        )
    return MappedTurns(
        columns, choices, answer, kind, _words(kind, answers_in.get(answer, []), options)
    )


def _words(
    kind: str, answers: Sequence[tuple[Any, Choices]], options: ReadOptions
) -> tuple[str, ...]:
    """How answers name their choice, for the user."""
    if not kind.startswith("from"):
        return (f"answers are the {kind} of a choice",) if answers else ()
    numbers = {str(answer) for answer, _ in answers}
    most = {str(len(choices.texts)) for _, choices in answers}
    if options.first_choice is None and "0" not in numbers and not numbers & most:
        return (
            f"choices are taken to be numbered {kind}; the first records leave it open "
            "(otherwise --first-choice 1)",
        )
    return (f"choices are numbered {kind}",)


def _is_explained(answer: Any, choices: Choices, kind: str) -> bool:
    try:
        return index_of(answer, choices, kind) is not None
    except Rejected:
        return False


def _answers(records: Sequence[Fields], name: str, columns: Names) -> list[tuple[Any, Choices]]:
    """The answers of the first records, each with its choices; without those that have none."""
    found = []
    for record in records:
        answer = reach(record, name)
        try:
            choices = choices_of(record, columns)
        except Rejected:
            continue
        if answer is not MISSING and answer is not None and answer != "":
            found.append((answer, choices))
    return found


def _standing_for(user: Names, choices: Names) -> Names:
    """`user` with `ALL_CHOICES` where its first column of choices stands."""
    names: list[str] = []
    for name in user:
        if name not in choices:
            names.append(name)
        elif ALL_CHOICES not in names:
            names.append(ALL_CHOICES)
    return tuple(names)


def _choice_columns(
    file: str, records: Sequence[Fields], columns: dict[str, Names], options: ReadOptions
) -> Names:
    """The columns of the choices: of `--map choices=`, else lists or numbered columns in `user`.

    Empty where there are none.

    Raises:
        MappingError: several columns might be it.
    """
    if ALL_CHOICES in columns:
        return columns[ALL_CHOICES]
    user = columns.get("user", ())
    lists = [name for name in user if any(_is_list(reach(record, name)) for record in records)]
    like = [name for name in lists if is_choice_name(name.rsplit(".")[-1])]
    if len(like) == 1 or len(lists) == 1:
        return tuple(like if len(like) == 1 else lists)
    if lists and options.choices:
        raise MappingError(
            file,
            f"several columns might hold the choices: {', '.join(lists)}",
            "Name it with --map choices=COLUMN",
        )
    return () if lists or not options.choices else numbered(user)


def _is_list(value: Any) -> bool:
    """Whether a value holds choices: a list or object, or JSON text of one."""
    if isinstance(value, str):
        text = value.strip()
        return text.startswith(("[", "{")) and text.endswith(("]", "}"))
    return isinstance(value, list | dict)


CHOICE_NAMES = frozenset(
    "choices options answer_choices candidates endings choice option mc1_targets answers "
    "alternatives possible_answers multiple_choice answer_options".split()
)


def is_choice_name(name: str) -> bool:
    """Whether a column of this name may be expected to hold choices."""
    return name.strip().lower() in CHOICE_NAMES


def numbered(names: Sequence[str], stems: Collection[str] | None = None) -> Names:
    """The columns that are one of several by their names: sol1, sol2; opa, opb; A, B, C.

    Args:
        stems: what may stand before the number; anything by default.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        match = NUMBERED.fullmatch(name)
        if match and (stems is None or match["stem"].lower() in stems):
            groups.setdefault(match["stem"].lower(), []).append(name)
    in_turn = [group for group in groups.values() if len(group) > 1 and _in_turn(group)]
    return tuple(max(in_turn, key=len, default=()))


def _in_turn(names: Sequence[str]) -> bool:
    """Whether the numbers or letters at the end of names follow one another from the first."""
    ends = sorted(NUMBERED.fullmatch(name)["number"].lower() for name in names)  # type: ignore[index]
    firsts = ("0123456789"[: len(ends)], "123456789"[: len(ends)], "abcdefghij"[: len(ends)])
    return "".join(ends) in firsts


def _truths(
    file: str, records: Sequence[Fields], columns: dict[str, Names], options: ReadOptions
) -> MappedTurns:
    """The shape of questions that are answered by true or false.

    Raises:
        MappingError: they are not.
    """
    for name in columns.get("assistant", ()):
        values = [reach(record, name) for record in records]
        given = [value for value in values if value is not MISSING and value is not None]
        if given and all(truth_of(value) is not None for value in given):
            if options.choices == "letters":
                raise MappingError(
                    file, "there are no choices for --choices letters", "Write --choices text"
                )
            return MappedTurns(columns, answer=name, words=("answers are yes and no",))
    raise MappingError(
        file,
        f"--choices finds no column of choices (its columns are {shown_columns(records)})",
        "Add it to user=..., or name it with choices=COLUMN (choices=A+B for a column each)",
    )


def _check_without_choices(
    file: str, records: Sequence[Fields], columns: dict[str, Names], choices: Names
) -> None:
    """Refuse what only `--choices` can read."""
    if choices and (ALL_CHOICES in columns or is_choice_name(choices[0].rsplit(".")[-1])):
        raise MappingError(
            file,
            f"{'+'.join(choices)} holds choices, but --choices is missing",
            "Add --choices letters (the answer is a letter) or --choices text (the choice itself)",
        )
    for name in columns.get("assistant", ()):
        values = [reach(record, name) for record in records]
        given = [value for value in values if value is not MISSING and value is not None]
        if given and all(isinstance(value, bool) for value in given):
            raise MappingError(
                file,
                f"its answers in {name!r} are true and false",
                "Add --choices text to write them as yes and no",
            )
