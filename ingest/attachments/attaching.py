"""Bring values of a file into columns of the pool, fragment by fragment, whatever they are.

Rows that the file does not name get a reason in place of a value, so that rows which come later can
be told from them: those have neither. What stands in the pool stays; a file that says otherwise is
refused before anything is written. A killed run leaves whole fragments, and the same command does
the rest.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from ...schemas.canonical import canonical_json
from ...schemas.errors import UsageError
from ...schemas.ids import IdSet, ids_of, keys_of
from ...schemas.plain_text import LinesResult, count_of
from ...schemas.progress import Progress
from ...schemas.recipe import FINGERPRINT_KEY, Recipe
from ...store.features import declare
from ...store.fill import fill, unfilled
from ...store.store import Store
from ..jobs.run import Run
from .file_rows import FileRead
from .keys import Entries

if TYPE_CHECKING:
    import lance

ROWS_PER_COMMIT = 250_000
NOT_IN_THE_FILE = "not in the file"


class FileValues(Protocol):
    """What the rows of files say, by the number of the row."""

    def __len__(self) -> int: ...

    def take(self, rows: np.ndarray) -> pa.Table:
        """The recipe's columns of rows (n,), in that order, the reason last."""
        ...

    def place(self, row: int) -> str:
        """Where a row stands, such as "scores.csv:17"."""
        ...

    def row_bytes(self) -> int:
        """Bytes of the widest column of a row (at least 1)."""
        ...

    def differ(self, ours: pa.Table, theirs: pa.Table) -> tuple[str, int] | None:
        """The first column and row in which values differ; None where they are the same.

        A table of one row is held against every row of the other.
        """
        ...


@dataclass
class Attached(LinesResult):
    """What became of files whose values were attached.

    Attributes:
        name: of the annotation, or of the vectors.
        columns: of the pool that hold the values.
        files: that were read, with what they held.
        keyed: (n,) int64, the rows of the files that have a key.
        repeated: rows of the files that repeat another with the same values.
        unmatched: rows of the files about no row of the pool, whose key is there.
        filled: rows of the pool that got a value now.
        present: rows that had the same value before.
        without: reason -> rows of the pool that have it in place of a value, now.
        fresh: whether the columns are new.
        notes: further sentences for the user.
    """

    name: str
    columns: tuple[str, ...]
    files: list[FileRead]
    keyed: np.ndarray
    repeated: int = 0
    unmatched: int = 0
    filled: int = 0
    present: int = 0
    without: Counter[str] = field(default_factory=Counter)
    fresh: bool = False
    notes: tuple[str, ...] = ()
    run: str = field(default_factory=lambda: uuid.uuid4().hex)
    tokens: int = 0
    seconds: float = 0.0

    @property
    def read(self) -> int:
        """Rows of all files."""
        return sum(file.read for file in self.files)

    @property
    def changed(self) -> bool:
        """Whether the pool changed."""
        return bool(self.filled or self.without)

    def lines(self) -> list[str]:
        """The account, in words."""
        columns = ", ".join(self.columns)
        lines = [f"{self.name}: {count_of(self.filled, 'row')} got a value ({columns})"]
        if not self.changed:
            lines = [f"{self.name}: nothing to do, the pool has every value of the file already"]
        if self.present:
            lines.append(f"  {count_of(self.present, 'row')} had the same value already")
        lines += [
            f"  without a value, {why}: {count_of(rows, 'row')}"
            for why, rows in self.without.items()
        ]
        unreadable = sum((file.unreadable for file in self.files), Counter())
        without_key = sum(file.without_key for file in self.files)
        lines.append(f"read {count_of(self.read, 'row')} of {count_of(len(self.files), 'file')}")
        lines += [f"  not readable, {why}: {rows:,}" for why, rows in unreadable.items()]
        lines += [f"  without a key: {without_key:,}"] if without_key else []
        lines += [f"  repeated: {self.repeated:,}"] if self.repeated else []
        lines += [f"  about no row of the pool: {self.unmatched:,}"] if self.unmatched else []
        return [*lines, *self.notes]

    def as_dict(self) -> dict[str, Any]:
        """The account as JSON values."""
        return {
            "name": self.name,
            "columns": list(self.columns),
            "read": self.read,
            "unreadable": dict(sum((file.unreadable for file in self.files), Counter())),
            "without_key": sum(file.without_key for file in self.files),
            "repeated": self.repeated,
            "unmatched": self.unmatched,
            "filled": self.filled,
            "present": self.present,
            "without": dict(self.without),
            "files": [{"file": file.file, "xxh3": file.xxh3} for file in self.files],
            "seconds": round(self.seconds, 3),
            "notes": list(self.notes),
        }


