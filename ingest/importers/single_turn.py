"""Shapes with a column for the question and one for the answer: what each column is, as data.

`SingleTurn` names the columns of one shape and reads them; a shape below is a few lines that fill
it in, and `--map` fills it in with a user's columns (detection.py). `Nested` is for files whose
records hold a list of such records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..readers.options import ReadOptions
from .importer import (
    MISSING,
    Fields,
    Importer,
    Parsed,
    Rejected,
    are_objects,
    describes_answer,
    dialogue,
    kind_of,
    looks_textual,
    parsed,
    reach,
    text_of,
    text_or_json,
    with_input,
)
from .tools import tools_of
from .turns import are_marked_turns

Names = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SingleTurn:
    """The columns of a question and its answer; of several names, a record's first one counts.

    Attributes:
        user: the question; without it, the conversation is the answer alone.
        passage: stands above the question, with a blank line between them.
        context: all of these stand below the question, each behind a blank line, unless blank.
        answer: the assistant's turn; without it, the conversation ends with the question.
        explanation: stands before the answer if the options say so; otherwise it is metadata.
        history: earlier rounds, [[question, answer], ...].
        system, tools: read where a record has them; no shape is recognised by them.
        needs_context: whether a record without any of `context` is rejected.
        user_text, answer_text: make text of the value of a column with the name given; an answer
            that is an object is JSON text.
    """

    user: Names = ()
    passage: Names = ()
    context: Names = ()
    answer: Names = ()
    explanation: Names = ()
    history: Names = ()
    system: Names = ()
    tools: Names = ()
    needs_context: bool = False
    user_text: Callable[[Any, str], str] = text_of
    answer_text: Callable[[Any, str], str] = text_or_json

    def fits(self, record: Fields) -> list[str] | None:
        """The columns that this shape would use of a record, or None when it has another shape."""
        needed = [self.passage, self.user, self.answer, self.context if self.needs_context else ()]
        columns = [_first(record, names) for names in needed if names]
        if not all(column in record for column in columns):
            return None
        is_plain = self.user_text is text_of and self.answer_text is text_or_json
        if is_plain and not self._looks_textual(record, columns):
            return None
        question = (*self.passage, *self.user, *self.context)
        claimed = (*question, *self.answer, *self.explanation, *self.history)
        return [name for name in claimed if name in record]

    def _looks_textual(self, record: Fields, columns: list[str]) -> bool:
        """Whether the columns hold text, or the answer JSON, such as structured output."""
        if not self.answer:
            return looks_textual(record, columns)
        answer = _first(record, self.answer)
        if answer.startswith("answer") or not are_objects(record[answer]):
            return looks_textual(record, columns)
        return looks_textual(record, [name for name in columns if name != answer]) and not (
            are_marked_turns(record[answer]) or describes_answer(record[answer])
        )

    def read(self, record: Fields, options: ReadOptions) -> Parsed:
        """The conversation of a record; columns outside this shape become its metadata.

        Raises:
            Rejected: a column that is needed is missing, or a value is not text.
        """
        used = {*self.context, *self.history, *self.system, *self.tools}
        turns = history_of(record, self.history)
        if self.user:
            turns.append(("user", self._question(record, used)))
        others: list[Any] = []
        if self.answer:
            answer, others = self._answer(record, options, used)
            turns.append(("assistant", answer))
        tools = next((tools_of(value, name) for name, value in _filled(record, self.tools)), None)
        system = next((text_of(value, name) for name, value in _filled(record, self.system)), "")
        conversation = parsed(record, used, dialogue(system, *turns), tools)
        if others:
            conversation.metadata["other_outputs"] = others
        return conversation

    def _question(self, record: Fields, used: set[str]) -> str:
        """The user's turn; adds its columns to `used`."""
        question = self.user_text(*_needed(record, self.user, used))
        if self.passage:
            question = f"{text_of(*_needed(record, self.passage, used))}\n\n{question}"
        if self.needs_context and not any(name in record for name in self.context):
            raise Rejected(f"missing field: {self.context[0]}")
        for name, value in _filled(record, self.context):
            question = with_input(question, text_or_json(value, name))
        return question

    def _answer(
        self, record: Fields, options: ReadOptions, used: set[str]
    ) -> tuple[str, list[Any]]:
        """The answer, and the other ones where the column holds a list; adds to `used`."""
        column = _first(record, self.answer)
        value = reach(record, column)
        if value is MISSING:
            if not options.allow_empty_answer:
                raise Rejected(f"missing field: {column}")
            value = None
        used.add(column)
        answer = self.answer_text(value, column)
        if options.explanation and answer.strip():
            used.update(self.explanation)
            for name, explanation in _filled(record, self.explanation):
                explanation = text_of(explanation, name)
                answer = f"{explanation}\n{answer}" if explanation.strip() else answer
        return answer, value[1:] if isinstance(value, list) else []


