"""Compare two coresets: what they share, whether they agree on its order, and how they differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..schemas.errors import FingerprintError, MissingFeatureError, UsageError
from ..schemas.notebook import html_table, html_text
from ..schemas.plain_text import PrintedResult, count_of, text_table
from .coresets import Coreset, load_coreset
from .distances import Distances, distances
from .queries import load_queries
from .snapshot import Snapshot

if TYPE_CHECKING:
    from ..store.store import Store

PREFIXES = (10, 100, 1000, 10_000)
"""Ranks down to which the overlap is counted as well."""

LENGTHS = ("prompt_tokens", "response_tokens", "tokens")
QUANTILES = (0, 10, 25, 50, 75, 90, 100)


@dataclass(frozen=True)
class Side:
    """One of the two coresets, by what was recorded of it.

    Attributes:
        distance: and `mmd`, to its own targets by its own method's vectors, which may not be those
            of the other one.
    """

    name: str
    method: str
    targets: tuple[str, ...]
    budget: str
    filter: str | None
    pool_version: int
    rows: int
    distance: float | None
    mmd: float | None


@dataclass(frozen=True)
class Overlap:
    """Rows of the first `ranks` of both that both have; `jaccard` = common / either."""

    ranks: int
    common: int
    jaccard: float


@dataclass(frozen=True)
class Mix:
    """A corpus's rows in both coresets and in the pool, and its shares of the three."""

    corpus: str
    first: int
    second: int
    pool: int
    first_share: float
    second_share: float
    pool_share: float


@dataclass(frozen=True)
class Pulled:
    """How many rows of both a target pulled, and how many that both have it pulled in both."""

    target: str
    first: int
    second: int
    both: int


@dataclass(frozen=True)
class Lengths:
    """How long the rows of both are.

    Attributes:
        what: the column of the pool.
        first: mean, and quantiles by QUANTILES; second alike.
        gap: the greatest distance between the two cumulative distributions (Kolmogorov and
            Smirnov's), 0 to 1.
    """

    what: str
    first: dict[str, float]
    second: dict[str, float]
    gap: float


@dataclass(frozen=True)
class Measured:
    """Both coresets' distances to one target by one feature, as the store has them now."""

    target: str
    feature: str
    first: Distances
    second: Distances


@dataclass(frozen=True, repr=False)
class SideBySide(PrintedResult):
    """What two coresets share, and how they differ.

    Attributes:
        first, second: the two.
        common: rows in both.
        jaccard: common / in either.
        of_first, of_second: share of each that the other has as well.
        by_chance: common rows to expect if one were drawn at random from the pool.
        spearman: rank correlation on the common rows, -1 to 1; None for fewer than two.
        prefixes: the overlap of the first 10, 100, ... rows of both.
        corpora: side by side, the most different first.
        lengths: of prompt, response and whole row.
        pulled: rows that each target pulled, where a side has several.
        measured: both distances of each, to every target of the two, by every feature that allows.
        notes: sentences for the user.
    """

    first: Side
    second: Side
    common: int
    jaccard: float
    of_first: float
    of_second: float
    by_chance: float
    spearman: float | None
    prefixes: tuple[Overlap, ...]
    corpora: tuple[Mix, ...]
    lengths: tuple[Lengths, ...]
    measured: tuple[Measured, ...]
    notes: tuple[str, ...] = ()
    pulled: tuple[Pulled, ...] = ()

    def __repr__(self) -> str:
        order = "" if self.spearman is None else f", rank correlation {self.spearman:.2f}"
        return (
            f"<SideBySide {self.first.name} and {self.second.name}: "
            f"{count_of(self.common, 'row')} in both, Jaccard {self.jaccard:.2f}{order}; "
            "as_dict() has everything>"
        )

    def __str__(self) -> str:
        return "\n".join([*comparison_lines(self), *([""] if self.notes else []), *self.notes])

    def _repr_html_(self) -> str:
        shown = (
            html_text(part) if isinstance(part, str) else html_table(part[1], part[0])
            for part in _parts(self)
        )
        return "".join([*shown, *map(html_text, self.notes)])

    def as_dict(self) -> dict[str, Any]:
        """The comparison as JSON values."""
        return asdict(self)


