"""Flags: what is wrong with an answer at a glance; rules on its text, no model.

`near_empty`: no letter or digit is left without marks of tokenizers, or only a word that stands for
nothing ("n/a", "<noinput>", "todo"). A short answer ("B", "42", "yes") is not near empty.

`answer_truncated`: the answer seems to break off. Its last code block is open; or it has at least
200 characters and ends within a sentence: with a letter, a comma or a hyphen, in a line that is
prose, in a script that ends sentences with marks. That is a guess: people who write no last mark,
and lists within a line, look alike, and an answer that was cut between two sentences does not show
it. (The column `truncated` says that the backbone saw the beginning of a row alone.)
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..models.describe import BackboneInfo
from .lexical import SPACELESS
from .representation import Representation, Setup

if TYPE_CHECKING:
    from ...schemas.instruction import Instruction

NO_ANSWER = "no answer"
LONG = 200
"""Characters from which on an answer is expected to end a sentence."""

PROSE_LINE = 60
"""Characters from which on a last line is prose: shorter ones may be verses, titles, list items."""

NOTHING = frozenset(
    "n/a na none null nil nan noinput no\u00a0input noanswer todo tbd undefined empty".split(" ")
)

_MARKS = re.compile(r"<\|[^|>]{0,40}\|>|</?s>|\[/?INST\]")
_LETTERS = re.compile(r"\w")
_FENCE = re.compile(r"^\s*(```|~~~)", re.MULTILINE)
_CLOSERS = "\"'\u201d\u2019\u00bb)]}*_`"
_NOT_PROSE = re.compile(
    r"^\s*([-*+\u2022#>|]|\d+[.)]|https?://|[A-Za-z]:\\|\$)|[{};=<>|]|(?:^|\s)#\s?\w|://"
)
_SIGNED = re.compile(r"\b(yours|sincerely|regards|cheers|love)\b[^.!?]*$", re.IGNORECASE)
_WITHIN = re.compile(r"[^\W\d_]|[,\u3001\uff0c\u060c-]")
_UNMARKED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]")  # Thai, Lao, Myanmar, Khmer
_MARKED_SPACELESS = re.compile(rf"[{SPACELESS}]")


class Flags(Representation):
    """Columns: `near_empty` and `answer_truncated`, truth values; `flags_reason`."""

    name = "flags"
    version = 1

    def fields(self, setup: Setup) -> list[pa.Field]:
        return [
            pa.field("near_empty", pa.bool_()),
            pa.field("answer_truncated", pa.bool_()),
            pa.field("flags_reason", pa.string()),
        ]

    def identity(self, info: BackboneInfo, options: Mapping[str, Any]) -> dict[str, Any]:
        return {"name": "rules"}

    def compute(self, instructions: Sequence[Instruction], setup: Setup) -> dict[str, np.ndarray]:
        empty, cut, reason = (np.full(len(instructions), None, dtype=object) for _ in range(3))
        for index, instruction in enumerate(instructions):
            last = instruction.messages[-1] if instruction.messages else None
            if last is None or last.role != "assistant":
                reason[index] = NO_ANSWER
                continue
            empty[index] = not last.tool_calls and is_near_empty(last.content)
            cut[index] = not last.tool_calls and breaks_off(last.content)
        return {"near_empty": empty, "answer_truncated": cut, "flags_reason": reason}


def is_near_empty(answer: str) -> bool:
    """Return whether an answer says nothing (see above)."""
    bare = _MARKS.sub("", answer).strip()
    if not _LETTERS.search(bare.replace("_", "")):
        return True
    return bare.strip("<>[](){}.!*_-`\"' ").lower() in NOTHING


def breaks_off(answer: str) -> bool:
    """Return whether an answer seems to end before its end (see above)."""
    if len(_FENCE.findall(answer)) % 2:
        return True
    text = answer.rstrip()
    if len(text) < LONG or _UNMARKED.search(text[-PROSE_LINE:]):
        return False
    last = text[text.rfind("\n") + 1 :]
    # A line of Chinese or Japanese says as much in a third of the characters.
    least = PROSE_LINE // 3 if _MARKED_SPACELESS.search(last) else PROSE_LINE
    if len(last) < least or _NOT_PROSE.search(last) or last[-1] in _CLOSERS:
        return False
    return bool(_WITHIN.fullmatch(last[-1])) and not _SIGNED.search(last)


representation = Flags()
"""What `registry` looks for."""
