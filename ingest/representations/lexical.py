"""Lexical: the words of a conversation in their order, as hashed ids; no model.

`bm25` and `dsir` count them. Words are stored with the row instead of in a full-text index: Lance
cannot index the structs that conversations are, the statistics of an index change with every
corpus, so that no selection could be replayed, and a filter would not change them.

Query side: the same words of each target example.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..columns import ragged
from ..models.describe import BackboneInfo
from .representation import Representation, Setup

if TYPE_CHECKING:
    from ...schemas.instruction import Instruction

SPACELESS = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f"  # Myanmar
    "\u1780-\u17ff"  # Khmer
    "\u3040-\u30ff\u31f0-\u31ff"  # kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
)
"""Scripts written without spaces: each of their letters is a word; pairs come in as bigrams."""

_WORD = re.compile(rf"(?=\w)[{SPACELESS}]|[^\W{SPACELESS}]+")
_POSITIVE = 0x7FFFFFFF
_KNOWN_WORDS = 1 << 18

NO_WORD = "no word"


class Lexical(Representation):
    """Columns: `lexical` ids of the words in order, `lexical_words` how many, `lexical_reason`.

    Words are runs of Unicode letters, digits and underscores, casefolded; an id is 31 bits of
    BLAKE2b, so that of a million distinct words about 230 pairs share one.
    """

    name = "lexical"
    version = 1
    selector = "bm25"
    terms = "lexical"
    sees = "words"

    def fields(self, setup: Setup) -> list[pa.Field]:
        return [
            pa.field("lexical", pa.list_(pa.int32())),
            pa.field("lexical_words", pa.int32()),
            pa.field("lexical_reason", pa.string()),
        ]

    def identity(self, info: BackboneInfo, options: Mapping[str, Any]) -> dict[str, Any]:
        return {"name": "words"}

    def compute(self, instructions: Sequence[Instruction], setup: Setup) -> dict[str, np.ndarray]:
        words = [word_ids(instruction) for instruction in instructions]
        reason = np.full(len(words), None, dtype=object)
        reason[[not len(word) for word in words]] = NO_WORD
        return {
            "lexical": ragged([ids if len(ids) else None for ids in words]),
            "lexical_words": np.array([len(ids) or np.nan for ids in words], np.float32),
            "lexical_reason": reason,
        }


def word_ids(instruction: Instruction) -> np.ndarray:
    """Return the ids of the words of all turns and tool calls, in order, (n,) int32."""
    return ids_of_words(words_of(instruction))


def words_of(instruction: Instruction) -> list[str]:
    """Return the words themselves, casefolded, in order."""
    texts = (text for turn in instruction.messages for text in (turn.text, turn.tool_calls))
    return [word for text in texts if text for word in _WORD.findall(text.casefold())]


def ids_of_words(words: Iterable[str]) -> np.ndarray:
    """Return the ids of casefolded words, (n,) int32."""
    return np.fromiter(map(_id_of, words), np.int32)


@lru_cache(_KNOWN_WORDS)
def _id_of(word: str) -> int:
    return int.from_bytes(blake2b(word.encode(), digest_size=4).digest(), "big") & _POSITIVE


representation = Lexical()
