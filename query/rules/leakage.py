"""The leakage guard: rows that give an example away are rejected, each with the reason.

A row leaks an example if it says the same words, if it contains the example's words or question
in one piece, or if it shares a run of 13 words with it that is no task wording (docs/rules.md).
Task wording is what several examples of one source share, and what one in a thousand rows of the
pool says: how common a run is takes one pass over the pool's text, of which Arrow drops the rows
that cannot hold it.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...schemas.ids import IdSet, keys_of
from .examples import GuardedExample, conversation_words, digest_of_examples, joined, ngrams

if TYPE_CHECKING:
    import lance

    from ..snapshot import Snapshot


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
    """Why a row must not be chosen.

    Attributes:
        id: of the row.
        how: "equal", "contains" or "13-gram".
        words: the run of words that gave it away; of equal and contained examples the first 13.
        example: id of the example.
        of: the target or evaluation file that the example belongs to.
    """

    id: str
    how: str
    words: str
    example: str
    of: str


class Guard:
    """An index over the examples, with which one row at a time is compared.

    Runs of words that two or more examples of one source share are task wording and left out.
    Examples of one source that ask the same question count as one.
    """

    def __init__(self, examples: Sequence[GuardedExample]) -> None:
        self._examples = examples
        self._ids = {example.id: number for number, example in reversed([*enumerate(examples)])}
        self._wholes: dict[str, int] = {}
        self._questions: dict[str, int] = {}
        self._starts: dict[str, list[tuple[str, int]]] = defaultdict(list)
        self._seeds: set[str] = set()
        self.grams: dict[str, int] = {}
        self._index()

    def _index(self) -> None:
        answers: dict[tuple[str, str], set[str]] = defaultdict(set)
        question_of: dict[tuple[str, str], str] = {}  # (source, run of words) -> its question
        wording: set[str] = set()
        for number, example in enumerate(self._examples):
            whole, question = joined(example.said.whole), joined(example.said.question)
            answers[example.of, question].add(whole)
            self._seeds.update(ngrams(example.said.whole, _SEED))
            if whole:
                self._wholes.setdefault(whole, number)
            for gram in ngrams(example.said.whole, NGRAM):
                first = question_of.setdefault((example.of, gram), question or whole)
                if first != (question or whole):
                    wording.add(gram)
                self.grams.setdefault(gram, number)
        for gram in wording:
            del self.grams[gram]
        for number, example in enumerate(self._examples):
            question = joined(example.said.question)
            # A question that got several answers may be a standing instruction ("Tell a joke").
            if question and len(answers[example.of, question]) == 1:
                self._questions.setdefault(question, number)
                self._begin(example.said.question, number)
            self._begin(example.said.whole, number)

    def _begin(self, words: Sequence[str], number: int) -> None:
        if len(words) >= LEAST:
            self._starts[joined(words[:LEAST])].append((joined(words), number))

    def leak_or_runs(
        self, id: str, messages: Sequence[Mapping[str, Any]]
    ) -> Leak | list[str] | None:
        """Return a certain leak, the shared runs of words (to be counted), or None for neither.

        Args:
            id: of the row.
            messages: as Arrow returns them.
        """
        if id in self._ids:
            return self._leak(id, "equal", self._ids[id])
        said = conversation_words(messages)
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
        """Whether the words may share a run of 8 or more with an example at all; a quick test."""
        starts = range(0, len(words) - _SEED + 1, _STRIDE)
        return not self._seeds.isdisjoint([joined(words[at : at + _SEED]) for at in starts])

    def leak_of_run(self, id: str, gram: str) -> Leak:
        """Return the leak of a shared run of words that is no task wording."""
        example = self._examples[self.grams[gram]]
        return Leak(id, f"{NGRAM}-gram", gram, example.id, example.of)

    def _leak(self, id: str, how: str, number: int) -> Leak:
        example = self._examples[number]
        return Leak(id, how, joined(example.said.whole[:NGRAM]), example.id, example.of)


SHARE = 0.001
"""Of the pool's rows; a run of words in more of them is task wording (ARCHITECTURE, Query)."""

AT_LEAST = 10
"""Rows that may share a run of words whatever the size of the pool [ours]."""

_ROWS_PER_BATCH = 1 << 13


def wording_above(rows: int) -> int:
    """Return how many rows may share a run of words before it counts as task wording."""
    return max(AT_LEAST, int(SHARE * rows))


def counts_of(dataset: lance.LanceDataset, grams: Collection[str], length: int) -> dict[str, int]:
    """Count the rows of a table that hold each run of `length` words (see `words_of`)."""
    counts = dict.fromkeys(grams, 0)
    for batch in messages_of(dataset):
        for messages in _possible(batch.column("messages"), grams):
            for gram in {*ngrams(conversation_words(messages).everything, length)} & counts.keys():
                counts[gram] += 1
    return counts


def messages_of(dataset: lance.LanceDataset) -> Iterator[pa.RecordBatch]:
    """Yield the ids and conversations of a table, in its order."""
    yield from dataset.scanner(
        columns=["id", "messages"], batch_size=_ROWS_PER_BATCH, scan_in_order=True
    ).to_batches()


