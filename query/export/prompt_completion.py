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


def _prompt_completion_convert(instruction: Instruction) -> Converted:
    system, pairs = exchanges(instruction)
    if len(pairs) > 1:
        raise UnfitError("several turns")
    prompt, completion = pairs[0]
    if system is None:
        return Converted({"prompt": prompt, "completion": completion})
    joined = f"{system}\n\n{prompt}"
    return Converted({"prompt": joined, "completion": completion}, remarks=(SYSTEM_JOINED,))


def _prompt_completion_columns(traits: Collection[str]) -> dict[str, pa.DataType]:
    return {"prompt": pa.string(), "completion": pa.string()}


def _axolotl_prompt_completion(traits: Collection[str]) -> dict[str, Any] | str:
    return {
        "type": {
            "system_prompt": "",
            "field_instruction": "prompt",
            "field_output": "completion",
            "format": "{instruction}",
            "no_input_format": "{instruction}",
        }
    }


def _llama_factory_prompt_completion(traits: Collection[str]) -> dict[str, Any] | str:
    return {"formatting": "alpaca", "columns": {"prompt": "prompt", "response": "completion"}}


PROMPT_COMPLETION = Format("prompt-completion", _prompt_completion_convert, _prompt_completion_columns, _axolotl_prompt_completion, _llama_factory_prompt_completion)
