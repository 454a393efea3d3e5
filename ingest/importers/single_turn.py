"""Alpaca: `instruction`, `input`?, `output`, and LLaMA-Factory's `system` and `history`.

Dolly and GPTeacher: `instruction`, `context` or `input`?, `response`.

FLAN, P3 and chain-of-thought sets: an input and a target, maybe an explanation.

The explanation is metadata, or stands before the target when the option says so. Text is kept as
it is: a literal backslash-n stays one unless `unescape` is asked for.

Natural Instructions: a task with its `Instances`, or one instance a record.

The user's turn is the definition, a blank line and the input; the answer is the first output, the
others are metadata. The positive and negative examples of a task are not part of its instances.

A question and its answer, under the names in use; each pair of names is a format of its own.

A file with two such pairs (prompt, response, target) is ambiguous and asks.

Self-Instruct seeds: `instruction` and `instances` [{input, output}]; each instance is a row.

SQuAD and its kin: paragraphs with questions, or one question a record; the first answer.

The user's turn is the passage, a blank line and the question. Read on request only: how a reading
test is put into words is a choice.

Plain text: the whole text is one assistant turn with nothing before it. On request only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ...schemas.instruction import Message
from ..readers.options import ReadOptions
from .importer import (
    Fields,
    Importer,
    Parsed,
    Rejected,
    answer_of,
    dialogue,
    kind_of,
    looks_textual,
    parsed,
    required,
    text_of,
    with_input,
)

_ALPACA_COLUMNS = ("instruction", "input", "output", "system", "history")


def _fits_alpaca(record: Fields) -> list[str] | None:
    if not looks_textual(record, ("instruction", "output")):
        return None
    return [name for name in _ALPACA_COLUMNS if name in record]


def _read_alpaca(record: Fields, options: ReadOptions) -> Iterable[Parsed | Rejected]:
    user = with_input(required(record, "instruction"), text_of(record.get("input"), "input"))
    output = answer_of(record, "output", options)
    system = text_of(record.get("system"), "system")
    turns = (*history_of(record.get("history")), ("user", user), ("assistant", output))
    return [parsed(record, _ALPACA_COLUMNS, dialogue(system, *turns))]


def history_of(history: Any) -> list[tuple[str, str]]:
    """Earlier rounds, [[question, answer], ...], as turns.

    Raises:
        Refused: a round is no pair of texts.
    """
    turns: list[tuple[str, str]] = []
    if history is None or history == "":
        return turns
    if not isinstance(history, list):
        raise Rejected("history is not a list of pairs")
    for pair in history:
        if not isinstance(pair, list) or len(pair) != 2:
            raise Rejected("history is not a list of pairs")
        turns.append(("user", text_of(pair[0], "history")))
        turns.append(("assistant", text_of(pair[1], "history")))
    return turns


ALPACA = Importer(
    name="alpaca",
    reads="instruction, input?, output, system?, history?",
    fits=_fits_alpaca,
    read=_read_alpaca,
    positional=(("instruction", "input", "output"), ("instruction", "output")),
)


_DOLLY_COLUMNS = ("instruction", "context", "input", "response", "system")


def _fits_dolly(record: Fields) -> list[str] | None:
    if not looks_textual(record, ("instruction", "response")):
        return None
    return [name for name in _DOLLY_COLUMNS if name in record]


def _read_dolly(record: Fields, options: ReadOptions) -> Iterable[Parsed | Rejected]:
    user = required(record, "instruction")
    for name in ("context", "input"):
        user = with_input(user, text_of(record.get(name), name))
    response = answer_of(record, "response", options)
    system = text_of(record.get("system"), "system")
    return [
        parsed(record, _DOLLY_COLUMNS, dialogue(system, ("user", user), ("assistant", response)))
    ]


DOLLY = Importer(
    name="dolly",
    reads="instruction, context? or input?, response",
    fits=_fits_dolly,
    read=_read_dolly,
    positional=(("instruction", "context", "response"),),
    aliases=("gpteacher",),
)


_FLAN_PAIRS = (
    ("inputs", "targets"),
    ("input", "target"),
    ("prompt", "completion"),
    ("inputs_pretokenized", "targets_pretokenized"),
)


def _fits_flan(record: Fields) -> list[str] | None:
    for pair in _FLAN_PAIRS:
        if looks_textual(record, pair):
            return [*pair, *(name for name in ("explanation",) if name in record)]
    return None


def _read_flan(record: Fields, options: ReadOptions) -> Iterable[Parsed | Rejected]:
    pair = next((pair for pair in _FLAN_PAIRS if pair[0] in record), _FLAN_PAIRS[0])
    prompt, target = required(record, pair[0]), answer_of(record, pair[1], options)
    used = pair
    if options.explanation:
        explanation = text_of(record.get("explanation"), "explanation")
        target = f"{explanation}\n{target}" if explanation.strip() and target.strip() else target
        used = (*pair, "explanation")
    return [parsed(record, used, dialogue("", ("user", prompt), ("assistant", target)))]


FLAN = Importer(
    name="flan",
    reads="inputs, targets (or input, target, explanation?; or prompt, completion)",
    fits=_fits_flan,
    read=_read_flan,
    positional=(("input", "target", "explanation"), ("input", "target")),
    aliases=("p3", "cot"),
)


DEFINITIONS = ("definition", "Definition")
INPUTS = ("input", "inputs")
OUTPUTS = ("output", "outputs", "targets")
_NATURAL_INSTRUCTIONS_LIST = "Instances"
EXAMPLES = ("Examples", "Positive Examples", "Negative Examples")


def _first(record: Fields, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in record), None)


def _fits_natural_instructions(record: Fields) -> list[str] | None:
    definition = _first(record, DEFINITIONS)
    if definition is None:
        return None
    if isinstance(record.get(_NATURAL_INSTRUCTIONS_LIST), list):
        return [definition, _NATURAL_INSTRUCTIONS_LIST]
    given, output = _first(record, INPUTS), _first(record, OUTPUTS)
    return [definition, given, output] if given and output else None


def _read_natural_instructions(record: Fields, options: ReadOptions) -> Iterator[Parsed | Rejected]:
    instances = record.get(_NATURAL_INSTRUCTIONS_LIST)
    if not isinstance(instances, list):
        yield _read_natural_instructions_instance(record, options)
        return
    shared = {
        k: v for k, v in record.items() if k != _NATURAL_INSTRUCTIONS_LIST and k not in EXAMPLES
    }
    for instance in instances:
        try:
            if not isinstance(instance, dict):
                raise Rejected(f"an instance is {kind_of(instance)}, not an object")
            yield _read_natural_instructions_instance({**shared, **instance}, options)
        except Rejected as refusal:
            yield refusal


def _read_natural_instructions_instance(record: Fields, options: ReadOptions) -> Parsed:
    definition = _first(record, DEFINITIONS)
    given, output = _first(record, INPUTS), _first(record, OUTPUTS)
    if definition is None or record[definition] is None:
        raise Rejected("missing field: definition")
    if given is None:
        raise Rejected("missing field: input")
    if output is None:
        raise Rejected("missing field: output")
    said = record[definition]
    if isinstance(said, list):
        said = "\n".join(text_of(part, definition) for part in said)
    user = with_input(text_of(said, definition), text_of(record[given], given))
    answers: list[Any] = record[output] if isinstance(record[output], list) else [record[output]]
    answer = text_of(answers[0], output) if answers else ""
    conversation = parsed(
        record, (definition, given, output), dialogue("", ("user", user), ("assistant", answer))
    )
    if len(answers) > 1:
        conversation.metadata["other_outputs"] = answers[1:]
    return conversation


def _read_all(record: Fields, options: ReadOptions) -> Iterable[Parsed | Rejected]:
    return _read_natural_instructions(record, options)


NATURAL_INSTRUCTIONS = Importer(
    name="natural_instructions",
    reads="Definition, Instances [{input, output[]}] (or definition, input, output)",
    fits=_fits_natural_instructions,
    read=_read_all,
    aliases=("ni", "natural-instructions", "super_natural_instructions"),
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

    def read(record: Fields, options: ReadOptions) -> Iterable[Parsed | Rejected]:
        prompt, answer = required(record, user), answer_of(record, assistant, options)
        system = next(
            (text_of(record[name], name) for name in _SYSTEM_COLUMNS if record.get(name)), ""
        )
        return [parsed(record, used, dialogue(system, ("user", prompt), ("assistant", answer)))]

    return Importer(
        name=f"{user}_{assistant}",
        reads=f"{user}, {assistant}, system?",
        fits=fits,
        read=read,
        positional=((user, assistant),),
    )


PAIR_IMPORTERS = tuple(_pair_importer(user, assistant) for user, assistant in PAIRS)


_SELF_INSTRUCT_COLUMNS = ("instruction", "instances", "input", "output")


def _fits_self_instruct(record: Fields) -> list[str] | None:
    there = "instruction" in record and isinstance(record.get("instances"), list)
    return ["instruction", "instances"] if there else None


def _read_self_instruct(record: Fields, options: ReadOptions) -> Iterator[Parsed | Rejected]:
    instruction, instances = required(record, "instruction"), record.get("instances")
    if not isinstance(instances, list):
        raise Rejected("missing field: instances")
    if not instances:
        raise Rejected("no instances")
    for instance in instances:
        try:
            if not isinstance(instance, dict):
                raise Rejected(f"an instance is {kind_of(instance)}, not an object")
            user = with_input(instruction, text_of(instance.get("input"), "input"))
            output = answer_of(instance, "output", options)
            turns = dialogue("", ("user", user), ("assistant", output))
            yield parsed({**record, **instance}, _SELF_INSTRUCT_COLUMNS, turns)
        except Rejected as refusal:
            yield refusal


SELF_INSTRUCT = Importer(
    name="self_instruct",
    reads="instruction, instances [{input, output}]",
    fits=_fits_self_instruct,
    read=_read_self_instruct,
)


_SQUAD_LIST = "paragraphs"
ONE = ("context", "question", "answers")


def _fits_squad(record: Fields) -> list[str] | None:
    if isinstance(record.get(_SQUAD_LIST), list):
        return [_SQUAD_LIST]
    return list(ONE) if all(name in record for name in ONE) else None


def _read_squad(record: Fields, options: ReadOptions) -> Iterator[Parsed | Rejected]:
    if _SQUAD_LIST not in record:
        yield _read_squad_instance(record, options)
        return
    about = {name: value for name, value in record.items() if name != _SQUAD_LIST}
    for paragraph in _objects(record[_SQUAD_LIST], _SQUAD_LIST):
        around = {name: value for name, value in paragraph.items() if name != "qas"}
        for question in _objects(paragraph.get("qas"), "qas"):
            try:
                yield _read_squad_instance({**about, **around, **question}, options)
            except Rejected as refusal:
                yield refusal


def _read_squad_instance(record: Fields, options: ReadOptions) -> Parsed:
    user = f"{required(record, 'context')}\n\n{required(record, 'question')}"
    answers: Any = record.get("answers")
    if isinstance(answers, dict):  # the columns that the Hub's version makes of the list
        answers = answers.get("text")
    first = answers[0] if isinstance(answers, list) and answers else None
    answer = text_of(first.get("text") if isinstance(first, dict) else first, "answers")
    return parsed(record, ONE, dialogue("", ("user", user), ("assistant", answer)))


def _objects(value: Any, name: str) -> Iterable[Fields]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise Rejected(f"{name} is {kind_of(value)}, not a list of objects")
    return value


SQUAD = Importer(
    name="squad",
    reads="paragraphs [{context, qas [{question, answers}]}] (or context, question, answers)",
    fits=_fits_squad,
    read=_read_squad,
    on_request="it asks the question behind its passage and takes the first answer",
    aliases=("xquad", "tydiqa"),
)


def _fits_text(record: Fields) -> list[str] | None:
    return ["text"] if looks_textual(record, ("text",)) else None


def _read_text(record: Fields, options: ReadOptions) -> Iterable[Parsed | Rejected]:
    return [parsed(record, ("text",), [Message("assistant", required(record, "text"))])]


TEXT = Importer(
    name="text",
    reads="text",
    fits=_fits_text,
    read=_read_text,
    on_request="the text becomes one assistant turn with no user before it",
    positional=(("text",),),
    aliases=("plain",),
)
