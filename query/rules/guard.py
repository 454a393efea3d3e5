"""Which rows give an example away: an index over the examples, held against one row at a time.

A row leaks an example if it says the same words, if it contains the example's words or question
in one piece, or if it shares a run of 13 words with it that is no task wording (docs/rules.md).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .examples import Example
from .words import joined, ngrams, said_in

NGRAM = 13
"""Words in a run that gives an example away (ARCHITECTURE, Query)."""

LEAST = 8
"""Words an example, or its question, must have for a row to be said to contain it [ours]."""

# Both a contained example and a shared run show some run of five words of an example at every
# fourth place: at least 8 - 5 + 1 of its runs of five start side by side.
_SEED = 5
_STRIDE = LEAST - _SEED + 1


@dataclass(frozen=True)
class Leak:
    """Why a row is no fair training example.

    Attributes:
        id: of the row.
        how: "equal", "contains" or "13-gram".
        words: the run of words that gave it away; of equal and contained examples the first 13.
        example: id of the example.
        of: the target or evaluation file it belongs to.
    """

    id: str
    how: str
    words: str
    example: str
    of: str


class Guard:
    """The examples, ready to be looked for.

    Runs of words that two or more examples of one source share are task wording and not looked
    for. Examples of one source that ask the same question count as one.
    """

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = examples
        self._ids = {each.id: number for number, each in reversed([*enumerate(examples)])}
        self._wholes: dict[str, int] = {}
        self._questions: dict[str, int] = {}
        self._starts: dict[str, list[tuple[str, int]]] = defaultdict(list)
        self._seeds: set[str] = set()
        self.grams: dict[str, int] = {}
        self._index()

    def _index(self) -> None:
        answers: dict[tuple[str, str], set[str]] = defaultdict(set)
        asked: dict[tuple[str, str], str] = {}  # (source, run of words) -> the question it is in
        wording: set[str] = set()
        for number, each in enumerate(self._examples):
            whole = joined(each.said.whole)
            question = joined(each.said.question) or whole
            answers[each.of, question].add(whole)
            self._seeds.update(ngrams(each.said.whole, _SEED))
            if whole:
                self._wholes.setdefault(whole, number)
            for gram in ngrams(each.said.whole, NGRAM):
                if asked.setdefault((each.of, gram), question) != question:
                    wording.add(gram)
                self.grams.setdefault(gram, number)
        for gram in wording:
            del self.grams[gram]
        for number, each in enumerate(self._examples):
            question = joined(each.said.question)
            # A question that got several answers may be a standing instruction ("Tell a joke").
            if question and len(answers[each.of, question]) == 1:
                self._questions.setdefault(question, number)
                self._begin(each.said.question, number)
            self._begin(each.said.whole, number)

    def _begin(self, words: Sequence[str], number: int) -> None:
        if len(words) >= LEAST:
            self._starts[joined(words[:LEAST])].append((joined(words), number))

    def look(self, id: str, messages: Sequence[Mapping[str, Any]]) -> Leak | list[str] | None:
        """What a row gives away: a leak for sure, runs of words it shares (to be counted), or None.

        Args:
            id: of the row.
            messages: as Arrow gives them back.
        """
        if id in self._ids:
            return self._leak(id, "equal", self._ids[id])
        said = said_in(messages)
        for own, known in ((said.whole, self._wholes), (said.question, self._questions)):
            number = known.get(joined(own))
            if number is not None:
                return self._leak(id, "equal", number)
        if not self.has_seed(said.everything):
            return None
        padded = f" {joined(said.everything)} "
        for start in ngrams(said.everything, LEAST):
            for text, number in self._starts.get(start, ()):
                if f" {text} " in padded:
                    return self._leak(id, "contains", number)
        return [gram for gram in ngrams(said.everything, NGRAM) if gram in self.grams] or None

    def has_seed(self, words: Sequence[str]) -> bool:
        """Whether the words may share a run of 8 or more with an example at all; quick."""
        starts = range(0, len(words) - _SEED + 1, _STRIDE)
        return not self._seeds.isdisjoint([joined(words[at : at + _SEED]) for at in starts])

    def shares(self, id: str, gram: str) -> Leak:
        """The leak of a run of words that turned out to be no task wording."""
        example = self._examples[self.grams[gram]]
        return Leak(id, f"{NGRAM}-gram", gram, example.id, example.of)

    def _leak(self, id: str, how: str, number: int) -> Leak:
        example = self._examples[number]
        return Leak(id, how, joined(example.said.whole[:NGRAM]), example.id, example.of)
