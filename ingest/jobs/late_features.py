"""Late features: declared as null columns, then filled fragment by fragment.

Rows are made in shards of about half a minute, each kept beside the tables at once
(`store.shards`); fragments whose rows are complete are filled together, in commits of up to a
minute's work. A killed run therefore loses the shard under way, and the next one goes on after it.
Rows that an ingestion begun before the declaration still adds have no value yet: rounds go on until
no row is left.

What became of every row while features were added late.

Rows of the store back through the backbone, for features they lack.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...schemas.instruction import Instruction
from ...schemas.progress import Progress, Silence
from ...schemas.recipe import Recipe
from ...store.fill import amend, count_unfilled, fill, filling, unfilled
from ...store.locks import RunLock
from ...store.shards import Shards
from ...store.store import Store
from ..create import asked_for, featurizer_for, load_backbone
from ..fits.fit import Sample
from ..fits.sampling import Rows, sample_of_pool
from ..representations.registry import FeatureSpec
from .commit import count_reasons
from .fitting import fit_features
from .ingestion import COMMIT_ROWS, COMMIT_SECONDS, READ_BLOCK, SHARD_ROWS, next_shard, record_run
from .target_artifacts import complete_facts

if TYPE_CHECKING:
    import lance

    from ..featurizer import Featurizer
    from ..models.backbone import Backbone
    from ..passes.reducer import Side


@dataclass
class LateAccount:
    """One run of `featurize`.

    Attributes:
        features: names of the features that were asked for.
        made: those of them that a row or an example lacked.
        rows: rows of the pool made by this run.
        resumed: rows that an earlier run had made, but not brought into the pool.
        examples: examples of targets made by this run.
        tokens: of the rows and examples made.
        waiting: rows that still lack a feature: the run was interrupted.
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

    def sentences(self) -> list[str]:
        """The closing account, in words."""
        whole = [name for name in self.features if name not in self.made]
        names = ", ".join(self.made or whole) or "nothing"
        speed = f", {self.tokens / self.seconds:,.0f} tokens/s" if self.tokens else ""
        lines = [
            f"{names}: featurized {self.rows:,} rows, {self.tokens:,} tokens in "
            f"{self.seconds:,.1f} s{speed}"
        ]
        if not (self.rows or self.resumed or self.examples or self.waiting):
            lines = [f"{names}: no row was waiting for it"]
        elif whole:
            lines.append(f"  {', '.join(whole)}: no row was waiting for it")
        if self.resumed:
            lines.append(f"  {self.resumed:,} rows had been made by an earlier run")
        if self.examples:
            lines.append(f"  {self.examples:,} examples of targets featurized")
        lines += [
            f"  without a feature, {reason}: {n:,}" for reason, n in self.without_feature.items()
        ]
        if self.waiting:
            lines.append(f"  {self.waiting:,} rows are not featurized yet")
        return lines

    def as_dict(self) -> dict[str, Any]:
        """The account as JSON values."""
        return {
            **vars(self),
            "seconds": round(self.seconds, 3),
            "without_feature": dict(self.without_feature),
        }


NEITHER = "the representation gave neither a value nor a reason"


class StoreFeaturizer:
    """The one place that runs the backbone: conversations to the columns of some recipes.

    Attributes:
        loaded: whether rows have gone through the backbone.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._made: dict[tuple[str, ...], Featurizer] = {}
        self.loaded = False

    @cached_property
    def backbone(self) -> Backbone:
        """The store's, loaded when it is first needed."""
        return load_backbone(self._store)

    def featurizer(self, recipes: Sequence[Recipe]) -> Featurizer:
        """One for just these recipes, with what was fitted for them."""
        key = tuple(recipe.fingerprint for recipe in recipes)
        if key not in self._made:
            self._made[key] = featurizer_for(self._store, self.backbone, recipes)
        return self._made[key]

    def columns(
        self,
        recipes: Sequence[Recipe],
        instructions: Sequence[Instruction],
        on_batch: Callable[[int, int], None] | None = None,
        of: Side = "pool",
    ) -> pa.Table:
        """Each recipe's columns, one row per instruction; no row without value and reason."""
        table = self.featurizer(recipes).featurize(instructions, on_batch, of)
        self.loaded = True
        for recipe in recipes:
            table = with_reason(table, recipe)
        return table.select([column for recipe in recipes for column in recipe.columns])


