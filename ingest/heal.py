"""Bring back rows that damage took: read their text again, make their features anew."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..schemas.errors import InputError
from ..schemas.instruction import Record, Reject
from ..store.repair import repair
from ..store.report import LostRow, Repair
from ..store.store import Store
from .create import load_featurizer
from .job import ingest
from .read_options import ReadOptions
from .reading import open_source, reread

if TYPE_CHECKING:
    from .featurizer import Featurizer


def heal(uri: str, say: Callable[[str], None]) -> Repair:
    """Repair a store; lost rows are read again from the places `sources` names.

    Args:
        uri: of a store, which need not open.
        say: is told what is read again, and which sources are gone.

    Raises:
        StoreNotFoundError: there is no store.
        StoreBusyError: another process is writing.
    """
    return repair(uri, lambda lost: reingest(uri, lost, say))


def reingest(uri: str, lost: Sequence[LostRow], say: Callable[[str], None]) -> None:
    """Ingest the lost rows again, file by file; a source that cannot be read is said and skipped.

    What could not be brought back is found and named by `repair` itself.
    """
    store = Store.open(uri)
    options = _options_of(store)
    loaded: list[Featurizer] = []

    def featurizer() -> Featurizer:
        if not loaded:
            loaded.append(load_featurizer(store))
        return loaded[0]

    by_file: dict[tuple[str, str], list[LostRow]] = defaultdict(list)
    for row in lost:
        by_file[row.file, row.corpus].append(row)
    for (file, corpus), rows in by_file.items():
        say(f"{file}: {len(rows)} places to read again")
        how = options.get((file, corpus), ReadOptions(corpus=corpus))
        try:
            whole = any(not row.id for row in rows)
            source = (
                open_source(file, how)
                if whole
                else _Again(file, corpus, {row.line for row in rows}, how)
            )
            ingest(store, [source], featurizer, command="coresetdb verify --repair")
        except (InputError, OSError) as error:
            say(f"{file}: cannot be read again: {error}")


def _options_of(store: Store) -> dict[tuple[str, str], ReadOptions]:
    """How each file was read, by (file, corpus), from the runs that read it."""
    runs = store.dataset("runs").to_table(columns=["files"])["files"].to_pylist()
    return {
        (entry["file"], entry["corpus"]): ReadOptions.from_dict(json.loads(entry["options"]))
        for files in runs
        for entry in files or []
    }


@dataclass
class _Again:
    """Some lines of a file that was read before, as a `Source`."""

    file: str
    corpus: str
    lines: set[int]
    options: ReadOptions
    format: str = "again"
    size: int | None = None
    bytes_read: int = 0
    xxh3: str = ""
    fault: InputError | None = None

    @property
    def decision(self) -> str:
        return f"{len(self.lines)} lines read again"

    def __iter__(self) -> Iterator[Record | Reject]:
        yield from reread(self.file, self.lines, self.options)

    def finish(self) -> None:
        """Nothing is left open."""
