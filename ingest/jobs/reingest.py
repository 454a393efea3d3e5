"""Bring back rows that were lost by damage: read their text again, make their features anew.

Only what the store once held comes back: a record is ingested again if its id is lost, wherever in
its file it stands now. Where the table `sources` is damaged as well, the file is read as far as it
was read before, and ids that the pool has are listed again.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from shlex import quote
from typing import TYPE_CHECKING, Any

from ...schemas.errors import CoresetDBError, InputError, StoreError, UsageError
from ...schemas.ids import GrowingIdSet
from ...schemas.instruction import Record, Reject
from ...schemas.plain_text import count_of
from ...schemas.recipe import Recipe
from ...store.indices import owed
from ...store.integrity.repair import repair
from ...store.integrity.report import LostRow, Repair
from ...store.purge import settle_if_killed
from ...store.store import Store
from ...workers.options import WorkerOptions
from ..create import check_backbone, load_featurizer
from ..models.describe import BackboneConfig
from ..readers.in_memory import is_in_memory
from ..readers.locations import STDIN
from ..readers.options import ReadOptions
from ..sources import SourceFile, open_source
from .ingestion import ingest
from .model_worker import open_workers

if TYPE_CHECKING:
    from ..featurizer import Featurizer


COMMAND = "coresetdb verify --repair"


def repair_and_reingest(
    uri: str,
    say: Callable[[str], None],
    storage_options: dict[str, str] | None = None,
    workers: WorkerOptions | None = None,
    remake: Callable[[Store, str], str] | None = None,
    reindex: Callable[[Store], list[str]] | None = None,
) -> Repair:
    """Repair a store; lost rows are read again from the places `sources` names.

    Args:
        uri: of a store, which need not be in a state to be opened.
        say: receives sentences on what is read again, and which sources are gone.
        storage_options: of a store on s3.
        workers: that featurize rows again; none by default.
        remake: writes the lost members of a coreset of a store again; gives back why it could not,
            or "".
        reindex: makes the indices of a store again that were dropped; gives back what it did.

    Raises:
        StoreNotFoundError: there is no store.
        StoreBusyError: another process is writing.
        BackboneError, FingerprintError: rows would have to be featurized again, and the backbone
            that made them is gone or has changed; nothing was changed.
    """

    def check(config: dict[str, Any], recipes: list[Recipe]) -> None:
        check_backbone(uri, BackboneConfig(**config["backbone"]), recipes)

    def remade(name: str) -> str:
        assert remake is not None
        say(f"coreset {name}: choosing its rows again")
        return remake(Store.open(uri, storage_options), name)

    done = repair(
        uri,
        lambda lost: reingest(uri, lost, say, storage_options, workers),
        storage_options,
        check,
        remade if remake else None,
    )
    if done.ok:
        settle_if_killed(Store.open(uri, storage_options))
    if reindex and done.after is not None and "pool" in done.after.versions:
        _reindex(uri, done, reindex, storage_options)
    return done


def _reindex(
    uri: str,
    done: Repair,
    reindex: Callable[[Store], list[str]],
    storage_options: dict[str, str] | None,
) -> None:
    """Make dropped indices again; where that fails, the repair's account says so and is kept."""
    dropped: list[str] = []
    try:
        store = Store.open(uri, storage_options)
        dropped = owed(store.dataset("pool"))
        done.actions += reindex(store)
    except (CoresetDBError, OSError) as error:
        what = f"the index of {', '.join(dropped)}" if dropped else "indices"
        done.unrepaired.append(
            f"{what}: {error}; type `coresetdb index create {quote(uri)} FEATURE`"
        )


def reingest(
    uri: str,
    lost: Sequence[LostRow],
    say: Callable[[str], None],
    storage_options: dict[str, str] | None = None,
    workers: WorkerOptions | None = None,
) -> dict[str, str]:
    """Ingest the lost rows again, file by file; a source that cannot be read is skipped.

    Returns:
        The files that could not be read again, or no longer hold what they held, and why.

    Raises:
        StoreError: the store cannot be written.
    """
    store = Store.open(uri, storage_options)
    known = store.known_ids()
    lost_ids = {row.id for row in lost if row.id}
    unread: dict[str, str] = {}
    loaded: list[Featurizer] = []

    def featurizer() -> Featurizer:
        if not loaded:
            loaded.append(load_featurizer(store))
        return loaded[0]

    with open_workers(store, workers or WorkerOptions(), say) as group:
        for task in _tasks(store, lost):
            if task.file == STDIN or is_in_memory(task.file):
                origin = "standard input" if task.file == STDIN else "memory"
                unread[task.file] = f"it came from {origin}, which cannot be read again"
            else:
                say(f"{task.file}: {task.what}")
                try:
                    source = open_source(task.file, task.options)
                    reread = _RereadSource(
                        source, task, lost_ids if task.whole else task.ids, known
                    )
                    ingest(store, [reread], featurizer, command=COMMAND, workers=group)
                except StoreError:
                    raise
                except (InputError, UsageError, OSError) as error:
                    unread[task.file] = f"cannot be read again: {error}"
                else:
                    missing = len(task.ids - reread.recovered)
                    if reread.fault:
                        unread[task.file] = str(reread.fault)
                    elif missing:
                        rows = count_of(len(task.ids), "lost row")
                        unread[task.file] = (
                            f"{missing:,} of {rows} could not be found in it again: their lines "
                            "now hold other content, which was not ingested"
                        )
            if task.file in unread:
                say(f"{task.file}: {unread[task.file]}")
    return unread