def one_of_each(entries: Entries, values: FileValues, account: Attached, what: str) -> Entries:
    """The entries with every key once.

    Args:
        what: the key stands for, such as "row id", for errors.

    Raises:
        UsageError: rows of one key have different values.
    """
    for rows in entries.repeated():
        taken = values.take(rows)
        differing = values.differ(taken.slice(0, 1), taken.slice(1))
        if differing is not None:
            column, row = differing
            raise UsageError(
                f"{values.place(int(rows[0]))} and {values.place(int(rows[row + 1]))} have the "
                f"same {what} and different values of {column} "
                f"({_shown(taken[column][0])} and {_shown(taken[column][row + 1])}). "
                "Leave one of them in the file"
            )
    single = entries.first_of_each()
    account.repeated += len(np.unique(entries.rows)) - len(np.unique(single.rows))
    return single


def attach(
    store: Store,
    recipe: Recipe,
    fields: Sequence[pa.Field],
    tables: Sequence[str],
    entries: Entries,
    values: FileValues,
    account: Attached,
    progress: Progress,
    command: str,
) -> None:
    """Fill the columns of a recipe; the caller holds `fill_lock`.

    Args:
        store: whose pool gets the values.
        recipe: of the columns; it is declared where the store lacks it.
        fields: of the columns, in the recipe's order.
        tables: that get the columns.
        entries: row ids, each once, with the rows of the files.
        values: of these rows.
        account: is completed.
        progress: is told how far it is.
        command: kept in the table `runs`.

    Raises:
        UsageError: no row of the pool is meant, or one has another value already.
        StoreError: the disk is full, or other writers were quicker every time.
    """
    job = _Attachment(store, recipe, entries, values, account, progress, command)
    needs = job.find_needs()
    if not needs:
        return
    with job.run.running(job.finish, job.finish):
        job.run.record("running")
        marked = {FINGERPRINT_KEY: recipe.fingerprint.encode()}
        declare(store, recipe, [field.with_metadata(marked) for field in fields], tables)
        job.fill(needs)


