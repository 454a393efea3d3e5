"""The ingestion job: read, drop what the pool has, featurize, commit; resumable at any moment.

A row appears with all the features its store asks for, or not at all. Commits hold up to
`COMMIT_ROWS` rows or `COMMIT_SECONDS` of work, whichever comes first; a killed run loses no more
than that, and running it again skips every id already there.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice

import pyarrow as pa

from ..schemas.canonical import canonical_json
from ..schemas.errors import InputError, StoreBusyError
from ..schemas.instruction import Record, Reject
from ..schemas.tables import RUNS
from ..schemas.version import VERSION
from ..store.store import Store
from .account import Account, FileAccount
from .commit import Commit
from .featurizer import Featurizer
from .progress import Progress, Silence
from .source import Source

COMMIT_ROWS = 8192
COMMIT_SECONDS = 60.0
READ_BLOCK = 1024
SHARD_SECONDS = 10.0
SHARD_ROWS = (16, 2048)
FIRST_SHARD_ROWS = 256
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
    """
    job = _Job(store, featurizer, progress or Silence(), command, commit_rows)
    job.bytes_total = bytes_total
    job.account.unreadable = [str(error) for error in unreadable]
    try:
        job.read_all(files, limit)
    except KeyboardInterrupt:
        job.keep_featurized()
        job.finish("interrupted")
        raise
    except Exception:
        job.finish("failed")
        raise
    job.finish("done")
    return job.account


@dataclass
class _Shard:
    """Records waiting to be featurized together, with the file account each belongs to."""

    records: list[tuple[str, Record]]
    owners: list[FileAccount]


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
        self.known = store.known_ids()
        self.pending: set[str] = set()
        self.shard = _Shard([], [])
        self.shard_rows = min(FIRST_SHARD_ROWS, commit_rows)
        self.commit = Commit(self.account.run)
        self.owners: dict[str, FileAccount] = {}
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
        counts.xxh3 = file.xxh3
        counts.bytes = file.bytes_read
        if file.fault:
            counts.fault = str(file.fault)
            self.progress.say(f"{counts.fault} What was read before is kept.")

    def _take_in(self, block: Sequence[Record | Reject], counts: FileAccount) -> None:
        """Count a block of records and queue what is new."""
        records = [(item.instruction.id, item) for item in block if isinstance(item, Record)]
        known = self.known.contains([row_id for row_id, _ in records])
        counts.read += len(block)
        for reject in block:
            if isinstance(reject, Reject):
                counts.rejected += 1
                counts.reasons[reject.reason.partition(":")[0]] += 1
                self.commit.rejects.append(reject)
        for (row_id, record), there in zip(records, known, strict=True):
            self.commit.sightings.append((row_id, record))
            if there or row_id in self.pending:
                counts.duplicate += 1
                continue
            counts.new += 1
            self.pending.add(row_id)
            self.shard.records.append((row_id, record))
            self.shard.owners.append(counts)
            if len(self.shard.records) >= self.shard_rows:
                self._featurize()
        if len(self.commit.sightings) + len(self.commit.rejects) >= SIGHTINGS_PER_COMMIT:
            self._featurize()
            self._write()

    def _featurize(self) -> None:
        """Featurize the shard; commit when enough rows or time have gathered."""
        if not self.shard.records:
            return
        if self.featurizer is None:
            self.featurizer = self.make_featurizer()
            self.committed = time.monotonic()
        shard, self.shard = self.shard, _Shard([], [])
        begun = time.monotonic()
        features = self.featurizer.featurize(
            [record.instruction for _, record in shard.records], self._tell
        )
        seconds = time.monotonic() - begun
        self._count_reasons(features)
        self.commit.add_rows(shard.records, features)
        for (row_id, _), owner in zip(shard.records, shard.owners, strict=True):
            self.owners[row_id] = owner
        # Slow backbones get small shards, so that a commit never waits much over its minute.
        wanted = int(len(shard.records) * SHARD_SECONDS / max(seconds, 1e-3))
        self.shard_rows = min(max(wanted, SHARD_ROWS[0]), SHARD_ROWS[1], self.commit_rows)
        waited = time.monotonic() - self.committed
        if len(self.commit.rows) >= self.commit_rows or waited >= COMMIT_SECONDS:
            self._write()

    def _tell(self, rows: int, tokens: int) -> None:
        """Count a batch of `rows` with `tokens` as featurized, and say where the job stands."""
        self.account.tokens += tokens
        self.progress.advance(
            rows=self.account.total("read"),
            tokens=self.account.tokens,
            bytes_read=self.bytes_read,
            bytes_total=self.bytes_total,
        )

    def _count_reasons(self, features: pa.Table) -> None:
        for name in features.column_names:
            if name.endswith("_reason"):
                reasons = [reason for reason in features[name].to_pylist() if reason]
                self.account.without_feature.update(
                    f"{name.removesuffix('_reason')}: {reason}" for reason in reasons
                )

    def _write(self) -> None:
        commit, self.commit = self.commit, Commit(self.account.run)
        theirs = commit.write(self.store)
        for row_id in theirs:
            self.owners[row_id].new -= 1
            self.owners[row_id].duplicate += 1
        ids = [row_id for row_id, _ in commit.rows]
        self.known.add(ids)
        self.pending.difference_update(ids)
        self.owners.clear()
        self._note_metadata_keys(commit)
        self._record_run("running")
        self.committed = time.monotonic()

    def _note_metadata_keys(self, commit: Commit) -> None:
        for _, record in commit.sightings:
            if record.metadata != "{}":
                self.metadata_keys.update(json.loads(record.metadata))

    def keep_featurized(self) -> None:
        """Commit what is featurized, and only that; the rest is read again by the next run."""
        for (_, record), owner in zip(self.shard.records, self.shard.owners, strict=True):
            owner.new -= 1
            owner.read -= 1
            self.pending.discard(record.instruction.id)
        self.shard = _Shard([], [])
        self._write()

    def finish(self, status: str) -> None:
        """Sync what was committed and close the run's record."""
        self.store.sync()
        self._record_run(status)
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
            self.store.compact(SMALL_ROWS)
        except StoreBusyError:
            self.progress.say("Small fragments are left for later: another process is writing.")

    def _record_run(self, status: str) -> None:
        self.account.seconds = time.monotonic() - self.started
        row = {
            "run": self.account.run,
            "command": self.command,
            "status": status,
            "started_at": self.started_at,
            "finished_at": None if status == "running" else datetime.now(UTC),
            **{name: self.account.total(name) for name in ("read", "new", "duplicate", "rejected")},
            "tokens": self.account.tokens,
            "seconds": self.account.seconds,
            "files": [file.as_row() for file in self.account.files],
            "metadata_keys": sorted(self.metadata_keys),
            "code_version": VERSION,
            "note": "; ".join(self.account.faults) or None,
        }
        self.store.upsert("runs", pa.Table.from_pylist([row], schema=RUNS))


def _blocks(items: Iterable[Record | Reject], size: int) -> Iterator[list[Record | Reject]]:
    iterator = iter(items)
    while block := list(islice(iterator, size)):
        yield block
