"""Leaks: rows of the pool that give examples away, found among some rows or in the whole pool.

`Guard` says what a row shares with the examples. How common that is takes one pass over the pool's
text, of which Arrow drops the rows that cannot hold it. `Leakage` rejects ranked rows of a
selection; `find_leaks` looks through the pool.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...schemas.ids import IdSet, keys_of
from ...schemas.plain_text import count_of
from ...schemas.progress import Progress
from .examples import GuardedExample, conversation_words, digest_of_examples, ngrams
from .guard import LEAST, NGRAM, VERSION, Guard, Leak, Suspicion

if TYPE_CHECKING:
    import lance

    from ..snapshot import Snapshot


SHARE = 0.001
"""Of the pool's rows; a run of words in more of them is task wording (ARCHITECTURE, Query)."""

AT_LEAST = 10
"""Rows that may share a run of words whatever the size of the pool [ours]."""

_ROWS_PER_BATCH = 1 << 13


def wording_above(rows: int) -> int:
    """Return how many rows may share a run of words before it counts as task wording."""
    return max(AT_LEAST, int(SHARE * rows))


def counts_of(dataset: lance.LanceDataset, grams: Collection[str]) -> dict[str, int]:
    """Count the rows of a table that hold each run of words (see `words_of`)."""
    counts = dict.fromkeys(grams, 0)
    lengths = {gram.count(" ") + 1 for gram in grams}
    for batch in messages_of(dataset):
        for messages in _possible(batch.column("messages"), grams):
            words = conversation_words(messages).everything
            for length in lengths:
                for gram in {*ngrams(words, length)} & counts.keys():
                    counts[gram] += 1
    return counts


class Wording:
    """Which runs of words are wording of the pool; each is counted once."""

    def __init__(self, dataset: lance.LanceDataset) -> None:
        self._dataset = dataset
        self._most = wording_above(dataset.count_rows())
        self._common: dict[str, bool] = {}

    def count(self, grams: Collection[str]) -> None:
        """Count those that were not counted yet, in one pass over the pool's text."""
        unknown = set(grams) - self._common.keys()
        if unknown:
            counts = counts_of(self._dataset, unknown)
            self._common |= {gram: count > self._most for gram, count in counts.items()}

    def is_rare(self, gram: str) -> bool:
        """Whether the run was counted and is in few rows."""
        return self._common.get(gram) is False


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


Row: TypeAlias = tuple[str, Sequence[Mapping[str, Any]]]
"""The id of a row and its messages, as Arrow returns them."""

MOST_LISTED = 1000
"""Rejected rows that a coreset records one by one; the others are only counted."""

MOST_HELD = 10_000
"""Rows that share words with examples are held until these are counted, so many at once."""

_ROWS_PER_TAKE = 1 << 13


