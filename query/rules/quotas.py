"""Quotas and caps: how much of a coreset must, or may at most, come from a corpus.

A corpus with a quota is a stratum with a ranking of its own, and all other corpora share one. A cap
rejects the rows of a corpus that come after its first so many.

Where quotas and caps are `by` another column of the pool, such as `lang` or a label, its values
take the place of corpora. Rows without a value belong to none of them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ...schemas.amounts import Budget, parse_budget
from ...schemas.errors import UsageError, suggest
from ...schemas.ids import IdSet, keys_of
from ...schemas.plain_text import count_of
from ...schemas.tables import literal
from ...store.grouping import grouped
from ..ranking import Picks
from ..scanning.rows import Scanned

if TYPE_CHECKING:
    import lance

    from ..snapshot import Snapshot


@dataclass(frozen=True)
class Share:
    """An `amount` (rows, or per cent of the budget) of a corpus; of every corpus for None."""

    corpus: str | None
    amount: Budget

    def rows(self, k: int | None) -> int:
        """Return how many rows of a coreset of `k` that is, rounded down.

        Raises:
            UsageError: per cent of a budget that is not in rows, or less than one row.
        """
        if self.amount.unit == "rows":
            return int(self.amount.amount)
        if k is None:
            raise UsageError(f"{self}: a share of the budget needs a budget in rows or per cent")
        rows = int(k * self.amount.amount / 100)
        if not rows:
            raise UsageError(
                f"{self}: of a budget of {count_of(k, 'row')} this is less than one row"
            )
        return rows

    def __str__(self) -> str:
        return f"{self.corpus}={self.amount}" if self.corpus is not None else str(self.amount)


def shares(
    rule: str, given: str | int | Sequence[str] | Mapping[str, str | int], every: bool = False
) -> tuple[Share, ...]:
    """Read shares: `dolly=100`, `dolly=10%`, a list of these, or `{"dolly": "10%"}`.

    Args:
        rule: its name, for errors.
        given: see above.
        every: whether an amount alone may stand for every corpus.

    Raises:
        UsageError: another form, or a corpus named twice.
    """
    if isinstance(given, Mapping):
        pairs = [(corpus, str(amount)) for corpus, amount in given.items()]
    else:
        texts = [str(given)] if isinstance(given, str | int) else given
        pairs = [_pair(rule, text, every) for text in texts]
    by_corpus: dict[str | None, Share] = {}
    for corpus, text in pairs:
        forms = "rows (100) or per cent of the budget (10%)"
        amount = parse_budget(text, rule, forms)
        if amount.token_column:
            raise UsageError(f"{rule} {text!r}: write {forms}")
        if corpus in by_corpus:
            raise UsageError(f"{rule}: {corpus or 'every corpus'} is given twice")
        by_corpus[corpus] = Share(corpus, amount)
    return tuple(by_corpus.values())


def _pair(rule: str, text: str, every: bool) -> tuple[str | None, str]:
    corpus, equals, amount = text.rpartition("=")  # a corpus may have "=" in its name
    if not equals and not every:
        raise UsageError(f"{rule} {text!r}: write CORPUS=ROWS or CORPUS=PERCENT%")
    return (corpus if equals else None), amount


CORPUS = "corpus"


def corpora_of(dataset: lance.LanceDataset, by: str = CORPUS) -> dict[str, int]:
    """Return the corpora of a pool, or the values of a column, and how many rows each has."""
    groups = grouped(dataset, [by], [(by, "count")])
    return {in_words(row[by]): row[f"{by}_count"] for row in groups if row[by] is not None}


def in_words(value: str | int | bool) -> str:
    """Return a value as it is written in a quota: `en`, `3`, `true`."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def check_column(dataset: lance.LanceDataset, by: str) -> None:
    """Refuse a column whose values cannot be named.

    Raises:
        UsageError: names those that can.
    """
    fitting = [field.name for field in dataset.schema if _is_nameable(field.type)]
    if by not in fitting:
        raise UsageError(
            f"quota-by {by}: the pool has no column of texts, whole numbers or truth values of "
            f"that name; it has {', '.join(fitting)}"
        )