def with_reason(table: pa.Table, recipe: Recipe) -> pa.Table:
    """With a reason for rows that got nothing at all: they would be made for ever."""
    bare = np.ones(len(table), bool)
    for column in recipe.columns:
        bare &= table[column].is_null().to_numpy()
    if not bare.any():
        return table
    reason = pc.if_else(pa.array(bare), NEITHER, table[recipe.reason])  # pyright: ignore[reportAttributeAccessIssue]
    at = table.column_names.index(recipe.reason)
    return table.set_column(at, table.schema.field(at), reason)


def instructions_of(rows: pa.Table) -> list[Instruction]:
    """The conversations of rows with the columns `messages` and `tools`."""
    return [
        Instruction.from_row(messages, tools)
        for messages, tools in zip(
            rows["messages"].to_pylist(), rows["tools"].to_pylist(), strict=True
        )
    ]


_TEXT = ["id", "messages", "tools"]


def featurize(
    store: Store,
    features: str = "",
    *,
    progress: Progress | None = None,
    command: str = "coresetdb featurize",
    shard_rows: tuple[int, int] = SHARD_ROWS,
    commit_rows: int = COMMIT_ROWS,
) -> LateAccount:
    """Make features for every row and every target example that lacks them.

    Args:
        store: where the rows are.
        features: as `init` takes them, or names of the store's own; all of these when empty.
        progress: is told what happens.
        command: kept in the table `runs`.
        shard_rows: least and most rows of a shard.
        commit_rows: rows that are filled together, as far as fragments allow.

    Returns:
        The account; what it counts is committed and on disk.

    Raises:
        UsageError: an unknown feature or option, or too few rows to fit one on.
        StoreBusyError: another process is featurizing this store, or maintains it.
        BackboneError, FingerprintError: the backbone is gone, or no longer that of the store.
        KeyboardInterrupt: after what was made is committed, as far as fragments are complete.
    """
    asked_for(store, features)  # a wrong name is said before anything is waited for
    progress = progress or Silence()
    maker = StoreFeaturizer(store)
    with filling(store):
        recipes = _declared(store, features, maker, progress)
        job = _Late(store, recipes, maker, progress, command, shard_rows, commit_rows)
        with job.presence:
            try:
                job.run()
            except KeyboardInterrupt:
                job.stop("interrupted")
                raise
            except Exception:
                job.stop("failed")
                raise
    return job.account


def _declared(
    store: Store, features: str, maker: StoreFeaturizer, progress: Progress
) -> list[Recipe]:
    """The recipes asked for; those the store lacks are fitted on its pool and get their columns."""
    asked = asked_for(store, features)

    def draw(seed: int, rows: Rows) -> Sample:
        progress.say("the sample is drawn from the pool")
        return sample_of_pool(store, seed, rows)

    new = [each for each in asked if isinstance(each, FeatureSpec)]
    return [
        *(each for each in asked if isinstance(each, Recipe)),
        *fit_features(store, new, draw, lambda: maker.backbone, progress),
    ]


@dataclass(frozen=True)
class _Waiting:
    """A row to be made: its fragment, id and text."""

    fragment: int
    id: str
    instruction: Instruction


