"""Coresets from elsewhere: the ids of rows that another tool chose, recorded with their origin."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..schemas.errors import InputError, UsageError
from ..schemas.ids import IdSet, ids_of, keys_of
from ..schemas.plain_text import count_of
from ..schemas.version import VERSION
from ..store.removal import tombstones
from .coresets import IMPORTED, Coreset, check_free, mix_of, record
from .listed_rows import checked_id, read_listed_rows
from .names import check_name
from .queries import load_queries
from .snapshot import Snapshot

if TYPE_CHECKING:
    from ..store.store import Store

IDS_NAMED = 5
"""Unknown ids that an error names."""


@dataclass(frozen=True)
class ChosenId:
    """A row that another tool chose: its id, and rank and score where it gave some."""

    id: str
    rank: int | None = None
    score: float | None = None


def import_coreset(
    store: Store,
    name: str,
    source: str | Sequence[str],
    *,
    column: str = "id",
    targets: Sequence[str] = (),
    where: str | None = None,
    made_by: str | None = None,
    ordered_by: str | None = None,
) -> Coreset:
    """Record rows that another tool chose as a coreset.

    They rank by the column `rank` where every one has a number there, else in their order; a
    column `score` is kept. An id that comes again counts once, at its first place.

    Args:
        store: an open store.
        name: of the coreset.
        source: a file, `-` for standard input, or the ids.
        column: that has the ids.
        targets: that the rows were chosen for, if any; reports compare the rows with them.
        where: the condition that they were found by, if any.
        made_by: the tool that gave the ids, where they come from no file.
        ordered_by: the column whose highest values come first, if any.

    Raises:
        UsageError: the name is taken or malformed, an id is no row of the pool, or there is no
            such target.
        InputError: the file cannot be read, or has no ids.
    """
    check_free(store, check_name("coreset", name))
    snapshot = Snapshot(store)
    targets = tuple(dict.fromkeys(targets))
    for target in targets:
        load_queries(snapshot, target, None)
    origin = source if isinstance(source, str) else made_by or "memory"
    listed = read_chosen(source, column) if isinstance(source, str) else _checked(source)
    chosen = list({each.id: each for each in reversed(listed)}.values())[::-1]
    if chosen and all(each.rank is not None for each in chosen):
        chosen.sort(key=lambda each: each.rank or 0)
    ids = [each.id for each in chosen]
    _require_known(snapshot, ids, origin)
    corpora = snapshot.take(ids, ["corpus"])["corpus"]
    scored = all(each.score is not None for each in chosen)
    count = len(ids)
    notes = ()
    if again := len(listed) - count:
        comes = "comes" if again == 1 else "come"
        notes = (f"{count_of(again, 'id')} {comes} again in {origin}, and count once",)
    coreset = Coreset(
        store=store,
        name=name,
        targets=targets,
        method=IMPORTED,
        parameters=_parameters(snapshot, origin, ids, again, ordered_by),
        fingerprint=None,
        seed=0,
        budget=str(count),
        pool_version=snapshot.pool_version,
        filter=where,
        eligible=snapshot.pool.count_rows(),
        short_by=0,
        distance=None,
        query_hash=None,
        created_at=datetime.now(UTC),
        members=pa.table(
            {
                "rank": pa.array(range(1, count + 1), pa.int64()),
                "id": pa.array(ids, pa.string()),
                "score": pa.array(
                    [each.score if scored else None for each in chosen], pa.float32()
                ),
                "target": pa.nulls(count, pa.string()),
                "query": pa.nulls(count, pa.string()),
                "corpus": corpora,
            }
        ),
        mix=mix_of(snapshot, corpora),
        notes=notes,
    )
    if not record(snapshot, coreset):  # somebody else was quicker with the name
        check_free(store, name)
    return coreset


def _parameters(
    snapshot: Snapshot, origin: str, ids: Sequence[str], again: int, ordered_by: str | None
) -> dict[str, Any]:
    order = {} if ordered_by is None else {"ordered_by": ordered_by}
    digest = hashlib.blake2b("\n".join(ids).encode("ascii"), digest_size=16).hexdigest()
    return {
        "representation": None,
        "column": None,
        "selector": IMPORTED,
        "selector_version": 1,
        "options": {},
        "asked": {},
        "targets_version": snapshot.targets_version,
        "missing": 0,
        "tokens": None,
        "mmd": None,
        "code_version": VERSION,
        IMPORTED: {"file": PurePath(origin).name, "ids": digest, "repeated": again, **order},
    }


def _require_known(snapshot: Snapshot, ids: Sequence[str], where: str) -> None:
    """Refuse ids that are no rows of the pool; says which, and which of them were removed."""
    wanted = IdSet(keys_of(pa.array(ids, pa.string())))
    for batch in snapshot.pool.scanner(columns=["id"]).to_batches():
        wanted = wanted.without(IdSet(keys_of(batch.column("id"))))
        if not len(wanted):
            return
    unknown = set(ids_of(wanted.keys()))
    named = [row_id for row_id in ids if row_id in unknown]
    gone = len(tombstones(snapshot.store, named))
    removed = f"; {gone:,} of them were removed from the pool" if gone else ""
    rest = len(named) - IDS_NAMED
    raise UsageError(
        f"{where}: {count_of(len(named), 'id is', 'ids are')} in no row of the pool: "
        f"{', '.join(named[:IDS_NAMED])}{f' and {rest:,} more' if rest > 0 else ''}{removed}. "
        "Nothing was imported"
    )


def read_chosen(file: str, column: str = "id") -> list[ChosenId]:
    """Read ids with ranks and scores from a file of another tool.

    Args:
        file, column: as for `read_listed_rows`, and it raises as that.

    Raises:
        InputError: a rank or a score is no number; names the entry.
    """
    found = []
    for number, row in enumerate(read_listed_rows(file, column), start=1):
        try:
            rank, score = _number(row.facts.get("rank")), _number(row.facts.get("score"))
        except ValueError as error:
            advice = "The columns rank and score must hold numbers"
            raise InputError(file, f"entry {number}: {error}", advice) from error
        whole = None if rank is None or rank != int(rank) else int(rank)
        found.append(ChosenId(row.id, whole, score))
    return found


def _checked(ids: Iterable[str]) -> list[ChosenId]:
    found = [ChosenId(checked_id("memory", number, each)) for number, each in enumerate(ids, 1)]
    if not found:
        raise UsageError("no ids were given")
    return found


def _number(value: Any) -> float | None:
    if value is None or value == "" or isinstance(value, bool):
        return None
    number = float(value)
    if number != number or number in (float("inf"), float("-inf")):
        raise ValueError(f"{value!r} is no finite number")
    return number
