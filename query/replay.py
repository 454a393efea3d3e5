"""Replay: answer a recorded request again, on the same versions, and compare."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..schemas.budget import parse_budget
from ..schemas.errors import UsageError
from .answer import Request, answer
from .coresets import Coreset, load_coreset
from .features import feature_named
from .queries import load_queries, query_hash
from .ranking import MEMORY_LIMIT

if TYPE_CHECKING:
    from ..store.store import Store


@dataclass(frozen=True)
class Replay:
    """What came out the second time.

    Attributes:
        coreset: as it was recorded.
        ids: as they came out now.
        same_queries: whether the target's examples and their features are those recorded.
    """

    coreset: Coreset
    ids: list[str]
    same_queries: bool

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
    request = Request(
        targets=coreset.targets,
        method=coreset.method,
        budget=parse_budget(coreset.budget),
        where=coreset.filter,
        seed=coreset.seed,
        pool_version=coreset.pool_version,
        targets_version=_targets_version(store, coreset),
    )
    again = answer(store, request, memory_limit)
    return Replay(coreset, again.picks.ids, again.query_hash == coreset.query_hash)


def _targets_version(store: Store, coreset: Coreset) -> int:
    """The newest version of `targets` if it holds the same examples, else the recorded one."""
    newest, column = store.version("targets"), coreset.parameters["column"]
    feature = feature_named(store, column, coreset.pool_version) if column else None
    try:
        queries = [load_queries(store, each, feature, newest) for each in coreset.targets]
    except (UsageError, LookupError):  # a target was removed since, or the feature dropped
        return _recorded_version(store, coreset)
    same = query_hash(queries, feature) == coreset.query_hash
    return newest if same else coreset.parameters["targets_version"]


def _recorded_version(store: Store, coreset: Coreset) -> int:
    recorded = coreset.parameters["targets_version"]
    try:
        return store.dataset("targets", recorded).version
    except UsageError as error:
        raise UsageError(
            f"{coreset.name} cannot be replayed: its targets, or the feature they were compared "
            f"by, were removed since, and version {recorded} of the targets, which held them, was "
            "cleaned away. Its rows are still known: coresetdb export"
        ) from error
