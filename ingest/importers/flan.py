"""FLAN, P3 and chain-of-thought sets: an input and a target, maybe an explanation.

The explanation is metadata, or stands before the target when the option says so. Text is kept as
it is: a literal backslash-n stays one unless `unescape` is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable

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


def _read_flan(record: Fields, options: ReadOptions) -> Iterable[Found | Refused]:
    pair = next((pair for pair in _FLAN_PAIRS if pair[0] in record), _FLAN_PAIRS[0])
    prompt, target = required(record, pair[0]), answer_of(record, pair[1], options)
    used = pair
    if options.explanation:
        explanation = text_of(record.get("explanation"), "explanation")
        target = f"{explanation}\n{target}" if explanation.strip() and target.strip() else target
        used = (*pair, "explanation")
    return [found(record, used, dialogue("", ("user", prompt), ("assistant", target)))]


FLAN = Importer(
    name="flan",
    reads="inputs, targets (or input, target, explanation?; or prompt, completion)",
    fits=_fits_flan,
    read=_read_flan,
    positional=(("input", "target", "explanation"), ("input", "target")),
    aliases=("p3", "cot"),
)
