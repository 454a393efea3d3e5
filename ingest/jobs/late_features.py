"""Late features: declared as null columns, then filled fragment by fragment.

Rows are featurized in shards of about half a minute, each kept beside the tables at once
(`store.shards`). Fragments whose rows are complete are filled together, in commits of up to a
minute's work. A killed run therefore loses the shard under way, and the next run goes on after it.
An ingestion that began before the declaration still adds rows without a value; so rounds go on
until no row is left.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...schemas.conversations import conversation_columns, conversations_in
from ...schemas.instruction import Instruction
from ...schemas.plain_text import LinesResult, count_of
from ...schemas.progress import Progress, Silence
from ...schemas.recipe import Recipe
from ...store.fill import amend, count_unfilled, fill, fill_lock, unfilled
from ...store.shards import Shards
from ...store.store import Store
from ...workers.group import WorkerGroup
from ..create import featurizer_for, load_backbone, resolve_features
from ..fits.fit import Sample
from ..fits.sampling import Rows, sample_of_pool
from ..representations.registry import FeatureSpec
from .commit import count_reasons
from .fitting import fit_features
from .ingestion import (
    COMMIT_ROWS,
    COMMIT_SECONDS,
    READ_BLOCK,
    SHARD_ROWS,
    SHARD_SECONDS,
    WORKER_SHARD_SECONDS,
    next_shard,
)
from .run import Run
from .shard_features import ByWorkers, OwnProcess, PendingShard, ShardFeaturizer
from .target_artifacts import complete_target_artifacts

if TYPE_CHECKING:
    import lance

    from ..featurizer import Featurizer
    from ..models.backbone import Backbone
    from ..passes.reducer import Side


@dataclass
class LateAccount(LinesResult):
    """One run of `featurize`.

    Attributes:
        features: names of the features to make.
        made: those of them that a row or an example lacked.
        rows: rows of the pool that this run featurized.
        resumed: rows that an earlier run had featurized, but not brought into the pool.
        examples: examples of targets that this run featurized.
        tokens: of these rows and examples.
        waiting: rows that still lack a feature, since the run was stopped.
        without_feature: "feature: reason" -> rows that got that reason.
    """

    run: str
    features: list[str]
    made: list[str] = field(default_factory=list)
    rows: int = 0
    resumed: int = 0
    examples: int = 0
    tokens: int = 0
    seconds: float = 0.0
    waiting: int = 0
    without_feature: Counter[str] = field(default_factory=Counter)

    def lines(self) -> list[str]:
        """The closing account, in words."""
        complete = [name for name in self.features if name not in self.made]
        names = ", ".join(self.made or complete) or "nothing"
        speed = f", {self.tokens / self.seconds:,.0f} tokens/s" if self.tokens else ""
        lines = [
            f"{names}: featurized {count_of(self.rows, 'row')}, "
            f"{count_of(self.tokens, 'token')} in {self.seconds:,.1f} s{speed}"
        ]
        if not (self.rows or self.resumed or self.examples or self.waiting):
            lines = [f"{names}: every row is featurized already"]
        elif complete:
            lines.append(f"  {', '.join(complete)}: every row is featurized already")
        if self.resumed:
            lines.append(f"  {count_of(self.resumed, 'row')} from an earlier run")
        if self.examples:
            lines.append(f"  featurized {count_of(self.examples, 'example')} of targets")
        lines += [
            f"  without a feature, {reason}: {n:,}" for reason, n in self.without_feature.items()
        ]
        if self.waiting:
            lines.append(f"  not featurized yet: {count_of(self.waiting, 'row')}")
        return lines

    def as_dict(self) -> dict[str, Any]:
        """The account as JSON values."""
        return {
            **vars(self),
            "seconds": round(self.seconds, 3),
            "without_feature": dict(self.without_feature),
        }


def featurize(
    store: Store,
    features: str = "",
    *,
    progress: Progress | None = None,
    command: str = "coresetdb featurize",
    shard_rows: tuple[int, int] = SHARD_ROWS,
    commit_rows: int = COMMIT_ROWS,
    workers: WorkerGroup | None = None,
) -> LateAccount:
    """Make features for every row and every target example that lacks them.

    Args:
        store: where the rows are.
        features: as `init` takes them, or names of features of the store; all of these if empty.
        progress: receives what happens.
        command: kept in the table `runs`.
        shard_rows: the least and the most rows of a shard.
        commit_rows: rows that are filled together, as far as fragments allow.
        workers: make the features in place of this process.

    Returns:
        The account; what it counts is committed and on disk.

    Raises:
        UsageError: an unknown feature or option, or too few rows to fit one on.
        StoreBusyError: another process is featurizing this store, or maintains it.
        BackboneError, FingerprintError: the backbone is gone, or no longer that of the store.
        KeyboardInterrupt: after complete fragments are committed; other rows wait in shards.
        WorkerError: likewise, where workers died over the same rows again and again.
    """
    resolve_features(store, features)  # a wrong name is an error before any lock is waited for
    progress = progress or Silence()
    featurizer = StoreFeaturizer(store)
    with fill_lock(store):
        recipes = _declared(store, features, featurizer, progress, workers)
        job = _LateFeatures(
            store, recipes, featurizer, progress, command, shard_rows, commit_rows, workers
        )
        with job.run.running(job.stop, job.finish):
            job.fill_all()
    return job.account


def _declared(
    store: Store,
    features: str,
    featurizer: StoreFeaturizer,
    progress: Progress,
    workers: WorkerGroup | None,
) -> list[Recipe]:
    """The recipes of features; new ones are fitted on the pool, and get their columns."""
    requested = resolve_features(store, features)

    def draw(seed: int, rows: Rows) -> Sample:
        progress.say("the sample is drawn from the pool")
        return sample_of_pool(store, seed, rows)

    new = [spec for spec in requested if isinstance(spec, FeatureSpec)]
    return [
        *(recipe for recipe in requested if isinstance(recipe, Recipe)),
        *fit_features(store, new, draw, lambda: featurizer.backbone, progress, workers),
    ]


@dataclass(frozen=True)
class _Waiting:
    """A row to featurize: its fragment, id and text."""

    fragment: int
    id: str
    instruction: Instruction


@dataclass(frozen=True)
class _InWork:
    """Rows whose features are being made, and the shards that these go to."""

    rows: list[_Waiting]
    shards: list[Shards]
    made: PendingShard


class _LateFeatures:
    """The state of one run."""

    def __init__(
        self,
        store: Store,
        recipes: Sequence[Recipe],
        featurizer: StoreFeaturizer,
        progress: Progress,
        command: str,
        shard_rows: tuple[int, int],
        commit_rows: int,
        workers: WorkerGroup | None,
    ) -> None:
        self.store, self.progress = store, progress
        self.recipes = list(recipes)
        self.featurizer = featurizer
        self.maker: ShardFeaturizer = OwnProcess(featurizer.columns, self._on_batch)
        self.wanted = SHARD_SECONDS
        if workers is not None:
            self.maker = ByWorkers(workers, store, self._on_batch, self.recipes)
            self.wanted = WORKER_SHARD_SECONDS
        self.in_work: deque[_InWork] = deque()
        self.account = LateAccount(uuid.uuid4().hex, [recipe.feature for recipe in recipes])
        self.run = Run(store, command, self.account, self._columns, progress)
        pool = store.dataset("pool").schema
        self.shards = [Shards(store.place, recipe, pool) for recipe in recipes]
        self.shard_bounds = shard_rows
        self.shard_rows, self.commit_rows = shard_rows[0], commit_rows
        # Rows that gather to a shard, by the recipes they lack (a bit for each).
        self.gathered: defaultdict[int, list[_Waiting]] = defaultdict(list)
        self.open: Counter[int] = Counter()  # fragment -> gathered rows of it
        self.read: set[int] = set()  # fragments all of whose rows have been gathered
        self.due: list[int] = []  # fragments that can be filled
        self.due_rows = 0
        self.first_round = True  # what is in the shards comes from an earlier run
        self.rows_total = 0
        self.rows_shown = 0  # by the progress; some of them are not kept yet
        self.examples: set[str] = set()  # keys of those featurized
        self.committed = time.monotonic()
        self.stopping = False

    def fill_all(self) -> None:
        """Go over targets and pool until nothing lacks anything."""
        self.run.record("running")
        self._forget_filled()
        self._count_rows()
        self._announce()
        while self._fill_targets() or self._fill_pool():
            self._count_rows()
        for shard in self.shards:
            shard.clear()

    def finish(self, status: str) -> None:
        """Record how the run ended."""
        self.run.finish(status)
        self.store.sync()

    def stop(self, status: str) -> None:
        """Fill complete fragments; other rows that are featurized wait in their shards."""
        self.stopping = True
        self.maker.stop()
        for part in [part for part in self.in_work if part.made.ready()]:
            self._keep(part)
        if status == "interrupted":
            self._fill_due()
        self.run.drop_tokens()
        pool = self.store.dataset("pool")
        self.account.waiting = max(count_unfilled(pool, recipe) for recipe in self.recipes)
        self.run.finish(status)
        self.run.say_what_is_kept()

    def _forget_filled(self) -> None:
        """Drop rows from shards that an earlier run filled in just before it was killed."""
        pool = self.store.dataset("pool")
        for shard in self.shards:
            if not len(shard):
                continue
            parts = (unfilled(pool, fragment, shard.recipe) for fragment in pool.get_fragments())
            ids = [unfilled_ids for part in parts for unfilled_ids, _ in part]
            waiting = pa.concat_arrays([pa.array([], pa.string()), *ids])
            unfilled_rows = pc.is_in(shard.ids, value_set=waiting)  # pyright: ignore[reportAttributeAccessIssue]
            shard.forget(shard.ids.filter(pc.invert(unfilled_rows)))  # pyright: ignore[reportAttributeAccessIssue]

    def _count_rows(self) -> None:
        """Count the rows to featurize, by the feature that most rows lack."""
        pool = self.store.dataset("pool")
        lacking = [count_unfilled(pool, shard.recipe) for shard in self.shards]
        by_shard = list(zip(self.shards, lacking, strict=True))
        self._note_lacking(shard.recipe.feature for shard, count in by_shard if count)
        waiting = (count - len(shard) for shard, count in by_shard)
        self.rows_total = self.account.rows + max(0, *waiting)

    def _note_lacking(self, features: Iterable[str]) -> None:
        """Note features that a row or an example lacks."""
        lacking = {*self.account.made, *features}
        self.account.made = [name for name in self.account.features if name in lacking]

    def _announce(self) -> None:
        resumed = max(len(shard) for shard in self.shards)
        more = f", {resumed:,} more from an earlier run" if resumed else ""
        if self.rows_total or resumed:
            names = ", ".join(self.account.made)
            self.progress.say(f"{names}: {count_of(self.rows_total, 'row')} to featurize{more}")

    def _fill_pool(self) -> bool:
        """Go over the fragments once; return whether any of them lacked anything."""
        dataset = self.store.dataset("pool")
        lacking = False
        for fragment in dataset.get_fragments():
            lacking |= self._gather(dataset, fragment)
        for lacks in list(self.gathered):
            self._featurize(lacks)
        self._take(leave=0)
        self._fill_due()
        self.first_round = False
        return lacking

    def _gather(self, dataset: lance.LanceDataset, fragment: lance.LanceFragment) -> bool:
        """Gather the rows of a fragment that lack a feature; return whether there are any."""
        lacking: set[int] = set()
        addresses: list[np.ndarray] = []
        for shard in self.shards:
            parts = list(unfilled(dataset, fragment, shard.recipe))
            ids = pa.concat_arrays([pa.array([], pa.string()), *(keys for keys, _ in parts)])
            places = np.concatenate([np.empty(0, np.uint64), *(at for _, at in parts)])
            lacking.update(places.tolist())
            addresses.append(places[shard.positions(ids) < 0])
        if not lacking:
            return False
        if self.first_round:
            unmade = set().union(*map(np.ndarray.tolist, addresses))
            self.account.resumed += len(lacking) - len(unmade)
        number = fragment.fragment_id
        if any(map(len, addresses)):
            for row, lacks in _rows_lacking(fragment, addresses):
                self.open[number] += 1
                self.gathered[lacks].append(row)
                if len(self.gathered[lacks]) >= self.shard_rows:
                    self._featurize(lacks)
        self.read.add(number)
        self.due_rows += fragment.count_rows()
        self._close_fragments()
        return True

    def _featurize(self, lacks: int) -> None:
        """Have gathered rows that lack the same recipes featurized, and take what is done."""
        rows = self.gathered.pop(lacks)
        shards = [shard for bit, shard in enumerate(self.shards) if lacks >> bit & 1]
        if not self.in_work:
            self.rows_shown = self.account.rows
        made = self.maker.submit(
            [shard.recipe for shard in shards],
            [row.instruction for row in rows],
            lambda: _named(rows),
        )
        self.in_work.append(_InWork(rows, shards, made))
        self._take(leave=self.maker.bound)

    def _take(self, leave: int) -> None:
        """Keep what is done; wait while more than `leave` are in work."""
        while self.in_work and (len(self.in_work) > leave or self.in_work[0].made.ready()):
            self._keep(self.in_work[0])
            self._close_fragments()

    def _keep(self, part: _InWork) -> None:
        """Keep the features of rows as a shard."""
        features = part.made.features()
        recipes = [shard.recipe for shard in part.shards]
        table = with_reasons(features.table, recipes)
        self.account.rows += len(part.rows)
        self.account.without_feature += count_reasons(table)
        ids = pa.array([row.id for row in part.rows], pa.string())
        table = table.add_column(0, "id", ids)
        for shard in part.shards:
            shard.put(table)
        self.run.keep_tokens(features.tokens)
        if features.loaded:  # otherwise the time includes the loading of the model
            self.shard_rows = next_shard(table, features.seconds, self.shard_bounds, self.wanted)
        self.open.subtract(row.fragment for row in part.rows)
        self.in_work.remove(part)

    def _close_fragments(self) -> None:
        """Find complete fragments, and fill them once there are enough rows or time has passed."""
        complete = [number for number in self.read if not self.open[number]]
        self.read.difference_update(complete)
        self.due += complete
        seconds = time.monotonic() - self.committed
        if self.due and (self.due_rows >= self.commit_rows or seconds >= COMMIT_SECONDS):
            self._fill_due()

    def _fill_due(self) -> None:
        if self.due:
            fill(self.store, self.due, self.shards)
        self.due, self.due_rows = [], 0
        self.committed = time.monotonic()

    def _fill_targets(self) -> bool:
        """Featurize what the examples of targets lack; return whether they lacked anything."""
        lacking = False
        for recipe in self.recipes:
            dataset = self.store.dataset("targets")
            keys = [
                key
                for fragment in dataset.get_fragments()
                for unfilled_keys, _ in unfilled(dataset, fragment, recipe)
                for key in unfilled_keys.to_pylist()
            ]
            if not keys:
                continue
            lacking = True
            columns = ["key", *conversation_columns(dataset.schema)]
            rows = self.store.take(keys, columns, table="targets")
            features = self.featurizer.columns(
                [recipe],
                conversations_in(rows),
                lambda _, tokens: self._on_batch(0, tokens),
                "target",
            )
            self._note_lacking([recipe.feature])
            self.examples.update(keys)
            self.account.examples = len(self.examples)
            self.account.without_feature += count_reasons(features)
            amend(self.store, "targets", features.add_column(0, "key", rows["key"]))
            self.run.keep_all_tokens()
        if self.first_round:
            notes = complete_target_artifacts(
                self.store, self.recipes, lambda: self.featurizer.featurizer(self.recipes)
            )
            for sentence in notes:
                self.progress.say(sentence)
        return lacking

    def _on_batch(self, rows: int, tokens: int) -> None:
        """Count a batch of `rows` with `tokens` as featurized, and show how far the job is."""
        self.rows_shown += rows
        self.run.add_tokens(tokens)
        if self.stopping:
            return
        self.progress.fill(
            rows=self.rows_shown, rows_total=self.rows_total, tokens=self.account.tokens
        )

    def _columns(self) -> dict[str, Any]:
        """The columns of a featurization in the table `runs`."""
        return {"read": self.account.rows, "note": "; ".join(self.account.lines())}


def _rows_lacking(
    fragment: lance.LanceFragment, unmade: Sequence[np.ndarray]
) -> Iterator[tuple[_Waiting, int]]:
    """The rows at the addresses `unmade` of each recipe, with the recipes they lack (bits)."""
    text = ["id", *conversation_columns(fragment.schema)]
    scanner: Any = fragment.scanner(columns=text, with_row_address=True, batch_size=READ_BLOCK)
    for batch in scanner.to_batches():
        addresses = batch["_rowaddr"].to_numpy()
        lacks = np.zeros(len(addresses), np.int64)
        for bit, of_recipe in enumerate(unmade):
            lacks |= np.isin(addresses, of_recipe).astype(np.int64) << bit
        rows = pa.table(batch.select(text)).filter(pa.array(lacks > 0))
        for row_id, instruction, bits in zip(
            rows["id"].to_pylist(), conversations_in(rows), lacks[lacks > 0].tolist(), strict=True
        ):
            yield _Waiting(fragment.fragment_id, row_id, instruction), bits


def _named(rows: Sequence[_Waiting]) -> str:
    """Say which rows these are."""
    few = ", ".join(row.id for row in rows[:NAMED_ROWS])
    return f"{count_of(len(rows), 'row')} ({few}{', ...' if len(rows) > NAMED_ROWS else ''})"


NAMED_ROWS = 20
"""Ids that an error lists."""

NEITHER = "the representation gave neither a value nor a reason"


class StoreFeaturizer:
    """Makes features of conversations with the backbone of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._featurizers: dict[tuple[str, ...], Featurizer] = {}

    @cached_property
    def backbone(self) -> Backbone:
        """The backbone of the store, loaded when it is first needed."""
        return load_backbone(self._store)

    def featurizer(self, recipes: Sequence[Recipe]) -> Featurizer:
        """The featurizer of these recipes alone, with what was fitted for them."""
        key = tuple(recipe.fingerprint for recipe in recipes)
        if key not in self._featurizers:
            self._featurizers[key] = featurizer_for(self._store, self.backbone, recipes)
        return self._featurizers[key]

    def columns(
        self,
        recipes: Sequence[Recipe],
        instructions: Sequence[Instruction],
        on_batch: Callable[[int, int], None] | None = None,
        of: Side = "pool",
    ) -> pa.Table:
        """The columns of the recipes, a row per instruction: a value or a reason in each."""
        table = self.featurizer(recipes).featurize(instructions, on_batch, of)
        return with_reasons(table, recipes)


def with_reasons(table: pa.Table, recipes: Sequence[Recipe]) -> pa.Table:
    """The columns of the recipes alone: a value or a reason in each row."""
    for recipe in recipes:
        table = with_reason(table, recipe)
    return table.select([column for recipe in recipes for column in recipe.columns])


def with_reason(table: pa.Table, recipe: Recipe) -> pa.Table:
    """The table, with a reason in rows without a value: they would be made again each round."""
    empty = np.ones(len(table), bool)
    for column in recipe.columns:
        empty &= table[column].is_null().to_numpy()
    if not empty.any():
        return table
    reason = pc.if_else(pa.array(empty), NEITHER, table[recipe.reason])  # pyright: ignore[reportAttributeAccessIssue]
    at = table.column_names.index(recipe.reason)
    return table.set_column(at, table.schema.field(at), reason)
