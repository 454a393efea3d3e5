"""The ingestion job: read, drop what the pool has, featurize, commit; resumable at any moment.

A row appears with all the features its store asks for, or not at all. Commits hold up to
`COMMIT_ROWS` rows, `COMMIT_BYTES` or `COMMIT_SECONDS` of work, whichever comes first; a killed run
loses no more than that, and running it again skips every id already there.

What the table `runs` tells of an ingestion or a featurization, written anew as it goes on.
"""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import pyarrow as pa

from ...schemas.canonical import canonical_json
from ...schemas.errors import InputError, StoreBusyError
from ...schemas.instruction import Record, Reject
from ...schemas.progress import Progress, Silence
from ...schemas.tables import RUNS
from ...schemas.version import VERSION
from ...store import maintenance
from ...store.locks import RunLock
from ...store.store import Store
from ..featurizer import Featurizer
from ..sources import Source
from .commit import Account, Commit, FileAccount, count_reasons


def record_run(
    store: Store, run: str, command: str, status: str, started_at: datetime, **told: Any
) -> None:
    """Write a run's row; `told` are further columns of `runs`, 0 or empty where left out."""
    row = {
        "run": run,
        "command": command,
        "status": status,
        "started_at": started_at,
        "finished_at": None if status == "running" else datetime.now(UTC),
        **dict.fromkeys(("new", "duplicate", "rejected"), 0),
        "files": [],
        "metadata_keys": [],
        "code_version": VERSION,
        **told,
    }
    store.upsert("runs", pa.Table.from_pylist([row], schema=RUNS))


COMMIT_ROWS = 8192
COMMIT_SECONDS = 60.0
READ_BLOCK = 1024
SHARD_SECONDS = 30.0
SHARD_ROWS = (16, 2048)
SHARD_BYTES = 256 << 20
COMMIT_BYTES = 1 << 30
SIGHTINGS_PER_COMMIT = 100_000
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
    progress: Progress | None = None,
    command: str = "",
    commit_rows: int = COMMIT_ROWS,
) -> Account:
    """Ingest `files` into the pool, each record accounted for.

    Args:
        store: where the rows go.
        files: opened sources, read one after the other.
        featurizer: makes the featurizer; called only when there is something new to featurize.
        limit: stop after this many records (rejected ones count).
        bytes_total: of all files, None where it is not known; for the progress.
        unreadable: files that could not be opened; they are part of the account.
        progress: is told what happens.
        command: kept in the table `runs`.
        commit_rows: rows that become visible together, at the most.

    Returns:
        The account; what is counted as new is committed and on disk.

    Raises:
        KeyboardInterrupt: after what was featurized is committed; the rest counts as not read.
    """
    job = _Job(store, featurizer, progress or Silence(), command, commit_rows)
    job.bytes_total = bytes_total
    job.account.unreadable = [str(error) for error in unreadable]
    with job.presence:
        try:
            job.read_all(files, limit)
        except KeyboardInterrupt:
            job.stop_early("interrupted")
            raise
        except Exception:
            job.stop_early("failed")
            raise
        job.finish("done")
    return job.account


@dataclass(frozen=True)
class _Queued:
    """A record that waits for its features, and the account that counts it as new."""

    id: str
    record: Record
    counts: FileAccount


