"""`alpaca`: instruction, input (always empty: it is part of the instruction here), output.

Earlier turns go to `history`, a system text to `system`; the two columns are there when some row
fills them.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pyarrow as pa

from ...schemas.instruction import Instruction
from .shape import Converted, Format, exchanges


def _alpaca_convert(instruction: Instruction) -> Converted:
    system, pairs = exchanges(instruction)
    question, answer = pairs[-1]
    fields: dict[str, Any] = {"instruction": question, "input": "", "output": answer}
    fields["system"] = system or ""
    fields["history"] = [list(pair) for pair in pairs[:-1]]
    traits = {name for name in ("system", "history") if fields[name]}
    return Converted(fields, frozenset(traits))


def _alpaca_columns(traits: Collection[str]) -> dict[str, pa.DataType]:
    columns: dict[str, pa.DataType] = dict.fromkeys(("instruction", "input", "output"), pa.string())
    if "system" in traits:
        columns["system"] = pa.string()
    if "history" in traits:
        columns["history"] = pa.list_(pa.list_(pa.string()))
    return columns


def _axolotl_alpaca(traits: Collection[str]) -> dict[str, Any] | str:
    if traits:
        return f"axolotl's alpaca type reads no {' and no '.join(sorted(traits))}"
    return {"type": "alpaca"}


def _llama_factory_alpaca(traits: Collection[str]) -> dict[str, Any] | str:
    columns = {"prompt": "instruction", "query": "input", "response": "output"}
    return {"formatting": "alpaca", "columns": columns | {name: name for name in sorted(traits)}}


ALPACA = Format("alpaca", _alpaca_convert, _alpaca_columns, _axolotl_alpaca, _llama_factory_alpaca)
