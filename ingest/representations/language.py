"""Lang: the language of a conversation; no model of the backbone runs.

Found by py3langid (BSD; 139 languages, its model of 4.6 MB ships with it): naive Bayes over byte
n-grams. Closely related languages (Swedish and Danish, Chinese and Cantonese) are taken for each
other in short texts, and so is a second language within a text for the first. Texts that are hardly
language (code, numbers, a word) are unclear.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from ..models.describe import BackboneInfo
from .representation import Representation, Setup

if TYPE_CHECKING:
    from ...schemas.instruction import Instruction

MOST_CHARACTERS = 4000
"""Of a text that are looked at: more makes it slower, and no surer."""

LEAST_CONFIDENCE = 0.3
"""Measured: sentences of 35 languages had 0.35 and more, code and single words 0.12 and less."""

UNCLEAR = "no language is clear"
SCOPES = ("conversation", "response")


class Language(Representation):
    """Columns: `lang` ISO 639 code, `lang_confidence` in [0.3, 1], `lang_reason`.

    `scope=response` looks at the last answer alone.
    """

    name = "lang"
    version = 1
    paper = "Lui and Baldwin 2012 (langid.py)"
    defaults: ClassVar[Mapping[str, Any]] = {"scope": SCOPES[0]}

    def settled(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        from ...schemas.errors import UsageError

        if options["scope"] not in SCOPES:
            raise UsageError(f"lang:scope={options['scope']}: choose from {', '.join(SCOPES)}")
        return options

    def fields(self, setup: Setup) -> list[pa.Field]:
        return [
            pa.field("lang", pa.string()),
            pa.field("lang_confidence", pa.float32()),
            pa.field("lang_reason", pa.string()),
        ]

    def identity(self, info: BackboneInfo, options: Mapping[str, Any]) -> dict[str, Any]:
        return {"name": "py3langid"}

    def compute(self, instructions: Sequence[Instruction], setup: Setup) -> dict[str, np.ndarray]:
        codes = np.full(len(instructions), None, dtype=object)
        confidence = np.full(len(instructions), np.nan, np.float32)
        for index, instruction in enumerate(instructions):
            code, sure = language_of(text_in(instruction, setup.options["scope"]))
            if sure >= LEAST_CONFIDENCE:
                codes[index], confidence[index] = code, sure
        reason = np.full(len(instructions), None, dtype=object)
        reason[np.isnan(confidence)] = UNCLEAR
        return {"lang": codes, "lang_confidence": confidence, "lang_reason": reason}


def text_in(instruction: Instruction, scope: str) -> str:
    """Return the texts of all turns, one after another, or of the last answer alone."""
    turns = [turn for turn in instruction.messages if turn.content.strip()]
    if scope == "response":
        turns = [turn for turn in turns if turn.role == "assistant"][-1:]
    share = MOST_CHARACTERS // max(1, len(turns))
    return "\n".join(turn.content[:share] for turn in turns)


def language_of(text: str) -> tuple[str, float]:
    """Return the likeliest language (an ISO 639 code) and how likely it is; 0 for no text."""
    return _identifier().classify(text) if text.strip() else ("", 0.0)


@lru_cache(1)
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


representation = Language()
"""What `registry` looks for."""
