"""Which methods a store can run now, and what the others lack."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING

from ..ingest.create import pending
from ..schemas.errors import FingerprintError, MissingFeatureError, UsageError
from ..selectors.reductions import Columns
from ..selectors.selector import Task
from ..store.features import completion
from ..store.fill import count_unfilled
from .comparison import scorer_of
from .features import Feature
from .methods import Method
from .queries import load_queries
from .scanning.fetch import check_columns
from .snapshot import Snapshot
from .targets import list_targets

if TYPE_CHECKING:
    from ..store.store import Store


class Readiness:
    """Which methods a store can run now; each of its features and targets is read once."""

    def __init__(self, store: Store) -> None:
        self._store, self._snapshot = store, Snapshot(store)
        self._rows = self._snapshot.pool.count_rows()
        self._targets = [target.name for target in list_targets(store)]
        self._waiting = {each.representation: str(each) for each in pending(store)}
        self._features: dict[str, tuple[Feature | None, str | None]] = {}
        self._refusals: dict[str | None, str | None] = {}

    def of(self, method: Method) -> tuple[bool, str | None]:
        """Whether a method can be run, and what would help."""
        uri, name = self._store.uri, method.representation
        if not self._rows:
            return False, f"coresetdb ingest {quote(uri)} FILE..."
        feature, next_step = None, None
        if name:
            if name not in self._features:
                self._features[name] = self._feature(name)
            feature, next_step = self._features[name]
            if feature is None:
                return False, next_step
        if method.needs_target:
            if name not in self._refusals:
                self._refusals[name] = self._refusal(feature)
            if refusal := self._refusals[name]:
                return False, refusal
        try:
            self._check_options(method, feature)
        except UsageError as error:
            return False, str(error).replace("STORE", uri)
        return True, next_step

    def _check_options(self, method: Method, feature: Feature | None) -> None:
        """Check that the pool has the columns that a method's options name."""
        if feature and method.compares_queries and not method.needs_target:
            scorer_of(self._snapshot, feature, method)
        if "columns" in method.selector.inputs and not method.matches_lengths:
            task = Task(0, self._rows, 1, options=method.options)
            for reduction in next(method.selector.passes(task)):
                if isinstance(reduction, Columns):
                    check_columns(self._snapshot.pool, reduction)

    def _feature(self, name: str) -> tuple[Feature | None, str | None]:
        """The feature, if some row has it, and what would help the rows that do not."""
        command = f"coresetdb featurize {self._store.typed} {self._waiting.get(name, name)}"
        try:
            feature = self._snapshot.feature(name)
            if feature.recipe.attached:
                command = completion(self._store, feature.recipe)
        except MissingFeatureError:
            return None, command
        except FingerprintError as error:
            return None, str(error)
        waiting = count_unfilled(self._snapshot.pool, feature.recipe)
        if waiting == self._rows:
            return None, command
        return feature, f"{waiting:,} rows lack it: {command}" if waiting else None

    def _refusal(self, feature: Feature | None) -> str | None:
        """Why no target can be selected for (with a feature); None if one can."""
        if not self._targets:
            return f"coresetdb target add {self._store.typed} NAME FILE"
        refusals = []
        for target in self._targets:
            try:
                load_queries(self._snapshot, target, feature)
            except (UsageError, MissingFeatureError, FingerprintError) as error:
                refusals.append(str(error))
            else:
                return None
        return refusals[0]
