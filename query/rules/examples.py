"""The examples that a coreset must not give away, those of targets and evaluation files, in words.

Texts are compared by their words, whatever their case, spacing and punctuation. A word is a run of
letters, digits and marks after NFKC and case folding, without invisible characters (soft hyphens,
zero-width spaces). Scripts without spaces between words (Chinese, Japanese, Thai, Lao, Burmese,
Khmer, Tibetan) have a word per character.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from ...ingest.representations.lexical import SPACELESS
from ...schemas.canonical import digest_of
from ...schemas.errors import AmbiguousFormatError, InputError, UsageError
from ...schemas.instruction import Instruction, Reject
from ...schemas.tables import literal
from ...store.evaluations import digest_of_evaluation, keep, kept

if TYPE_CHECKING:
    from ...ingest.readers.options import ReadOptions
    from ...store.store import Store
    from ..snapshot import Snapshot


_WORD_OR_SPACE = "".join(
    chr(code) if chr(code).isalnum() or chr(code) == "_" else " " for code in range(128)
)

_WORDS = re.compile(r"\w+")

# Soft hyphens, zero-width spaces and joiners, marks of direction.
_INVISIBLE = re.compile("[\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]")

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
    """Return the words of a text, in order."""
    if text.isascii():
        # Three times as fast as a pattern, and most texts are plain.
        return text.lower().translate(_WORD_OR_SPACE).split()
    folded, word = _folded(text)
    return word.findall(folded)


def _folded(text: str) -> tuple[str, re.Pattern[str]]:
    """Return a text as it is compared, and the pattern of its words."""
    if text.isascii():
        return text.lower(), _WORDS
    visible = _INVISIBLE.sub("", text)
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", visible).casefold())
    # The pattern for any script takes six times as long as the plain one.
    special = any(_needs_care(character) for character in set(folded) if not character.isascii())
    return folded, _words_of_any_script() if special else _WORDS


# Brackets, operators and the like, an indented line, a colon at the end of a line.
_SIGN = re.compile(r"[()\[\]{}<>=+*/\\|&^%#@~_;`]|\n[ \t]{2,}|\n\t|:\s*\n")


def signs_of_code(text: str) -> list[bool]:
    """Return for each word of a text whether code or a formula shows between it and the next one.

    As in `range(n)`, `a[i] = x`, `self.name` or `n-1`. Measured over 12 gaps in a row: prose has
    four or more signs in 1 % of all places, Python three or fewer in 1 %.
    """
    folded, word = _folded(text)
    found = list(word.finditer(folded))
    signs = []
    for match, after in zip_longest(found, found[1:]):
        gap = folded[match.end() : after.start() if after else len(folded)]
        pair = (match.group(), after.group()) if after else ()
        dotted = gap == "." and pair and not all(side.isdigit() for side in pair)
        minus = gap.strip() == "-" and any(len(side) == 1 or side.isdigit() for side in pair)
        signs.append(bool(dotted or minus or _SIGN.search(gap)))
    return signs


def joined(words: Sequence[str]) -> str:
    """Join words to a text in which a run of words is a substring between spaces."""
    return " ".join(words)


def ngrams(words: Sequence[str], length: int) -> list[str]:
    """Return every run of `length` words, joined, in order."""
    return [joined(words[at : at + length]) for at in range(len(words) - length + 1)]


@dataclass(frozen=True)
class ConversationWords:
    """The words of a conversation, in three selections.

    Attributes:
        everything: of all turns, tool calls included.
        whole: without system turns.
        question: those of `whole` before the last answer.
    """

    everything: list[str]
    whole: list[str]
    question: list[str]

    @property
    def answer(self) -> list[str]:
        """The words of `whole` that are not the question's."""
        return self.whole[len(self.question) :]


def conversation_words(messages: Sequence[Mapping[str, Any]]) -> ConversationWords:
    """Return the words of a conversation; messages are as Arrow returns them."""
    turns = [(message["role"], words_of(_text_of(message))) for message in messages]
    spoken = [(role, words) for role, words in turns if role != "system"]
    before_answer = spoken[:-1] if spoken and spoken[-1][0] == "assistant" else spoken
    everything, whole, question = (
        [word for _, words in part for word in words] for part in (turns, spoken, before_answer)
    )
    return ConversationWords(everything, whole, question)


