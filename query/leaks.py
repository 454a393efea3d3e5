"""Leaks: which rows of the whole pool give examples of a benchmark away, and how.

The same guard as that of a selection, without one: see rules/guard.py for what counts.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ingest.sources import read_examples
from ..schemas.errors import UsageError
from ..schemas.ids import IdSet, keys_of
from ..schemas.instruction import Reject
from ..schemas.plain_text import PrintedResult, count_of, safe, text_table
from ..schemas.progress import Progress, Silence
from ..store.layout import require_outside
from .export import replacing
from .rules.examples import GuardedExample, conversation_words, ngrams
from .rules.guard import SHORT_NGRAM, Leak
from .rules.leakage import find_leaks
from .rules.quotas import corpora_of
from .snapshot import Snapshot

if TYPE_CHECKING:
    import polars as pl

    from ..ingest.readers.options import ReadOptions
    from ..ingest.sources import SourceData
    from ..store.store import Store

SUFFIXES = (".csv", ".jsonl", ".parquet")
LEAKS_SHOWN = 20
REJECTS_SHOWN = 5
_WORDS_SHOWN = 60
_ROWS_PER_TAKE = 1 << 10


@dataclass(frozen=True)
class LeakingRow:
    """A row of the pool and an example that it gives away.

    Attributes:
        id, corpus: of the row.
        benchmark: the file of the example.
        line: of the example in it, from 1.
        example: its id.
        how: "equal", "contains", "13-gram" or "8-grams" (docs/rules.md).
        overlap: share of the example's words that stand in the row in runs of 8 or more, in [0, 1];
            for an example of fewer words, whether all of them do.
        words: a run of words that both have.
    """

    id: str
    corpus: str
    benchmark: str
    line: int
    example: str
    how: str
    overlap: float
    words: str


@dataclass(frozen=True, repr=False)
class Leaks(PrintedResult):
    """What was looked for in a pool, and what was found.

    Attributes:
        found: rows with the examples they give away, those with the largest overlap first.
        rows: of the pool, that were looked at.
        pool_version: of these.
        corpora: corpus -> rows of the pool.
        examples: file -> distinct examples that were looked for.
        rejected: records of the files that are no examples, with the reasons.
        decisions: how each file was read, in words.
    """

    found: tuple[LeakingRow, ...]
    rows: int
    pool_version: int
    corpora: dict[str, int]
    examples: dict[str, int]
    rejected: tuple[Reject, ...]
    decisions: tuple[str, ...]

    @property
    def ids(self) -> list[str]:
        """The ids of the rows, each once."""
        return list(dict.fromkeys(leak.id for leak in self.found))

    def lines(self) -> list[str]:
        """The account, in words."""
        names = _short_names(list(self.examples))
        against = ", ".join(
            f"{count_of(n, 'example')} of {names[file]}" for file, n in self.examples.items()
        )
        given_away = len({(leak.benchmark, leak.example) for leak in self.found})
        rows = len(self.ids)
        gives = "gives" if rows == 1 else "give"
        found = f"{count_of(rows, 'row')} {gives} {count_of(given_away, 'example')} away"
        lines = [
            f"looked through {count_of(self.rows, 'row')} for {against}: "
            f"{found if rows else 'none is given away'}"
        ]
        if self.rejected:
            were = "was" if len(self.rejected) == 1 else "were"
            lines.append(f"  {count_of(len(self.rejected), 'record')} {were} not looked for:")
            lines += [
                f"    {reject.file}:{reject.line}: {reject.reason}"
                for reject in self.rejected[:REJECTS_SHOWN]
            ]
            more = len(self.rejected) - REJECTS_SHOWN
            lines += [f"    and {more:,} more"] if more > 0 else []
        return lines

    def __repr__(self) -> str:
        lines = [*self.decisions, *self.lines()]
        if not self.found:
            return "\n".join(lines)
        names = _short_names(list(self.examples))
        shown = [
            {
                "example": f"{names[leak.benchmark]}:{leak.line}",
                "row": leak.id[:8],
                "corpus": leak.corpus,
                "how": leak.how,
                "overlap": f"{leak.overlap:.0%}",
                "words": _shortened(leak.words),
            }
            for leak in self.found[:LEAKS_SHOWN]
        ]
        lines += ["", text_table(self.by_corpus()), "", text_table(shown)]
        more = len(self.found) - len(shown)
        return "\n".join([*lines, *([f"and {more:,} more"] if more else [])])

    def by_corpus(self) -> list[dict[str, Any]]:
        """For each corpus with leaks: its rows, those that leak, and the examples they leak."""
        table = []
        for corpus in sorted({leak.corpus for leak in self.found}):
            corpus_leaks = [leak for leak in self.found if leak.corpus == corpus]
            table.append(
                {
                    "corpus": corpus,
                    "rows": self.corpora.get(corpus, 0),
                    "leaking": len({leak.id for leak in corpus_leaks}),
                    "examples": len({(leak.benchmark, leak.example) for leak in corpus_leaks}),
                }
            )
        return table

    def to_polars(self) -> pl.DataFrame:
        """Every row with every example, as a frame with the columns of `LeakingRow`."""
        import polars as pl

        kinds: dict[str, Any] = dict.fromkeys(LeakingRow.__dataclass_fields__, pl.String)
        kinds |= {"line": pl.Int64, "overlap": pl.Float64}
        return pl.DataFrame([asdict(leak) for leak in self.found], schema=kinds)

    def write(self, out: str, overwrite: bool = False) -> None:
        """Write every row with every example to a file, .csv, .jsonl or .parquet.

        `coresetdb remove STORE --ids FILE` reads it.

        Raises:
            UsageError: another suffix, or the file exists (and not `overwrite`).
            OutputError: the file cannot be written.
        """
        check_out(out, overwrite)
        frame = self.to_polars()
        with replacing(out) as part:
            if out.endswith(".csv"):
                frame.write_csv(part)
            elif out.endswith(".jsonl"):
                frame.write_ndjson(part)
            else:
                frame.write_parquet(part)

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON values."""
        return {
            "rows": self.rows,
            "pool_version": self.pool_version,
            "examples": self.examples,
            "corpora": self.by_corpus(),
            "found": [asdict(leak) for leak in self.found],
            "rejected": [
                {"file": each.file, "line": each.line, "reason": each.reason}
                for each in self.rejected
            ],
        }


