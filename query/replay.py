"""Replay: select again what a coreset recorded, at the same versions, and compare the ids."""

from __future__ import annotations

from dataclasses import dataclass
from math import isclose
from typing import TYPE_CHECKING

import pyarrow as pa

from ..schemas.amounts import parse_budget
from ..schemas.errors import CoresetDBError, FingerprintError, MissingFeatureError, UsageError
from ..schemas.plain_text import PrintedResult, count_of
from ..store import kept_targets
from ..store.purge import universe_of
from .approximate import index_is_present
from .coresets import IMPORTED, Coreset, load_coreset, recorded_rows, removal_notes, restore
from .pool_statistics.statistic import statistics_in
from .ranking import MEMORY_LIMIT
from .request import Request, resolve_request
from .rules.constrained import guarded_by
from .rules.examples import digest_of_examples
from .rules.rules import rules_from_json
from .selection import ChosenRows, answer
from .snapshot import Snapshot
from .weights import parse_weights

if TYPE_CHECKING:
    from ..store.store import Store


@dataclass(frozen=True, repr=False)
class Replay(PrintedResult):
    """The ids that a coreset's request returns now, beside those recorded.

    Attributes:
        coreset: as it was recorded.
        ids: as they come out now.
        same_queries: whether the target's examples and their features are those recorded.
        notes: what the replay proves where an index found the rows; which rows were removed since.
    """

    coreset: Coreset
    ids: list[str]
    same_queries: bool
    notes: tuple[str, ...] = ()

    @property
    def purged(self) -> tuple[str, ...]:
        """Ids that were recorded and cannot come out again, for they were purged; best first."""
        readable = set(self.coreset.readable["id"].to_pylist())
        return tuple(row_id for row_id in self.coreset.ids if row_id not in readable)

    @property
    def first_difference(self) -> int | None:
        """Rank (from 1) of the first id that differs, or None.

        Of the rows that are left where some were purged; those that take their places come last.
        """
        gone = set(self.purged)
        recorded = [row_id for row_id in self.coreset.ids if row_id not in gone]
        ids = self.ids[: len(recorded)] if gone else self.ids
        for rank, (then, now) in enumerate(zip(recorded, ids, strict=False), start=1):
            if then != now:
                return rank
        return min(len(recorded), len(ids)) + 1 if len(recorded) != len(ids) else None

    @property
    def same(self) -> bool:
        """Whether the ids and their order agree."""
        return self.first_difference is None

    @property
    def outcome(self) -> str:
        """A sentence on whether they agree."""
        name = self.coreset.name
        if self.purged:
            left = len(self.coreset) - len(self.purged)
            if self.same:
                how = f"the other {count_of(left, 'id')} are the same, in the same order"
                return f"{name}: {count_of(len(self.purged), 'id')} purged; {how}."
            again = len(set(self.coreset.ids) & set(self.ids))
            those = f"all other {left:,}" if again == left else f"{again:,} of the other {left:,}"
            return (
                f"{name}: {count_of(len(self.purged), 'id')} purged; {those} come out again, in "
                f"another order from rank {self.first_difference:,} on."
            )
        if self.same:
            return f"{name}: the same {count_of(len(self.ids), 'id')} in the same order."
        return f"{name}: the ids differ from rank {self.first_difference:,} on."

    def __repr__(self) -> str:
        return "\n".join([self.outcome, *self.notes])


def replay(store: Store, name: str, memory_limit: int = MEMORY_LIMIT) -> Replay:
    """Select again what a coreset recorded: same pool version, targets, method, seed, filter.

    Raises:
        UsageError: there is no such coreset, or a version it was made from is gone.
    """
    coreset = load_coreset(store, name)
    snapshot, request = request_of(store, coreset)
    again = answer(snapshot, request, memory_limit)
    same_queries = again.query_hash == coreset.query_hash
    notes = (
        *_index_notes(request, coreset, again),
        *_purged_examples_notes(coreset),
        *removal_notes(coreset.members, coreset.removed),
    )
    return Replay(coreset, again.picks.ids, same_queries, notes)


def restore_members(store: Store, name: str, memory_limit: int = MEMORY_LIMIT) -> str:
    """Choose the rows of a coreset again, and write the members that damage took.

    Nothing is written unless what comes out agrees with everything that is left of the coreset: how
    many rows it had, the members that are there, its examples and its distance to them.

    Returns:
        Why they could not be restored; "" where they were.
    """
    try:
        coreset = load_coreset(store, name)
        snapshot, request = request_of(store, coreset)
        again = answer(snapshot, request, memory_limit)
    except CoresetDBError as error:
        return f"it could not be chosen again: {error}"
    if why := _difference(store, coreset, again):
        return f"chosen again, {why}, so nothing was written"
    picks = again.picks
    members = pa.table(
        {
            "rank": pa.array(range(1, len(picks.ids) + 1), pa.int64()),
            "id": pa.array(picks.ids, pa.string()),
            "score": pa.array(picks.scores, pa.float32()),
            "target": pa.array(picks.targets, pa.string()),
            "query": pa.array(picks.queries, pa.string()),
        }
    )
    restore(store, name, members)
    return ""


