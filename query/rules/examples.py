"""The examples that a coreset must not give away: those of its targets and of evaluation files.

What two texts are compared by: their words, whatever their case, spacing and punctuation.

A word is a run of letters, digits and marks after NFKC and case folding, less characters that
nobody sees (soft hyphens, zero-width spaces). Scripts that put no space
between words (Chinese, Japanese, Thai, Lao, Burmese, Khmer, Tibetan) give a word per character.

Rows of an earlier coreset that must not be chosen again, kept as long as a replay needs them.
"""

from __future__ import annotations

import json
import re
import unicodedata
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ...ingest.representations.lexical import SPACELESS
from ...schemas.canonical import canonical_json, digest, digest_of
from ...schemas.errors import InputError, UsageError
from ...schemas.ids import ids_of, keys_of
from ...schemas.instruction import Instruction, Reject
from ...schemas.tables import literal
from ...store import catalog

if TYPE_CHECKING:
    from ...store.store import Store


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
        (
            message["role"],
            words_of("\n".join(filter(None, (message["content"], message.get("tool_calls"))))),
        )
        for message in messages
    ]
    spoken = [(role, words) for role, words in turns if role != "system"]
    asked = spoken[:-1] if spoken and spoken[-1][0] == "assistant" else spoken
    everything, whole, question = (
        [word for _, words in each for word in words] for each in (turns, spoken, asked)
    )
    return Said(everything, whole, question)


_EVALUATION = "evaluation"


@dataclass(frozen=True)
class Example:
    """An example that may leak: its id, the target or file it is `of`, and what is said in it."""

    id: str
    of: str
    said: Said


@dataclass(frozen=True)
class Evaluation:
    """A benchmark: the name of its file and its distinct examples, in the file's order."""

    name: str
    instructions: tuple[Instruction, ...]

    @property
    def digest(self) -> str:
        """Of its content; the store keeps it under this name."""
        return digest_of([instruction.id for instruction in self.instructions])


def read_evaluation(file: str) -> Evaluation:
    """The examples of a benchmark, in any shape the importers know; answers may be missing.

    Raises:
        InputError: the file cannot be read to its end, or has no usable example.
    """
    from ...ingest.readers.locations import find_files
    from ...ingest.readers.options import ReadOptions
    from ...ingest.sources import open_source

    found: dict[str, Instruction] = {}
    refused: set[str] = set()
    for find_file in find_files([file]):
        source = open_source(find_file, ReadOptions(allow_empty_answer=True))
        for record in source:
            if isinstance(record, Reject):
                refused.add(record.reason)
            else:
                found.setdefault(record.instruction.id, record.instruction)
        if source.fault:
            raise source.fault
    if not found:
        reasons = "; ".join(sorted(refused)) or "it is empty"
        raise InputError(file, f"no usable example ({reasons})", "An evaluation file needs one")
    name = file.rstrip("/").rsplit("/", 1)[-1]
    return Evaluation(name, tuple(found.values()))


def keep_evaluation(store: Store, evaluation: Evaluation) -> None:
    """Keep its examples in the store, so that a selection can be replayed without the file."""
    rows = [
        {"messages": [turn.as_dict() for turn in instruction.messages], "tools": instruction.tools}
        for instruction in evaluation.instructions
    ]
    data = zlib.compress(canonical_json(rows).encode())
    catalog.put_artifact(store, evaluation.digest, _EVALUATION, data)


def kept_evaluation(store: Store, name: str, digest: str) -> Evaluation:
    """The evaluation that was kept under a digest.

    Raises:
        UsageError: the store lost it.
    """
    data = catalog.artifact(store, digest, _EVALUATION)
    if data is None:
        raise UsageError(f"{store.uri} has lost the examples of evaluation {name} ({digest})")
    rows = json.loads(zlib.decompress(data))
    return Evaluation(
        name, tuple(Instruction.from_row(row["messages"], row["tools"]) for row in rows)
    )


def examples_of(
    store: Store, targets: Sequence[str], version: int, evaluations: Sequence[Evaluation]
) -> list[Example]:
    """All examples to be guarded, targets first, each source in its own order."""
    found = []
    table = store.dataset("targets", version)
    for target in targets:
        rows = table.to_table(
            columns=["id", "position", "messages"], filter=f"target = {literal(target)}"
        )
        found += [
            Example(row["id"], target, said_in(row["messages"]))
            for row in rows.sort_by("position").to_pylist()
        ]
    for evaluation in evaluations:
        found += [
            Example(
                instruction.id,
                evaluation.name,
                said_in([turn.as_dict() for turn in instruction.messages]),
            )
            for instruction in evaluation.instructions
        ]
    return found


def digest_of_examples(examples: Sequence[Example]) -> str:
    """Of which examples are guarded, in their order."""
    return digest_of([[example.of, example.id] for example in examples])


_EXCLUDED = "excluded"
_ID_BYTES = 16


@dataclass(frozen=True)
class Excluded:
    """The rows of a coreset as it was: its name and its ids, 16 bytes each."""

    coreset: str
    packed: bytes

    @property
    def digest(self) -> str:
        """Of its rows; the store keeps them under this name, whatever becomes of the coreset."""
        return digest(self.packed.hex())

    @property
    def keys(self) -> np.ndarray:
        """(n, 2) int64."""
        text = self.packed.hex()
        ids = [text[at : at + 32] for at in range(0, len(text), 32)]
        return keys_of(pa.array(ids, pa.string()))

    def __len__(self) -> int:
        return len(self.packed) // _ID_BYTES


def excluded(store: Store, coreset: str) -> Excluded:
    """The rows of a coreset.

    Raises:
        UsageError: there is none of that name; the message lists those there are.
    """
    from ..coresets import load_coreset

    members = load_coreset(store, coreset).members
    return Excluded(coreset, bytes.fromhex("".join(ids_of(keys_of(members["id"])))))


def keep_excluded(store: Store, rows: Excluded) -> None:
    """Keep them, so that a selection can be replayed after the coreset was removed."""
    catalog.put_artifact(store, rows.digest, _EXCLUDED, rows.packed)


def kept_excluded(store: Store, coreset: str, digest: str) -> Excluded:
    """The rows that were kept under a digest.

    Raises:
        UsageError: the store lost them.
    """
    packed = catalog.artifact(store, digest, _EXCLUDED)
    if packed is None:
        raise UsageError(f"{store.uri} has lost the rows of coreset {coreset} ({digest})")
    return Excluded(coreset, packed)