@dataclass
class _Task:
    """One file to read again in one way.

    Attributes:
        ids: lost rows that stood in it, as far as they are listed.
        whole: whether the list of what stood in it is lost.
        unnamed: whether, in addition, rows of the pool that are not listed may be lost.
        before: how many records of it were read; None where no run says so.
    """

    file: str
    options: ReadOptions
    ids: set[str] = field(default_factory=set)
    whole: bool = False
    unnamed: bool = False
    before: int | None = None

    @property
    def what(self) -> str:
        """What is done with the file, for the user."""
        return (
            "reading it again" if self.whole else f"{count_of(len(self.ids), 'row')} to read again"
        )


class _PastOptions:
    """The options that files were read with (JSON text), from the table `runs`."""

    def __init__(self, store: Store) -> None:
        columns = ["run", "command", "started_at", "files"]
        runs = store.dataset("runs").to_table(columns=columns).sort_by("started_at").to_pylist()
        self.by_run: dict[tuple[str | None, str, str], str] = {}
        self.by_file: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
        for run in runs:
            for entry in run["files"] or ():
                file, corpus, options = entry["file"], entry["corpus"], entry["options"]
                if not corpus:
                    continue  # its columns were attached; no row came from it
                self.by_run[run["run"], file, corpus] = options
                if run["command"] != COMMAND:  # a repair reads as far as it must, not further
                    counts = self.by_file[file, corpus]
                    counts[options] = max(counts.get(options, 0), entry["read"] or 0)

    def of(self, row: LostRow) -> str:
        """The options of the run that saw a row; else the last ones that its file was read with."""
        known = self.by_run.get((row.run, row.file, row.corpus))
        of_file = list(self.by_file.get((row.file, row.corpus), ()))
        return known or (of_file[-1] if of_file else _default_options(row))


def _tasks(store: Store, lost: Sequence[LostRow]) -> list[_Task]:
    """The files to read, each once for every set of options that it was read with."""
    past = _PastOptions(store)
    tasks: dict[tuple[str, str, str], _Task] = {}

    def task(row: LostRow, options: str) -> _Task:
        read = replace(ReadOptions.from_dict(json.loads(options)), corpus=row.corpus)
        new = _Task(row.file, read)
        return tasks.setdefault((row.file, row.corpus, options), new)

    for row in lost:
        if row.id:
            task(row, past.of(row)).ids.add(row.id)
            continue
        counts: dict[str, int | None] = {**past.by_file.get((row.file, row.corpus), {})}
        for options, before in (counts or {_default_options(row): None}).items():
            file_task = task(row, options)
            file_task.whole, file_task.unnamed, file_task.before = True, row.unnamed, before
    return list(tasks.values())


def _default_options(row: LostRow) -> str:
    return json.dumps(ReadOptions(corpus=row.corpus).as_dict())


class _RereadSource:
    """A file that was read before, as a `Source` of what the store once took from it."""

    def __init__(
        self, source: SourceFile, task: _Task, lost: set[str], known: GrowingIdSet
    ) -> None:
        self._source, self._task, self._lost, self._known = source, task, lost, known
        self.recovered: set[str] = set()
        self.file, self.corpus, self.format = source.file, source.corpus, source.format
        self.options, self.size = source.options, source.size
        self.decision = f"{source.decision}; read again"

    @property
    def bytes_read(self) -> int:
        return self._source.bytes_read

    @property
    def xxh3(self) -> str:
        return self._source.xxh3

    @property
    def fault(self) -> InputError | None:
        return self._source.fault

    @property
    def remarks(self) -> list[str]:
        return self._source.remarks

    @property
    def notices(self) -> list[str]:
        return []

    @property
    def vectors(self) -> list[str]:
        return []

    def __iter__(self) -> Iterator[Record | Reject]:
        for position, item in enumerate(self._source):
            listed = self._task.whole and self._was_read(position)
            if isinstance(item, Reject):
                if listed:
                    yield item
            elif item.instruction.id in self._lost:
                self.recovered.add(item.instruction.id)
                yield item
            elif listed and self._was_ingested(item.instruction.id):
                yield item
            if not listed and self.recovered >= self._lost:
                return

    def _was_read(self, position: int) -> bool:
        return self._task.before is None or position < self._task.before

    def _was_ingested(self, row_id: str) -> bool:
        """Whether a record was ingested before, as far as that is still known."""
        all_of_it = self._task.unnamed and self._task.before is not None
        return all_of_it or bool(self._known.contains([row_id])[0])

    def finish(self) -> None:
        """Close the file."""
        self._source.finish()