def compare(store: Store, first: str, second: str) -> SideBySide:
    """Compare two coresets of a store.

    Raises:
        UsageError: there is no coreset of one of the names, or one of them is empty.
    """
    pair = (load_coreset(store, first), load_coreset(store, second))
    for coreset in pair:
        if not len(coreset):
            raise UsageError(f"{coreset.name} has no rows to compare")
    ids = pair[0].ids, pair[1].ids
    whole = overlap(ids, max(map(len, pair)))
    pool = sum(share.pool for share in max(pair, key=lambda coreset: coreset.pool_version).mix)
    measured, notes = _measured(store, pair)
    if pair[0].pool_version != pair[1].pool_version:
        notes.append(
            f"they were chosen from different versions of the pool, {pair[0].pool_version} and "
            f"{pair[1].pool_version}"
        )
    return SideBySide(
        first=_side(pair[0]),
        second=_side(pair[1]),
        common=whole.common,
        jaccard=whole.jaccard,
        of_first=whole.common / len(ids[0]),
        of_second=whole.common / len(ids[1]),
        by_chance=len(ids[0]) * len(ids[1]) / pool,
        spearman=spearman(*ids),
        prefixes=tuple(overlap(ids, k) for k in PREFIXES if k < max(map(len, pair))),
        corpora=_corpora(*pair),
        lengths=_lengths(store, pair),
        measured=tuple(measured),
        notes=tuple(dict.fromkeys(notes)),
        pulled=_pulled(*pair),
    )


def spearman(first: Sequence[str], second: Sequence[str]) -> float | None:
    """Spearman's rank correlation of two orders on the ids that both have; None below two.

    The common ids are ranked anew within each order, so that there are no ties.
    """
    places = {id: place for place, id in enumerate(second)}
    theirs = np.array([places[id] for id in first if id in places], np.int64)
    count = len(theirs)
    if count < 2:
        return None
    ranks = np.argsort(np.argsort(theirs))
    apart = (ranks - np.arange(count)).astype(np.float64)
    return 1 - 6 * float(apart @ apart) / (count * (count**2 - 1))


def _side(coreset: Coreset) -> Side:
    return Side(
        name=coreset.name,
        method=coreset.method,
        targets=coreset.targets,
        budget=coreset.budget,
        filter=coreset.filter,
        pool_version=coreset.pool_version,
        rows=len(coreset),
        distance=coreset.distance,
        mmd=coreset.mmd,
    )


def overlap(ids: tuple[Sequence[str], Sequence[str]], ranks: int) -> Overlap:
    first, second = (set(each[:ranks]) for each in ids)
    common = len(first & second)
    return Overlap(ranks, common, common / len(first | second))


def _corpora(first: Coreset, second: Coreset) -> tuple[Mix, ...]:
    newest = max((first, second), key=lambda coreset: coreset.pool_version)
    picked = [{share.corpus: share.picked for share in coreset.mix} for coreset in (first, second)]
    total = sum(share.pool for share in newest.mix)
    rows = []
    for share in newest.mix:
        ours, theirs = (rows_of.get(share.corpus, 0) for rows_of in picked)
        if ours or theirs:
            # A filter may have let nothing through: then there are no picks to share.
            shares = ours / max(len(first), 1), theirs / max(len(second), 1), share.pool / total
            rows.append(Mix(share.corpus, ours, theirs, share.pool, *shares))
    rows.sort(key=lambda row: (-abs(row.first_share - row.second_share), row.corpus))
    return tuple(rows)


def _pulled(first: Coreset, second: Coreset) -> tuple[Pulled, ...]:
    if max(len(first.targets), len(second.targets)) < 2:
        return ()
    ours, theirs = (
        dict(zip(each.ids, each.members["target"].to_pylist(), strict=True))
        for each in (first, second)
    )
    same = Counter(target for id, target in ours.items() if theirs.get(id) == target)
    return tuple(
        Pulled(target, first.pulled.get(target, 0), second.pulled.get(target, 0), same[target])
        for target in dict.fromkeys((*first.targets, *second.targets))
    )


def _lengths(store: Store, pair: Sequence[Coreset]) -> tuple[Lengths, ...]:
    taken = [store.take(own.left["id"].to_pylist(), LENGTHS, own.pool_version) for own in pair]
    found = []
    for what in LENGTHS:
        first, second = (rows[what].drop_null().to_numpy() for rows in taken)
        gap = _gap(first, second)
        found.append(Lengths(what, _described(first), _described(second), gap))
    return tuple(found)


def _described(lengths: np.ndarray) -> dict[str, float]:
    quantiles = np.percentile(lengths, QUANTILES)
    named = {f"q{q}": float(value) for q, value in zip(QUANTILES, quantiles, strict=True)}
    return {"mean": float(lengths.mean()), **named}


