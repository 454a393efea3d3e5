"""Take rows out of the pool, put them back, forget them: which rows, and what it means for others.

Rows are named by a filter in SQL, by their corpus, or by their ids. A row that the pool lacks, but
whose ingestion was listed, can be removed too: it was deleted by another tool or lost, and is kept
out from then on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..schemas.errors import UsageError, suggest
from ..schemas.ids import IdSet, keys_of
from ..schemas.plain_text import PrintedResult, count_of
from ..schemas.progress import Progress
from ..schemas.tables import literal
from ..store import purge as purging
from ..store import removal
from ..store.features import completion, features_of
from ..store.indices import indices_of, owed
from ..store.purge import Purged
from .listed_rows import read_listed_rows

if TYPE_CHECKING:
    from ..store.store import Store


@dataclass(frozen=True)
class Rows:
    """Which rows are meant; exactly one of the three.

    Attributes:
        where: an SQL expression over the columns of the pool.
        corpus: a corpus's name.
        ids: of rows.
    """

    where: str | None = None
    corpus: str | None = None
    ids: Sequence[str] | None = None

    def check(self) -> None:
        """Refuse none, and more than one.

        Raises:
            UsageError: says what there is.
        """
        conditions = [value for value in (self.where, self.corpus, self.ids) if value is not None]
        if len(conditions) != 1:
            raise UsageError("name the rows by exactly one of --where, --corpus and --ids")


@dataclass(frozen=True, repr=False)
class Removal(PrintedResult):
    """Rows that were removed, restored or purged, or would be.

    Attributes:
        done: "removed", "restored" or "purged".
        store: the address, as one types it.
        corpora: corpus -> its rows among them.
        absent: rows among them that the pool did not have.
        unknown: ids that no row of the store has or had.
        already: rows that were removed, or are in the pool, as they should be.
        waiting: feature or annotation -> restored rows that came back without it, and the command
            that completes it.
        coresets: name -> rows of it among them.
        targets: name -> examples of it with the same content, which a purge forgets as well.
        held_examples: coreset -> examples with the same content that it was chosen for and no
            target has any more, which a purge forgets as well.
        evaluations: evaluation file -> examples of it with the same content, which a purge forgets
            as well.
        reindexed: features whose index a purge made anew.
        purged: what the purge did; None where nothing was purged.
        planned: whether this only says what would be done.
    """

    done: str
    store: str
    corpora: dict[str, int]
    absent: int = 0
    unknown: tuple[str, ...] = ()
    already: int = 0
    waiting: dict[str, tuple[int, str]] = field(default_factory=dict)
    coresets: dict[str, int] = field(default_factory=dict)
    targets: dict[str, int] = field(default_factory=dict)
    held_examples: dict[str, int] = field(default_factory=dict)
    evaluations: dict[str, int] = field(default_factory=dict)
    reindexed: tuple[str, ...] = ()
    purged: Purged | None = None
    planned: bool = False

    @property
    def rows(self) -> int:
        """How many rows."""
        return sum(self.corpora.values())

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        facts = {name: value for name, value in vars(self).items() if name != "purged"}
        return {
            **facts,
            "rows": self.rows,
            "purged": asdict(self.purged) if self.purged else None,
        }

    def __repr__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """One fact a line."""
        would = "would be " if self.planned else ""
        named = ", ".join(f"{name} {count:,}" for name, count in self.corpora.items())
        lines = [
            f"{count_of(self.rows, 'row')} {would}{self.done}" + (f": {named}" if named else "")
        ]
        if self.absent:
            what = {
                "removed": "not in the pool; ingestion skips {them} from now on",
                "restored": "purged, nothing is left of {them}; {they} can be ingested again",
                "purged": "not in the pool any more",
            }[self.done]
            one = self.absent == 1
            words = what.format(them="it" if one else "them", they="it" if one else "they")
            lines.append(f"  of them {self.absent:,} {'is' if one else 'are'} {words}")
        if self.already:
            state = "in the pool" if self.done == "restored" else self.done
            lines.append(f"  {count_of(self.already, 'row')} {_was(self.already)} {state} already")
        if self.unknown:
            some = ", ".join(self.unknown[:5]) + (", ..." if len(self.unknown) > 5 else "")
            lines.append(
                f"  {count_of(len(self.unknown), 'id')} skipped, not in this store: {some}"
            )
        lines += self._meaning()
        if self.purged and not self.planned:
            lines += self._purge_lines(self.purged)
        if self.reindexed:
            lines.append(f"  indices made anew: {', '.join(self.reindexed)}")
        return lines

    def _meaning(self) -> Iterator[str]:
        """What it means for coresets, targets and features."""
        for name, count in self.coresets.items():
            lost = {
                "removed": "exports leave them out, and a replay names them",
                "restored": "exports have them again",
                "purged": "it loses them, and a replay names them",
            }[self.done]
            yield f"  coreset {name} has {count:,} of the rows: {lost}"
        forgotten = f"{'which would be' if self.planned else 'which were'} forgotten as well"
        for name, count in self.targets.items():
            yield (
                f"  target {name} has {count_of(count, 'example')} of the same content, "
                f"{forgotten}. Afterwards: coresetdb featurize {self.store}"
            )
        for name, count in self.held_examples.items():
            yield (
                f"  coreset {name} was chosen for {count_of(count, 'example')} of the same "
                f"content, {forgotten}: a replay does without, and says so"
            )
        for name, count in self.evaluations.items():
            yield (
                f"  evaluation file {name}: {count_of(count, 'example')} of the same content, "
                f"{forgotten}"
            )
        for name, (count, command) in self.waiting.items():
            yield f"  {count_of(count, 'row')} without {name} for now; to complete it: {command}"

    def _purge_lines(self, purged: Purged) -> Iterator[str]:
        freed = (purged.bytes_before - purged.bytes_after) / 1e6
        yield (
            f"  no file of the store holds them any more: {purged.bytes_before / 1e6:,.1f} MB "
            f"became {purged.bytes_after / 1e6:,.1f} MB ({freed:,.1f} MB freed)"
        )
        if purged.evaluations:
            yield (
                f"  {count_of(purged.evaluations, 'example')} of evaluation files forgotten, as "
                "they had the same content"
            )
        if purged.excerpts:
            yield f"  {count_of(purged.excerpts, 'excerpt')} of rejected records emptied"
        if purged.moved:
            yield (
                "  coresets moved to another version of the pool, as theirs had the rows: "
                f"{', '.join(purged.moved)}"
            )
        if purged.tags:
            yield f"  tags dropped because they kept the rows: {', '.join(purged.tags)}"
        if rest := [name for name in purged.indices if name not in self.reindexed]:
            yield f"  indices dropped because they had the rows: {', '.join(rest)}"


@dataclass(frozen=True)
class _Found:
    """Rows that were named: id -> corpus, and those among them that the pool lacks."""

    corpora: dict[str, str]
    absent: set[str]
    unknown: tuple[str, ...] = ()
    already: int = 0

    def with_rows(self, corpora: Mapping[str, str]) -> _Found:
        """The same, and further rows."""
        return replace(self, corpora={**self.corpora, **corpora})


def remove(
    store: Store,
    rows: Rows,
    why: str = "",
    *,
    purge: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Removal:
    """Take rows out of the pool.

    Args:
        store: an open store.
        rows: which.
        why: kept with the tombstones.
        purge: forget them for good.
        dry_run: change nothing, and say what would be done.
        progress: receives news of long work.

    Raises:
        UsageError: no row is meant, or an unknown corpus.
        InputError: the file of ids cannot be read.
        QueryError: DuckDB does not accept the filter.
        StoreBusyError: a feature is being filled, or another process writes.
    """
    rows.check()
    ids = None if rows.where is None else _matching(store, rows.where, "pool")
    if dry_run:
        earlier = _removed_earlier(store, rows) if purge else {}
        chosen = _in_pool(store, rows, ids, earlier)
        return _removal(store, chosen.with_rows(earlier), purge, planned=True)
    done = None
    with removal.alone(store):
        purging.settle(store)
        earlier = _removed_earlier(store, rows) if purge else {}
        chosen = _in_pool(store, rows, ids, earlier)
        result = _removal(store, chosen.with_rows(earlier), purge)
        if chosen.corpora:
            state = "purging" if purge else "leaving"
            removal.remove(store, chosen.corpora, why, state, progress)
        if purge and result.rows:
            done = purging.purge(store, [*chosen.corpora, *earlier], progress)
        store.sync()
    return _purged(store, result, done)


def restore(
    store: Store, rows: Rows, *, dry_run: bool = False, progress: Progress | None = None
) -> Removal:
    """Put removed rows back, features and all.

    Raises: as `remove`.
    """
    rows.check()
    ids = None if rows.where is None else _matching(store, rows.where, "removed")
    if dry_run:
        return _restoration(store, _among_removed(store, rows, ids), planned=True)
    with removal.alone(store):
        purging.settle(store)
        chosen = _among_removed(store, rows, ids)
        removal.restore(store, list(chosen.corpora), progress, purging.follow)
        store.sync()
    return _restoration(store, chosen)


def purge(
    store: Store,
    rows: Rows | None = None,
    *,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Removal:
    """Forget removed rows for good; all of them by default.

    Raises: as `remove`.
    """
    if rows is not None:
        rows.check()
    where = rows.where if rows else None
    ids = None if where is None else _matching(store, where, "removed")
    if dry_run:
        return _removal(store, _to_purge(store, rows, ids), purge=True, planned=True)
    with removal.alone(store):
        unfinished = purging.settle(store)
        chosen = _to_purge(store, rows, ids)
        result = _removal(store, chosen, purge=True)
        done = purging.purge(store, list(chosen.corpora), progress) if chosen.corpora else None
        store.sync()
    result = _purged(store, result, done)
    if not (chosen.corpora or unfinished or result.reindexed) and rows is None:
        raise UsageError(
            f"{store.uri}: there are no removed rows to purge; coresetdb remove {store.typed} "
            "--where SQL --purge removes and purges"
        )
    return result


def read_ids(file: str) -> list[str]:
    """Return the ids of the rows that a file names, each once; raises as `read_listed_rows`."""
    return list(dict.fromkeys(row.id for row in read_listed_rows(file)))


# -- which rows ---------------------------------------------------------------------------------


def _matching(store: Store, where: str, relation: Literal["pool", "removed"]) -> list[str]:
    from ..store.sql.session import eligible_ids

    return eligible_ids(store, where, relation=relation).to_pylist()


def _removed_earlier(store: Store, rows: Rows) -> dict[str, str]:
    """Rows of that corpus or these ids that are out of the pool already, and not purged."""
    wanted = set(rows.ids or ())
    return {
        stone.id: stone.corpus
        for stone in removal.tombstones(store)
        if not stone.purged and (stone.id in wanted or stone.corpus == rows.corpus)
    }


def _in_pool(
    store: Store, rows: Rows, matching: Sequence[str] | None, earlier: Mapping[str, str]
) -> _Found:
    """The rows to take out: those of the pool, and those that it should have and lacks.

    Args:
        earlier: rows that were taken out before, and are meant as well.
    """
    pool = store.dataset("pool").to_table(columns=["id", "corpus"])
    removed = set(removal.stones(store)["id"].to_pylist())
    if matching is not None:
        there = _corpora(pool.filter(removal.among(pool["id"], matching)))
        if not there:
            raise UsageError(f"no row of the pool of {store.uri} meets --where {rows.where}")
        return _Found(there, set())
    sources = store.dataset("sources")
    if rows.corpus is not None:
        there = _corpora(pool.filter(pc.equal(pool["corpus"], rows.corpus)))  # pyright: ignore[reportAttributeAccessIssue]
        seen = sources.to_table(columns=["id"], filter=f"corpus = {literal(rows.corpus)}")["id"]
        in_pool = IdSet(keys_of(pool["id"])).contains(keys_of(seen))
        missing = seen.filter(pa.array(~in_pool)).to_pylist()
        absent = {each for each in missing if each not in removed}
        if not there and not absent and not earlier:
            known = set(pool["corpus"].unique().to_pylist())
            to_list = f"coresetdb corpus list {store.typed}"
            raise UsageError(
                f"no row of corpus {rows.corpus!r} in {store.uri}; corpora: "
                f"{suggest(rows.corpus, known, to_list)}"
            )
        return _Found(there | dict.fromkeys(sorted(absent), rows.corpus), absent)
    wanted = list(dict.fromkeys(rows.ids or ()))
    there = _corpora(pool.filter(removal.among(pool["id"], wanted)))
    missing = [each for each in wanted if each not in there]
    seen = sources.to_table(columns=["id", "corpus"])
    absent = _corpora(seen.filter(removal.among(seen["id"], missing)))
    absent = {each: corpus for each, corpus in absent.items() if each not in removed}
    already = sum(each in removed and each not in earlier for each in missing)
    unknown = tuple(each for each in missing if each not in absent and each not in removed)
    if not there and not absent and not already and not earlier:
        raise UsageError(f"none of the given ids ({len(wanted):,}) belongs to a row of {store.uri}")
    return _Found(there | absent, set(absent), unknown, already)


def _among_removed(store: Store, rows: Rows, matching: Sequence[str] | None) -> _Found:
    """The rows to put back; of those that are `absent` nothing but the tombstone is left."""
    stones = {stone.id: stone for stone in removal.tombstones(store)}
    if not stones:
        raise UsageError(f"{store.uri}: no row was removed, there is nothing to restore")
    wanted = _named(store, rows, matching, stones)
    corpora = {each: stones[each].corpus for each in wanted if each in stones}
    kept = set(store.dataset("removed_rows").to_table(columns=["id"])["id"].to_pylist())
    missing = [each for each in wanted if each not in stones]
    pool = store.dataset("pool").to_table(columns=["id"])["id"]
    in_pool = set(pool.filter(removal.among(pool, missing)).to_pylist())
    unknown = tuple(each for each in missing if each not in in_pool)
    if not corpora and not in_pool:
        raise UsageError(f"none of the given ids ({len(wanted):,}) belongs to a removed row")
    return _Found(corpora, {each for each in corpora if each not in kept}, unknown, len(in_pool))


def _to_purge(store: Store, rows: Rows | None, matching: Sequence[str] | None) -> _Found:
    """The removed rows to forget; `absent` are those that the pool lacks, which is all of them."""
    stones = {stone.id: stone for stone in removal.tombstones(store)}
    wanted = list(stones) if rows is None else _named(store, rows, matching, stones)
    corpora = {id: stones[id].corpus for id in wanted if id in stones and not stones[id].purged}
    already = sum(id in stones and stones[id].purged for id in wanted)
    unknown = tuple(id for id in wanted if id not in stones)
    if rows is not None and not corpora and not already:
        raise UsageError(
            f"none of these rows was removed from {store.uri}; to remove and purge at once: "
            f"coresetdb remove {store.typed} ... --purge"
        )
    return _Found(corpora, set(), unknown, 0 if rows is None else already)


def _named(
    store: Store,
    rows: Rows,
    matching: Sequence[str] | None,
    stones: Mapping[str, removal.Tombstone],
) -> list[str]:
    if matching is not None:
        if not matching:
            raise UsageError(f"no removed row of {store.uri} meets --where {rows.where}")
        return list(matching)
    if rows.corpus is not None:
        ids = [stone.id for stone in stones.values() if stone.corpus == rows.corpus]
        if not ids:
            known = {stone.corpus for stone in stones.values()}
            to_list = f"coresetdb remove {store.typed} --list"
            raise UsageError(
                f"no row of corpus {rows.corpus!r} was removed from {store.uri}; corpora with "
                f"removed rows: {suggest(rows.corpus, known, to_list)}"
            )
        return ids
    return list(dict.fromkeys(rows.ids or ()))


def _corpora(rows: pa.Table) -> dict[str, str]:
    return dict(zip(rows["id"].to_pylist(), rows["corpus"].to_pylist(), strict=True))


# -- what it means ------------------------------------------------------------------------------


def _removal(store: Store, chosen: _Found, purge: bool, planned: bool = False) -> Removal:
    ids = list(chosen.corpora)
    return Removal(
        done="purged" if purge else "removed",
        store=store.typed,
        corpora=_counted(chosen),
        absent=len(chosen.absent),
        unknown=chosen.unknown,
        already=chosen.already,
        coresets=purging.coresets_losing(store, ids),
        targets=purging.targets_losing(store, ids) if purge else {},
        held_examples=purging.held_examples_losing(store, ids) if purge else {},
        evaluations=purging.evaluations_losing(store, ids) if purge else {},
        planned=planned,
    )


def _restoration(store: Store, chosen: _Found, planned: bool = False) -> Removal:
    ids = [each for each in chosen.corpora if each not in chosen.absent]
    return Removal(
        done="restored",
        store=store.typed,
        corpora=_counted(chosen),
        absent=len(chosen.absent),
        unknown=chosen.unknown,
        already=chosen.already,
        waiting={} if planned else _waiting(store, ids),
        coresets=purging.coresets_losing(store, ids),
        planned=planned,
    )


def _counted(chosen: _Found) -> dict[str, int]:
    return dict(sorted(Counter(chosen.corpora.values()).items()))


def _waiting(store: Store, ids: Sequence[str]) -> dict[str, tuple[int, str]]:
    """What rows have neither a value of nor a reason against: how many, and the command for it."""
    waiting = {}
    there = set(store.dataset("pool").schema.names)
    for name, recipe in features_of(store).items():
        if not set(recipe.columns) <= there:
            continue  # it is being dropped or declared
        rows = store.take(ids, recipe.columns)
        valid = [rows[column].is_valid().to_numpy() for column in recipe.columns]
        if empty := int((~np.any(valid, axis=0)).sum()):
            waiting[name] = (empty, completion(store, recipe))
    return waiting


def _purged(store: Store, result: Removal, done: Purged | None) -> Removal:
    """The result with what the purge did; indices that it or a killed one dropped are made anew.

    By this process, or by one that opened the store in between.
    """
    dropped = {*(done.indices if done else ()), *owed(store.dataset("pool"))}
    if dropped:
        from .indexing import remake_indices

        remake_indices(store)
        there = indices_of(store.dataset("pool"))
        result = replace(result, reindexed=tuple(sorted(dropped & there.keys())))
    return replace(result, purged=done)


def _was(count: int) -> str:
    return "was" if count == 1 else "were"