def _first(record: Fields, names: Names) -> str:
    """The first of `names` that the record has; the very first where it has none of them."""
    if len(names) == 1:
        return names[0]
    return next((name for name in names if name in record), names[0])


def _needed(record: Fields, names: Names, used: set[str]) -> tuple[Any, str]:
    """The value of a column that must not be missing or null, and the column's name."""
    column = _first(record, names)
    value = reach(record, column)
    if value is MISSING or value is None:
        raise Rejected(f"missing field: {column}")
    used.add(column)
    return value, column


def _filled(record: Fields, names: Names) -> Iterator[tuple[str, Any]]:
    """Those of `names` that the record has a value for, with the value."""
    for name in names:
        value = reach(record, name)
        if value is not MISSING and value is not None and value != "":
            yield name, value


def history_of(record: Fields, names: Names) -> list[tuple[str, str]]:
    """Earlier rounds, [[question, answer], ...], as turns.

    Raises:
        Rejected: a round is not a pair of texts.
    """
    turns: list[tuple[str, str]] = []
    for name, history in _filled(record, names):
        for pair in history if isinstance(history, list) else [history]:
            if not isinstance(pair, list) or len(pair) != 2:
                raise Rejected(f"{name} is not a list of pairs")
            turns.append(("user", text_of(pair[0], name)))
            turns.append(("assistant", text_of(pair[1], name)))
    return turns


@dataclass(frozen=True, kw_only=True)
class Nested:
    """Records in a list inside a record; each takes over what stands around the list.

    Attributes:
        key: the column of the list.
        beside: columns one of which must stand beside the list.
        dropped: columns around the list that do not belong to the records in it.
        inner: the list inside the records of this one, if that is where the conversations are.
        always: whether a record without the list is rejected, rather than read by itself.
    """

    key: str
    beside: Names = ()
    dropped: Names = ()
    inner: Nested | None = None
    always: bool = False

    def fits(self, record: Fields) -> list[str] | None:
        """The columns that tell this nesting in a record, or None when it has another shape."""
        beside = [name for name in self.beside if name in record][:1]
        is_list = isinstance(record.get(self.key), list)
        return [*beside, self.key] if is_list and (beside or not self.beside) else None

    def records(self, record: Fields) -> Iterator[Fields | Rejected]:
        """The records in the list, or why one of them is none."""
        items = record.get(self.key)
        if items is None:
            yield Rejected(f"missing field: {self.key}")
        elif not isinstance(items, list):
            yield Rejected(f"{self.key} is {kind_of(items)}, not a list")
        elif not items:
            yield Rejected(f"no {self.key}")
        else:
            outside = (self.key, *self.dropped)
            around = {name: value for name, value in record.items() if name not in outside}
            for item in items:
                if not isinstance(item, dict):
                    yield Rejected(f"an instance is {kind_of(item)}, not an object")
                elif self.inner:
                    yield from self.inner.records({**around, **item})
                else:
                    yield {**around, **item}


def single_turn(
    name: str,
    *shapes: SingleTurn,
    reads: str,
    nested: Nested | None = None,
    on_request: str = "",
    positional: tuple[Names, ...] = (),
    aliases: Names = (),
    is_pair: bool = False,
) -> Importer:
    """The importer of a shape; where there are variants of it, the first that fits a record reads.

    Args:
        nested: the list in which the records of the shape may stand.
        name, reads, on_request, positional, aliases, is_pair: as in `Importer`.
    """
    beside = tuple({name: None for shape in shapes for name in (*shape.system, *shape.tools)})

    def fits(record: Fields) -> list[str] | None:
        if nested and ((columns := nested.fits(record)) or nested.always):
            return columns
        return next((columns for shape in shapes if (columns := shape.fits(record))), None)

    def shape_of(record: Fields) -> SingleTurn:
        if len(shapes) == 1:
            return shapes[0]
        fitting = (shape for shape in shapes if _first(record, shape.user) in record)
        return next(fitting, shapes[0])

    def read(record: Fields, options: ReadOptions) -> Iterable[Parsed | Rejected]:
        if not nested or (record.get(nested.key) is None and not nested.always):
            return [shape_of(record).read(record, options)]
        return read_nested(nested, record, options)

    def read_nested(
        nested: Nested, record: Fields, options: ReadOptions
    ) -> Iterator[Parsed | Rejected]:
        for item in nested.records(record):
            try:
                yield item if isinstance(item, Rejected) else shape_of(item).read(item, options)
            except Rejected as rejected:
                yield rejected

    return Importer(name, reads, fits, read, on_request, positional, aliases, is_pair, beside)


def lines_of(value: Any, name: str) -> str:
    """Text, or a list of texts as lines."""
    if isinstance(value, list):
        return "\n".join(text_of(line, name) for line in value)
    return text_of(value, name)


