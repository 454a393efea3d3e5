"""Natural Instructions: a task with its `Instances`, or one instance a record.

The user's turn is the definition, a blank line and the input; the answer is the first output, the
others are metadata. The positive and negative examples of a task are not part of its instances.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ..reading.read_options import ReadOptions
from .shape import Fields, Found, Importer, Refused, dialogue, found, kind_of, text_of, with_input

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


def _read_natural_instructions(record: Fields, options: ReadOptions) -> Iterator[Found | Refused]:
    instances = record.get(_NATURAL_INSTRUCTIONS_LIST)
    if not isinstance(instances, list):
        yield _read_natural_instructions_instance(record, options)
        return
    shared = {k: v for k, v in record.items() if k != _NATURAL_INSTRUCTIONS_LIST and k not in EXAMPLES}
    for instance in instances:
        try:
            if not isinstance(instance, dict):
                raise Refused(f"an instance is {kind_of(instance)}, not an object")
            yield _read_natural_instructions_instance({**shared, **instance}, options)
        except Refused as refusal:
            yield refusal


def _read_natural_instructions_instance(record: Fields, options: ReadOptions) -> Found:
    definition = _first(record, DEFINITIONS)
    given, output = _first(record, INPUTS), _first(record, OUTPUTS)
    if definition is None or record[definition] is None:
        raise Refused("missing field: definition")
    if given is None:
        raise Refused("missing field: input")
    if output is None:
        raise Refused("missing field: output")
    said = record[definition]
    if isinstance(said, list):
        said = "\n".join(text_of(part, definition) for part in said)
    user = with_input(text_of(said, definition), text_of(record[given], given))
    answers: list[Any] = record[output] if isinstance(record[output], list) else [record[output]]
    answer = text_of(answers[0], output) if answers else ""
    conversation = found(
        record, (definition, given, output), dialogue("", ("user", user), ("assistant", answer))
    )
    if len(answers) > 1:
        conversation.metadata["other_outputs"] = answers[1:]
    return conversation


def _read_all(record: Fields, options: ReadOptions) -> Iterable[Found | Refused]:
    return _read_natural_instructions(record, options)


NATURAL_INSTRUCTIONS = Importer(
    name="natural_instructions",
    reads="Definition, Instances [{input, output[]}] (or definition, input, output)",
    fits=_fits_natural_instructions,
    read=_read_all,
    aliases=("ni", "natural-instructions", "super_natural_instructions"),
)
