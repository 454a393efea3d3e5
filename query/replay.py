"""Replay: answer a recorded request again, on the same versions, and compare."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..schemas.errors import FingerprintError, MissingFeatureError, UsageError
from ..schemas.sizes import parse_budget
from .approximate import is_there
from .coresets import Coreset, load_coreset
from .ranking import MEMORY_LIMIT
from .request import Request, resolve_request
from .rules.constrained import guarded_by
from .rules.examples import digest_of_examples
from .rules.rules import recalled
from .selection import Answer, answer

if TYPE_CHECKING:
    from ..store.store import Store


@dataclass(frozen=True)
class Replay:
    """What came out the second time.

    Attributes:
        coreset: as it was recorded.
        ids: as they came out now.
        same_queries: whether the target's examples and their features are those recorded.
        notes: what it proves where rows were found by an index.
    """

    coreset: Coreset
    ids: list[str]
    same_queries: bool
    notes: tuple[str, ...] = ()

    @property
    def first_difference(self) -> int | None:
        """Rank (from 1) of the first id that differs, or None."""
        recorded = self.coreset.ids
        for rank, (then, now) in enumerate(zip(recorded, self.ids, strict=False), start=1):
            if then != now:
                return rank
        return min(len(recorded), len(self.ids)) + 1 if len(recorded) != len(self.ids) else None

    @property
    def same(self) -> bool:
        """Whether the ids and their order agree."""
        return self.first_difference is None


def replay(store: Store, name: str, memory_limit: int = MEMORY_LIMIT) -> Replay:
    """Select again what a coreset recorded: same pool version, targets, method, seed, filter.

    Raises:
        UsageError: there is no such coreset, or a version it was made from is gone.
    """
    coreset = load_coreset(store, name)
    request = request_of(store, coreset)
    again = answer(store, request, memory_limit)
    same_queries = again.query_hash == coreset.query_hash
    return Replay(coreset, again.picks.ids, same_queries, _of_index(request, coreset, again))


def request_of(store: Store, coreset: Coreset) -> Request:
    """What a coreset answered, with its targets at a version that holds the same examples.

    Raises:
        UsageError: a target was removed since, and the version that held it was cleaned away.
    """
    newest = Request(
        targets=coreset.targets,
        method=coreset.method,
        budget=parse_budget(coreset.budget),
        where=coreset.filter,
        seed=coreset.seed,
        pool_version=coreset.pool_version,
        targets_version=store.version("targets"),
        like=tuple((tokens, rows) for tokens, rows in coreset.parameters.get("like", ())),
        rules=recalled(store, coreset.parameters),
        approximate=_by_index(store, coreset),
    )
    same = _same_examples(store, newest, coreset)
    return newest if same else _as_recorded(store, newest, coreset)


def _by_index(store: Store, coreset: Coreset) -> bool:
    """Whether an index found the rows and can still be asked: otherwise every row is compared."""
    recorded = coreset.parameters.get("approximate")
    if not recorded:
        return False
    return is_there(store, store.dataset("pool", coreset.pool_version), recorded)


def _of_index(request: Request, coreset: Coreset, again: Answer) -> tuple[str, ...]:
    recorded = coreset.parameters.get("approximate")
    if not recorded:
        return ()
    if request.approximate:
        return (
            f"The rows were asked of the same index, {recorded['index']}. That they are the "
            f"nearest this does not prove: its recall was {recorded['recall']:.1%}",
        )
    shared = len(set(coreset.ids) & set(again.picks.ids))
    return (
        f"The index {recorded['index']} that found the rows is gone, so every row was compared: "
        f"{shared:,} of the {len(coreset):,} rows come out again",
    )


def _same_examples(store: Store, request: Request, coreset: Coreset) -> bool:
    """Whether a request asks with, and guards, the examples that the coreset was chosen for."""
    guarded = coreset.parameters.get("rules", {}).get("leakage")
    try:
        if resolve_request(store, request).hash != coreset.query_hash:
            return False
        return guarded is None or guarded["digest"] == digest_of_examples(
            guarded_by(store, request)
        )
    except (UsageError, MissingFeatureError, FingerprintError):
        return False  # a target was removed since, or made anew


def _as_recorded(store: Store, request: Request, coreset: Coreset) -> Request:
    recorded = coreset.parameters["targets_version"]
    try:
        store.dataset("targets", recorded)
    except UsageError as error:
        raise UsageError(
            f"{coreset.name} cannot be replayed: its targets, or the feature they were compared "
            f"by, were removed since, and version {recorded} of the targets, which held them, was "
            f"cleaned away. Its rows are still known: coresetdb export {store.typed} "
            f"{coreset.name} --out FILE"
        ) from error
    return replace(request, targets_version=recorded)
