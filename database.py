"""The Python face: a store and everything one does with it.

The command line is a thin skin over this class; each method names the room that does the work.

The half of the Python face that puts features into a store: planning, fitting, making.

The part of the Python face that looks into a store: scores, explanations, SQL.

Verifying and repairing a store, which need not open for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from .schemas.sizes import memory_bytes
from .store.store import Store

if TYPE_CHECKING:
    import polars as pl

    from .ingest.featurizer import Featurizer
    from .ingest.jobs.commit import Account
    from .ingest.jobs.late_features import LateAccount
    from .ingest.models.backbone import Backbone
    from .ingest.planning import Plan
    from .ingest.readers.options import ReadOptions
    from .query.compare import SideBySide
    from .query.coresets import Coreset
    from .query.explaining.explanation import Explanation
    from .query.export import Exported
    from .query.indexing import Indexed
    from .query.method_list import ListedMethod
    from .query.replay import Replay
    from .query.scores import Scores
    from .query.targets import AddedTarget, CopiedTarget, Target
    from .schemas.progress import FillProgress, FitProgress
    from .schemas.recipe import Recipe
    from .store.indices import VectorIndex
    from .store.integrity.report import Repair, Report
    from .store.maintenance import Compacted
    from .store.scores import ScoreSet
    from .store.sql.session import QueryResult
    from .store.status import Status


class Intake:
    """An open store with the backbone that makes its features, loaded when it is needed."""

    def __init__(self, store: Store, notices: Sequence[str] = ()) -> None:
        self.store = store
        self.notices = tuple(notices)

    @cached_property
    def _backbone(self) -> Backbone:
        from .ingest.create import load_backbone

        return load_backbone(self.store)

    @cached_property
    def _featurizer(self) -> Featurizer:
        from .ingest.create import featurizer_for, recipes_of

        return featurizer_for(self.store, self._backbone, recipes_of(self.store))

    def pending(self) -> list[str]:
        """Features that the first `ingest`, or `fit`, must fit first, as `create` takes them."""
        from .ingest.create import pending

        return [str(each) for each in pending(self.store)]

    def fit(
        self,
        sources: str | Sequence[str],
        *,
        limit: int | None = None,
        progress: FitProgress | None = None,
        **reading: Any,
    ) -> list[Recipe]:
        """Learn from a sample of files what the store's features need; nothing is ingested.

        Args:
            sources, limit, reading: as `ingest` takes them.
            progress: is told what is learned, and how it goes.

        Returns:
            The recipes of the features that could not be made before.

        Raises:
            InputError, FingerprintError: as `ingest`.
            UsageError: there is no usable record, or there are too few to learn from.
        """
        from .ingest.jobs.fitting import fit_from, rereadable_sources

        with rereadable_sources(self.store, sources, _reading(**reading), progress) as looked:
            return fit_from(self.store, looked, lambda: self._backbone, limit, progress)

    def plan(
        self,
        sources: str | Sequence[str],
        *,
        features: str | None = None,
        progress: FitProgress | None = None,
        **reading: Any,
    ) -> Plan:
        """Tell what ingesting files would cost: bytes, passes, fits and time; nothing is changed.

        Args:
            sources, reading: as `ingest` takes them.
            features: others than the store's own, as `create` takes them.
            progress: is told what happens.

        Raises:
            InputError: as `ingest`.
            UsageError: an unknown feature, or nothing in the files is new.
        """
        from .ingest.planning import plan
        from .ingest.sources import open_sources

        looked = open_sources(
            [sources] if isinstance(sources, str) else sources, _reading(**reading)
        )
        return plan(self.store, looked, lambda: self._backbone, features, progress)

    def _current_featurizer(self) -> Featurizer:
        """The featurizer of the features the store has now; somebody may have added one."""
        made = {recipe.fingerprint for recipe in self._featurizer.recipes}
        if made != {recipe.fingerprint for recipe in self.store.recipes().values()}:
            del self._featurizer
        return self._featurizer

    def ingest(
        self,
        sources: str | Sequence[str],
        *,
        corpus: str | None = None,
        limit: int | None = None,
        progress: FitProgress | None = None,
        command: str = "connect().ingest",
        **reading: Any,
    ) -> Account:
        """Read files into the pool; what the pool already has is skipped.

        Features that must be fitted first are, from a sample of the same files, which are then
        read twice.

        Args:
            sources: files, folders, globs, `hf://` or `s3://` addresses, `-` for stdin.
            corpus: name of the corpus; each file's own name otherwise.
            limit: read no more than this many records.
            progress: is told what happens.
            reading: fields of `ReadOptions` (format, mapping, encoding, explanation, unescape).

        Returns:
            The account of every record; what it counts as new is on disk.

        Raises:
            InputError: nothing is found, or a file's shape is unknown or ambiguous.
            UsageError: a feature cannot be fitted from these files; nothing was ingested.
            FingerprintError: the backbone is no longer the one that made the store's features.
        """
        from .ingest.jobs.fitting import fit_from, rereadable_sources
        from .ingest.jobs.ingestion import ingest

        options = _reading(corpus=corpus, **reading)
        with rereadable_sources(self.store, sources, options, progress) as looked:
            fit_from(self.store, looked, lambda: self._backbone, limit, progress)
            return ingest(
                self.store,
                looked.sources(),
                self._current_featurizer,
                limit=limit,
                bytes_total=looked.bytes,
                unreadable=looked.unreadable,
                progress=progress,
                command=command,
            )

    def add_target(self, name: str, file: str, **reading: Any) -> AddedTarget:
        """Featurize a target's examples and keep them; afterwards no model is needed for it.

        What a representation makes of the target as a whole is kept as well.

        Raises:
            UsageError: the name is taken or malformed.
            InputError: the file cannot be read.
        """
        from .query.targets import add_target

        options = _reading(allow_empty_answer=True, **reading)
        added = add_target(self.store, name, file, options, self._current_featurizer)
        waiting = tuple(
            f"{each} is not fitted yet; after the first ingestion run: "
            f"coresetdb featurize {self.store.typed} {each}"
            for each in self.pending()
        )
        return replace(added, notes=added.notes + waiting)

    def featurize(
        self,
        features: str = "",
        *,
        progress: FillProgress | None = None,
        command: str = "connect().featurize",
    ) -> LateAccount:
        """Add features to rows and target examples that are there already, or go on adding.

        Readers and ingestions go on meanwhile; what was interrupted resumes when called again.

        Args:
            features: as for `create`, or names of the store's own; all of these when empty.
            progress: is told what happens.
            command: kept in the table `runs`.

        Raises:
            UsageError: an unknown feature or option.
            StoreBusyError: another process is featurizing this store, or maintains it.
            FingerprintError: the backbone is no longer the one that made the store's features.
        """
        from .ingest.jobs.late_features import featurize

        return featurize(self.store, features, progress=progress, command=command)

    def drop_feature(self, name: str, *, force: bool = False) -> Recipe | None:
        """Remove a feature from pool and targets, and return what it was.

        A feature that waits to be fitted is no longer waited for; that gives None.

        Raises:
            UsageError: there is no such feature, or coresets were made with it (and not `force`).
            StoreBusyError: somebody is writing.
        """
        from .ingest.create import drop_feature

        return drop_feature(self.store, name, force)


def _reading(*, mapping: Mapping[str, str] | None = None, **options: Any) -> ReadOptions:
    from .ingest.readers.options import ReadOptions

    return ReadOptions(mapping=dict(mapping or {}), **options)


class Exploring(Intake):
    """An open store that answers questions about its rows; nothing here changes the pool."""

    def score(
        self,
        target: str,
        methods: str | Sequence[str] | None = None,
        *,
        where: str | None = None,
        keep: bool = False,
        memory_limit: str | int = "4GiB",
        progress: FitProgress | None = None,
    ) -> Scores:
        """Score the rows of the pool for a target and keep scores and ranks for SQL.

        Args:
            target: its name.
            methods: such as `["rds", "trim(scope=response)"]` or `"rds,trim"`; all that the store
                and the target allow by default.
            where: an SQL expression over the pool's columns; only those rows are scored and ranked.
            keep: whether scores at other versions of the pool stay as well.
            memory_limit: what ranking may plan for, such as `"8GiB"` or a number of bytes.
            progress: is told how far each method is.

        Raises:
            UsageError: an unknown target or method, or one that gives rows no score of their own.
            MissingFeatureError: the store lacks what a method compares.
            FingerprintError: target and pool were featurized differently.
            QueryError: `where` is no expression DuckDB accepts.
        """
        from .query.score import score, split_methods

        return score(
            self.store,
            target,
            split_methods(methods) if isinstance(methods, str) else methods,
            where=where,
            keep=keep,
            memory_limit=memory_bytes(memory_limit),
            progress=progress,
        )

    def scores(self, target: str, methods: Sequence[str] | None = None) -> Scores:
        """What `score` found for a target before: each method's newest scores, side by side.

        Raises:
            UsageError: there are no such scores.
        """
        from .query.scores import load_scores

        return load_scores(self.store, target, methods)

    def score_sets(self) -> list[ScoreSet]:
        """Which scores are kept: target, method, version of the pool, and how many rows."""
        from .store.scores import score_sets

        return score_sets(self.store)

    def remove_scores(self, target: str, methods: Sequence[str] | None = None) -> int:
        """Forget scores of a target, all or those by some methods; returns how many rows it had.

        Raises:
            UsageError: there are no such scores.
        """
        from .query.scores import remove_scores

        return remove_scores(self.store, target, methods)

    def transfer(self, *targets: str, method: str = "nait") -> pl.DataFrame:
        """The mean score of every target's examples as every other target scores them.

        A row for each target whose examples are scored, a column for each that scores (null on
        the diagonal); see `query/score.py`.
        """
        from .query.score import transfer

        return transfer(self.store, targets, method)

    def coreset_list(self) -> list[dict[str, Any]]:
        """What tells the coresets apart (method, targets, distances, ...), the newest last."""
        from .query.coresets import list_coresets

        return list_coresets(self.store)

    def explain(
        self,
        coreset: str,
        row: str | int,
        *,
        without: bool = False,
        memory_limit: str | int = "4GiB",
    ) -> Explanation:
        """Why a row stands in a coreset: who pulled it, what came close, what is in it.

        Args:
            coreset: its name.
            row: an id, the beginning of one, or a rank.
            without: also select again from the pool less this row.
            memory_limit: what that selection may plan for.

        Raises:
            UsageError: there is no such coreset, or no such row in it.
        """
        from .query.explaining.explain import explain

        limit = memory_bytes(memory_limit)
        return explain(self.store, coreset, row, without=without, memory_limit=limit)

    def compare(self, first: str, second: str) -> SideBySide:
        """How two coresets overlap and differ; see `query/compare.py`.

        Raises:
            UsageError: there is no coreset of one of the names.
        """
        from .query.compare import compare

        return compare(self.store, first, second)

    def token_scores(self, target: str, row: str, method: str = "trim") -> pl.DataFrame:
        """What every token of a row scores for a target under TRIM (METHODS 1).

        Raises:
            UsageError: no such target or row.
            MissingFeatureError: target or row lack the feature.
        """
        from .query.explaining.internals import token_scores

        return token_scores(self.store, target, row, method)

    def layer_contributions(self, target: str, row: str, method: str = "nait") -> pl.DataFrame:
        """What every layer adds to a row's score for a target under NAIT.

        Raises:
            UsageError: no such target or row.
            MissingFeatureError: target or row lack the feature.
        """
        from .query.explaining.internals import layer_contributions

        return layer_contributions(self.store, target, row, method)

    def methods(self) -> list[ListedMethod]:
        """Every method by name, what it needs, and whether this store can answer it now."""
        from .query.method_list import list_methods

        return list_methods(self.store)

    def sql(self, query: str, *, at: int | None = None, **limits: Any) -> QueryResult:
        """Run one SELECT over the store's relations, in a process of its own.

        Raises:
            QueryError: the text was refused, failed, or met a limit.
        """
        from .store.sql.session import run_query

        options = self.store.place.options
        return run_query(self.store.uri, query, at=at, storage_options=options, **limits)


def verify_store(
    uri: str, *, full: bool = False, storage_options: dict[str, str] | None = None
) -> Report:
    """Hold a store's files against what was written; a store that does not open can be verified."""
    from .store.integrity.verify import verify

    return verify(uri, full, storage_options)