def check_out(out: str, overwrite: bool) -> None:
    """Refuse a file that `Leaks.write` would refuse, before anything is looked for.

    Raises:
        UsageError: another suffix, or the file exists (and not `overwrite`).
    """
    if not out.endswith(SUFFIXES):
        raise UsageError(f"{out}: name the file with the suffix .csv, .jsonl or .parquet")
    require_outside(out)
    if os.path.exists(out) and not overwrite:
        raise UsageError(f"{out} exists. Choose another name, or replace it with --overwrite")


def leaks(
    store: Store,
    benchmarks: Sequence[SourceData],
    options: ReadOptions,
    *,
    where: str | None = None,
    progress: Progress | None = None,
) -> Leaks:
    """Find the rows of a pool that give examples of benchmarks away; change nothing.

    The pool's text is streamed; suspicions are held until it is known how common their words are.

    Args:
        store: an open store.
        benchmarks: each in any shape that `ingest` reads; answers may be missing. Wording that
            several examples of one of them share does not count.
        options: how to read them.
        where: an SQL expression over the pool; only those rows are looked at.
        progress: is told how far it is.

    Raises:
        UsageError: no benchmark is named.
        InputError: one cannot be read to its end, or has no usable example.
        QueryError: DuckDB does not accept `where`.
    """
    if not benchmarks:
        raise UsageError("leaks needs a benchmark: name one or more files")
    snapshot = Snapshot(store)
    places: dict[tuple[str, str], int] = {}
    guarded: dict[tuple[str, str], GuardedExample] = {}
    examples: dict[str, int] = {}
    rejected: list[Reject] = []
    decisions: list[str] = []
    for benchmark in benchmarks:
        read = read_examples(benchmark, options, "A benchmark needs one")
        rejected += read.rejected
        decisions += [*read.decisions, *read.remarks]
        for record in read.records:
            key = record.file, record.instruction.id
            if key in guarded:
                continue
            messages = [turn.as_stored() for turn in record.instruction.messages]
            guarded[key] = GuardedExample.from_messages(key[1], key[0], messages)
            places[key] = record.line
            examples[record.file] = examples.get(record.file, 0) + 1
    eligible, rows = None, snapshot.pool.count_rows()
    if where is not None:
        from ..store.sql.session import eligible_ids

        eligible = IdSet(keys_of(eligible_ids(store, where, snapshot.pool_version)))
        rows = len(eligible)
    found = find_leaks(snapshot, list(guarded.values()), eligible, progress=progress or Silence())
    described = _described(snapshot, list(found), guarded, places)
    return Leaks(
        found=tuple(sorted(described, key=lambda leak: -leak.overlap)),
        rows=rows,
        pool_version=snapshot.pool_version,
        corpora=corpora_of(snapshot.pool),
        examples=examples,
        rejected=tuple(rejected),
        decisions=tuple(decisions),
    )


def _described(
    snapshot: Snapshot,
    found: Sequence[Leak],
    guarded: dict[tuple[str, str], GuardedExample],
    places: dict[tuple[str, str], int],
) -> Iterator[LeakingRow]:
    for start in range(0, len(found), _ROWS_PER_TAKE):
        part = found[start : start + _ROWS_PER_TAKE]
        ids = list(dict.fromkeys(leak.id for leak in part))
        rows = snapshot.take(ids, ["corpus", "messages"]).to_pylist()
        row_of = dict(zip(ids, rows, strict=True))
        for leak in part:
            row, key = row_of[leak.id], (leak.of, leak.example)
            yield LeakingRow(
                id=leak.id,
                corpus=row["corpus"],
                benchmark=leak.of,
                line=places[key],
                example=leak.example,
                how=leak.how,
                overlap=overlap(
                    guarded[key].said.whole, conversation_words(row["messages"]).everything
                ),
                words=leak.words,
            )


def overlap(example: Sequence[str], row: Sequence[str]) -> float:
    """The share of an example's words that stand in a row in runs of `SHORT_NGRAM` or more words.

    A shorter example is there as a whole (1) or not at all (0).
    """
    length = min(SHORT_NGRAM, len(example))
    if not length:
        return 0.0
    runs = set(ngrams(row, length))
    shared = np.array([run in runs for run in ngrams(example, length)])
    covered = np.convolve(shared, np.ones(length)) > 0
    return float(covered.mean())


def _short_names(files: Sequence[str]) -> dict[str, str]:
    """Files without their folders, except where two have one name."""
    counts = Counter(map(os.path.basename, files))
    return {
        file: file if counts[os.path.basename(file)] > 1 else os.path.basename(file)
        for file in files
    }


def _shortened(words: str) -> str:
    text = safe(words)
    return text if len(text) <= _WORDS_SHOWN else f"{text[: _WORDS_SHOWN - 3]}..."