class _Attachment:
    """The state of one run."""

    def __init__(
        self,
        store: Store,
        recipe: Recipe,
        entries: Entries,
        values: FileValues,
        account: Attached,
        progress: Progress,
        command: str,
    ) -> None:
        self.store, self.recipe, self.entries, self.values = store, recipe, entries, values
        self.account, self.progress = account, progress
        self.run = Run(store, command, account, self._columns, progress)
        self.total = 0

    def find_needs(self) -> dict[int, np.ndarray]:
        """The rows that get a value or a reason: fragment -> their keys (n, 2).

        Raises:
            UsageError: as `attach`.
        """
        dataset = self.store.dataset("pool")
        self.total = dataset.count_rows()
        if not self.total:
            raise UsageError(
                f"the pool of {self.store.uri} is empty. Next: coresetdb ingest "
                f"{self.store.typed} FILE..."
            )
        declared = set(self.recipe.columns) <= set(dataset.schema.names)
        met = np.zeros(len(self.entries), bool)
        needs: dict[int, np.ndarray] = {}
        for fragment in dataset.get_fragments():
            waiting = [keys_of(ids) for ids in self._waiting(dataset, fragment, declared)]
            keys = np.concatenate([np.empty((0, 2), np.int64), *waiting])
            matches = self.entries.find(keys)
            met[matches[matches >= 0]] = True
            wanted = [keys]
            if declared:
                waits = IdSet(keys)
                wanted += self._with_reason_or_value(fragment, waits, met)
            every = np.concatenate(wanted)
            if len(every):
                needs[fragment.fragment_id] = every
        meant = self.entries.rows[met]
        unmatched = len(self.account.keyed) - len(np.unique(meant)) - self.account.repeated
        self.account.unmatched = max(0, unmatched)
        if not len(meant):
            self._refuse_unmatched()
        return needs

    def _waiting(
        self, dataset: lance.LanceDataset, fragment: lance.LanceFragment, declared: bool
    ) -> Iterator[pa.Array]:
        """The ids of rows that have neither a value nor a reason."""
        if declared:
            for ids, _ in unfilled(dataset, fragment, self.recipe):
                yield ids
        else:
            for batch in fragment.scanner(columns=["id"]).to_batches():
                yield batch["id"]

    def _with_reason_or_value(
        self, fragment: lance.LanceFragment, waits: IdSet, met: np.ndarray
    ) -> Iterator[np.ndarray]:
        """The keys of rows with a reason that the files have a value for.

        Raises:
            UsageError: a row with a value has another one in the files.
        """
        columns = ["id", *self.recipe.columns]
        for batch in fragment.scanner(columns=columns, batch_size=4096).to_batches():
            keys = keys_of(batch["id"])
            matches = self.entries.find(keys)
            here = (matches >= 0) & ~waits.contains(keys)
            if not here.any():
                continue
            met[matches[here]] = True
            there = pa.table(batch.filter(pa.array(here))).select(list(self.recipe.columns))
            theirs = self.values.take(self.entries.rows[matches[here]])
            has, gets = _has_value(there), _has_value(theirs)
            both = pa.array(has & gets)
            differing = self.values.differ(there.filter(both), theirs.filter(both))
            if differing is not None:
                column, row = differing
                place = np.flatnonzero(has & gets)[row]
                raise UsageError(
                    f"row {ids_of(keys[here][[place]])[0]} has {column} = "
                    f"{_shown(there[column][place])} already, and "
                    f"{self.values.place(int(self.entries.rows[matches[here][place]]))} has "
                    f"{_shown(theirs[column][place])}. Give the new values another name, or remove "
                    f"the old ones first: {_removal(self.store, self.recipe)}"
                )
            self.account.present += int((has & gets).sum())
            yield keys[here][~has & gets]

    def _refuse_unmatched(self) -> None:
        rows = self.account.keyed
        some = (
            self.store.dataset("pool").to_table(columns=["id", "source_id"], limit=1).to_pylist()[0]
        )
        raise UsageError(
            f"no row of {self.store.uri} matches the file ({count_of(len(rows), 'key')}, the first "
            f"in {self.values.place(int(rows[0]))}). For comparison, a row of the pool has the id "
            f"{some['id']} and the source_id {some['source_id']!r}. Choose how to match rows with "
            "--key id, --key source_id or --key messages"
        )

    def fill(self, needs: Mapping[int, np.ndarray]) -> None:
        """Fill the fragments, several in a commit."""
        done, group, rows = 0, [], 0
        for number, keys in needs.items():
            group.append(number)
            rows += len(keys)
            if rows >= ROWS_PER_COMMIT:
                done += self._commit(group, needs)
                group, rows = [], 0
        if group:
            self._commit(group, needs)

    def _commit(self, group: list[int], needs: Mapping[int, np.ndarray]) -> int:
        wanted = np.concatenate([needs[number] for number in group])
        file_rows = _GivenRows(self.store, self.recipe, IdSet(wanted), self.entries, self.values)
        filled = fill(self.store, group, [file_rows])
        self.account.filled += file_rows.filled
        self.account.without += file_rows.without
        done = self.account.filled + self.account.without.total()
        message = f"{done:,} of {count_of(self.total, 'row')}"
        self.progress.learn(name=self.recipe.feature, share=done / max(self.total, 1), said=message)
        return filled

    def finish(self, status: str) -> None:
        """Record how the run ended."""
        self.run.finish(status)
        self.store.sync()

    def _columns(self) -> dict[str, Any]:
        """The columns of an attachment in the table `runs`: read = new + duplicate + rejected."""
        rejected = self.account.unmatched + sum(
            file.unreadable.total() + file.without_key for file in self.account.files
        )
        new = max(0, self.account.read - rejected - self.account.repeated)
        files = [
            {
                "file": file.file,
                "corpus": "",
                "format": f"{self.recipe.representation} {self.recipe.feature}",
                "options": canonical_json({"key": file.key, "key_column": file.key_column}),
                "bytes": file.size or 0,
                "xxh3": file.xxh3,
                "read": file.read,
                "new": 0,
                "duplicate": 0,
                "rejected": 0,
            }
            for file in self.account.files
        ]
        return {
            "read": self.account.read,
            "new": new,
            "duplicate": self.account.repeated,
            "rejected": rejected,
            "files": files,
            "note": "; ".join(self.account.lines()),
        }


