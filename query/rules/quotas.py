"""Shares of corpora: how much of a coreset must, or may at most, come from each.

Caps as a rule: once a corpus has its most rows, the rest of it leaves.

The parts of a selection: a corpus with a quota has its own ranking, and all others share one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ...schemas.errors import UsageError, suggest
from ...schemas.ids import IdSet, keys_of
from ...schemas.sizes import Budget, parse_budget
from ...schemas.tables import literal
from ..ranking import Picks
from ..scanning.rows import Scanned

if TYPE_CHECKING:
    import lance

    from ...store.store import Store


@dataclass(frozen=True)
class Share:
    """`amount` (rows, or per cent of the budget) of a corpus; of every corpus where it is None."""

    corpus: str | None
    amount: Budget

    def rows(self, k: int | None) -> int:
        """How many rows of a coreset of `k` that is, rounded down.

        Raises:
            UsageError: per cent of a budget that is not in rows, or less than one row.
        """
        if self.amount.unit == "rows":
            return int(self.amount.amount)
        if k is None:
            raise UsageError(f"{self}: a share of the budget needs a budget in rows or per cent")
        rows = int(k * self.amount.amount / 100)
        if not rows:
            raise UsageError(f"{self}: of {k:,} rows that is less than one")
        return rows

    def __str__(self) -> str:
        return f"{self.corpus}={self.amount}" if self.corpus is not None else str(self.amount)


def shares(
    rule: str, written: str | int | Sequence[str] | Mapping[str, str | int], every: bool = False
) -> tuple[Share, ...]:
    """Shares as a person writes them: `dolly=100`, `dolly=10%`, a list of these, or a dict.

    Args:
        rule: its name, for errors.
        written: see above.
        every: whether an amount alone may stand for every corpus.

    Raises:
        UsageError: another form, or a corpus named twice.
    """
    if isinstance(written, Mapping):
        pairs = [(corpus, str(amount)) for corpus, amount in written.items()]
    else:
        texts = [str(written)] if isinstance(written, str | int) else written
        pairs = [_pair(rule, text, every) for text in texts]
    found: dict[str | None, Share] = {}
    for corpus, text in pairs:
        forms = "rows (100) or per cent of the budget (10%)"
        amount = parse_budget(text, rule, forms)
        if amount.unit == "tokens":
            raise UsageError(f"{rule} {text!r}: write {forms}")
        if corpus in found:
            raise UsageError(f"{rule}: {corpus or 'every corpus'} is given twice")
        found[corpus] = Share(corpus, amount)
    return tuple(found.values())


def _pair(rule: str, text: str, every: bool) -> tuple[str | None, str]:
    corpus, equals, amount = text.rpartition("=")  # a corpus may have "=" in its name
    if not equals and not every:
        raise UsageError(f"{rule} {text!r}: write CORPUS=ROWS or CORPUS=PERCENT%")
    return (corpus if equals else None), amount


def corpora_of(dataset: lance.LanceDataset) -> dict[str, int]:
    """The corpora of a pool and how many rows each has."""
    counts = dataset.to_table(columns=["corpus"])["corpus"].value_counts().to_pylist()
    return {count["values"]: count["counts"] for count in counts}


def check_known(rule: str, asked: Sequence[Share], dataset: lance.LanceDataset) -> None:
    """Refuse corpora that the pool does not have.

    Raises:
        UsageError: names the corpora there are, or those most like it.
    """
    known = corpora_of(dataset) if asked else {}
    for share in asked:
        if share.corpus is not None and share.corpus not in known:
            there = suggest(share.corpus, known, "coresetdb status lists them")
            raise UsageError(
                f"{rule} {share}: the pool has no corpus of that name; corpora: {there}"
            )


def keys_in(dataset: lance.LanceDataset, corpora: Sequence[str]) -> np.ndarray:
    """Keys of all rows of these corpora, (n, 2) int64."""
    names = ", ".join(literal(each) for each in corpora)
    return keys_of(dataset.to_table(columns=["id"], filter=f"corpus IN ({names})")["id"])


class Caps:
    """Keeps, of a corpus that comes up too often, the rows that came first.

    All corpora that overflow in a ranking are closed at once, each with its first rows of that
    ranking: a pool of thousands of small corpora takes a few rounds, not thousands.

    Args:
        store: an open store.
        dataset: the pool at the version asked.
        limits: the most rows of each corpus.
        every: the most rows of every other corpus; None for no limit.
        free: corpora that `every` does not mean.
    """

    judges_spares = False

    def __init__(
        self,
        store: Store,
        dataset: lance.LanceDataset,
        limits: Mapping[str, int],
        every: int | None,
        free: Sequence[str],
    ) -> None:
        self._store, self._dataset = store, dataset
        self._limits, self._every, self._free = limits, every, free
        self._corpus_of: dict[str, str] = {}
        self._closed: dict[str, int] = {}

    def rejected(self, ids: Sequence[str], chosen: int) -> np.ndarray:
        """Keys of all rows of overflowing corpora except those kept, (n, 2) int64."""
        fresh = [each for each in ids[:chosen] if each not in self._corpus_of]
        corpora = self._store.take(fresh, ["corpus"], self._dataset.version)["corpus"].to_pylist()
        self._corpus_of |= zip(fresh, corpora, strict=True)
        found: dict[str, list[str]] = defaultdict(list)
        for each in ids[:chosen]:
            found[self._corpus_of[each]].append(each)
        closed = {
            corpus: limit
            for corpus, rows in found.items()
            if (limit := self._limit(corpus)) is not None and len(rows) > limit
        }
        if not closed:
            return np.empty((0, 2), np.int64)
        self._closed |= closed
        kept = [each for corpus, limit in closed.items() for each in found[corpus][:limit]]
        everything = keys_in(self._dataset, list(closed))
        return everything[~IdSet(keys_of(pa.array(kept, pa.string()))).contains(everything)]

    def account(self, ids: Sequence[str]) -> dict[str, Any]:
        """Which corpora met their cap with the rows chosen in the end, as JSON values.

        A budget in tokens ranks more rows than it takes: a corpus closed on the way may end below.
        """
        chosen = Counter(self._corpus_of[each] for each in ids)
        reached = {corpus: most for corpus, most in self._closed.items() if chosen[corpus] >= most}
        return {"reached": reached}

    def _limit(self, corpus: str) -> int | None:
        if corpus in self._limits:
            return self._limits[corpus]
        return None if corpus in self._free else self._every


RankRows = Callable[[int, int, int, IdSet | None], tuple[Picks, Scanned]]
"""rank(k, spare, rows, eligible): k rows and up to `spare` more, of the `rows` eligible ones."""


class Stratum:
    """Rows that are ranked among themselves, and how many of them are wanted.

    Args:
        rank: the plain ranking.
        eligible: the rows that may be chosen; None for the whole pool.
        rows: how many these are.
        share: rows wanted of it, by the rows wanted in all.
    """

    def __init__(
        self, rank: RankRows, eligible: IdSet | None, rows: int, share: Callable[[int], int]
    ) -> None:
        self._rank, self._eligible, self.rows, self.share = rank, eligible, rows, share
        self._ranked: tuple[int, int, Picks] | None = None
        self.missing: int | None = None
        self.chosen = 0

    def leave(self, keys: np.ndarray, everyone: Callable[[], np.ndarray]) -> None:
        """Take rows out; `everyone` gives the keys of all rows of the pool, (N, 2) int64."""
        suggest = IdSet(everyone()) if self._eligible is None else self._eligible
        left = suggest.without(IdSet(keys))
        if len(left) < self.rows:
            self._eligible, self.rows, self._ranked = left, len(left), None

    def ranked(self, k: int, spare: int) -> tuple[Picks, int]:
        """Its share of `k` rows, spare rows after them, and how many are the share.

        What was ranked before is used again as long as no row left.
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
    """Parts as one ranking in which every beginning holds them in proportion, then their spares.

    Returns:
        All rows, and how many of them are shares.
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
    whole = Picks(
        merged("ids"), merged("scores"), merged("targets"), merged("queries"), tuple(notes)
    )
    return whole, sum(count for _, count in parts)
