"""Alpaca: `instruction`, `input`?, `output`, and LLaMA-Factory's `system` and `history`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..reading.read_options import ReadOptions
from .shape import (
    Fields,
    Found,
    Importer,
    Refused,
    answer_of,
    dialogue,
    found,
    looks_textual,
    required,
    text_of,
    with_input,
)

_ALPACA_COLUMNS = ("instruction", "input", "output", "system", "history")


def _fits_alpaca(record: Fields) -> list[str] | None:
    if not looks_textual(record, ("instruction", "output")):
        return None
    return [name for name in _ALPACA_COLUMNS if name in record]


def _read_alpaca(record: Fields, options: ReadOptions) -> Iterable[Found | Refused]:
    user = with_input(required(record, "instruction"), text_of(record.get("input"), "input"))
    output = answer_of(record, "output", options)
    system = text_of(record.get("system"), "system")
    turns = (*history_of(record.get("history")), ("user", user), ("assistant", output))
    return [found(record, _ALPACA_COLUMNS, dialogue(system, *turns))]


def history_of(history: Any) -> list[tuple[str, str]]:
    """Earlier rounds, [[question, answer], ...], as turns.

    Raises:
        Refused: a round is no pair of texts.
    """
    turns: list[tuple[str, str]] = []
    if history is None or history == "":
        return turns
    if not isinstance(history, list):
        raise Refused("history is not a list of pairs")
    for pair in history:
        if not isinstance(pair, list) or len(pair) != 2:
            raise Refused("history is not a list of pairs")
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