def _possible(
    conversations: pa.ListArray, grams: Collection[str]
) -> Iterator[list[Mapping[str, Any]]]:
    """Yield conversations that may hold one of the runs of words: those with its anchor."""
    anchors = {_anchor(gram) for gram in grams}
    pattern = "|".join(sorted(re.escape(anchor) for anchor in anchors if anchor))
    turns = conversations.flatten()
    maybe = np.zeros(len(turns), bool)
    for text in (turns.field("content"), turns.field("tool_calls")):
        plain = _true(pc.call_function("string_is_ascii", [text]))
        if pattern:
            maybe[plain] |= _matches(text.filter(pa.array(plain)), pattern)
        if None in anchors:
            maybe |= ~plain
        elif not plain.all():
            form = pc.Utf8NormalizeOptions("NFKC")
            folded = pc.call_function("utf8_normalize", [text.filter(pa.array(~plain))], form)
            maybe[~plain] |= _matches(folded, pattern)
    lengths = conversations.value_lengths().to_numpy()
    row_of_turn = np.repeat(np.arange(len(lengths)), lengths)
    for row in np.unique(row_of_turn[maybe]).tolist():
        yield conversations[row].as_py()


def _matches(texts: pa.Array, pattern: str) -> np.ndarray:
    how = pc.MatchSubstringOptions(pattern, ignore_case=True)
    return _true(pc.call_function("match_substring_regex", [texts], how))


def _true(answers: pa.BooleanArray) -> np.ndarray:
    return answers.fill_null(False).to_numpy(zero_copy_only=False)


def _anchor(gram: str) -> str | None:
    """Return a rare word of the run that is in the text letter by letter, but for case and NFKC.

    The longest plain one without "ss", the only letters that case folding makes of another one
    ("ß"); None where there is none.
    """
    words = [word for word in gram.split(" ") if word.isascii() and "ss" not in word]
    return max(words, key=len) if words else None


MOST_LISTED = 1000
"""Rejected rows that a coreset records one by one; the others are only counted."""

_ROWS_PER_TAKE = 1 << 13


class Leakage:
    """Rejects ranked rows that leak an example; the text of each row is read once.

    Args:
        snapshot: whose pool has the rows.
        examples: that must not be given away.
    """

    judges_spares = True

    def __init__(self, snapshot: Snapshot, examples: Sequence[GuardedExample]) -> None:
        self._snapshot, self._dataset = snapshot, snapshot.pool
        self._examples = examples
        self._guard = Guard(examples)
        self._known: dict[str, Leak | None] = {}
        self._common: dict[str, bool] = {}  # run of words -> whether it is task wording
        self._most = wording_above(self._dataset.count_rows())
        self._rejected: dict[str, Leak] = {}

    def rejected(self, ids: Sequence[str], chosen: int) -> np.ndarray:
        """Return the keys of rows that leak, (n, 2) int64; none while the chosen ones are clean."""
        self._judge(self._texts([id for id in ids if id not in self._known]))
        if not any(self._known[id] for id in ids[:chosen]):
            return np.empty((0, 2), np.int64)
        return self._reject({id: leak for id in ids if (leak := self._known[id])})

    def all_leaking_keys(self, eligible: IdSet | None) -> np.ndarray:
        """Return the keys of all eligible rows that leak, (n, 2) int64; reads the whole text."""
        rows = (row for batch in messages_of(self._dataset) for row in _allowed(batch, eligible))
        self._judge(rows, keep_clean=False)
        return self._reject({id: leak for id, leak in self._known.items() if leak})

    def account(self, ids: Sequence[str]) -> dict[str, Any]:
        """Return what was guarded and rejected, whichever rows were chosen, as JSON values."""
        return {
            "ngram": NGRAM,
            "least": LEAST,
            "examples": len(self._examples),
            "digest": digest_of_examples(self._examples),
            "left_out": len(self._rejected),
            "how": dict(Counter(leak.how for leak in self._rejected.values())),
            "rows": [vars(leak) for leak in list(self._rejected.values())[:MOST_LISTED]],
        }

    def _reject(self, leaks: dict[str, Leak]) -> np.ndarray:
        self._rejected |= leaks
        return keys_of(pa.array(list(leaks), pa.string()))

    def _texts(self, ids: Sequence[str]) -> Iterator[tuple[str, Sequence[Mapping[str, Any]]]]:
        for start in range(0, len(ids), _ROWS_PER_TAKE):
            part = ids[start : start + _ROWS_PER_TAKE]
            table = self._snapshot.take(part, ["messages"])
            yield from zip(part, table["messages"].to_pylist(), strict=True)

    def _judge(
        self, rows: Iterator[tuple[str, Sequence[Mapping[str, Any]]]], keep_clean: bool = True
    ) -> None:
        shared: dict[str, list[str]] = {}
        for id, messages in rows:
            leak = self._guard.leak_or_runs(id, messages)
            if isinstance(leak, list):
                shared[id] = leak
            elif leak or keep_clean:
                self._known[id] = leak
        # One rare run is enough to reject a row, and the longest is likely to be rare.
        self._count({max(grams, key=len) for grams in shared.values()})
        self._count({gram for grams in shared.values() if not self._rare(grams) for gram in grams})
        for id, grams in shared.items():
            rare = self._rare(grams)
            self._known[id] = self._guard.leak_of_run(id, rare) if rare else None

    def _rare(self, grams: Sequence[str]) -> str | None:
        return next((gram for gram in grams if self._common.get(gram) is False), None)

    def _count(self, grams: set[str]) -> None:
        unknown = grams - self._common.keys()
        if unknown:
            counts = counts_of(self._dataset, unknown, NGRAM)
            self._common |= {gram: count > self._most for gram, count in counts.items()}


def _allowed(
    batch: pa.RecordBatch, eligible: IdSet | None
) -> Iterator[tuple[str, Sequence[Mapping[str, Any]]]]:
    if eligible is not None:
        batch = batch.filter(pa.array(eligible.contains(keys_of(batch.column("id")))))
    return zip(batch.column("id").to_pylist(), batch.column("messages").to_pylist(), strict=True)