class _Job:
    """The state of one run."""

    def __init__(
        self,
        store: Store,
        featurizer: Callable[[], Featurizer],
        progress: Progress,
        command: str,
        commit_rows: int,
    ) -> None:
        self.store, self.progress, self.command = store, progress, command
        self.commit_rows = commit_rows
        self.make_featurizer, self.featurizer = featurizer, None
        self.account = Account(run=uuid.uuid4().hex)
        self.presence = RunLock(store.place, self.account.run)
        self.known = store.known_ids()
        self.shard: list[_Queued] = []
        self.shard_rows = min(SHARD_ROWS[0], commit_rows)
        self.under_way = 0  # tokens told of the shard, which is not featurized yet
        self.commit = Commit(self.account.run)
        # Rows of this run that the pool does not hold yet, and who met them again meanwhile.
        self.waiting: dict[str, _Queued] = {}
        self.met_again: defaultdict[str, list[FileAccount]] = defaultdict(list)
        self.refused_line = 0
        self.alike: Counter[Reject] = Counter()
        self.metadata_keys: set[str] = set()
        self.started, self.started_at = time.monotonic(), datetime.now(UTC)
        self.committed = self.started
        self.bytes_before = self.bytes_read = 0
        self.bytes_total: int | None = None

    def read_all(self, files: Iterable[Source], limit: int | None) -> None:
        """Read every file to its end, or to `limit` records in all."""
        for file in files:
            self.progress.say(f"{file.file}: {file.decision}")
            self._read(file, None if limit is None else limit - self.account.total("read"))
            self.bytes_before += file.size or 0
            if limit is not None and self.account.total("read") >= limit:
                self.account.limited = True
                break
        self._featurize()
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
        for block in _blocks(islice(file, limit), READ_BLOCK):
            self.bytes_read = self.bytes_before + file.bytes_read
            self._take_in(block, counts)
            self._tell(0, 0)
        file.finish()
        counts.xxh3, counts.bytes = file.xxh3, file.bytes_read
        if file.fault:
            counts.fault = str(file.fault)
            self.progress.say(f"{counts.fault} What was read before is kept.")

    def _take_in(self, block: Sequence[Record | Reject], counts: FileAccount) -> None:
        """Count a block of records and queue what is new."""
        ids = [item.instruction.id if isinstance(item, Record) else "" for item in block]
        known = self.known.contains([row_id for row_id in ids if row_id])
        there = iter(known.tolist())
        for row_id, item in zip(ids, block, strict=True):
            counts.read += 1
            if isinstance(item, Reject):
                counts.rejected += 1
                counts.reasons[item.reason.partition(":")[0]] += 1
                self._refuse(item)
                continue
            self.commit.sightings.append((row_id, item))
            if next(there) or row_id in self.waiting:
                counts.duplicate += 1
                if row_id in self.waiting:
                    self.met_again[row_id].append(counts)
                continue
            counts.new += 1
            queued = _Queued(row_id, item, counts)
            self.waiting[row_id] = queued
            self.shard.append(queued)
            if len(self.shard) >= self.shard_rows:
                self._featurize()
        if len(self.commit.sightings) + len(self.commit.rejects) >= SIGHTINGS_PER_COMMIT:
            self._featurize()
            self._write()

    def _refuse(self, reject: Reject) -> None:
        if reject.line != self.refused_line:
            self.refused_line = reject.line
            self.alike.clear()
        self.alike[reject] += 1
        self.commit.rejects.append((reject, self.alike[reject]))

    def _featurize(self) -> None:
        """Featurize the shard; commit when enough rows or time have gathered."""
        if not self.shard:
            return
        if self.featurizer is None:
            self.featurizer = self.make_featurizer()
            self.committed = time.monotonic()
        begun = time.monotonic()
        instructions = [queued.record.instruction for queued in self.shard]
        features = self.featurizer.featurize(instructions, self._tell)
        seconds = time.monotonic() - begun
        self.under_way = 0
        self.account.without_feature += count_reasons(features)
        self.commit.add_rows([(queued.id, queued.record) for queued in self.shard], features)
        self.shard_rows = min(next_shard(features, seconds, SHARD_ROWS), self.commit_rows)
        self.shard = []
        waited = time.monotonic() - self.committed
        full = len(self.commit.rows) >= self.commit_rows or self.commit.bytes >= COMMIT_BYTES
        if full or waited >= COMMIT_SECONDS:
            self._write()

    def _tell(self, rows: int, tokens: int) -> None:
        """Count a batch of `rows` with `tokens` as featurized, and say where the job stands."""
        self.account.tokens += tokens
        self.under_way += tokens
        self.progress.advance(
            rows=self.account.total("read"),
            tokens=self.account.tokens,
            bytes_read=self.bytes_read,
            bytes_total=self.bytes_total,
        )

    def _write(self) -> None:
        """Make what is featurized visible, with everything that was seen so far."""
        for row_id in self.commit.write(self.store):
            counts = self.waiting[row_id].counts
            counts.new -= 1
            counts.duplicate += 1
        ids = [row_id for row_id, _ in self.commit.rows]
        self.known.add(ids)
        for row_id in ids:
            del self.waiting[row_id]
            self.met_again.pop(row_id, None)
        for _, record in self.commit.sightings:
            if record.metadata != "{}":
                self.metadata_keys.update(json.loads(record.metadata))
        self.commit = Commit(self.account.run)
        self._record_run("running")
        self.committed = time.monotonic()

    def stop_early(self, status: str) -> None:
        """Commit what is featurized; the rest counts as not read, and is read again next time."""
        for queued in self.shard:
            queued.counts.read -= 1
            queued.counts.new -= 1
            for counts in self.met_again.pop(queued.id, ()):
                counts.read -= 1
                counts.duplicate -= 1
            del self.waiting[queued.id]
        self.account.tokens -= self.under_way
        dropped = {queued.id for queued in self.shard}
        self.shard = []
        seen = self.commit.sightings
        self.commit.sightings = [sighting for sighting in seen if sighting[0] not in dropped]
        self._write()
        self.finish(status)
        self.progress.say("Stopped. What is kept:")
        for sentence in self.account.sentences():
            self.progress.say(sentence)

    def finish(self, status: str) -> None:
        """Sync what was committed and close the run's record."""
        self.store.sync()
        self._record_run(status)
        self.presence.end_is_recorded()
        self._merge_small_fragments()
        self.store.sync()

    def _merge_small_fragments(self) -> None:
        """Many short runs leave many small fragments; what lies about is merged now and then.

        Not after every run: merging rewrites rows, and a new corpus should cost its own rows only.
        """
        fragments = self.store.dataset("pool").get_fragments()
        if sum(part.physical_rows < SMALL_ROWS for part in fragments) < MERGE_FRAGMENTS:
            return
        try:
            maintenance.compact(self.store, SMALL_ROWS)
        except StoreBusyError:
            self.progress.say("Small fragments are left for later: another process is writing.")

    def _record_run(self, status: str) -> None:
        self.account.seconds = time.monotonic() - self.started
        record_run(
            self.store,
            self.account.run,
            self.command,
            status,
            self.started_at,
            **{name: self.account.total(name) for name in ("read", "new", "duplicate", "rejected")},
            tokens=self.account.tokens,
            seconds=self.account.seconds,
            files=[file.as_row() for file in self.account.files],
            metadata_keys=sorted(self.metadata_keys),
            note="; ".join(self.account.faults) or None,
        )


def next_shard(made: pa.Table, seconds: float, rows: tuple[int, int]) -> int:
    """How many rows to make at once, from what the last shard took.

    Slow backbones get small shards, so that a commit never waits much over its minute, and so do
    large features: TRIM's codes on a wide model are a megabyte a row.

    Args:
        made: the columns of the last shard, at least one row.
        rows: the least and the most.
    """
    least, most = rows
    share = min(SHARD_SECONDS / max(seconds, 1e-3), SHARD_BYTES / max(made.nbytes, 1))
    return min(max(int(made.num_rows * share), least), most)


def _blocks(items: Iterable[Record | Reject], size: int) -> Iterator[list[Record | Reject]]:
    iterator = iter(items)
    while block := list(islice(iterator, size)):
        yield block
