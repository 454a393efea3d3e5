"""What gives an example away: an index over the examples that rows are compared with.

A row leaks an example if it says the same words, if it contains the example's words or question in
one piece, if it shares a run of 13 words of prose with it, or if most of the example's question or
answer is found in it in runs of 8 words (docs/rules.md). Task wording, what several examples of one
source share, does not count; nor does what one in a thousand rows of the pool says, so that shared
runs are only a `Suspicion` until they are counted.

Words are cheap in code and formulas: thirteen of them in a row (`0 for i in range n 1 for j in
range n 1`) are common to programs that have nothing else in common. There only the second kind of
sharing counts. Version 1, which coresets of earlier versions are replayed with, took any run of 13.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeAlias

from .examples import GuardedExample, conversation_words, joined, ngrams

NGRAM = 13
"""Words in a run of prose that gives an example away (ARCHITECTURE, Query)."""

LEAST = 8
"""Words an example, or its question, must have for a row to be said to contain it [ours]."""

SHORT_NGRAM = 8
"""Words in a run that counts towards a share of a question or answer (Tülu 3, PaLM)."""

SHARE = 0.7
"""Of a question's or answer's words; from there on it is given away (PaLM's threshold)."""

MOST_SIGNS = 3
"""Of the 12 gaps of a run of 13 words, so many may show code or a formula in prose [ours]."""

VERSION = 2

# Both a contained example and a shared run show some run of five words of an example at every
# fourth place: at least 8 - 5 + 1 of its runs of five start side by side.
_SEED = 5
_STRIDE = LEAST - _SEED + 1

_WORDS_SHOWN = 40


@dataclass(frozen=True)
class Leak:
    """Why a row must not be chosen.

    Attributes:
        id: of the row.
        how: "equal", "contains", "13-gram" or "8-grams".
        words: the run of words that gave it away (of "8-grams" the longest one, at most 40 of its
            words); of equal and contained examples the first 13.
        example: id of the example.
        of: the target or evaluation file that the example belongs to.
    """

    id: str
    how: str
    words: str
    example: str
    of: str


IsRare: TypeAlias = Callable[[str], bool]
"""Whether a run of words is no wording of the pool."""


@dataclass(frozen=True)
class Part:
    """The question or the answer of an example.

    Attributes:
        example: its number.
        words: of the question or answer.
        wording: places of its runs of `SHORT_NGRAM` words that are task wording.
        size: how many words its other runs cover.
    """

    example: int
    words: Sequence[str]
    wording: frozenset[int]
    size: int

    def covered(self, shared: Collection[str]) -> list[bool]:
        """Which words are in one of its own runs that are among the shared ones, (n,)."""
        runs = enumerate(ngrams(self.words, SHORT_NGRAM))
        return _cover(self.words, {at for at, run in runs if run in shared} - self.wording)

    def given_away_by(self, shared: Collection[str]) -> bool:
        """Whether the shared runs cover most of it."""
        covered = sum(self.covered(shared))
        return covered >= SHARE * self.size and (covered >= NGRAM or covered == self.size)


def _cover(words: Sequence[str], places: Collection[int]) -> list[bool]:
    covered = [False] * len(words)
    for at in places:
        covered[at : at + SHORT_NGRAM] = [True] * SHORT_NGRAM
    return covered


@dataclass(frozen=True)
class Suspicion:
    """What a row shares with examples; it leaks them if the runs are not wording of the pool.

    Attributes:
        row: its id.
        alone: runs of words of which one is enough, and the number of the example it belongs to.
        runs: shared runs of `SHORT_NGRAM` words.
        parts: questions and answers that these give away.
    """

    row: str
    alone: Mapping[str, int]
    runs: Collection[str]
    parts: tuple[Part, ...]

    @property
    def to_count(self) -> set[str]:
        """All runs that decide."""
        shared = (run for part in self.parts for run in ngrams(part.words, SHORT_NGRAM))
        return {*self.alone, *(run for run in shared if run in self.runs)}


class Guard:
    """An index over the examples, with which one row at a time is compared.

    Runs of words that two or more examples of one source share are task wording and left out.
    Examples of one source that ask the same question count as one.

    Args:
        examples: that must not be given away.
        version: of the rule; see the module.
    """

    def __init__(self, examples: Sequence[GuardedExample], version: int = VERSION) -> None:
        self._examples, self._version = examples, version
        self._ids = {example.id: number for number, example in reversed([*enumerate(examples)])}
        self._wholes: dict[str, int] = {}
        self._questions: dict[str, int] = {}
        self._starts: dict[str, list[tuple[str, int]]] = defaultdict(list)
        self._seeds: set[str] = set()
        self.grams: dict[str, int] = {}
        self._parts: list[Part] = []
        self._parts_with: dict[int, list[int]] = {}  # hash of a run -> numbers; hashes are small
        self._index()

    def _index(self) -> None:
        answers: dict[tuple[str, str], set[str]] = defaultdict(set)
        for number, example in enumerate(self._examples):
            whole, question = joined(example.said.whole), joined(example.said.question)
            answers[example.of, question].add(whole)
            self._seeds.update(ngrams(example.said.whole, _SEED))
            if whole:
                self._wholes.setdefault(whole, number)
        wording = self._wording(NGRAM)
        for number, example in enumerate(self._examples):
            for at, run in enumerate(ngrams(example.said.whole, NGRAM)):
                if run not in wording and (self._version < 2 or _is_prose(example, at)):
                    self.grams.setdefault(run, number)
        for number, example in enumerate(self._examples):
            question = joined(example.said.question)
            # A question that got several answers may be a standing instruction ("Tell a joke").
            if question and len(answers[example.of, question]) == 1:
                self._questions.setdefault(question, number)
                self._begin(example.said.question, number)
            self._begin(example.said.whole, number)
        if self._version >= 2:
            self._index_parts()

    def _wording(self, length: int) -> set[str]:
        """Runs of words that examples of one source with different questions share."""
        question_of: dict[tuple[str, str], str] = {}
        wording: set[str] = set()
        for example in self._examples:
            asked = joined(example.said.question) or joined(example.said.whole)
            for run in ngrams(example.said.whole, length):
                if question_of.setdefault((example.of, run), asked) != asked:
                    wording.add(run)
        return wording

    def _index_parts(self) -> None:
        wording = self._wording(SHORT_NGRAM)
        for number, example in enumerate(self._examples):
            for words in (example.said.question, example.said.answer):
                runs = dict(enumerate(ngrams(words, SHORT_NGRAM)))
                common = frozenset(at for at, run in runs.items() if run in wording)
                size = sum(_cover(words, runs.keys() - common))
                if len(words) < NGRAM or not size:
                    continue
                for run in {run for at, run in runs.items() if at not in common}:
                    self._parts_with.setdefault(hash(run), []).append(len(self._parts))
                self._parts.append(Part(number, words, common, size))

    def _begin(self, words: Sequence[str], number: int) -> None:
        if len(words) >= LEAST:
            self._starts[joined(words[:LEAST])].append((joined(words), number))

    def leak_or_suspicion(
        self, id: str, messages: Sequence[Mapping[str, Any]]
    ) -> Leak | Suspicion | None:
        """Return a certain leak, the shared runs of words (to be counted), or None for neither.

        Args:
            id: of the row.
            messages: as Arrow returns them.
        """
        if id in self._ids:
            return self._leak(id, "equal", self._ids[id])
        row_words = conversation_words(messages)
        for own, known in ((row_words.whole, self._wholes), (row_words.question, self._questions)):
            number = known.get(joined(own))
            if number is not None:
                return self._leak(id, "equal", number)
        if not self.has_seed(row_words.everything):
            return None
        padded = f" {joined(row_words.everything)} "
        for start in ngrams(row_words.everything, LEAST):
            for text, number in self._starts.get(start, ()):
                if f" {text} " in padded:
                    return self._leak(id, "contains", number)
        alone = {
            run: self.grams[run] for run in ngrams(row_words.everything, NGRAM) if run in self.grams
        }
        runs, parts = self._parts_given_away(row_words.everything)
        return Suspicion(id, alone, runs, parts) if alone or parts else None

    def _parts_given_away(self, words: Sequence[str]) -> tuple[set[str], tuple[Part, ...]]:
        """Runs that the words share with questions and answers, and those that they give away."""
        if not self._parts:
            return set(), ()
        runs = {run for run in ngrams(words, SHORT_NGRAM) if hash(run) in self._parts_with}
        hits = Counter(number for run in runs for number in self._parts_with[hash(run)])
        maybe = (
            self._parts[number]
            for number, count in sorted(hits.items())
            if count * SHORT_NGRAM >= SHARE * self._parts[number].size
        )
        return runs, tuple(part for part in maybe if part.given_away_by(runs))

    def has_seed(self, words: Sequence[str]) -> bool:
        """Whether the words may share a run of 8 or more with an example at all; a quick test."""
        starts = range(0, len(words) - _SEED + 1, _STRIDE)
        return not self._seeds.isdisjoint([joined(words[at : at + _SEED]) for at in starts])

    def leaks_of(self, suspicion: Suspicion, is_rare: IsRare) -> Iterator[Leak]:
        """Yield the leaks that a suspicion comes to, one for each example.

        Args:
            is_rare: whether a run, of those `to_count`, is no wording of the pool.
        """
        leaked: set[int] = set()
        for run, number in suspicion.alone.items():
            if number not in leaked and is_rare(run):
                leaked.add(number)
                yield self._leak(suspicion.row, f"{NGRAM}-gram", number, run)
        for part in suspicion.parts:
            if part.example in leaked:
                continue
            rare = {
                run
                for run in ngrams(part.words, SHORT_NGRAM)
                if run in suspicion.runs and is_rare(run)
            }
            if part.given_away_by(rare):
                leaked.add(part.example)
                words = joined(_longest(part.words, part.covered(rare)))
                yield self._leak(suspicion.row, f"{SHORT_NGRAM}-grams", part.example, words)

    def _leak(self, row: str, how: str, number: int, words: str | None = None) -> Leak:
        example = self._examples[number]
        return Leak(row, how, words or joined(example.said.whole[:NGRAM]), example.id, example.of)


def _is_prose(example: GuardedExample, at: int) -> bool:
    """Whether the run of `NGRAM` words at a place reads as prose: no code, formula or numbers.

    It has few signs of code between its words, and at least half of these are more than a number or
    a single letter.
    """
    words = example.said.whole[at : at + NGRAM]
    slight = sum(word.isdigit() or (len(word) == 1 and word.isascii()) for word in words)
    signs = sum(example.signs[at : at + NGRAM - 1])
    return signs <= MOST_SIGNS and 2 * slight <= NGRAM


def _longest(words: Sequence[str], covered: Sequence[bool]) -> list[str]:
    """The longest run of covered words, cut to `_WORDS_SHOWN`."""
    runs = groupby(zip(covered, words, strict=True), key=lambda pair: pair[0])
    stretches = ([word for _, word in run] for within, run in runs if within)
    return max(stretches, key=len, default=[])[:_WORDS_SHOWN]
