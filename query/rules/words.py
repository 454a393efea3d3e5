"""What two texts are compared by: their words, whatever their case, spacing and punctuation.

A word is a run of letters, digits and marks after NFKC and case folding, less characters that
nobody sees (soft hyphens, zero-width spaces). Scripts that put no space
between words (Chinese, Japanese, Thai, Lao, Burmese, Khmer, Tibetan) give a word per character.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from ...ingest.representations.lexical import SPACELESS

_WORD_OR_SPACE = "".join(
    chr(code) if chr(code).isalnum() or chr(code) == "_" else " " for code in range(128)
)

_WORDS = re.compile(r"\w+")

# Soft hyphens, zero-width spaces and joiners, marks of direction: nobody sees them inside a word.
_UNSEEN = re.compile("[\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]")

# As in the representation `lexical`, with Tibetan and signs of repetition.
_SPACELESS = SPACELESS + r"\u0f00-\u0fff\u3005-\u3007"
_spaceless = re.compile(f"[{_SPACELESS}]").match


@cache
def _words_of_any_script() -> re.Pattern[str]:
    # `\w` knows no marks: without them the vowels of Hindi would cut its words to pieces.
    marks = "".join(
        re.escape(chr(code))
        for code in (*range(0x20000), *range(0xE0100, 0xE01F0))
        if unicodedata.category(chr(code)).startswith("M")
    )
    return re.compile(rf"(?=\w)[{_SPACELESS}][{marks}]*|(?:[^\W{_SPACELESS}]+[{marks}]*)+")


@cache
def _needs_care(character: str) -> bool:
    return bool(_spaceless(character)) or unicodedata.category(character).startswith("M")


def words_of(text: str) -> list[str]:
    """The words of a text, in order."""
    if text.isascii():
        # Three times as fast as a pattern, and most texts are plain.
        return text.lower().translate(_WORD_OR_SPACE).split()
    seen = _UNSEEN.sub("", text)
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", seen).casefold())
    # The pattern for any script takes six times as long as the plain one.
    special = any(_needs_care(each) for each in set(folded) if not each.isascii())
    return (_words_of_any_script() if special else _WORDS).findall(folded)


def joined(words: Sequence[str]) -> str:
    """Words as one text in which a run of words is a substring between spaces."""
    return " ".join(words)


def ngrams(words: Sequence[str], length: int) -> list[str]:
    """Every run of `length` words, joined, in order."""
    return [joined(words[at : at + length]) for at in range(len(words) - length + 1)]


@dataclass(frozen=True)
class Said:
    """The words of a conversation.

    Attributes:
        everything: of all turns, tool calls included.
        whole: without system turns.
        question: those of `whole` before the last answer.
    """

    everything: list[str]
    whole: list[str]
    question: list[str]


def said_in(messages: Sequence[Mapping[str, Any]]) -> Said:
    """The words of a conversation; messages as Arrow gives them back."""
    turns = [
        (each["role"], words_of("\n".join(filter(None, (each["content"], each.get("tool_calls"))))))
        for each in messages
    ]
    spoken = [(role, words) for role, words in turns if role != "system"]
    asked = spoken[:-1] if spoken and spoken[-1][0] == "assistant" else spoken
    everything, whole, question = (
        [word for _, words in each for word in words] for each in (turns, spoken, asked)
    )
    return Said(everything, whole, question)