def repair_store(
    uri: str,
    *,
    say: Callable[[str], None] = lambda sentence: None,
    storage_options: dict[str, str] | None = None,
) -> Repair:
    """Bring a damaged store back, then verify it in full.

    Raises:
        BackboneError, FingerprintError: rows would have to be made again, and the backbone that
            made them is gone or another; nothing was changed.
    """
    from .ingest.jobs.reingest import repair_and_reingest

    return repair_and_reingest(uri, say, storage_options)


__all__ = ["Database", "repair_store", "verify_store"]


class Database(Exploring):
    """An open store. Make one with `coresetdb.connect` or `coresetdb.create`."""

    def __repr__(self) -> str:
        return f"<coresetdb.Database {self.store.uri}>"

    @classmethod
    def create(
        cls,
        uri: str,
        *,
        backbone: str = "builtin",
        features: str = "rds,losses",
        device: str = "auto",
        dtype: str = "auto",
        max_length: int | None = None,
        storage_options: dict[str, str] | None = None,
    ) -> Database:
        """Create an empty store.

        Args:
            uri: a folder or an `s3://` address.
            backbone: `builtin`, a Hugging Face name, or the folder of a causal language model.
            features: comma-separated representations, such as `rds,losses`, or the presets
                `fast` and `paper`.
            device: auto, cpu, cuda or mps.
            dtype: auto, float32 or bfloat16; of the computation, not of what is stored.
            max_length: tokens of a row, at most the model's positions.

        Raises:
            UsageError: an unknown feature, or something already stands at `uri`.
            BackboneError: the backbone cannot be found or is no causal language model.
        """
        from .ingest.create import create_store
        from .ingest.models.describe import BackboneConfig

        config = BackboneConfig(backbone, device, dtype, max_length)
        return cls(*create_store(uri, config, features, storage_options))

    @classmethod
    def open(cls, uri: str, *, storage_options: dict[str, str] | None = None) -> Database:
        """Open an existing store; see `coresetdb.connect`."""
        return cls(Store.open(uri, storage_options))

    def targets(self) -> list[Target]:
        """The targets, by name."""
        from .query.targets import list_targets

        return list_targets(self.store)

    def copy_target(
        self, name: str, other: Database | str, new_name: str | None = None
    ) -> CopiedTarget:
        """Copy a target with its features and facts into another store; no model runs.

        Args:
            name: of the target.
            other: a store, or where it lies (with this store's storage options).
            new_name: of the copy; the same name otherwise.

        Raises:
            UsageError: there is no such target, or the other store has one of that name.
            FingerprintError: the stores make no feature the same way; names the differences.
        """
        from .query.targets import copy_target

        if isinstance(other, str):
            other = Database.open(other, storage_options=self.store.place.options or None)
        return copy_target(self.store, name, other.store, new_name)

    def remove_target(self, name: str) -> Target:
        """Remove a target, and return what it was; coresets chosen for it stay."""
        from .query.targets import remove_target

        return remove_target(self.store, name)

    def select(
        self,
        *targets: str | None,
        method: str = "rds:round_robin",
        budget: str | int = 1000,
        where: str | None = None,
        seed: int = 0,
        name: str | None = None,
        memory_limit: str | int = "4GiB",
        approximate: bool = False,
        **rules: Any,
    ) -> Coreset:
        """Choose rows for the targets (they share the budget in turns) and keep the choice.

        Args:
            targets: names of targets; none (or None) for methods that need none.
            method: `representation:selector(option=value,...)`, a representation's name, or
                `random`; options are the selector's or those of the comparison.
            budget: rows, `"5%"` of the eligible rows, or `"200k-tokens"` of responses.
            where: an SQL expression over the pool's columns, metadata fields included.
            seed: of methods that draw at random.
            name: of the coreset; made up otherwise.
            memory_limit: what the selection may plan for, such as `"8GiB"` or a number of bytes.
            approximate: whether the feature's index finds the rows (see `index`); every row is
                compared otherwise.
            rules: what shapes the selection beside its method, as `rules_for` takes it: leakage,
                evaluation, exclude, quota, cap, distinct, distinct_by.

        Raises:
            UsageError: an unknown target or method, a malformed budget, a name that is taken, too
                much memory planned.
            MissingFeatureError: the store lacks what the method compares.
            FingerprintError: target and pool were featurized differently.
            QueryError: `where` is no expression DuckDB accepts.
        """
        from .query.rules.rules import RULES, rules_for
        from .query.selection import select

        for unknown in rules.keys() - RULES:
            raise TypeError(f"select() got an unexpected keyword argument {unknown!r}")
        return select(
            self.store,
            [target for target in targets if target is not None],
            method=method,
            budget=str(budget),
            where=where,
            seed=seed,
            name=name,
            memory_limit=memory_bytes(memory_limit),
            approximate=approximate,
            rules=rules_for(self.store, **rules),
        )

    def coreset(self, name: str) -> Coreset:
        """A coreset chosen earlier."""
        from .query.coresets import load_coreset

        return load_coreset(self.store, name)

    def coresets(self) -> list[str]:
        """Names of all coresets."""
        from .query.coresets import coreset_names

        return coreset_names(self.store)

    def replay(self, name: str, *, memory_limit: str | int = "4GiB") -> Replay:
        """Select again exactly as a coreset was selected, and compare the ids."""
        from .query.replay import replay

        return replay(self.store, name, memory_bytes(memory_limit))

    def remove_coreset(self, name: str) -> None:
        """Forget a coreset; the pool keeps its rows."""
        from .query.coresets import remove_coreset

        remove_coreset(self.store, name)

    def export(
        self,
        coreset: str | Coreset,
        out: str,
        *,
        format: str = "messages",
        shuffle: bool = True,
        seed: int | None = None,
        skip_unfit: bool = False,
        overwrite: bool = False,
    ) -> Exported:
        """Write a coreset as JSON Lines or Parquet, with a manifest and trainer snippets beside it.

        Raises:
            UsageError: an unknown coreset or format, rows that the format cannot hold, or a file
                of that name that no export wrote (and not `overwrite`).
        """
        from .query.export import export

        return export(
            self.store,
            coreset,
            out,
            format,
            shuffle=shuffle,
            seed=seed,
            skip_unfit=skip_unfit,
            overwrite=overwrite,
        )

    def check_export(self, out: str, format: str = "messages", *, overwrite: bool = False) -> None:
        """Refuse an export that cannot be written, before rows are chosen for it.

        Raises:
            UsageError: unknown format or suffix, no such folder, or a file of that name that no
                export wrote (and not `overwrite`).
        """
        from .query.export import check_export

        check_export(out, format, overwrite)

    def index(self, feature: str) -> Indexed:
        """Index a feature for `select(approximate=True)`, or take in rows that came since.

        Raises:
            UsageError: the feature has no vectors.
            MissingFeatureError: there is no such feature, or no row has it.
        """
        from .query.indexing import index_feature

        return index_feature(self.store, feature)

    def indices(self) -> list[VectorIndex]:
        """The indices of the pool, by column."""
        from .store.indices import indices_of

        return list(indices_of(self.store.dataset("pool")).values())

    def drop_index(self, feature: str) -> VectorIndex:
        """Remove the index of a feature, and return what it was."""
        from .query.indexing import drop_index

        return drop_index(self.store, feature)

    def status(self) -> Status:
        """What the store holds, what it waits for, and whether what was learned still suits it."""
        from .ingest.drift import status

        return status(self.store)

    def compact(self, keep_hours: float = 24.0) -> Compacted:
        """Merge small fragments, then drop versions older than `keep_hours` and leftover files.

        Versions that coresets were chosen from stay.

        Raises:
            StoreBusyError: another process is writing.
        """
        from .store.maintenance import compact_and_clean

        return compact_and_clean(self.store, keep_hours)