def first_answer(value: Any, name: str) -> str:
    """The first of several answers: texts, or objects whose `text` it is; "" where there is none.

    SQuAD lists objects; the Hub's version of it makes an object of lists.
    """
    if isinstance(value, dict):
        value = value.get("text")
    if isinstance(value, list):
        value = value[0] if value else None
    if isinstance(value, dict):
        value = value.get("text")
    return text_of(value, name)


ALPACA = single_turn(
    "alpaca",
    SingleTurn(
        user=("instruction",),
        context=("input",),
        answer=("output",),
        system=("system",),
        history=("history",),
    ),
    reads="instruction, input?, output, system?, history?",
    positional=(("instruction", "input", "output"), ("instruction", "output")),
    is_pair=True,
)

DOLLY = single_turn(
    "dolly",
    SingleTurn(
        user=("instruction",),
        context=("context", "input"),
        answer=("response",),
        system=("system",),
    ),
    reads="instruction, context? or input?, response",
    positional=(("instruction", "context", "response"),),
    aliases=("gpteacher",),
    is_pair=True,
)

FLAN = single_turn(
    "flan",
    *(
        SingleTurn(user=(user,), answer=(answer,), explanation=("explanation",))
        for user, answer in (
            ("inputs", "targets"),
            ("input", "target"),
            ("prompt", "completion"),
            ("inputs_pretokenized", "targets_pretokenized"),
        )
    ),
    reads="inputs, targets (or input, target, explanation?; or prompt, completion)",
    positional=(("input", "target", "explanation"), ("input", "target")),
    aliases=("p3", "cot"),
    is_pair=True,
)

NATURAL_INSTRUCTIONS = single_turn(
    "natural_instructions",
    SingleTurn(
        user=("definition", "Definition"),
        user_text=lines_of,
        context=("input", "inputs"),
        needs_context=True,
        answer=("output", "outputs", "targets"),
        answer_text=first_answer,
    ),
    nested=Nested(
        key="Instances",
        beside=("definition", "Definition"),
        dropped=("Examples", "Positive Examples", "Negative Examples"),
    ),
    reads="Definition, Instances [{input, output[]}] (or definition, input, output)",
    aliases=("ni", "natural-instructions", "super_natural_instructions"),
)

SELF_INSTRUCT = single_turn(
    "self_instruct",
    SingleTurn(user=("instruction",), context=("input",), answer=("output",)),
    nested=Nested(
        key="instances", beside=("instruction",), dropped=("input", "output"), always=True
    ),
    reads="instruction, instances [{input, output}]",
)

PAIRS = tuple(
    single_turn(
        f"{user}_{answer}",
        SingleTurn(user=(user,), answer=(answer,), system=("system", "system_prompt")),
        reads=f"{user}, {answer}, system?",
        positional=((user, answer),),
        is_pair=True,
    )
    for user, answer in (
        ("prompt", "target"),
        ("prompt", "response"),
        ("question", "answer"),
        ("question", "response"),
        ("query", "response"),
        ("problem", "solution"),
        ("text", "code"),
        ("input", "output"),
    )
)
"""Each pair of names is a format of its own: a file with two of them is ambiguous, and asks."""

ANSWERS = tuple(
    "answer answerkey answer_key correct_answer correct_option correct answer_idx answer_index "
    "gold gold_label label cop target targets response completion output outputs solution "
    "best_answer final_answer answers choice chosen".split()
)
"""Names of answers, the likeliest first."""


def _are_unanswered(records: Sequence[Fields]) -> bool:
    """Whether no record has a value in a column that is named as an answer."""
    return not any(
        value is not None and name.strip().lower() in ANSWERS
        for record in records
        for name, value in record.items()
    )


PROMPTS = replace(
    single_turn(
        "prompts",
        SingleTurn(user=("instruction",), context=("input",), system=("system", "system_prompt")),
        SingleTurn(
            user=("prompt", "question", "query", "problem", "inputs", "input"),
            system=("system", "system_prompt"),
        ),
        reads="prompt (or instruction and input, question, query, problem), without an answer",
        is_pair=True,
    ),
    unanswered=True,
    holds=_are_unanswered,
)

SQUAD = single_turn(
    "squad",
    SingleTurn(
        passage=("context",), user=("question",), answer=("answers",), answer_text=first_answer
    ),
    nested=Nested(key="paragraphs", inner=Nested(key="qas")),
    reads="paragraphs [{context, qas [{question, answers}]}] (or context, question, answers)",
    on_request="it asks the question behind its passage and takes the first answer",
    aliases=("xquad", "tydiqa"),
)

TEXT = single_turn(
    "text",
    SingleTurn(answer=("text",)),
    reads="text",
    on_request="the text becomes one assistant turn with no user before it",
    positional=(("text",),),
    aliases=("plain",),
)