def _gap(first: np.ndarray, second: np.ndarray) -> float:
    values = np.unique(np.concatenate([first, second]))
    below = [
        np.searchsorted(np.sort(each), values, "right") / len(each) for each in (first, second)
    ]
    return float(np.abs(below[0] - below[1]).max())


def _measured(store: Store, pair: Sequence[Coreset]) -> tuple[list[Measured], list[str]]:
    """Both distances of both by the same yardsticks, and what could not be measured."""
    found, notes = [], []
    snapshot = Snapshot(store)
    features = [feature for feature in snapshot.features.values() if feature.column]
    for target in dict.fromkeys(name for coreset in pair for name in coreset.targets):
        for feature in features:
            try:
                queries = [load_queries(snapshot, target, feature)]
            except (UsageError, MissingFeatureError, FingerprintError) as error:
                notes.append(f"not measured: {error}")
                continue
            first, second = (
                distances(snapshot, feature, queries, each.left["id"].to_pylist()) for each in pair
            )
            found.append(Measured(target, feature.name, first, second))
    return found, notes


def comparison_lines(side_by_side: SideBySide) -> list[str]:
    """A comparison as text: overlap, order, corpora, lengths, distances."""
    lines: list[str] = []
    for part in _parts(side_by_side):
        if isinstance(part, str):
            lines.append(part)
        else:
            title, rows = part
            lines += ["", title, text_table(rows)] if title else [text_table(rows), ""]
    return lines


def _parts(side_by_side: SideBySide) -> Iterator[str | tuple[str, list[dict[str, Any]]]]:
    """Yield what a comparison says: sentences, and tables with their titles."""
    first, second = side_by_side.first, side_by_side.second
    order = "none" if side_by_side.spearman is None else f"{side_by_side.spearman:.3f}"
    yield "", [_side_row(first), _side_row(second)]
    yield (
        f"{count_of(side_by_side.common, 'row')} in both: "
        f"{side_by_side.of_first:.1%} of {first.name}, "
        f"{side_by_side.of_second:.1%} of {second.name}; Jaccard {side_by_side.jaccard:.3f} "
        f"({side_by_side.by_chance:,.1f} expected by chance)"
    )
    yield f"Rank correlation of these rows (Spearman): {order}"
    if side_by_side.prefixes:
        yield "Rows in both among the first of each: " + ", ".join(
            f"{prefix.common:,} of {prefix.ranks:,}" for prefix in side_by_side.prefixes
        )
    yield "Corpora", [_mix_row(side_by_side, mix) for mix in side_by_side.corpora]
    if side_by_side.pulled:
        rows = [
            {
                "target": pulled.target,
                f"pulled in {first.name}": pulled.first,
                f"in {second.name}": pulled.second,
                "in both": pulled.both,
            }
            for pulled in side_by_side.pulled
        ]
        yield "Rows that each target pulled", rows
    lengths = [row for length in side_by_side.lengths for row in _length_rows(side_by_side, length)]
    yield "Lengths in tokens", lengths
    if side_by_side.measured:
        rows = [
            {
                "target": measured.target,
                "feature": measured.feature,
                f"distance of {first.name}": measured.first.nearest,
                f"of {second.name}": measured.second.nearest,
                f"MMD of {first.name}": measured.first.mmd,
                f"MMD of {second.name}": measured.second.mmd,
            }
            for measured in side_by_side.measured
        ]
        yield "Distances to the targets", rows


def _side_row(side: Side) -> dict[str, Any]:
    return {
        "coreset": side.name,
        "rows": side.rows,
        "method": side.method,
        "targets": ", ".join(side.targets),
        "budget": side.budget,
        "filter": side.filter,
        "version": side.pool_version,
    }


def _mix_row(side_by_side: SideBySide, mix: Mix) -> dict[str, Any]:
    return {
        "corpus": mix.corpus,
        side_by_side.first.name: mix.first,
        "share": f"{mix.first_share:.1%}",
        side_by_side.second.name: mix.second,
        "share ": f"{mix.second_share:.1%}",
        "pool": mix.pool,
        "share  ": f"{mix.pool_share:.1%}",
    }


def _length_rows(side_by_side: SideBySide, lengths: Lengths) -> list[dict[str, Any]]:
    rows = (
        (side_by_side.first.name, lengths.first, None),
        (side_by_side.second.name, lengths.second, lengths.gap),
    )
    return [
        {
            "": lengths.what,
            "coreset": name,
            **{key: f"{value:,.0f}" for key, value in numbers.items()},
            "gap": "" if gap is None else f"{gap:.3f}",
        }
        for name, numbers, gap in rows
    ]
