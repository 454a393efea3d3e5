"""The ingestion job: read, skip what the pool has, featurize, commit; resumable at any moment.

A row appears with all the features of its store, or not at all. A commit holds at most
`COMMIT_ROWS` rows, `COMMIT_BYTES` or `COMMIT_SECONDS` of work, whichever comes first; a killed run
loses no more than that, and running it again skips every id that is in the pool. Workers, where
there are any, make the features of several shards at once; they are committed here, in the order
they were read in.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from shlex import quote
from typing import Any

import pyarrow as pa

from ...schemas.canonical import canonical_json
from ...schemas.errors import InputError, StoreBusyError
from ...schemas.instruction import Record, Reject
from ...schemas.plain_text import count_of
from ...schemas.progress import Progress, Silence
from ...schemas.recipe import Recipe
from ...store import maintenance
from ...store.removal import removed_ids
from ...store.store import Store
from ...workers.group import WorkerGroup
from ..create import recipes_of
from ..featurizer import Featurizer
from ..sources import Source
from .commit import Account, Commit, FileAccount, count_reasons
from .run import Run
from .shard_features import ByWorkers, Features, OwnProcess, PendingShard, ShardFeaturizer

COMMIT_ROWS = 8192
COMMIT_SECONDS = 60.0
READ_BLOCK = 1024
SHARD_SECONDS = 30.0
WORKER_SHARD_SECONDS = 10.0  # at the end of a job workers wait for the last one
SHARD_ROWS = (16, 2048)
SHARD_BYTES = 256 << 20
COMMIT_BYTES = 1 << 30
OCCURRENCES_PER_COMMIT = 100_000
SMALL_ROWS = 20_000
MERGE_FRAGMENTS = 64


def ingest(
    store: Store,
    files: Iterable[Source],
    featurizer: Callable[[], Featurizer],
    *,
    limit: int | None = None,
    bytes_total: int | None = None,
    unreadable: Sequence[InputError] = (),
    passed_over: Sequence[str] = (),
    progress: Progress | None = None,
    command: str = "",
    commit_rows: int = COMMIT_ROWS,
    workers: WorkerGroup | None = None,
) -> Account:
    """Ingest `files` into the pool and account for each record.

    Args:
        store: where the rows go.
        files: opened sources, read one after the other.
        featurizer: makes the featurizer; called only when there is something new to featurize,
            and not where there are workers.
        limit: stop after this many records (rejected ones count).
        bytes_total: of all files, None where it is not known; for the progress.
        unreadable: files that could not be opened, up to the end of the run; they are part of the
            account.
        passed_over: what else was found and not read, in words; part of the account as well.
        progress: receives what happens.
        command: kept in the table `runs`.
        commit_rows: the most rows that become visible together.
        workers: make the features in place of this process.

    Returns:
        The account; what is counted as new is committed and on disk.

    Raises:
        KeyboardInterrupt: after what was featurized is committed; the rest counts as not read.
        WorkerError: likewise, where workers died over the same rows again and again.
    """
    job = _Ingestion(store, featurizer, progress or Silence(), command, commit_rows, workers)
    job.bytes_total = bytes_total
    job.account.passed_over = list(passed_over)
    job.unreadable = unreadable
    with job.run.running(job.stop, job.finish):
        job.read_all(files, limit)
    return job.account


@dataclass(frozen=True)
class _Queued:
    """A record that waits for its features, and the account that counts it as new."""

    id: str
    record: Record
    counts: FileAccount


@dataclass(frozen=True)
class _Shard:
    """Records whose features are being made."""

    rows: list[_Queued]
    made: PendingShard


class _Ingestion:
    """The state of one run."""

    def __init__(
        self,
        store: Store,
        featurizer: Callable[[], Featurizer],
        progress: Progress,
        command: str,
        commit_rows: int,
        workers: WorkerGroup | None,
    ) -> None:
        self.store, self.progress = store, progress
        self.commit_rows = commit_rows
        self.make_featurizer, self.workers = featurizer, workers
        self.featurizer: ShardFeaturizer | None = None
        self.recipes: list[Recipe] = []  # known with the featurizer
        self.account = Account(run=uuid.uuid4().hex)
        self.run = Run(store, command, self.account, self._columns, progress)
        self.known, self.removed = store.known_ids(), removed_ids(store)
        self.committed_since: set[str] = set()  # a block's ids were looked up
        self.shard: list[_Queued] = []
        self.in_work: deque[_Shard] = deque()  # in the order of their rows
        self.shard_rows = min(SHARD_ROWS[0], commit_rows)
        self.commit = Commit(self.account.run)
        # Rows of this run that the pool does not have yet, and the files that repeated them.
        self.waiting: dict[str, _Queued] = {}
        self.repeated: defaultdict[str, list[FileAccount]] = defaultdict(list)
        self.stopping = False
        self.rejected_line = 0
        self.equal_rejects: Counter[Reject] = Counter()
        self.metadata_keys: set[str] = set()
        self.committed = time.monotonic()
        self.bytes_before = self.bytes_read = 0
        self.records_read = 0  # of these bytes; those of a block are counted one by one
        self.rows_made = 0  # whose features are made
        self.bytes_total: int | None = None
        self.unreadable: Sequence[InputError] = ()
        self.offered: set[tuple[str, str]] = set()

    def read_all(self, files: Iterable[Source], limit: int | None) -> None:
        """Read every file to its end, or to `limit` records in all."""
        for file in files:
            self.progress.say(f"{file.file}: {file.decision}")
            for notice in file.notices:
                self.progress.say(f"{file.file}: {notice}")
            self._read(file, None if limit is None else limit - self.account.total("read"))
            self.bytes_before += file.size or 0
            if limit is not None and self.account.total("read") >= limit:
                self.account.limited = True
                break
        self._featurize()
        self._take(leave=0)
        self._write()

    def _read(self, file: Source, limit: int | None) -> None:
        counts = FileAccount(
            file=file.file,
            corpus=file.corpus,
            format=file.format,
            options=canonical_json(file.options.as_dict()),
            bytes=file.size or 0,
        )
        self.account.files.append(counts)
        for column in file.vectors:
            if (file.corpus, column) not in self.offered:  # once for all shards of a set
                self.offered.add((file.corpus, column))
                counts.remarks.append(_offer_of_vectors(self.store.typed, file, column))
        for block in _blocks(islice(file, limit), READ_BLOCK):
            self.bytes_read = self.bytes_before + file.bytes_read
            self.records_read += len(block)
            self._add(block, counts)
            self._on_batch(0, 0)
        file.finish()
        counts.xxh3, counts.bytes = file.xxh3, file.bytes_read
        counts.remarks.extend(file.remarks)
        if file.fault:
            counts.fault = str(file.fault)
            self.progress.say(f"{counts.fault} What was read before is kept.")

    def _add(self, block: Sequence[Record | Reject], counts: FileAccount) -> None:
        """Count a block of records and queue what is new."""
        ids = [item.instruction.id if isinstance(item, Record) else "" for item in block]
        present = [row_id for row_id in ids if row_id]
        known = iter(self.known.contains(present).tolist())
        self.committed_since = set()
        removed = iter(self.removed.contains(present).tolist())
        for row_id, item in zip(ids, block, strict=True):
            counts.read += 1
            if isinstance(item, Reject):
                counts.rejected += 1
                counts.reasons[item.reason.partition(":")[0]] += 1
                self._reject(item)
                continue
            if next(removed):
                next(known)
                counts.duplicate += 1
                counts.removed += 1
                continue
            self.commit.occurrences.append((row_id, item))
            if next(known) or row_id in self.waiting or row_id in self.committed_since:
                counts.duplicate += 1
                if row_id in self.waiting:
                    self.repeated[row_id].append(counts)
                continue
            counts.new += 1
            queued = _Queued(row_id, item, counts)
            self.waiting[row_id] = queued
            self.shard.append(queued)
            if len(self.shard) >= self.shard_rows:
                self._featurize()
        if len(self.commit.occurrences) + len(self.commit.rejects) >= OCCURRENCES_PER_COMMIT:
            self._featurize()
            self._take(leave=0)
            self._write()

    def _reject(self, reject: Reject) -> None:
        if reject.line != self.rejected_line:
            self.rejected_line = reject.line
            self.equal_rejects.clear()
        self.equal_rejects[reject] += 1
        self.commit.rejects.append((reject, self.equal_rejects[reject]))

    def _featurize(self) -> None:
        """Have the shard featurized, and take what is done."""
        if not self.shard:
            return
        if self.featurizer is None:
            self.recipes = recipes_of(self.store)
            self.featurizer = self._open_featurizer()
            self.committed = time.monotonic()
        rows = self.shard
        instructions = [queued.record.instruction for queued in rows]
        made = self.featurizer.submit(self.recipes, instructions, lambda: _places(rows))
        self.in_work.append(_Shard(rows, made))
        self.shard = []
        self._take(leave=self.featurizer.bound)

    def _open_featurizer(self) -> ShardFeaturizer:
        if self.workers is not None:
            return ByWorkers(self.workers, self.store, self._on_batch, self.recipes)
        featurizer = self.make_featurizer()
        return OwnProcess(
            lambda recipes, rows, on_batch: featurizer.featurize(rows, on_batch), self._on_batch
        )

    def _take(self, leave: int) -> None:
        """Take shards that are done, in order; wait while more than `leave` are in work."""
        while self.in_work and (len(self.in_work) > leave or self.in_work[0].made.ready()):
            features = self.in_work[0].made.features()
            self._keep(self.in_work.popleft(), features)
            seconds = time.monotonic() - self.committed
            full = len(self.commit.rows) >= self.commit_rows or self.commit.bytes >= COMMIT_BYTES
            if full or seconds >= COMMIT_SECONDS:
                self._write()

    def _keep(self, shard: _Shard, features: Features) -> None:
        """Queue a shard for the next commit."""
        self.run.keep_tokens(features.tokens)
        self.account.without_feature += count_reasons(features.table)
        self.commit.add_rows([(queued.id, queued.record) for queued in shard.rows], features.table)
        wanted = WORKER_SHARD_SECONDS if self.workers else SHARD_SECONDS
        shard_rows = next_shard(features.table, features.seconds, SHARD_ROWS, wanted)
        self.shard_rows = min(shard_rows, self.commit_rows)

    def _on_batch(self, rows: int, tokens: int) -> None:
        """Count a batch with `tokens` as featurized, and show how far the job is."""
        self.run.add_tokens(tokens)
        self.rows_made += rows
        if self.stopping:
            return
        done = self.account.total("read") - max(0, self.account.total("new") - self.rows_made)
        self.progress.advance(
            rows=done,
            tokens=self.account.tokens,
            bytes_read=self.bytes_read * done // max(self.records_read, 1),
            bytes_total=self.bytes_total,
        )

    def _write(self) -> None:
        """Make what is featurized visible, with everything that was seen so far of it."""
        unmade = {queued.id for queued in self._unmade()}
        later = [seen for seen in self.commit.occurrences if seen[0] in unmade]
        if later:
            occurrences = self.commit.occurrences
            self.commit.occurrences = [seen for seen in occurrences if seen[0] not in unmade]
        for row_id in self.commit.write(self.store):
            counts = self.waiting[row_id].counts
            counts.new -= 1
            counts.duplicate += 1
        ids = [row_id for row_id, _ in self.commit.rows]
        self.known.add(ids)
        self.committed_since.update(ids)
        for row_id in ids:
            del self.waiting[row_id]
            self.repeated.pop(row_id, None)
        for _, record in self.commit.occurrences:
            if record.metadata != "{}":
                self.metadata_keys.update(json.loads(record.metadata))
        self.commit = Commit(self.account.run, later)
        self.run.record("running")
        self.committed = time.monotonic()

    def _unmade(self) -> list[_Queued]:
        """Rows that wait for their features; an interrupt may leave some in both lists."""
        in_work = [queued for shard in self.in_work for queued in shard.rows]
        return list({queued.id: queued for queued in (*in_work, *self.shard)}.values())

    def stop(self, status: str) -> None:
        """Commit what is featurized; the rest counts as not read, and is read again next time."""
        self.stopping = True
        if self.featurizer is not None:
            self.featurizer.stop()
        for shard in [shard for shard in self.in_work if shard.made.ready()]:
            self.in_work.remove(shard)
            self._keep(shard, shard.made.features())
        dropped = self._unmade()
        for queued in dropped:
            queued.counts.read -= 1
            queued.counts.new -= 1
            for counts in self.repeated.pop(queued.id, ()):
                counts.read -= 1
                counts.duplicate -= 1
            del self.waiting[queued.id]
        self.run.drop_tokens()
        self.shard = []
        self.in_work.clear()
        ids = {queued.id for queued in dropped}
        self.commit.occurrences = [seen for seen in self.commit.occurrences if seen[0] not in ids]
        self._write()
        self.finish(status)
        self.run.say_what_is_kept()

    def finish(self, status: str) -> None:
        """Record how the run ended, and tidy up."""
        self.account.unreadable = [str(error) for error in self.unreadable]
        self.run.finish(status)
        self._merge_small_fragments()
        self.store.sync()

    def _merge_small_fragments(self) -> None:
        """Merge the small fragments that many short runs leave, once there are many of them.

        Not after every run: merging rewrites rows, and a new corpus should cost its own rows only.
        """
        fragments = self.store.dataset("pool").get_fragments()
        if sum(part.physical_rows < SMALL_ROWS for part in fragments) < MERGE_FRAGMENTS:
            return
        try:
            maintenance.compact(self.store, SMALL_ROWS)
        except StoreBusyError:
            self.progress.say("Small fragments are left for later: another process is writing.")

    def _columns(self) -> dict[str, Any]:
        """The columns of an ingestion in the table `runs`."""
        return {
            **{name: self.account.total(name) for name in ("read", "new", "duplicate", "rejected")},
            "files": [file.as_row() for file in self.account.files],
            "metadata_keys": sorted(self.metadata_keys),
            "note": "; ".join(self.account.faults) or None,
        }


def _places(rows: Sequence[_Queued]) -> str:
    """Say which records these are."""
    lines: dict[str, list[int]] = {}
    for queued in rows:
        lines.setdefault(queued.record.file, []).append(queued.record.line)
    places = (f"{file}, lines {min(of)} to {max(of)}" for file, of in lines.items())
    return f"{count_of(len(rows), 'row')} ({'; '.join(places)})"


def _offer_of_vectors(store: str, file: Source, column: str) -> str:
    """How to keep the vectors of a column, which no row of the pool has a place for.

    Args:
        store: as a user types it.
    """
    name = re.sub(r"\W+", "_", column).lower()
    words = [name, file.file, "--column", column, "--key", "messages"]
    if file.options.format != "auto":
        words += ["--format", file.options.format]
    if file.options.mapping:
        words += ["--map", ",".join(f"{key}={own}" for key, own in file.options.mapping.items())]
    return (
        f"its column {column!r} holds vectors, which are left out; to select with them: "
        f"coresetdb vectors add {store} {' '.join(map(quote, words))}"
    )


def next_shard(
    features: pa.Table, seconds: float, rows: tuple[int, int], wanted: float = SHARD_SECONDS
) -> int:
    """How many rows to featurize at once, from what the last shard took.

    Slow backbones get small shards, so that a commit never waits much over its minute, and so do
    large features: TRIM's codes on a wide model are a megabyte a row.

    Args:
        features: of the last shard, at least one row.
        seconds: that the last shard took.
        rows: the least and the most.
        wanted: seconds that the next one should take.
    """
    least, most = rows
    share = min(wanted / max(seconds, 1e-3), SHARD_BYTES / max(features.nbytes, 1))
    return min(max(int(features.num_rows * share), least), most)


def _blocks(items: Iterable[Record | Reject], size: int) -> Iterator[list[Record | Reject]]:
    iterator = iter(items)
    while block := list(islice(iterator, size)):
        yield block