class Leakage:
    """Rejects ranked rows that leak an example; the text of each row is read once.

    Args:
        snapshot: whose pool has the rows.
        examples: that must not be given away.
        version: of the guard's rule.
    """

    judges_spares = True

    def __init__(
        self, snapshot: Snapshot, examples: Sequence[GuardedExample], version: int = VERSION
    ) -> None:
        self._snapshot, self._dataset = snapshot, snapshot.pool
        self._examples, self._version = examples, version
        self._guard = Guard(examples, version)
        self._wording = Wording(self._dataset)
        self._known: dict[str, Leak | None] = {}
        self._compared = 0
        self._rejected: dict[str, Leak] = {}

    def rejected(self, ids: Sequence[str], chosen: int) -> np.ndarray:
        """Return the keys of rows that leak, (n, 2) int64; none while the chosen ones are clean."""
        self._judge(self._texts([id for id in ids if id not in self._known]))
        if not any(self._known[id] for id in ids[:chosen]):
            return np.empty((0, 2), np.int64)
        return self._reject({id: leak for id in ids if (leak := self._known[id])})

    def all_leaking_keys(self, eligible: IdSet | None) -> np.ndarray:
        """Return the keys of all eligible rows that leak, (n, 2) int64; reads the whole text."""
        self._judge(_rows_of(self._dataset, eligible), keep_clean=False)
        return self._reject({id: leak for id, leak in self._known.items() if leak})

    def account(self, ids: Sequence[str]) -> dict[str, Any]:
        """Return what was guarded and rejected, whichever rows were chosen, as JSON values."""
        return {
            "guard": self._version,
            "ngram": NGRAM,
            "least": LEAST,
            "examples": len(self._examples),
            "of": dict(Counter(example.of for example in self._examples)),
            "compared": self._compared,
            "digest": digest_of_examples(self._examples),
            "left_out": len(self._rejected),
            "how": dict(Counter(leak.how for leak in self._rejected.values())),
            "rows": [vars(leak) for leak in list(self._rejected.values())[:MOST_LISTED]],
        }

    def _reject(self, leaks: dict[str, Leak]) -> np.ndarray:
        self._rejected |= leaks
        return keys_of(pa.array(list(leaks), pa.string()))

    def _texts(self, ids: Sequence[str]) -> Iterator[Row]:
        for start in range(0, len(ids), _ROWS_PER_TAKE):
            part = ids[start : start + _ROWS_PER_TAKE]
            table = self._snapshot.take(part, ["messages"])
            yield from zip(part, table["messages"].to_pylist(), strict=True)

    def _judge(self, rows: Iterable[Row], keep_clean: bool = True) -> None:
        suspicions: list[Suspicion] = []
        for id, messages in rows:
            self._compared += 1
            found = self._guard.leak_or_suspicion(id, messages)
            if isinstance(found, Suspicion):
                suspicions.append(found)
            elif found or keep_clean:
                self._known[id] = found
            if len(suspicions) == MOST_HELD:
                self._settle(suspicions)
                suspicions = []
        self._settle(suspicions)

    def _settle(self, suspicions: Sequence[Suspicion]) -> None:
        # One rare run is enough to reject a row, and the longest is likely to be rare.
        self._wording.count({max(each.alone, key=len) for each in suspicions if each.alone})
        unsettled = [each for each in suspicions if not self._leak_of(each)]
        self._wording.count({run for each in unsettled for run in each.to_count})
        for each in suspicions:
            self._known[each.row] = self._leak_of(each)

    def _leak_of(self, suspicion: Suspicion) -> Leak | None:
        return next(self._guard.leaks_of(suspicion, self._wording.is_rare), None)


def find_leaks(
    snapshot: Snapshot,
    examples: Sequence[GuardedExample],
    eligible: IdSet | None = None,
    version: int = VERSION,
    progress: Progress | None = None,
) -> Iterator[Leak]:
    """Yield the rows of a pool that give examples away, with the evidence.

    A row that equals or contains an example comes once, any other once for each example that it
    gives away. The pool's text is read once, and again where it must be counted how common shared
    words are: once for every `MOST_HELD` rows that share words not counted before.

    Args:
        snapshot: whose pool is looked through.
        examples: that should not be given away (`examples_of`).
        eligible: the rows to look at; None for all.
        version: of the guard's rule.
        progress: is told how many rows are read.
    """
    guard, wording = Guard(examples, version), Wording(snapshot.pool)
    suspicions: list[Suspicion] = []

    def settled() -> Iterator[Leak]:
        wording.count({run for each in suspicions for run in each.to_count})
        for each in suspicions:
            yield from guard.leaks_of(each, wording.is_rare)
        suspicions.clear()

    for id, messages in _rows_of(snapshot.pool, eligible, progress):
        found = guard.leak_or_suspicion(id, messages)
        if isinstance(found, Suspicion):
            suspicions.append(found)
        elif found:
            yield found
        if len(suspicions) == MOST_HELD:
            yield from settled()
    yield from settled()


def _rows_of(
    dataset: lance.LanceDataset, eligible: IdSet | None, progress: Progress | None = None
) -> Iterator[Row]:
    rows, read = dataset.count_rows(), 0
    for batch in messages_of(dataset):
        yield from _allowed(batch, eligible)
        read += batch.num_rows
        if progress is not None:
            said = f"{read:,} of {count_of(rows, 'row')}"
            progress.learn(name="reading", share=read / rows, said=said)


def _allowed(batch: pa.RecordBatch, eligible: IdSet | None) -> Iterator[Row]:
    if eligible is not None:
        batch = batch.filter(pa.array(eligible.contains(keys_of(batch.column("id")))))
    return zip(batch.column("id").to_pylist(), batch.column("messages").to_pylist(), strict=True)