class _Late:
    """The state of one run."""

    def __init__(
        self,
        store: Store,
        recipes: Sequence[Recipe],
        maker: StoreFeaturizer,
        progress: Progress,
        command: str,
        shard_rows: tuple[int, int],
        commit_rows: int,
    ) -> None:
        self.store, self.progress, self.command = store, progress, command
        self.recipes = list(recipes)
        self.maker = maker
        self.account = LateAccount(uuid.uuid4().hex, [recipe.feature for recipe in recipes])
        self.presence = RunLock(store.place, self.account.run)
        pool = store.dataset("pool").schema
        self.shards = [Shards(store.place, recipe, pool) for recipe in recipes]
        self.bounds = shard_rows
        self.shard_rows, self.commit_rows = shard_rows[0], commit_rows
        # By the recipes they lack (bits): rows that gather to a shard.
        self.gathered: defaultdict[int, list[_Waiting]] = defaultdict(list)
        self.open: Counter[int] = Counter()  # fragment -> gathered rows of it
        self.read: set[int] = set()  # fragments all of whose rows have been gathered
        self.due: list[int] = []  # fragments that can be filled
        self.due_rows = 0
        self.first_round = True  # what stands in the shards is an earlier run's
        self.rows_total = 0
        self.told_rows = 0
        self.under_way = 0  # tokens told of rows that are not kept yet
        self.examples: set[str] = set()  # keys of those made
        self.started, self.started_at = time.monotonic(), datetime.now(UTC)
        self.committed = self.started

    def run(self) -> None:
        """Rounds over targets and pool until nothing lacks anything."""
        self._record("running")
        self._forget_filled()
        self._count()
        self._announce()
        while self._fill_targets() or self._fill_pool():
            self._count()
        for shard in self.shards:
            shard.clear()
        self.store.sync()
        self._record("done")
        self.presence.end_is_recorded()
        self.store.sync()

    def stop(self, status: str) -> None:
        """Fill what is complete; what is made beyond that waits in its shards."""
        if status == "interrupted":
            self._fill_due()
        self.account.tokens -= self.under_way
        pool = self.store.dataset("pool")
        self.account.waiting = max(count_unfilled(pool, recipe) for recipe in self.recipes)
        self.store.sync()
        self._record(status)
        self.presence.end_is_recorded()
        self.progress.say("Stopped. What is kept:")
        for sentence in self.account.sentences():
            self.progress.say(sentence)

    def _forget_filled(self) -> None:
        """Let go of rows that an earlier run brought into the pool just before it was killed."""
        pool = self.store.dataset("pool")
        for shard in self.shards:
            if not len(shard):
                continue
            parts = (unfilled(pool, fragment, shard.recipe) for fragment in pool.get_fragments())
            found = [ids for part in parts for ids, _ in part]
            waiting = pa.concat_arrays([pa.array([], pa.string()), *found])
            held = pc.is_in(shard.ids, value_set=waiting)  # pyright: ignore[reportAttributeAccessIssue]
            shard.forget(shard.ids.filter(pc.invert(held)))  # pyright: ignore[reportAttributeAccessIssue]

    def _count(self) -> None:
        """How many rows are to be made, as far as the feature that most rows lack tells it."""
        pool = self.store.dataset("pool")
        undone_of = {
            shard.recipe.feature: count_unfilled(pool, shard.recipe) for shard in self.shards
        }
        self._lacked(name for name, count in undone_of.items() if count)
        waiting = [undone_of[each.recipe.feature] - len(each) for each in self.shards]
        self.rows_total = self.account.rows + max(0, *waiting)

    def _lacked(self, features: Iterable[str]) -> None:
        """Note features that something lacks."""
        known = {*self.account.made, *features}
        self.account.made = [name for name in self.account.features if name in known]

    def _announce(self) -> None:
        held = max(len(shard) for shard in self.shards)
        made = f", {held:,} more were made by an earlier run" if held else ""
        if self.rows_total or held:
            names = ", ".join(self.account.made)
            self.progress.say(f"{names}: {self.rows_total:,} rows to featurize{made}")

    # -- the pool ----------------------------------------------------------------------------

    def _fill_pool(self) -> bool:
        """One round over the fragments; whether any of them lacked anything."""
        dataset = self.store.dataset("pool")
        lacking = False
        for fragment in dataset.get_fragments():
            lacking |= self._gather(dataset, fragment)
        for lacks in list(self.gathered):
            self._make(lacks)
        self._fill_due()
        self.first_round = False
        return lacking

    def _gather(self, dataset: lance.LanceDataset, fragment: lance.LanceFragment) -> bool:
        """Gather what a fragment lacks into shards; whether it lacks anything."""
        lacking: set[int] = set()
        wanted = []
        for shard in self.shards:
            parts = list(unfilled(dataset, fragment, shard.recipe))
            ids = pa.concat_arrays([pa.array([], pa.string()), *(keys for keys, _ in parts)])
            places = np.concatenate([np.empty(0, np.uint64), *(at for _, at in parts)])
            lacking.update(places.tolist())
            wanted.append(places[shard.positions(ids) < 0])
        if not lacking:
            return False
        if self.first_round:
            self.account.resumed += len(lacking) - len(set().union(*map(np.ndarray.tolist, wanted)))
        number = fragment.fragment_id
        if any(len(places) for places in wanted):
            for row, lacks in _texts(fragment, wanted):
                self.open[number] += 1
                self.gathered[lacks].append(row)
                if len(self.gathered[lacks]) >= self.shard_rows:
                    self._make(lacks)
        self.read.add(number)
        self.due_rows += fragment.count_rows()
        self._settle()
        return True

    def _make(self, lacks: int) -> None:
        """Make the shard of rows that lack the same features, and keep it."""
        rows = self.gathered.pop(lacks)
        wanted = [each for bit, each in enumerate(self.shards) if lacks >> bit & 1]
        loaded = self.maker.loaded
        begun = time.monotonic()
        self.told_rows = self.account.rows
        made = self.maker.columns(
            [each.recipe for each in wanted], [row.instruction for row in rows], self._tell
        )
        seconds = time.monotonic() - begun
        self.account.rows += len(rows)
        self.account.without_feature += count_reasons(made)
        made = made.add_column(0, "id", pa.array([row.id for row in rows], pa.string()))
        for each in wanted:
            each.put(made)
        self.under_way = 0
        if loaded:  # the first shard's time holds the loading of the model
            self.shard_rows = next_shard(made, seconds, self.bounds)
        self.open.subtract(row.fragment for row in rows)
        self._settle()

    def _settle(self) -> None:
        """See which fragments are complete, and fill them when enough rows or time are due."""
        complete = [number for number in self.read if not self.open[number]]
        self.read.difference_update(complete)
        self.due += complete
        waited = time.monotonic() - self.committed
        if self.due and (self.due_rows >= self.commit_rows or waited >= COMMIT_SECONDS):
            self._fill_due()

    def _fill_due(self) -> None:
        if self.due:
            fill(self.store, self.due, self.shards)
        self.due, self.due_rows = [], 0
        self.committed = time.monotonic()

    # -- targets -----------------------------------------------------------------------------

    def _fill_targets(self) -> bool:
        """Make what the targets' examples lack; whether they lacked anything."""
        lacking = False
        for recipe in self.recipes:
            dataset = self.store.dataset("targets")
            keys = [
                key
                for fragment in dataset.get_fragments()
                for found, _ in unfilled(dataset, fragment, recipe)
                for key in found.to_pylist()
            ]
            if not keys:
                continue
            lacking = True
            rows = self.store.take(keys, ["key", "messages", "tools"], table="targets")
            made = self.maker.columns(
                [recipe], instructions_of(rows), lambda _, tokens: self._tell(0, tokens), "target"
            )
            self._lacked([recipe.feature])
            self.examples.update(keys)
            self.account.examples = len(self.examples)
            self.account.without_feature += count_reasons(made)
            amend(self.store, "targets", made.add_column(0, "key", rows["key"]))
            self.under_way = 0
        if self.first_round:
            notes = complete_facts(
                self.store, self.recipes, lambda: self.maker.featurizer(self.recipes)
            )
            for sentence in notes:
                self.progress.say(sentence)
        return lacking

    # -- news --------------------------------------------------------------------------------

    def _tell(self, rows: int, tokens: int) -> None:
        self.told_rows += rows
        self.account.tokens += tokens
        self.under_way += tokens
        self.progress.fill(
            rows=self.told_rows, rows_total=self.rows_total, tokens=self.account.tokens
        )

    def _record(self, status: str) -> None:
        self.account.seconds = time.monotonic() - self.started
        record_run(
            self.store,
            self.account.run,
            self.command,
            status,
            self.started_at,
            read=self.account.rows,
            tokens=self.account.tokens,
            seconds=self.account.seconds,
            note="; ".join(self.account.sentences()),
        )


def _texts(
    fragment: lance.LanceFragment, wanted: Sequence[np.ndarray]
) -> Iterator[tuple[_Waiting, int]]:
    """The rows at the addresses `wanted` per feature, each with the features it lacks (bits)."""
    scanner: Any = fragment.scanner(columns=_TEXT, with_row_address=True, batch_size=READ_BLOCK)
    for batch in scanner.to_batches():
        addresses = batch["_rowaddr"].to_numpy()
        lacks = np.zeros(len(addresses), np.int64)
        for bit, some in enumerate(wanted):
            lacks |= np.isin(addresses, some).astype(np.int64) << bit
        rows = pa.table(batch.select(_TEXT)).filter(pa.array(lacks > 0))
        for row_id, instruction, bits in zip(
            rows["id"].to_pylist(), instructions_of(rows), lacks[lacks > 0].tolist(), strict=True
        ):
            yield _Waiting(fragment.fragment_id, row_id, instruction), bits