class _GivenRows:
    """The values of files as `store.fill` takes them, with a reason for rows they do not name."""

    def __init__(
        self, store: Store, recipe: Recipe, needs: IdSet, entries: Entries, values: FileValues
    ) -> None:
        self.recipe = recipe
        self._needs, self._entries, self._values = needs, entries, values
        pool = store.dataset("pool").schema
        self._schema = pa.schema([pool.field(name) for name in recipe.columns])
        self._absent = len(values)  # one past the last row: it has no value, and a reason
        self.filled = 0
        self.without: Counter[str] = Counter()
        self._seen = IdSet(np.empty((0, 2), np.int64))

    def positions(self, ids: pa.Array) -> np.ndarray:
        keys = keys_of(ids)
        found = self._entries.find(keys)
        rows = np.where(found >= 0, self._entries.rows[found], self._absent)
        return np.where(self._needs.contains(keys), rows, -1)

    def take(self, positions: np.ndarray) -> pa.Table:
        there = positions != self._absent
        from_file = self._values.take(positions[there]).cast(self._schema)
        order = np.full(len(positions), len(from_file), np.int64)
        order[there] = np.arange(len(from_file))
        absent = pa.table(
            [
                pa.array(
                    [NOT_IN_THE_FILE if field.name == self.recipe.reason else None], field.type
                )
                for field in self._schema
            ],
            schema=self._schema,
        )
        return pa.concat_tables([from_file, absent]).take(pa.array(order))

    def row_bytes(self) -> int:
        return self._values.row_bytes()

    def forget(self, ids: pa.Array) -> None:
        """Count the rows that stand in the pool now."""
        positions = self.positions(ids)
        for start in range(0, len(positions), 4096):
            part = positions[start : start + 4096]
            reasons = self.take(part[part >= 0])[self.recipe.reason]
            self.filled += reasons.null_count
            self.without.update(reasons.drop_null().to_pylist())


def _has_value(rows: pa.Table) -> np.ndarray:
    """Which rows have a value in any column but the last, the reason; (n,) bool."""
    has = np.zeros(len(rows), bool)
    for column in rows.columns[:-1]:
        has |= column.is_valid().to_numpy()
    return has


def _shown(value: Any) -> str:
    text = repr(value.as_py())
    return text if len(text) <= 60 else f"{text[:57]}..."


def _removal(store: Store, recipe: Recipe) -> str:
    group = "annotation" if recipe.representation == "annotation" else "feature"
    return f"coresetdb {group} remove {store.typed} {recipe.feature}"
