"""`prompt-completion`: two texts a row, one question and one answer.

A system text goes before the question, parted by a blank line, and is counted. Trainers that put
no template around plain texts (TRL) run the two together as they stand: for chat models use
`messages`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pyarrow as pa

from ...schemas.instruction import Instruction
from .shape import Converted, Format, UnfitError, exchanges

SYSTEM_JOINED = "the system text stands before the prompt"


def _convert(instruction: Instruction) -> Converted:
    system, pairs = exchanges(instruction)
    if len(pairs) > 1:
        raise UnfitError("several turns")
    prompt, completion = pairs[0]
    if system is None:
        return Converted({"prompt": prompt, "completion": completion})
    joined = f"{system}\n\n{prompt}"
    return Converted({"prompt": joined, "completion": completion}, remarks=(SYSTEM_JOINED,))


def _columns(traits: Collection[str]) -> dict[str, pa.DataType]:
    return {"prompt": pa.string(), "completion": pa.string()}


def _axolotl(traits: Collection[str]) -> dict[str, Any] | str:
    return {
        "type": {
            "system_prompt": "",
            "field_instruction": "prompt",
            "field_output": "completion",
            "format": "{instruction}",
            "no_input_format": "{instruction}",
        }
    }


def _llama_factory(traits: Collection[str]) -> dict[str, Any] | str:
    return {"formatting": "alpaca", "columns": {"prompt": "prompt", "response": "completion"}}


FORMAT = Format("prompt-completion", _convert, _columns, _axolotl, _llama_factory)
