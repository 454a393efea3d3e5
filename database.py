"""The Python API: a store and all operations on it.

The command line calls this class; each method delegates to one module.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal

from .schemas.amounts import memory_bytes
from .schemas.environment import store_or_default
from .store.store import Store

if TYPE_CHECKING:
    from typing import TypeAlias

    import lancedb.table
    import numpy as np
    import polars as pl

    from .evaluation.results import StudyResult
    from .evaluation.running import Forecast
    from .evaluation.training import TrainingRecipe
    from .ingest.attachments.attaching import Attached
    from .ingest.conversations.tokenization import ReasoningMode
    from .ingest.create import Relocated
    from .ingest.featurizer import Featurizer
    from .ingest.jobs.commit import Account
    from .ingest.jobs.late_features import LateAccount
    from .ingest.models.backbone import Backbone
    from .ingest.models.describe import BackboneInfo
    from .ingest.planning import Plan
    from .ingest.readers.options import ReadOptions
    from .ingest.sources import SourceData
    from .query.atlas import AtlasExport
    from .query.compare import SideBySide
    from .query.coresets import Coreset
    from .query.dedup.duplicates import Duplicates
    from .query.explaining.explanation import Explanation
    from .query.export import Exported
    from .query.formats import Reasoning
    from .query.indexing import Indexed
    from .query.leaks import Leaks
    from .query.method_list import MethodList
    from .query.removal import Removal, Rows
    from .query.replay import Replay
    from .query.scores import Scores
    from .query.targets import AddedTarget, CopiedTarget, Target, TargetVectors
    from .reports.report import WrittenReport
    from .schemas.progress import Progress
    from .schemas.recipe import Recipe
    from .store.indices import VectorIndex
    from .store.integrity.report import Repair, Report
    from .store.maintenance import Compacted
    from .store.scores import ScoreSet
    from .store.sql.session import QueryResult
    from .store.status import Status
    from .workers.group import WorkerGroup
    from .workers.options import Engine

    PathLike: TypeAlias = str | os.PathLike[str]


class Database:
    """An open store. Make one with `coresetdb.connect` or `coresetdb.create`.

    Attributes:
        store: the tables behind it.
        notices: what `create` has to say about the backbone.
        command: what is recorded in the table `runs` as the command of an ingestion.
    """

    def __init__(self, store: Store, notices: Sequence[str] = ()) -> None:
        self.store = store
        self.notices = tuple(notices)
        self.command = ""

    def __repr__(self) -> str:
        return f"<coresetdb.Database {self.store.uri}>"

    @classmethod
    def create(
        cls,
        uri: PathLike | None = None,
        *,
        backbone: PathLike = "builtin",
        features: str = "rds,losses",
        device: str = "auto",
        dtype: str = "auto",
        max_length: int | None = None,
        reasoning: ReasoningMode = "template",
        storage_options: dict[str, str] | None = None,
        progress: Progress | None = None,
    ) -> Database:
        """Create an empty store.

        A few short rows go through the backbone first, with every feature; `notices` says what is
        worth knowing about it.

        Args:
            uri: a folder or an `s3://` address; what CORESETDB_STORE names by default.
            backbone: `builtin`, a Hugging Face name, or the folder of a causal language model.
            features: comma-separated representations, such as `rds,losses`, or the presets
                `fast`, `lean` and `paper`.
            device: auto, cpu, cuda or mps.
            dtype: auto, float32 or bfloat16; of the computation, not of what is stored.
            max_length: tokens of a row, at most the model's positions.
            reasoning: what becomes of the reasoning of answers: `template`, what the backbone's
                chat template makes of it; `as-response`, text of its answer even where the
                template leaves it out; `drop`, nothing.
            storage_options: of an object store, as Lance takes them.
            progress: receives news where a large model is loaded.

        Raises:
            UsageError: an unknown feature, or there is something at `uri` already.
            BackboneError: the backbone cannot be found or run, is not a causal language model, or
                cannot give one of the features; the error names those to leave out.
        """
        from .ingest.capabilities import try_backbone
        from .ingest.create import create_store
        from .ingest.models.describe import BackboneConfig

        config = BackboneConfig(os.fspath(backbone), device, dtype, max_length, reasoning)
        trial = partial(try_backbone, progress=progress)
        store = store_or_default(uri)
        return cls(*create_store(store, config, features, storage_options, trial))

    @classmethod
    def open(
        cls, uri: PathLike | None = None, *, storage_options: dict[str, str] | None = None
    ) -> Database:
        """Open the store at `uri`, a folder or an `s3://` address.

        Without `uri` it is the one that the environment variable CORESETDB_STORE names.

        Raises:
            UsageError: there is neither.
            StoreNotFoundError: there is no store at `uri`.
            LayoutError: a newer coresetdb wrote it.
        """
        from .store import underway
        from .store.indices import owed
        from .store.purge import settle_if_killed

        store = Store.open(store_or_default(uri), storage_options)
        with underway.untraced():
            settle_if_killed(store)
            if owed(store.dataset("pool")):
                from .query.indexing import remake_indices_if_killed

                remake_indices_if_killed(store)
        return cls(store)

    # -- the pool ----------------------------------------------------------------------------

    def plan(
        self,
        sources: SourceData,
        *,
        features: str | None = None,
        format: str = "auto",
        mapping: Mapping[str, str | Sequence[str]] | None = None,
        choices: Literal["letters", "text"] | None = None,
        first_choice: int | None = None,
        roles: Mapping[str, str] | None = None,
        strip_end: str | None = None,
        encoding: str | None = None,
        explanation: bool = False,
        unescape: bool = False,
        progress: Progress | None = None,
    ) -> Plan:
        """Estimate what ingesting files would cost: bytes, passes, fits, time; change nothing.

        Args:
            sources: as for `ingest`, as are format, mapping, choices, first_choice, roles,
                strip_end, encoding, explanation and unescape.
            features: plan for these instead of the store's own, as `create` takes them.
            progress: receives news of the trial.

        Raises:
            InputError: as `ingest`.
            UsageError: an unknown feature, or nothing in the files is new.
        """
        from .ingest.planning import plan
        from .ingest.sources import open_sources

        options = _reading(format, mapping, choices, first_choice, roles, strip_end,
                           encoding, explanation, unescape)  # fmt: skip
        opened = open_sources(sources, options, progress=progress)
        return plan(self.store, opened, lambda: self._backbone, features, progress)

    def fit(
        self,
        sources: SourceData,
        *,
        limit: int | None = None,
        format: str = "auto",
        mapping: Mapping[str, str | Sequence[str]] | None = None,
        choices: Literal["letters", "text"] | None = None,
        first_choice: int | None = None,
        roles: Mapping[str, str] | None = None,
        strip_end: str | None = None,
        encoding: str | None = None,
        explanation: bool = False,
        unescape: bool = False,
        workers: int | Literal["auto"] | None = None,
        gpus: Sequence[int] | None = None,
        engine: Engine = "processes",
        address: str | None = None,
        progress: Progress | None = None,
    ) -> list[Recipe]:
        """Fit what the store's features need to a sample of files; ingest nothing.

        Args:
            sources: as for `ingest`, as are limit, format, mapping, choices, first_choice, roles,
                strip_end, encoding, explanation, unescape, workers, gpus, engine and address.
            progress: receives news of the fits.

        Returns:
            The recipes of the features that could not be made before.

        Raises:
            InputError, FingerprintError: as `ingest`.
            UsageError: there are no usable records, or too few to fit to.
        """
        from .ingest.jobs.fitting import fit_from, rereadable_sources

        options = _reading(format, mapping, choices, first_choice, roles, strip_end,
                           encoding, explanation, unescape)  # fmt: skip
        with (
            self._workers(workers, gpus, engine, address, progress) as group,
            rereadable_sources(self.store, sources, options, progress) as opened,
        ):
            return fit_from(self.store, opened, lambda: self._backbone, limit, progress, group)

    def pending(self) -> list[str]:
        """List the features that `ingest` or `fit` must fit first, as `create` takes them."""
        from .ingest.create import pending

        return [str(spec) for spec in pending(self.store)]

    def ingest(
        self,
        sources: SourceData,
        *,
        corpus: str | None = None,
        limit: int | None = None,
        format: str = "auto",
        mapping: Mapping[str, str | Sequence[str]] | None = None,
        choices: Literal["letters", "text"] | None = None,
        first_choice: int | None = None,
        roles: Mapping[str, str] | None = None,
        strip_end: str | None = None,
        encoding: str | None = None,
        explanation: bool = False,
        unescape: bool = False,
        workers: int | Literal["auto"] | None = None,
        gpus: Sequence[int] | None = None,
        engine: Engine = "processes",
        address: str | None = None,
        progress: Progress | None = None,
    ) -> Account:
        """Read instructions into the pool; skip those that it already has.

        Features that must be fitted first are fitted to a sample of the same sources, which are
        then read twice.

        Args:
            sources: files, folders, globs, `hf://` or `s3://` addresses, `-` for stdin; or a list
                of dicts, an Arrow table, a polars frame or a `datasets.Dataset`.
            corpus: name of the corpus; by default that of each data set.
            limit: read no more than this many records.
            format: an importer's name; detected by default.
            mapping: role -> column, such as `{"user": "question", "assistant": "answer"}`;
                `"context+question"` or a list puts columns together, with a blank line between.
            choices: what answers to questions with choices become: `letters`, or `text`, the
                choice itself; truth values become yes and no.
            first_choice: the number of the first choice, 0 or 1, where answers are numbers; told
                from the first records by default.
            roles: names of speakers that are not known -> user, assistant, system or tool.
            strip_end: a marker that is taken off the end of answers, such as `"<|endoftext|>"`.
            encoding: of the text, where it is not UTF-8.
            explanation: put a record's explanation before its answer.
            unescape: read a literal backslash-n in CSV and TSV as a line break.
            workers: processes that make the features in place of this one: how many, or `auto`, as
                many as suit the model and this machine.
            gpus: numbers of the GPUs that workers use, one each; all by default.
            engine: `processes` of this machine, or actors of `ray`.
            address: of a Ray cluster; by default one is started here.
            progress: receives news of the ingestion.

        Returns:
            The account of every record; what it counts as new is on disk.

        Raises:
            InputError: nothing is found, or a file's shape is unknown or ambiguous.
            UsageError: a feature cannot be fitted to these sources; nothing was ingested.
            FingerprintError: the backbone is no longer the one that made the store's features.
            WorkerError: workers died over the same rows; what was featurized before is committed.
        """
        from .ingest.jobs.fitting import fit_from, rereadable_sources
        from .ingest.jobs.ingestion import ingest
        from .ingest.readers.folders import passed_over_sentences

        options = _reading(format, mapping, choices, first_choice, roles, strip_end,
                           encoding, explanation, unescape, corpus=corpus)  # fmt: skip
        with (
            self._workers(workers, gpus, engine, address, progress) as group,
            rereadable_sources(self.store, sources, options, progress) as opened,
        ):
            fit_from(self.store, opened, lambda: self._backbone, limit, progress, group)
            return ingest(
                self.store,
                opened.sources(),
                self._current_featurizer,
                limit=limit,
                bytes_total=opened.bytes,
                unreadable=opened.unreadable,
                passed_over=passed_over_sentences(opened.passed_over),
                progress=progress,
                command=self.command or "connect().ingest",
                workers=group,
            )

    def remove(
        self,
        *,
        where: str | None = None,
        corpus: str | None = None,
        ids: PathLike | Sequence[str] | None = None,
        why: str = "",
        purge: bool = False,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> Removal:
        """Take rows out of the pool; `restore` puts them back, unless they are purged.

        Args:
            where: an SQL expression over the pool's columns, metadata fields included.
            corpus: name of a corpus.
            ids: of rows, or a file of them: one a line, or a column `id` of JSON Lines, CSV or
                Parquet.
            why: the reason, kept with the tombstones.
            purge: forget the rows for good: no file of the store holds their text or features
                afterwards. Target examples of the same content are forgotten as well.
            dry_run: change nothing, and say what would be done.
            progress: receives news of long work.

        Raises:
            UsageError: none of the three names rows or several do; or there are no such rows.
            InputError: the file of ids cannot be read.
            QueryError: DuckDB does not accept `where`.
            StoreBusyError: a feature is being filled, or another process writes.
        """
        from .query.removal import remove

        rows = _rows(where, corpus, ids)
        return remove(self.store, rows, why, purge=purge, dry_run=dry_run, progress=progress)

    def restore(
        self,
        *,
        where: str | None = None,
        corpus: str | None = None,
        ids: PathLike | Sequence[str] | None = None,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> Removal:
        """Put removed rows back, features and all; purged ones may be ingested again from then on.

        Args:
            where: an SQL expression over the columns of the relation `removed`: those of the pool,
                `why`, `state` and `removed_at`.
            corpus, ids, dry_run, progress: as for `remove`.

        Raises: as `remove`.
        """
        from .query.removal import restore

        return restore(self.store, _rows(where, corpus, ids), dry_run=dry_run, progress=progress)

    def purge(
        self,
        *,
        where: str | None = None,
        corpus: str | None = None,
        ids: PathLike | Sequence[str] | None = None,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> Removal:
        """Forget removed rows for good, as `remove(purge=True)` does; all of them by default.

        Args:
            where, corpus, ids, dry_run, progress: as for `restore`.

        Raises: as `remove`.
        """
        from .query.removal import purge

        every = where is None and corpus is None and ids is None
        return purge(
            self.store,
            None if every else _rows(where, corpus, ids),
            dry_run=dry_run,
            progress=progress,
        )

    def list_removed(self) -> list[dict[str, Any]]:
        """List what was removed: corpus, rows, how many of them purged, why, and when last.

        SQL has a row for each of them in the relation `removed`.
        """
        from .store.removal import summary

        return summary(self.store)

    def list_corpora(self) -> list[dict[str, Any]]:
        """List the corpora: rows, tokens, files, rows removed, records rejected."""
        from .store.corpora import list_corpora

        return list_corpora(self.store)

    def rename_corpus(self, old: str, new: str, *, merge: bool = False) -> int:
        """Rename a corpus wherever it is named; return how many rows of the pool it has.

        Coresets keep the name that it had when they were chosen.

        Args:
            old: its name.
            new: the other one.
            merge: put the rows into the corpus `new` where there is one, which cannot be undone.

        Raises:
            UsageError: there is no such corpus, or the new name is taken (and not `merge`).
            StoreBusyError: a feature is being filled, or another process writes.
        """
        from .store.corpora import rename_corpus

        return rename_corpus(self.store, old, new, merge=merge)

    def annotate(
        self,
        sources: SourceData,
        *,
        key: Literal["id", "source_id", "messages"] = "id",
        key_column: str | None = None,
        columns: str | Sequence[str] | None = None,
        prefix: str = "",
        name: str | None = None,
        texts: str | Sequence[str] = (),
        corpus: str | None = None,
        format: str = "auto",
        mapping: Mapping[str, str | Sequence[str]] | None = None,
        choices: Literal["letters", "text"] | None = None,
        first_choice: int | None = None,
        roles: Mapping[str, str] | None = None,
        strip_end: str | None = None,
        encoding: str | None = None,
        explanation: bool = False,
        unescape: bool = False,
        progress: Progress | None = None,
    ) -> Attached:
        """Make columns of files, such as a judge's scores, typed columns of the pool.

        Args:
            sources: as for `ingest`, as are format, mapping, choices, first_choice, roles,
                strip_end, encoding, explanation and unescape.
            key: how rows are joined: by row `id`, by the `source_id` that their source gave them,
                or by content, each record being read as a conversation (`messages`).
            key_column: that holds the key; by default `id`, or the usual names of an own id.
            columns: to take; by default all but the key and the conversation. `a.b` reaches into
                objects.
            prefix: of the columns in the pool.
            name: of the annotation; the prefix or the first file's name by default.
            texts: columns that are taken as text, whatever they hold.
            corpus: whose ids those of `source_id` are, where several have the same.
            progress: receives news of it.

        Returns:
            The account of every row of the files, and of the pool; it is on disk.

        Raises:
            UsageError: no row is meant, a column mixes kinds, a key is ambiguous or has two
                values, a row has another value already, or a name is taken.
            InputError: a file cannot be read.
        """
        from .ingest.attachments.annotate import annotate

        options = _reading(format, mapping, choices, first_choice, roles, strip_end,
                           encoding, explanation, unescape, corpus=corpus)  # fmt: skip
        return annotate(
            self.store,
            sources,
            options,
            key=key,
            key_column=key_column,
            columns=[columns] if isinstance(columns, str) else columns,
            prefix=prefix,
            name=name,
            texts=[texts] if isinstance(texts, str) else texts,
            progress=progress,
            command=self.command or "connect().annotate",
        )

    def add_vectors(
        self,
        name: str,
        vectors: SourceData | np.ndarray,
        *,
        key: Literal["id", "source_id", "messages"] = "id",
        key_column: str | None = None,
        column: str | None = None,
        rows: SourceData | np.ndarray | None = None,
        model: str = "",
        corpus: str | None = None,
        format: str = "auto",
        mapping: Mapping[str, str | Sequence[str]] | None = None,
        choices: Literal["letters", "text"] | None = None,
        first_choice: int | None = None,
        roles: Mapping[str, str] | None = None,
        strip_end: str | None = None,
        encoding: str | None = None,
        explanation: bool = False,
        unescape: bool = False,
        progress: Progress | None = None,
    ) -> Attached:
        """Make vectors from elsewhere a feature of the pool, for methods such as `NAME:uot`.

        Args:
            name: of the feature.
            vectors: a table with a column of lists of numbers, a NumPy file or array, or the
                folder of an index of bergson.
            key: how rows are joined, as for `annotate`, as are key_column, corpus, format, mapping,
                choices, first_choice, roles, strip_end, encoding, explanation and unescape.
            column: that has the vectors; the only one of lists of numbers by default.
            rows: a file (or ids) with the keys of the same rows in the same order, for vectors
                that come without.
            model: what made them. Later vectors are taken only from the same one.
            progress: receives news of it.

        Returns:
            The account of every row of the files, and of the pool; it is on disk.

        Raises:
            UsageError: no row is meant, vectors of several lengths, a key is ambiguous or has two
                vectors, or a name is taken.
            InputError: a file cannot be read.
        """
        from .ingest.attachments.vectors import add_vectors

        options = _reading(format, mapping, choices, first_choice, roles, strip_end,
                           encoding, explanation, unescape, corpus=corpus)  # fmt: skip
        return add_vectors(
            self.store,
            name,
            vectors,
            options,
            key=key,
            key_column=key_column,
            column=column,
            rows=rows,
            model=model,
            progress=progress,
            command=self.command or "connect().add_vectors",
        )

    def add_target_vectors(
        self, target: str, name: str, vectors: SourceData | np.ndarray
    ) -> TargetVectors:
        """Give a target's examples vectors made elsewhere, in place of those they have.

        Args:
            target: its name.
            name: of the vectors, which the pool has (see `add_vectors`).
            vectors: one for each example, in their order.

        Raises:
            UsageError: there is no such target, or the vectors do not fit.
            InputError: a file cannot be read.
        """
        from .query.targets import add_target_vectors

        return add_target_vectors(self.store, target, name, vectors)

    def dedup(
        self,
        *,
        near: float | None = None,
        feature: str | None = None,
        lexical: float | None = None,
        part: Literal["conversation", "prompt", "response"] = "conversation",
        ngram: int = 3,
        keep: str = "first",
        linkage: Literal["single", "star"] = "single",
        name: str = "dedup",
        memory_limit: str | int = "4GiB",
        progress: Progress | None = None,
    ) -> Duplicates:
        """Find the near-duplicates of the whole pool, and keep them as columns of it.

        The columns are `cluster`, the id of the row that stands for a row, and `kept`; for
        another `name` they are `NAME_cluster` and `NAME_kept`. No row is removed. A new run
        replaces the columns; rows that come later have nulls until then.

        Args:
            near: rows are close from this cosine of their vectors on, such as 0.95.
            feature: whose vectors; `rds` or the only one by default.
            lexical: rows are close from this Jaccard similarity of their runs of words on; the
                default, with 0.8, where neither `near` nor `feature` is given.
            part: of the conversation whose words are compared.
            ngram: words in a run.
            keep: which row of a cluster is kept: `first`, the earliest ingested; `longest`, that
                with the longest answer in tokens; or that with the highest value of an SQL
                expression over the pool's columns. Ties go to the earliest ingested.
            linkage: `single`: a cluster is all that chains of close rows connect; `star`: each
                row that is not kept is close to the one that stands for it.
            name: of the result.
            memory_limit: what may be planned for, such as `"8GiB"` or a number of bytes.
            progress: receives news of it.

        Returns:
            How many there are, in which corpora, and the largest clusters; shows itself.

        Raises:
            UsageError: options that contradict each other, an empty pool, or a name that is taken.
            MissingFeatureError: there is no such feature.
            QueryError: DuckDB does not accept `keep`.
            StoreBusyError: another process is filling columns, or has been writing for long.
        """
        from .query.dedup.dedup import dedup

        return dedup(
            self.store,
            near=near,
            feature=feature,
            lexical=lexical,
            part=part,
            ngram=ngram,
            keep=keep,
            linkage=linkage,
            name=name,
            memory_limit=memory_bytes(memory_limit),
            progress=progress,
            command=self.command or "connect().dedup",
        )

    def leaks(
        self,
        *benchmarks: SourceData,
        where: str | None = None,
        format: str = "auto",
        mapping: Mapping[str, str | Sequence[str]] | None = None,
        choices: Literal["letters", "text"] | None = None,
        first_choice: int | None = None,
        roles: Mapping[str, str] | None = None,
        strip_end: str | None = None,
        encoding: str | None = None,
        explanation: bool = False,
        unescape: bool = False,
        progress: Progress | None = None,
    ) -> Leaks:
        """Find the rows of the whole pool that give examples of benchmarks away; change nothing.

        Args:
            benchmarks: files of examples, or data in memory, as for `ingest`; answers may be
                missing.
            where: an SQL expression over the pool's columns; only those rows are looked at.
            format: as for `ingest`, as are mapping, choices, first_choice, roles, strip_end,
                encoding, explanation and unescape.
            progress: receives news of it.

        Returns:
            Every row with every example it gives away, and the evidence; shows itself. Its method
            `write` makes a file of it, and `ids` are those of the rows.

        Raises:
            UsageError: no benchmark is named.
            InputError: one cannot be read to its end, or has no usable example.
            QueryError: DuckDB does not accept `where`.
        """
        from .query.leaks import leaks

        options = _reading(format, mapping, choices, first_choice, roles, strip_end,
                           encoding, explanation, unescape)  # fmt: skip
        return leaks(self.store, benchmarks, options, where=where, progress=progress)

    def list_annotations(self) -> list[dict[str, Any]]:
        """List the annotations: name, columns, fingerprint, and rows with and without a value."""
        from .store.features import annotations_of

        return annotations_of(self.store)

    def remove_annotation(self, name: str, *, force: bool = False) -> Recipe:
        """Remove the columns of an annotation, and return its recipe.

        Args:
            name: of the annotation.
            force: remove it even if coresets were chosen or filtered by it.

        Raises:
            UsageError: there is no such annotation, or coresets were made with it.
            StoreBusyError: another process is writing.
        """
        from .store.features import drop_annotation

        return drop_annotation(self.store, name, force)

    def status(self) -> Status:
        """Describe what the store holds, what it waits for, and what is due; shows itself."""
        from .ingest.drift import status

        return status(self.store)

    # -- targets -----------------------------------------------------------------------------

    def add_target(
        self,
        name: str,
        sources: SourceData,
        *,
        format: str = "auto",
        mapping: Mapping[str, str | Sequence[str]] | None = None,
        choices: Literal["letters", "text"] | None = None,
        first_choice: int | None = None,
        roles: Mapping[str, str] | None = None,
        strip_end: str | None = None,
        encoding: str | None = None,
        explanation: bool = False,
        unescape: bool = False,
        vectors: Mapping[str, SourceData | np.ndarray] | None = None,
    ) -> AddedTarget:
        """Featurize a target's examples and keep them; no model runs for the target afterwards.

        Args:
            name: of the target.
            sources: as for `ingest`, as are format, mapping, choices, first_choice, roles,
                strip_end, encoding, explanation and unescape; answers may be missing.
            vectors: name of vectors made elsewhere (see `add_vectors`) -> those of the records, in
                their order: a file, or an array.

        Raises:
            UsageError: the name is taken or malformed, or vectors do not fit.
            InputError: a file cannot be read, or there is no usable example.
        """
        from .query.targets import add_target

        options = _reading(format, mapping, choices, first_choice, roles, strip_end,
                           encoding, explanation, unescape, allow_empty_answer=True)  # fmt: skip
        added = add_target(self.store, name, sources, options, self._current_featurizer, vectors)
        waiting = tuple(
            f"{feature} is not fitted yet; after the first ingestion run: "
            f"coresetdb featurize {self.store.typed} {feature}"
            for feature in self.pending()
        )
        return replace(added, notes=added.notes + waiting)

    def list_targets(self) -> list[Target]:
        """List the targets by name."""
        from .query.targets import list_targets

        return list_targets(self.store)

    def copy_target(
        self, name: str, other: Database | PathLike, new_name: str | None = None
    ) -> CopiedTarget:
        """Copy a target with its features into another store; no model runs.

        Args:
            name: of the target.
            other: a store, or its address (opened with this store's storage options).
            new_name: of the copy; the same name by default.

        Raises:
            UsageError: there is no such target, or the other store has one of that name.
            FingerprintError: the stores make no feature the same way; names the differences.
        """
        from .query.targets import copy_target

        if not isinstance(other, Database):
            other = Database.open(other, storage_options=self.store.place.options or None)
        return copy_target(self.store, name, other.store, new_name)

    def remove_target(self, name: str) -> Target:
        """Remove a target and return what it was; coresets chosen for it stay.

        Raises:
            UsageError: there is no such target.
        """
        from .query.targets import remove_target

        return remove_target(self.store, name)

    # -- coresets ----------------------------------------------------------------------------

    def list_methods(self) -> MethodList:
        """List every method: which rows it takes, what was found of it, whether it is ready now.

        The list prints a line for each method; its `details()` are tables of all that is known.
        """
        from .query.method_list import list_methods

        return list_methods(self.store)

    def select(
        self,
        *target: str | Sequence[str] | None,
        targets: Sequence[str] = (),
        weights: str | Mapping[str, str | float] | None = None,
        group: str | None = None,
        method: str = "rds:round_robin",
        budget: str | int = 1000,
        where: str | None = None,
        leakage: Literal["ranked", "full", "off"] = "ranked",
        evaluation: PathLike | Sequence[PathLike] = (),
        eval_format: str = "auto",
        mapping: Mapping[str, str | Sequence[str]] | None = None,
        choices: Literal["letters", "text"] | None = None,
        first_choice: int | None = None,
        roles: Mapping[str, str] | None = None,
        strip_end: str | None = None,
        exclude: str | Sequence[str] = (),
        quota: str | Sequence[str] | Mapping[str, str | int] = (),
        cap: str | int | Sequence[str] | Mapping[str, str | int] = (),
        quota_by: str = "corpus",
        distinct: float | None = None,
        distinct_by: str | None = None,
        approximate: bool = False,
        seed: int = 0,
        name: str | None = None,
        dry_run: bool = False,
        memory_limit: str | int = "4GiB",
        workers: int | Literal["auto"] | None = None,
        engine: Engine = "processes",
        address: str | None = None,
        progress: Progress | None = None,
    ) -> Coreset:
        """Choose rows for the targets, which share the budget in turns, and keep the choice.

        Where the store cannot be written to, the choice is returned and says that it was not saved.

        Args:
            target: names of targets; none (or None) for methods that need none.
            targets: the same as a list; both together are all targets.
            weights: how much of the budget each target gets, in proportion: `{"math": 0.6, "code":
                0.4}` or `"math=.6,code=.4"`; in tokens where the budget is. Without weights targets
                take turns, row by row.
            group: a field of the examples, such as `"subject"`, by whose values they are compared
                in groups: a row by its mean cosine to a group, and of groups the best (`top`) or
                each in turn (`round_robin`).
            method: `representation:selector(option=value,...)`, a representation's name, or
                `random`; options are the selector's or those of the comparison.
            budget: rows, `"5%"` of the eligible rows, `"200k-tokens"` of responses, or
                `"50M-total-tokens"` of whole rows.
            where: an SQL expression over the pool's columns, metadata fields included.
            leakage: which rows are compared with the examples: those that come up (`ranked`), all
                eligible ones (`full`) or none (`off`).
            evaluation: files of benchmarks whose examples are kept out as well.
            eval_format, mapping, choices, first_choice, roles, strip_end: how those are read, as
                for `ingest`.
            exclude: names of coresets whose rows are not chosen again.
            quota: rows or per cent of the budget from a corpus: `"dolly=100"`, `"dolly=10%"`, a
                list of these, or `{"dolly": "10%"}`.
            cap: the most from a corpus, as `quota`; an amount alone is for every other corpus.
            quota_by: the column of the pool whose values `quota` and `cap` are of, such as `lang`.
            distinct: the cosine to an earlier pick from which on a row is left out.
            distinct_by: the feature that `distinct` compares; the method's own by default.
            approximate: find the rows with the feature's index (see `create_index`) instead of
                comparing every row.
            seed: of methods that draw at random.
            name: of the coreset; made from targets and method by default.
            dry_run: choose, and save nothing.
            memory_limit: what the selection may plan for, such as `"8GiB"` or a number of bytes;
                each worker holds as much again at most.
            workers: processes that compare the rows, each a part of the pool: how many, or `auto`,
                one for each processor. The rows chosen are the same.
            engine: `"processes"` of this machine, or actors of `"ray"`.
            address: of a Ray cluster, whose nodes reach the store at the same place; by default one
                of this machine is started.
            progress: receives what workers are started, how far they are, and which died.

        Raises:
            UsageError: an unknown target or method, a malformed budget, a name that is taken, a
                filter that no row passes, weights that do not fit the targets, rules that
                contradict each other, too much memory planned, nothing that workers could share.
            InputError: an evaluation file cannot be read.
            MissingFeatureError: the store lacks what the method compares.
            FingerprintError: target and pool were featurized differently.
            QueryError: DuckDB does not accept `where`.
            WorkerError: workers died over the same rows, or none can be started.
        """
        from .query.rules.rules import rules_for
        from .query.selection import select
        from .workers.options import WorkerOptions

        reading = _reading(
            eval_format, mapping, choices, first_choice, roles, strip_end, allow_empty_answer=True
        )
        rules = rules_for(
            self.store,
            leakage=leakage,
            evaluation=_paths(evaluation),
            reading=reading,
            exclude=exclude,
            quota=quota,
            cap=cap,
            quota_by=quota_by,
            distinct=distinct,
            distinct_by=distinct_by,
        )
        return select(
            self.store,
            _in_one_list([*target, targets]),
            method=method,
            budget=str(budget),
            where=where,
            seed=seed,
            name=name,
            memory_limit=memory_bytes(memory_limit),
            approximate=approximate,
            rules=rules,
            weights=weights,
            group=group,
            dry_run=dry_run,
            workers=WorkerOptions.of(workers, None, engine, address),
            progress=progress,
        )

    def list_coresets(self) -> list[dict[str, Any]]:
        """List the coresets, the newest last: name, method, targets, budget, rows, distances."""
        from .query.coresets import list_coresets

        return list_coresets(self.store)

    def open_coreset(self, name: str) -> Coreset:
        """Open a coreset that was chosen earlier.

        Raises:
            UsageError: there is no such coreset.
        """
        from .query.coresets import load_coreset

        return load_coreset(self.store, name)

    def import_coreset(
        self,
        name: str,
        ids: PathLike | Sequence[str],
        *,
        column: str = "id",
        targets: str | Sequence[str] = (),
    ) -> Coreset:
        """Record rows that another tool chose as a coreset, with their origin.

        Args:
            name: of the coreset.
            ids: of rows, best first; or a file of them: Parquet, JSON, JSON Lines, CSV, TSV or
                plain text. Columns `rank` and `score` are kept where it has them.
            column: of the file that has the ids.
            targets: that the rows were chosen for, if any; reports compare the rows with them.

        Raises:
            UsageError: the name is taken or malformed, an id is no row of the pool, or there is no
                such target.
            InputError: the file cannot be read, or has no ids.
        """
        from .query.imported import import_coreset

        return import_coreset(
            self.store,
            name,
            os.fspath(ids) if isinstance(ids, str | os.PathLike) else list(ids),
            column=column,
            targets=_in_one_list([targets]),
        )

    def export(
        self,
        coreset: str | Coreset,
        out: PathLike,
        *,
        format: str = "messages",
        shuffle: bool = True,
        seed: int | None = None,
        skip_unfit: bool = False,
        reasoning: Reasoning = "stored",
        with_fields: str | Sequence[str] = (),
        with_metadata: bool = False,
        overwrite: bool = False,
    ) -> Exported:
        """Write a coreset as JSON Lines or Parquet, with a manifest and trainer snippets beside it.

        Args:
            coreset: one, or its name.
            out: a file named .jsonl or .parquet.
            format: messages, prompt-completion, alpaca or sharegpt.
            shuffle: shuffle the rows; by rank otherwise.
            seed: of the shuffling; the coreset's by default.
            skip_unfit: leave out rows that the format cannot hold.
            reasoning: of answers: `stored`, as it came as far as the format can; under the key
                `reasoning_content` or `thinking` of a message; `inline`, as a `<think>` block; or
                `drop`.
            with_fields: further columns, such as `dataset,licence`: fields of the rows' metadata
                (`a.b` into objects) or columns of the pool; `NAME=FIELD` gives another name.
            with_metadata: also `source_id` and all `metadata`, as JSON text.
            overwrite: replace a file even if no export wrote it.

        Raises:
            UsageError: an unknown coreset, format or field, rows that the format cannot hold, or a
                file of that name that no export wrote (and not `overwrite`).
            OutputError: the file cannot be written.
        """
        from .query.export import export

        return export(
            self.store,
            coreset,
            os.fspath(out),
            format,
            shuffle=shuffle,
            seed=seed,
            skip_unfit=skip_unfit,
            reasoning=reasoning,
            with_fields=_comma_separated(with_fields),
            with_metadata=with_metadata,
            overwrite=overwrite,
        )

    def export_atlas(
        self,
        out: PathLike,
        *,
        feature: str | None = None,
        neighbours: int | None = None,
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> AtlasExport:
        """Write the pool as Parquet for embedding-atlas: rows, places on a map, neighbours, scores.

        The map is made once for a feature and kept as an annotation. Needs the extra
        `coresetdb[atlas]`.

        Args:
            out: a file named .parquet.
            feature: by whose vectors the map is drawn; `rds` or the first with vectors by default.
            neighbours: of each row; 15 by default, and none in pools above 100,000 rows.
            overwrite: replace a file even if coresetdb did not write it.
            progress: receives news of each step.

        Raises:
            UsageError: another suffix, a file that coresetdb did not write, or scikit-learn is not
                installed.
            MissingFeatureError: the pool has no such feature, or no vectors at all.
            OutputError: the file cannot be written.
        """
        from .query.atlas import export_atlas

        return export_atlas(
            self.store,
            os.fspath(out),
            feature=feature,
            neighbours=neighbours,
            overwrite=overwrite,
            **({} if progress is None else {"say": progress.say}),
        )

    def replay(self, name: str | Coreset, *, memory_limit: str | int = "4GiB") -> Replay:
        """Select again exactly as a coreset was selected, and compare the ids.

        Raises:
            UsageError: there is no such coreset.
        """
        from .query.replay import replay

        return replay(self.store, _coreset_name(name), memory_bytes(memory_limit))

    def remove_coreset(self, name: str | Coreset) -> None:
        """Remove a coreset; the pool keeps its rows.

        Raises:
            UsageError: there is no such coreset.
        """
        from .query.coresets import remove_coreset

        remove_coreset(self.store, _coreset_name(name))

    def explain(
        self,
        coreset: str | Coreset,
        row: str | int,
        *,
        without: bool = False,
        memory_limit: str | int = "4GiB",
    ) -> Explanation:
        """Explain why a row is in a coreset: which example pulled it, what came close.

        Args:
            coreset: it, or its name.
            row: an id, the beginning of one, or a rank.
            without: select again from the pool without this row as well.
            memory_limit: what that selection may plan for.

        Raises:
            UsageError: there is no such coreset, or no such row in it.
        """
        from .query.explaining.explain import explain

        limit, name = memory_bytes(memory_limit), _coreset_name(coreset)
        return explain(self.store, name, row, without=without, memory_limit=limit)

    def compare(self, first: str | Coreset, second: str | Coreset) -> SideBySide:
        """Compare two coresets: rows in both, their order, corpora, lengths and distances.

        Raises:
            UsageError: there is no coreset of one of the names.
        """
        from .query.compare import compare

        return compare(self.store, _coreset_name(first), _coreset_name(second))

    def report(
        self,
        *coresets: str | Coreset,
        out: PathLike,
        memory_limit: str | int = "4GiB",
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> WrittenReport:
        """Write a report on a coreset, on two side by side, or on the pool alone, as one HTML file.

        The page is complete in itself and requests nothing. Needs the extra `coresetdb[report]`.

        Args:
            coresets: one or two, or their names; none for the pool.
            out: a file named .html.
            memory_limit: what the selections that it repeats (random rows, near misses) may plan
                for.
            overwrite: replace a file even if coresetdb did not write it.
            progress: receives news of each step.

        Raises:
            UsageError: an unknown coreset, more than two, a file that coresetdb did not write, or
                a package that is not installed.
            QueryError: DuckDB meets a limit.
            OutputError: the file cannot be written.
        """
        from .reports.report import write_report

        return write_report(
            self.store,
            coresets,
            os.fspath(out),
            memory_limit=memory_bytes(memory_limit),
            overwrite=overwrite,
            **({} if progress is None else {"say": progress.say}),
        )

    # -- scores ------------------------------------------------------------------------------

    def explore(
        self,
        *,
        feature: str | None = None,
        port: int = 0,
        browser: bool = True,
        notebook: PathLike | None = None,
        edit: bool = False,
        progress: Progress | None = None,
    ) -> None:
        """Show the pool as a page in the browser, until Ctrl-C: a map, filters, rows, SQL.

        The page is served at an address of this machine alone, behind a token. It only reads, but
        for the coresets that are made in it; the map itself is made once and kept as an
        annotation. Needs the extra `coresetdb[explore]`.

        Args:
            feature: by whose vectors the map is drawn; `rds` or the first with vectors by default.
            port: of the page's address; a free one by default.
            browser: open the page; its address is printed in any case.
            notebook: a copy of the page's notebook, which is shown in place of it; where there is
                no such file it is written.
            edit: edit that copy in marimo.
            progress: receives news of the map, and the address; printed by default.

        Raises:
            UsageError: a package is not installed, the port is taken, or `edit` without a notebook.
            MissingFeatureError: the pool has no such feature, or no vectors at all.
        """
        from .explorer.server import explore

        explore(
            self.store,
            feature=feature,
            port=port,
            browser=browser,
            notebook=None if notebook is None else os.fspath(notebook),
            edit=edit,
            say=print if progress is None else progress.say,
        )

    def score(
        self,
        target: str,
        methods: str | Sequence[str] | None = None,
        *,
        where: str | None = None,
        keep: bool = False,
        memory_limit: str | int = "4GiB",
        progress: Progress | None = None,
    ) -> Scores:
        """Score the rows of the pool for a target, and keep scores and ranks for SQL.

        Args:
            target: its name.
            methods: such as `["rds", "trim(scope=response)"]` or `"rds,trim"`; by default all that
                the store and the target allow.
            where: an SQL expression over the pool's columns; only those rows are scored and ranked.
            keep: keep scores at other versions of the pool as well.
            memory_limit: what ranking may plan for, such as `"8GiB"` or a number of bytes.
            progress: receives news of each method.

        Raises:
            UsageError: an unknown target or method, or one that gives rows no score of their own.
            MissingFeatureError: the store lacks what a method compares.
            FingerprintError: target and pool were featurized differently.
            QueryError: DuckDB does not accept `where`.
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

    def list_scores(self) -> list[ScoreSet]:
        """List the scores that are kept: target, method, version of the pool, number of rows."""
        from .store.scores import score_sets

        return score_sets(self.store)

    def open_scores(self, target: str, methods: Sequence[str] | None = None) -> Scores:
        """Open the newest scores of a target, one pair of columns for each method.

        Raises:
            UsageError: there are no such scores.
        """
        from .query.scores import load_scores

        return load_scores(self.store, target, methods)

    def remove_scores(self, target: str, methods: Sequence[str] | None = None) -> int:
        """Remove scores of a target, all or those by some methods; return how many rows they had.

        Raises:
            UsageError: there are no such scores.
        """
        from .query.scores import remove_scores

        return remove_scores(self.store, target, methods)

    def transfer(self, *targets: str, method: str = "nait") -> pl.DataFrame:
        """Score every target's examples for every other target, and average.

        Returns:
            A row for each target whose examples are scored, a column for each that scores; null
            on the diagonal.

        Raises:
            UsageError: fewer than two targets, an unknown one, or a method without such scores.
        """
        from .query.score import transfer

        return transfer(self.store, targets, method)

    def token_scores(self, target: str, row: str, method: str = "trim") -> pl.DataFrame:
        """Score every token of a row for a target under TRIM.

        Raises:
            UsageError: there is no such target or row.
            MissingFeatureError: target or row lack the feature.
        """
        from .query.explaining.internals import token_scores

        return token_scores(self.store, target, row, method)

    def layer_contributions(self, target: str, row: str, method: str = "nait") -> pl.DataFrame:
        """Compute what every layer adds to a row's score for a target under NAIT.

        Raises:
            UsageError: there is no such target or row.
            MissingFeatureError: target or row lack the feature.
        """
        from .query.explaining.internals import layer_contributions

        return layer_contributions(self.store, target, row, method)

    # -- studies -----------------------------------------------------------------------------

    def evaluate(
        self,
        target: str,
        evaluation: SourceData,
        *,
        methods: str | Sequence[str] = "rds",
        budgets: str | int | Sequence[int] = 1000,
        match: Literal["rows", "tokens"] = "rows",
        controls: str | Sequence[str] = (),
        seeds: int = 3,
        metrics: str | Sequence[str] = (),
        where: str | None = None,
        relevant: str | None = None,
        limit: int | None = None,
        tasks: str | Sequence[str] = (),
        task_folder: PathLike | None = None,
        model: PathLike | None = None,
        lora: int = 16,
        epochs: int = 2,
        learning_rate: float | None = None,
        batch: int = 8,
        max_length: int = 512,
        dtype: str = "auto",
        device: str = "auto",
        eval_format: str = "auto",
        mapping: Mapping[str, str | Sequence[str]] | None = None,
        choices: Literal["letters", "text"] | None = None,
        first_choice: int | None = None,
        roles: Mapping[str, str] | None = None,
        strip_end: str | None = None,
        name: str | None = None,
        forecast_only: bool = False,
        memory_limit: str | int = "4GiB",
        progress: Progress | None = None,
    ) -> StudyResult | Forecast:
        """Train a model on rows by methods and by controls, and measure each on held-out examples.

        Every arm is kept as soon as it was measured; the same call goes on where a killed one
        stopped. Needs the extra `coresetdb[evaluate]`.

        Args:
            target: that rows are chosen for; its own examples are not measured on.
            evaluation: files or records with answers. The leakage guard keeps them out of every
                arm.
            methods: to be compared, as `select` takes them.
            budgets: rows of an arm, one number or several.
            match: `rows`, or `tokens`: as many as so many average rows of the pool have.
            controls: of zero-shot, random, length_matched (to each method), source_balanced, full,
                oracle, worst; by default the first three, and the last two where `relevant` is
                given.
            seeds: trainings of each arm; random rows are drawn anew for each.
            metrics: of loss, exact_match, choice and choice_likelihood; by default what the
                examples allow.
            where: an SQL expression over the pool: rows that may be chosen.
            relevant: an SQL expression: rows known to be relevant, for the arm oracle.
            limit: measure on the first so many examples.
            tasks: of lm-evaluation-harness, measured as well.
            task_folder: of definitions of such tasks.
            model: that is trained; the store's own by default.
            lora: rank of the adapters on all linear layers; 0 trains every weight.
            epochs, learning_rate, batch, max_length: of the training; the learning rate is 2e-4
                for adapters and 2e-5 for every weight by default.
            dtype, device: as for `create`.
            eval_format, mapping, choices, first_choice, roles, strip_end: how the examples are
                read, as for `ingest`.
            name: of the study; by default the target and a digest of the settings.
            forecast_only: say what it would take and could find, and stop.
            memory_limit: what a selection may plan for.
            progress: receives news while it runs.

        Raises:
            UsageError: unknown names, nothing to measure on, a library that is not installed.
            InputError: an evaluation file cannot be read.
            BackboneError: the model cannot be loaded, or training fails.
            MissingFeatureError, FingerprintError, QueryError: as for `select`.
        """
        from .evaluation.running import evaluate
        from .evaluation.study import split_budgets
        from .query.score import split_methods

        recipe = self._recipe(
            model=model,
            lora=lora,
            epochs=epochs,
            learning_rate=learning_rate,
            batch=batch,
            max_length=max_length,
            dtype=dtype,
            device=device,
        )
        reading = _reading(
            format=eval_format,
            mapping=mapping,
            choices=choices,
            first_choice=first_choice,
            roles=roles,
            strip_end=strip_end,
        )
        return evaluate(
            self.store,
            target,
            evaluation,
            reading,
            methods=split_methods(methods) if isinstance(methods, str) else list(methods),
            budgets=split_budgets(budgets),
            match=match,
            controls=_comma_separated(controls),
            seeds=seeds,
            metrics=_comma_separated(metrics),
            where=where,
            relevant=relevant,
            limit=limit,
            tasks=_comma_separated(tasks),
            task_folder=None if task_folder is None else os.fspath(task_folder),
            recipe=recipe,
            name=name,
            memory_limit=memory_bytes(memory_limit),
            forecast_only=forecast_only,
            progress=progress,
        )

    def quantiles(
        self,
        target: str,
        evaluation: SourceData,
        *,
        method: str = "less",
        bins: int = 10,
        budget: int = 250,
        match: Literal["rows", "tokens"] = "rows",
        seeds: int = 1,
        metrics: str | Sequence[str] = (),
        where: str | None = None,
        limit: int | None = None,
        model: PathLike | None = None,
        lora: int = 16,
        epochs: int = 2,
        learning_rate: float | None = None,
        batch: int = 8,
        max_length: int = 512,
        dtype: str = "auto",
        device: str = "auto",
        eval_format: str = "auto",
        mapping: Mapping[str, str | Sequence[str]] | None = None,
        choices: Literal["letters", "text"] | None = None,
        first_choice: int | None = None,
        roles: Mapping[str, str] | None = None,
        strip_end: str | None = None,
        name: str | None = None,
        forecast_only: bool = False,
        memory_limit: str | int = "4GiB",
        progress: Progress | None = None,
    ) -> StudyResult | Forecast:
        """Train a model on rows of each bin of a ranking: does nearness mean anything for training?

        The pool is ordered by the method, nearest rows first, and cut into bins of equal size; an
        arm is trained on rows drawn from each. `StudyResult.bins` gives Spearman's correlation of
        bin and metric (arXiv 2602.14696, its quantile experiment). Arguments that are not named
        here are those of `evaluate`.

        Args:
            method: that orders the pool, such as `less` or `rds:top`.
            bins: how many.
            budget: rows drawn from a bin.

        Raises:
            UsageError: bins that hold fewer rows than the budget, and as `evaluate`.
            InputError, BackboneError, MissingFeatureError, FingerprintError, QueryError: as
                `evaluate`.
        """
        from .evaluation.running import evaluate

        return evaluate(
            self.store,
            target,
            evaluation,
            _reading(
                format=eval_format,
                mapping=mapping,
                choices=choices,
                first_choice=first_choice,
                roles=roles,
                strip_end=strip_end,
            ),
            methods=[method],
            budgets=[budget],
            match=match,
            seeds=seeds,
            metrics=_comma_separated(metrics),
            where=where,
            limit=limit,
            bins=bins,
            recipe=self._recipe(
                model=model,
                lora=lora,
                epochs=epochs,
                learning_rate=learning_rate,
                batch=batch,
                max_length=max_length,
                dtype=dtype,
                device=device,
            ),
            name=name,
            memory_limit=memory_bytes(memory_limit),
            forecast_only=forecast_only,
            progress=progress,
        )

    def _recipe(
        self,
        *,
        model: PathLike | None,
        lora: int,
        epochs: int,
        learning_rate: float | None,
        batch: int,
        max_length: int,
        dtype: str,
        device: str,
    ) -> TrainingRecipe:
        """How the arms of a study are trained; by default the store's own model is."""
        from .evaluation.running import store_model
        from .evaluation.training import DEFAULT_RATES, TrainingRecipe

        return TrainingRecipe(
            model=os.fspath(model) if model is not None else store_model(self.store),
            dtype=dtype,
            device=device,
            lora=lora,
            epochs=epochs,
            learning_rate=DEFAULT_RATES[bool(lora)] if learning_rate is None else learning_rate,
            batch=batch,
            max_length=max_length,
        )

    def list_studies(self) -> list[dict[str, Any]]:
        """List the studies, the newest last: name, target, model, arms measured so far."""
        from .evaluation.results import list_studies

        return list_studies(self.store)

    def open_study(self, name: str) -> StudyResult:
        """Open a study as far as it was measured.

        Raises:
            UsageError: there is none of that name.
        """
        from .evaluation.results import study_result

        return study_result(self.store, name)

    def remove_study(self, name: str) -> int:
        """Remove the measurements of a study; return how many there were. Its coresets stay.

        Raises:
            UsageError: there is none of that name.
        """
        from .evaluation.results import require_study
        from .store.evaluation_results import remove_study

        require_study(self.store, name)
        return remove_study(self.store, name)

    # -- SQL and tables ----------------------------------------------------------------------

    def sql(
        self,
        query: str,
        *,
        at: int | str | None = None,
        memory_limit: str = "2GB",
        time_limit: float = 60.0,
    ) -> QueryResult:
        """Run one SELECT over the store's relations, in a process of its own.

        Args:
            query: SQL; docs/sql.md lists the relations.
            at: version or tag of the pool; the newest by default.
            memory_limit: of the query, such as `"2GB"`.
            time_limit: seconds that the query may take.

        Raises:
            QueryError: the query was refused, failed, or met a limit.
        """
        from .store.sql.session import run_query

        return run_query(
            self.store.uri,
            query,
            at=at,
            memory_limit=memory_limit,
            time_limit=time_limit,
            storage_options=self.store.place.options,
        )

    def table(self, name: str = "pool") -> lancedb.table.Table:
        """Open a table of the store as LanceDB's own, to search, filter or convert it.

        For reading only: what is written through it has no checksums, and `verify` reports it.

        Args:
            name: `pool`, `targets`, `coresets` or another table of docs/store.md.

        Raises:
            UsageError: there is no such table.
        """
        import lancedb

        from .schemas.errors import UsageError

        tables = self.store.tables()
        if name not in tables:
            raise UsageError(f"no table {name!r}: choose from {', '.join(tables)}")
        place = self.store.place
        return lancedb.connect(place.uri, storage_options=place.options or None).open_table(name)

    # -- features ----------------------------------------------------------------------------

    def featurize(
        self,
        features: str = "",
        *,
        workers: int | Literal["auto"] | None = None,
        gpus: Sequence[int] | None = None,
        engine: Engine = "processes",
        address: str | None = None,
        progress: Progress | None = None,
    ) -> LateAccount:
        """Add features to the rows and target examples that lack them, or resume adding them.

        Readers and ingestions can go on meanwhile.

        Args:
            features: as for `create`, or names of the store's own; all of these when empty.
            workers: as for `ingest`, as are gpus, engine and address.
            progress: receives news of the rows.

        Raises:
            UsageError: an unknown feature or option.
            StoreBusyError: another process is featurizing or maintaining this store.
            FingerprintError: the backbone is no longer the one that made the store's features.
            WorkerError: workers died over the same rows; what is featurized is kept.
        """
        from .ingest.jobs.late_features import featurize

        with self._workers(workers, gpus, engine, address, progress) as group:
            return featurize(
                self.store,
                features,
                progress=progress,
                command=self.command or "connect().featurize",
                workers=group,
            )

    def list_features(self) -> list[dict[str, Any]]:
        """List the features: columns, rows with and without a value, and whether one is due."""
        from .ingest.create import list_features

        return list_features(self.store)

    def remove_feature(self, name: str, *, force: bool = False) -> Recipe | None:
        """Remove a feature from pool and targets, and return its recipe.

        A feature that was not fitted yet is no longer waited for; that returns None.

        Raises:
            UsageError: there is no such feature, or coresets were made with it (and not `force`).
            StoreBusyError: another process is writing.
        """
        from .ingest.create import drop_feature

        return drop_feature(self.store, name, force)

    # -- indices -----------------------------------------------------------------------------

    def create_index(self, feature: str) -> Indexed:
        """Index a feature for `select(approximate=True)`, or take in the rows added since.

        Raises:
            UsageError: the feature has no vectors.
            MissingFeatureError: there is no such feature, or no row has it.
        """
        from .query.indexing import index_feature

        return index_feature(self.store, feature)

    def list_indices(self) -> list[VectorIndex]:
        """List the indices of the pool by column."""
        from .store.indices import indices_of

        return list(indices_of(self.store.dataset("pool")).values())

    def remove_index(self, feature: str) -> VectorIndex:
        """Remove the index of a feature, and return what it was.

        Raises:
            UsageError: it has none.
            MissingFeatureError: there is no such feature.
        """
        from .query.indexing import drop_index

        return drop_index(self.store, feature)

    # -- maintenance -------------------------------------------------------------------------

    def compact(self, keep_hours: float = 24.0) -> Compacted:
        """Merge small fragments, then delete versions older than `keep_hours` and leftover files.

        Versions that coresets were chosen from stay.

        Raises:
            StoreBusyError: another process is writing.
        """
        from .store.maintenance import compact_and_clean

        return compact_and_clean(self.store, keep_hours)

    # -- the model ---------------------------------------------------------------------------

    def describe_backbone(self) -> BackboneInfo:
        """Describe the model that makes the features: its folder, sizes and identity.

        Raises:
            BackboneError: it is gone or broken; says how to name the place it was moved to.
        """
        from .ingest.create import backbone_config, describe_backbone

        return describe_backbone(self.store.uri, backbone_config(self.store))

    def relocate_backbone(self, name: PathLike) -> Relocated:
        """Look for the backbone in another place from now on, if the model there is the same.

        Args:
            name: a folder, a Hugging Face name or `builtin`.

        Raises:
            BackboneError: there is no model, or it is broken.
            FingerprintError: it is not the one that made the features; nothing was changed.
        """
        from .ingest.create import relocate_backbone

        relocated = relocate_backbone(self.store, os.fspath(name))
        self.__dict__.pop("_backbone", None)
        self.__dict__.pop("_featurizer", None)
        return relocated

    def _workers(
        self,
        workers: int | Literal["auto"] | None,
        gpus: Sequence[int] | None,
        engine: Engine,
        address: str | None,
        progress: Progress | None,
    ) -> AbstractContextManager[WorkerGroup | None]:
        from .ingest.jobs.model_worker import open_workers
        from .schemas.progress import Silence
        from .workers.options import WorkerOptions

        options = WorkerOptions.of(workers, gpus, engine, address)
        return open_workers(self.store, options, (progress or Silence()).say)

    @cached_property
    def _backbone(self) -> Backbone:
        from .ingest.create import load_backbone

        return load_backbone(self.store)

    @cached_property
    def _featurizer(self) -> Featurizer:
        from .ingest.create import featurizer_for, recipes_of

        return featurizer_for(self.store, self._backbone, recipes_of(self.store))

    def _current_featurizer(self) -> Featurizer:
        """The featurizer of the features the store has now; another process may have added one."""
        from .ingest.create import recipes_of

        made = {recipe.fingerprint for recipe in self._featurizer.recipes}
        if made != {recipe.fingerprint for recipe in recipes_of(self.store)}:
            del self._featurizer
        return self._featurizer


def verify(
    uri: PathLike | None = None,
    *,
    full: bool = False,
    accept: bool = False,
    storage_options: dict[str, str] | None = None,
) -> Report:
    """Compare a store's files with what was written; the store need not open.

    Args:
        uri: a folder or an `s3://` address; what CORESETDB_STORE names by default.
        full: hash every file, and look for every row that was seen.
        accept: first accept the losses that repairs could not make good, so that neither this nor
            later reports name them; `Report.accepted` does. Rows of the pool among them count as
            removed and purged from then on, until `Database.restore` lets them be ingested again.
        storage_options: of an object store, as Lance takes them.

    Raises:
        StoreNotFoundError: there is no store.
        StoreBusyError: maintenance kept the store for ten minutes; with `accept`, another process
            is writing.
        UsageError: there is a repair to be run or finished before losses can be accepted.
    """
    from .store.integrity.repair import accept as accept_losses
    from .store.integrity.verify import verify

    store = store_or_default(uri)
    accepted = accept_losses(store, storage_options) if accept else []
    report = verify(store, full, storage_options)
    report.accepted = accepted
    return report


def repair(
    uri: PathLike | None = None,
    *,
    say: Callable[[str], None] = lambda sentence: None,
    workers: int | Literal["auto"] | None = None,
    gpus: Sequence[int] | None = None,
    engine: Engine = "processes",
    address: str | None = None,
    storage_options: dict[str, str] | None = None,
) -> Repair:
    """Bring a damaged store back, then verify it in full.

    Args:
        uri: a folder or an `s3://` address; what CORESETDB_STORE names by default.
        say: receives a sentence on every source that is read again, or is gone.
        workers: as for `Database.ingest`, as are gpus, engine and address.
        storage_options: of an object store, as Lance takes them.

    Raises:
        StoreNotFoundError: there is no store.
        StoreBusyError: another process is writing.
        BackboneError, FingerprintError: rows would have to be made again, and the backbone that
            made them is gone or another; nothing was changed.
    """
    from .ingest.jobs.reingest import repair_and_reingest
    from .query.indexing import indices_made_again
    from .query.replay import restore_members
    from .workers.options import WorkerOptions

    options = WorkerOptions.of(workers, gpus, engine, address)
    return repair_and_reingest(
        store_or_default(uri), say, storage_options, options, restore_members, indices_made_again
    )


connect = Database.open
create = Database.create


def _reading(
    format: str,
    mapping: Mapping[str, str | Sequence[str]] | None,
    choices: str | None,
    first_choice: int | None,
    roles: Mapping[str, str] | None,
    strip_end: str | None,
    encoding: str | None = None,
    explanation: bool = False,
    unescape: bool = False,
    *,
    corpus: str | None = None,
    allow_empty_answer: bool = False,
) -> ReadOptions:
    """How files are read, from the keywords of a method, in the order they have everywhere."""
    from .ingest.readers.options import ReadOptions

    return ReadOptions(
        format=format,
        mapping=ReadOptions.joined(mapping),
        choices=choices,
        first_choice=first_choice,
        roles=dict(roles or {}),
        strip_end=strip_end,
        encoding=encoding,
        explanation=explanation,
        unescape=unescape,
        corpus=corpus,
        allow_empty_answer=allow_empty_answer,
    )


def _comma_separated(names: str | Sequence[str]) -> list[str]:
    """Names in a list, or in a text between commas."""
    given = names.split(",") if isinstance(names, str) else names
    return [name for name in given if name.strip()]


def _rows(where: str | None, corpus: str | None, ids: PathLike | Sequence[str] | None) -> Rows:
    from .query.removal import Rows, read_ids

    listed = read_ids(os.fspath(ids)) if isinstance(ids, str | os.PathLike) else ids
    rows = Rows(where, corpus, None if listed is None else list(listed))
    rows.check()
    return rows


def _in_one_list(given: Sequence[str | Sequence[str] | None]) -> list[str]:
    """Names, given one by one or as lists, in one list; None is none."""
    lists = [[each] if isinstance(each, str) else each or () for each in given]
    return [name for names in lists for name in names]


def _coreset_name(coreset: str | Coreset) -> str:
    return coreset if isinstance(coreset, str) else coreset.name


def _paths(files: PathLike | Sequence[PathLike]) -> list[str]:
    several = [files] if isinstance(files, str | os.PathLike) else files
    return [os.fspath(file) for file in several]