def _difference(store: Store, coreset: Coreset, again: ChosenRows) -> str:
    """How rows that were chosen again differ from what is left of a coreset; "" for not at all."""
    picks, rows = again.picks.ids, recorded_rows(store, coreset.name)
    if len(picks) != rows:
        return f"it has {count_of(len(picks), 'row')} and not {rows:,}"
    ranks = coreset.members["rank"].to_pylist()
    for rank, row_id in zip(ranks, coreset.ids, strict=True):
        if rank <= rows and picks[rank - 1] != row_id:
            return f"rank {rank:,} is another row than the one that is there"
    if again.query_hash != coreset.query_hash:
        return "its targets have other examples"
    distance, recorded = again.distances.nearest, coreset.distance
    if (
        distance is not None
        and recorded is not None
        and not isclose(distance, recorded, abs_tol=1e-5)
    ):
        return f"its distance is {distance:.6f} and not {recorded:.6f}"
    return ""


def request_of(store: Store, coreset: Coreset) -> tuple[Snapshot, Request]:
    """Return what a coreset answered, and its pool beside targets that hold the same examples.

    Raises:
        UsageError: it was imported; or a target was removed since, and the version that held it
            was cleaned away.
    """
    if coreset.method == IMPORTED:
        raise UsageError(
            f"{coreset.name} was imported from {coreset.parameters[IMPORTED]['file']}: how its "
            "rows were chosen is not known here, so they cannot be selected again"
        )
    newest = Snapshot(store, coreset.pool_version, recorded=statistics_in(coreset.parameters))
    request = Request(
        targets=coreset.targets,
        method=coreset.method,
        budget=parse_budget(coreset.budget),
        where=coreset.filter,
        seed=coreset.seed,
        like=tuple((tokens, rows) for tokens, rows in coreset.parameters.get("like", ())),
        rules=rules_from_json(store, coreset.parameters),
        approximate=_index_is_there(newest, coreset),
        weights=parse_weights(coreset.parameters.get("weights"), coreset.targets),
        group=coreset.parameters.get("group"),
        fitted=coreset.parameters.get("fitted", {}),
        among=universe_of(store, coreset.parameters),
    )
    if _same_examples(newest, request, coreset):
        return newest, request
    return _with_recorded_targets(newest, coreset), request


def _index_is_there(snapshot: Snapshot, coreset: Coreset) -> bool:
    """Whether an index found the rows and can be used again; else every row is compared."""
    recorded = coreset.parameters.get("approximate")
    return bool(recorded) and index_is_present(snapshot, recorded)


def _same_examples(snapshot: Snapshot, request: Request, coreset: Coreset) -> bool:
    """Whether the snapshot's targets have the examples that the coreset was chosen for."""
    guarded = coreset.parameters.get("rules", {}).get("leakage")
    try:
        if resolve_request(snapshot, request).hash != coreset.query_hash:
            return False
        return guarded is None or guarded["digest"] == digest_of_examples(
            guarded_by(snapshot, request.rules, request.targets)
        )
    except (UsageError, MissingFeatureError, FingerprintError):
        return False  # a target was removed since, or made anew


def _with_recorded_targets(newest: Snapshot, coreset: Coreset) -> Snapshot:
    if (kept := kept_targets.kept(newest.store, coreset.parameters)) is not None:
        recorded = newest.with_targets_table(kept)
    else:
        recorded = newest.with_targets(coreset.parameters["targets_version"])
    _check_not_purged(recorded, coreset)
    try:
        _ = recorded.targets
    except UsageError as error:
        raise UsageError(
            f"{coreset.name} cannot be replayed: its targets, or the feature they were compared "
            f"by, were removed since, and version {recorded.targets_version} of the targets, which "
            "held them, was cleaned away. Its rows are still known: "
            f"coresetdb export {newest.store.typed} {coreset.name} --out FILE"
        ) from error
    return recorded


def _check_not_purged(recorded: Snapshot, coreset: Coreset) -> None:
    """Refuse a target of which a purge left no example; one of its name may be another by now."""
    lost = kept_targets.lost(coreset.parameters)
    if not lost:
        return
    left = set(recorded.targets.to_table(columns=["target"])["target"].to_pylist())
    for target in lost.keys() - left:
        raise UsageError(
            f"{coreset.name} cannot be replayed: every example of its target {target!r} had the "
            "content of purged rows and went with them. Its rows are still known: coresetdb "
            f"export {recorded.store.typed} {coreset.name} --out FILE"
        )


def _purged_examples_notes(coreset: Coreset) -> list[str]:
    """Return sentences on examples that a purge forgot, so that the rows are others by right."""
    asked = coreset.parameters.get("rules", {}).get("asked") or {}
    notes = [
        f"{count_of(count, 'example')} of target {target} had the content of purged rows and went "
        "with them: the rows are chosen for those that are left"
        for target, count in kept_targets.lost(coreset.parameters).items()
    ]
    return notes + [
        f"{count_of(purged, 'example')} of {evaluation['name']} had the content of purged rows and "
        "went with them: no row is kept out for their sake"
        for evaluation in asked.get("evaluations", ())
        if (purged := evaluation.get("purged"))
    ]


def _index_notes(request: Request, coreset: Coreset, again: ChosenRows) -> tuple[str, ...]:
    recorded = coreset.parameters.get("approximate")
    if not recorded:
        return ()
    if request.approximate:
        return (
            f"The same index, {recorded['index']}, found the rows. This does not prove that they "
            f"are the nearest ones: its recall was {recorded['recall']:.1%}",
        )
    shared = len(set(coreset.ids) & set(again.picks.ids))
    return (
        f"The index {recorded['index']}, which found the rows, is gone, so every row was compared: "
        f"{shared:,} of the {len(coreset):,} rows come out again",
    )
