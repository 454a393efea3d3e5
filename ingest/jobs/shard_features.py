"""Who makes the features of shards: this process, or a group of workers.

A job hands shards in and takes their features in the same order. In this process a shard is done
when it was handed in; workers do as many at once as `bound` says.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import pyarrow as pa

from ...schemas.instruction import Instruction
from ...schemas.recipe import Recipe
from ...store.catalog import artifacts_of
from ...store.store import Store
from ...workers.group import WorkerGroup
from ...workers.task import Equipment, Task, to_table
from .worker_tasks import FEATURES, conversations, equipment

OnBatch = Callable[[int, int], None]
"""Is told the rows and tokens done since it was last told."""


@dataclass(frozen=True)
class Features:
    """Features of a shard: a row per instruction, as `Featurizer.featurize` gives them.

    Attributes:
        seconds: that making them took.
        tokens: that were reported while they were made.
        loaded: whether the model was loaded before; else `seconds` includes that.
    """

    table: pa.Table
    seconds: float
    tokens: int
    loaded: bool = True


class PendingShard(Protocol):
    """A shard that was handed in."""

    def ready(self) -> bool:
        """Whether `features` would return at once."""
        ...

    def features(self) -> Features:
        """Wait for its features; raises what making them raised."""
        ...


class ShardFeaturizer(Protocol):
    """Makes features of shards. `bound`: shards that are worth having in work at once."""

    bound: int

    def submit(
        self,
        recipes: Sequence[Recipe],
        instructions: Sequence[Instruction],
        label: Callable[[], str],
    ) -> PendingShard:
        """Hand a shard in.

        Args:
            label: says which rows these are, where they cannot be done.
        """
        ...

    def stop(self) -> None:
        """Drop what is not done."""
        ...


class OwnProcess:
    """Makes features here.

    Args:
        make: makes the columns of recipes, a row per instruction, telling `OnBatch`.
        on_batch: is told the rows and tokens done.
    """

    bound = 0

    def __init__(
        self,
        make: Callable[[Sequence[Recipe], Sequence[Instruction], OnBatch], pa.Table],
        on_batch: OnBatch,
    ) -> None:
        self._make, self._on_batch = make, on_batch
        self._loaded = False

    def submit(
        self,
        recipes: Sequence[Recipe],
        instructions: Sequence[Instruction],
        label: Callable[[], str],
    ) -> PendingShard:
        """See ShardFeaturizer; returns when it is done."""
        loaded, self._loaded = self._loaded, True
        counted = 0

        def on_batch(rows: int, tokens: int) -> None:
            nonlocal counted
            counted += tokens
            self._on_batch(rows, tokens)

        began = time.monotonic()
        table = self._make(recipes, instructions, on_batch)
        return _Made(Features(table, time.monotonic() - began, counted, loaded))

    def stop(self) -> None:
        """See ShardFeaturizer."""


@dataclass(frozen=True)
class _Made:
    made: Features

    def ready(self) -> bool:
        return True

    def features(self) -> Features:
        return self.made


class ByWorkers:
    """Has features made by workers of the role `ModelWorker`.

    Args:
        group: of such workers.
        store: whose recipes are made; artifacts are loaded from it.
        on_batch: is told the rows and tokens done; fewer than none where a worker died.
        recipes: all that shards may need some of; workers are equipped for them once.
    """

    def __init__(
        self, group: WorkerGroup, store: Store, on_batch: OnBatch, recipes: Sequence[Recipe]
    ) -> None:
        self.bound = group.bound
        self._group, self._store = group, store
        self._on_batch, self._recipes = on_batch, recipes

    @cached_property
    def _equipment(self) -> Equipment:
        artifacts = {
            recipe.artifacts[name]: artifact
            for recipe in self._recipes
            for name, artifact in artifacts_of(self._store, recipe).items()
        }
        return equipment(self._recipes, artifacts)

    def submit(
        self,
        recipes: Sequence[Recipe],
        instructions: Sequence[Instruction],
        label: Callable[[], str],
    ) -> PendingShard:
        """See ShardFeaturizer."""
        facts = {"kind": FEATURES, "recipes": [recipe.fingerprint for recipe in recipes]}
        task = Task(facts, conversations(instructions), label, self._equipment)
        self._group.submit(task)
        self._group.watch(self._on_batch)
        return _InWork(self._group, task, self._on_batch)

    def stop(self) -> None:
        """See ShardFeaturizer."""
        self._group.close()


@dataclass(frozen=True)
class _InWork:
    group: WorkerGroup
    task: Task
    on_batch: OnBatch

    def ready(self) -> bool:
        return self.task.answer is not None

    def features(self) -> Features:
        if self.task.answer is None:
            self.group.wait(self.task, self.on_batch)
        self.group.tell(self.on_batch)
        assert self.task.answer is not None
        facts, body = self.task.answer
        return Features(to_table(body), facts["seconds"], self.task.tokens)