def conversation_signs(messages: Sequence[Mapping[str, Any]]) -> list[bool]:
    """Return the signs of code (`signs_of_code`) behind the words `conversation_words(...).whole`.

    A turn ends without one.
    """
    signs: list[bool] = []
    for message in messages:
        if message["role"] != "system":
            own = signs_of_code(_text_of(message))
            signs += [*own[:-1], False] if own else []
    return signs


def _text_of(message: Mapping[str, Any]) -> str:
    return "\n".join(filter(None, (message["content"], message.get("tool_calls"))))


@dataclass(frozen=True)
class GuardedExample:
    """A guarded example.

    Attributes:
        id: of the example.
        of: the target or file that it belongs to.
        said: its words.
        signs: of code, behind each word of `said.whole`; none where they are not looked at.
    """

    id: str
    of: str
    said: ConversationWords
    signs: Sequence[bool] = ()

    @classmethod
    def from_messages(
        cls, id: str, of: str, messages: Sequence[Mapping[str, Any]]
    ) -> GuardedExample:
        """Return the example with this conversation."""
        return cls(id, of, conversation_words(messages), conversation_signs(messages))


@dataclass(frozen=True)
class Evaluation:
    """A benchmark.

    Attributes:
        name: of its file.
        instructions: its distinct examples, in the file's order.
        remarks: what is to be said about how it was read.
    """

    name: str
    instructions: tuple[Instruction, ...]
    remarks: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Digest of its content, under which the store keeps it."""
        return digest_of_evaluation(self.instructions)


def read_evaluation(file: str, options: ReadOptions | None = None) -> Evaluation:
    """Read the examples of a benchmark, in any shape the importers know; answers may be missing.

    Args:
        options: how to read it; by default, as the importers find out.

    Raises:
        InputError: the file cannot be read to its end, or has no usable example.
    """
    from ...ingest.readers.locations import find_files
    from ...ingest.readers.options import ReadOptions
    from ...ingest.sources import open_source

    options = replace(options or ReadOptions(), allow_empty_answer=True)
    instructions: dict[str, Instruction] = {}
    reasons: set[str] = set()
    remarks: list[str] = []
    for path in find_files([file]):
        try:
            source = open_source(path, options)
        except AmbiguousFormatError as error:
            advice = error.advice.replace("--format", "--eval-format")
            raise AmbiguousFormatError(error.file, error.problem, advice, error.options) from error
        for record in source:
            if isinstance(record, Reject):
                reasons.add(record.reason)
            else:
                instructions.setdefault(record.instruction.id, record.instruction)
        if source.fault:
            raise source.fault
        remarks += source.remarks
    if not instructions:
        why = "; ".join(sorted(reasons)) or "it is empty"
        raise InputError(file, f"no usable example ({why})", "An evaluation file needs one")
    name = file.rstrip("/").rsplit("/", 1)[-1]
    return Evaluation(name, tuple(instructions.values()), tuple(remarks))


def keep_evaluation(store: Store, evaluation: Evaluation) -> None:
    """Keep an evaluation in the store, so that a selection can be replayed without its file."""
    keep(store, evaluation.instructions)


def kept_evaluation(store: Store, name: str, digest: str) -> Evaluation:
    """Return the evaluation that was kept under a digest.

    Raises:
        UsageError: the store lost it.
    """
    instructions = kept(store, digest)
    if instructions is None:
        raise UsageError(f"{store.uri} has lost the examples of evaluation {name} ({digest})")
    return Evaluation(name, instructions)


def examples_of(
    snapshot: Snapshot, targets: Sequence[str], evaluations: Sequence[Evaluation]
) -> list[GuardedExample]:
    """Return all guarded examples, targets first, each source in its own order."""
    examples = []
    for target in targets:
        rows = snapshot.targets.to_table(
            columns=["id", "position", "messages"], filter=f"target = {literal(target)}"
        )
        examples += [
            GuardedExample.from_messages(row["id"], target, row["messages"])
            for row in rows.sort_by("position").to_pylist()
        ]
    for evaluation in evaluations:
        examples += [
            GuardedExample.from_messages(
                instruction.id, evaluation.name, [turn.as_stored() for turn in instruction.messages]
            )
            for instruction in evaluation.instructions
        ]
    return examples


def digest_of_examples(examples: Sequence[GuardedExample]) -> str:
    """Digest of which examples are guarded, in their order."""
    return digest_of([[example.of, example.id] for example in examples])