def _is_nameable(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_boolean(kind) or pa.types.is_integer(kind)


def check_known(
    rule: str, wanted: Sequence[Share], dataset: lance.LanceDataset, by: str = CORPUS
) -> None:
    """Refuse corpora (or values of a column) that the pool does not have.

    Raises:
        UsageError: names the corpora of the pool, or those most like it.
    """
    known = corpora_of(dataset, by) if wanted else {}
    for share in wanted:
        if share.corpus is not None and share.corpus not in known:
            what, whole = f"row with that value of {by}", "values"
            if by == CORPUS:
                what, whole = "corpus of that name", "corpora"
            to_list = "coresetdb status lists them" if by == CORPUS else f"SELECT DISTINCT {by}"
            named = suggest(share.corpus, known, to_list)
            raise UsageError(f"{rule} {share}: the pool has no {what}; {whole}: {named}")


def keys_in(dataset: lance.LanceDataset, corpora: Sequence[str], by: str = CORPUS) -> np.ndarray:
    """Return the keys of all rows of these corpora (or values of a column), (n, 2) int64."""
    text = pa.types.is_string(dataset.schema.field(by).type)
    names = ", ".join(map(literal, corpora) if text else corpora)
    return keys_of(dataset.to_table(columns=["id"], filter=f"`{by}` IN ({names})")["id"])


class Caps:
    """Keeps the first rows of a corpus that has more than its cap, and rejects the rest of it.

    All corpora above their caps in a ranking are closed at once, each with its first rows of that
    ranking: a pool of thousands of small corpora takes a few rounds, not thousands.

    Args:
        snapshot: whose pool has the rows.
        limits: the most rows of each corpus.
        every: the most rows of every other corpus; None for no limit.
        free: corpora that `every` does not apply to.
        by: the column whose values are meant.
    """

    judges_spares = False

    def __init__(
        self,
        snapshot: Snapshot,
        limits: Mapping[str, int],
        every: int | None,
        free: Sequence[str],
        by: str = CORPUS,
    ) -> None:
        self._snapshot, self._by = snapshot, by
        self._limits, self._every, self._free = limits, every, free
        self._corpus_of: dict[str, str | None] = {}
        self._closed: dict[str, int] = {}

    def rejected(self, ids: Sequence[str], chosen: int) -> np.ndarray:
        """Return the keys of all rows of overflowing corpora except those kept, (n, 2) int64."""
        unknown = [id for id in ids[:chosen] if id not in self._corpus_of]
        values = self._snapshot.take(unknown, [self._by])[self._by].to_pylist()
        corpora = [None if value is None else in_words(value) for value in values]
        self._corpus_of |= zip(unknown, corpora, strict=True)
        rows_of: dict[str, list[str]] = defaultdict(list)
        for id in ids[:chosen]:
            if (corpus := self._corpus_of[id]) is not None:
                rows_of[corpus].append(id)
        closed = {
            corpus: limit
            for corpus, rows in rows_of.items()
            if (limit := self._limit(corpus)) is not None and len(rows) > limit
        }
        if not closed:
            return np.empty((0, 2), np.int64)
        self._closed |= closed
        kept = [id for corpus, limit in closed.items() for id in rows_of[corpus][:limit]]
        keys = keys_in(self._snapshot.pool, list(closed), self._by)
        return keys[~IdSet(keys_of(pa.array(kept, pa.string()))).contains(keys)]

    def account(self, ids: Sequence[str]) -> dict[str, Any]:
        """Return which corpora reached their cap with these rows, as JSON values.

        A budget in tokens ranks more rows than it takes: a corpus closed on the way may end below.
        """
        chosen = Counter(self._corpus_of[id] for id in ids)
        reached = {corpus: most for corpus, most in self._closed.items() if chosen[corpus] >= most}
        return {"reached": reached}

    def _limit(self, corpus: str) -> int | None:
        if corpus in self._limits:
            return self._limits[corpus]
        return None if corpus in self._free else self._every


RankRows = Callable[[int, int, int, IdSet | None], tuple[Picks, Scanned]]
"""rank(k, spare, rows, eligible): k rows and up to `spare` more, of the `rows` eligible ones."""


class Stratum:
    """Rows that are ranked among themselves, and how many of them are chosen.

    Args:
        rank: the ranking without rules.
        eligible: the rows of the stratum; None for the whole pool.
        rows: how many these are.
        share: of a coreset of k rows, how many come from the stratum.
    """

    def __init__(
        self, rank: RankRows, eligible: IdSet | None, rows: int, share: Callable[[int], int]
    ) -> None:
        self._rank, self._eligible, self.rows, self.share = rank, eligible, rows, share
        self._ranked: tuple[int, int, Picks] | None = None
        self.missing: int | None = None
        self.chosen = 0

    def leave(self, keys: np.ndarray, everyone: Callable[[], np.ndarray]) -> None:
        """Take rows out; `everyone` returns the keys of all rows of the pool, (N, 2) int64."""
        eligible = IdSet(everyone()) if self._eligible is None else self._eligible
        left = eligible.without(IdSet(keys))
        if len(left) < self.rows:
            self._eligible, self.rows, self._ranked = left, len(left), None

    def ranked(self, k: int, spare: int) -> tuple[Picks, int]:
        """Return its share of `k` rows with spare rows after them, and the size of the share.

        An earlier ranking is used again as long as no row was taken out.
        """
        wanted = min(self.share(k), self.rows)
        if not wanted:
            return Picks([], [], [], []), 0
        spare = min(spare, self.rows - wanted)
        if self._ranked is None or self._ranked[0] != wanted or self._ranked[1] < spare:
            picks, seen = self._rank(wanted, spare, self.rows, self._eligible)
            self._ranked = wanted, spare, picks
            if self.missing is None:
                self.missing = seen.missing
        picks = self._ranked[2]
        self.chosen = min(wanted, len(picks.ids))
        return picks, self.chosen


def interleaved(parts: Sequence[tuple[Picks, int]]) -> tuple[Picks, int]:
    """Merge rankings so that every prefix holds them in proportion; spare rows come last.

    Args:
        parts: each stratum's rows, and how many of them are its share.

    Returns:
        All rows, and how many of them belong to shares.
    """
    if len(parts) == 1:
        return parts[0]
    # Row i of a share of n stands where (i + 1/2) / n of the whole is reached; ties by part.
    places = [
        (np.arange(len(picks.ids)) + 0.5) / count if count else np.full(len(picks.ids), np.inf)
        for picks, count in parts
    ]
    numbers = np.repeat(np.arange(len(parts)), [len(place) for place in places])
    order = np.lexsort((numbers, np.concatenate(places))).tolist()

    def merged(name: str) -> list:
        values = [*chain.from_iterable(getattr(picks, name) for picks, _ in parts)]
        return [values[at] for at in order]

    notes = dict.fromkeys(chain.from_iterable(picks.notes for picks, _ in parts))
    fitted = {name: value for picks, _ in parts for name, value in picks.fitted.items()}
    columns = [merged(name) for name in ("ids", "scores", "targets", "queries")]
    whole = Picks(*columns, notes=tuple(notes), fitted=fitted)
    return whole, sum(count for _, count in parts)
