"""Self-Instruct seeds: `instruction` and `instances` [{input, output}]; each instance is a row."""

from __future__ import annotations

from collections.abc import Iterator

from ..reading.read_options import ReadOptions
from .shape import (
    Fields,
    Found,
    Importer,
    Refused,
    answer_of,
    dialogue,
    found,
    kind_of,
    required,
    text_of,
    with_input,
)

_SELF_INSTRUCT_COLUMNS = ("instruction", "instances", "input", "output")


def _fits_self_instruct(record: Fields) -> list[str] | None:
    there = "instruction" in record and isinstance(record.get("instances"), list)
    return ["instruction", "instances"] if there else None


def _read_self_instruct(record: Fields, options: ReadOptions) -> Iterator[Found | Refused]:
    instruction, instances = required(record, "instruction"), record.get("instances")
    if not isinstance(instances, list):
        raise Refused("missing field: instances")
    if not instances:
        raise Refused("no instances")
    for instance in instances:
        try:
            if not isinstance(instance, dict):
                raise Refused(f"an instance is {kind_of(instance)}, not an object")
            user = with_input(instruction, text_of(instance.get("input"), "input"))
            output = answer_of(instance, "output", options)
            turns = dialogue("", ("user", user), ("assistant", output))
            yield found({**record, **instance}, _SELF_INSTRUCT_COLUMNS, turns)
        except Refused as refusal:
            yield refusal


SELF_INSTRUCT = Importer(
    name="self_instruct",
    reads="instruction, instances [{input, output}]",
    fits=_fits_self_instruct,
    read=_read_self_instruct,
)
